"""The trust policy as the API shows it (`GET /wherry/trust`, which Docker's API does not have). Pure.

    {"Path": file, "Rules": [{"Scope": …, "Requirements": […]}], "Rule": {"Image": …, …the rule that holds for it}}

A scope is as in the file; "default" is that of the policy. A requirement is {"Type": …} and for sigstoreSigned its keys and the repository that
signatures must name.
"""

from __future__ import annotations

from collections.abc import Sequence

from wherry.spec.calls import Json
from wherry.spec.reference import Reference
from wherry.trust.keys import fingerprint
from wherry.trust.policy import Accept, Policy, Reject, Requirement, Signed

DEFAULT = "default"


def policy(found: Policy | None, image: Reference | None) -> Json:
    """None: the engine has no policy, and accepts everything."""
    current = found or Policy()
    rules = [_rule(DEFAULT, current.default)]
    rules += [_rule(scope, listed) for scope, listed in sorted(current.scopes.items())]
    answer: Json = {"Path": current.path, "Rules": rules}
    if image is not None:
        scope = current.scope_of(image)
        rule = _rule(DEFAULT if scope is None else scope, current.for_image(image))
        answer["Rule"] = {"Image": str(image), **rule}
    return answer


def _rule(scope: str, requirements: Sequence[Requirement]) -> Json:
    return {"Scope": scope, "Requirements": [_requirement(one) for one in requirements]}


def _requirement(one: Requirement) -> Json:
    match one:
        case Accept():
            return {"Type": "insecureAcceptAnything"}
        case Reject():
            return {"Type": "reject"}
        case Signed():
            keys = [
                {"Path": path, "Fingerprint": fingerprint(key)} for path, key in zip(one.sources, one.keys, strict=True)
            ]
            answer: Json = {"Type": "sigstoreSigned", "Keys": keys}
            if one.exact:
                answer["ExactRepository"] = one.exact
            if one.prefix:
                answer["Prefix"], answer["SignedPrefix"] = one.prefix, one.signed_prefix
            return answer
