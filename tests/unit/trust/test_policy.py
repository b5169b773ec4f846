"""The policy: the narrowest scope counts, and what is not understood is an error."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import InvalidArgument, PermissionDenied
from wherry.spec.ids import Digest
from wherry.spec.reference import parse
from wherry.trust import cosign
from wherry.trust.cosign import Claim
from wherry.trust.keys import generate, load_private, sign
from wherry.trust.policy import Accept, Policy, Reject, Signed, parse_policy, read
from wherry.trust.signatures import Signature, check

ACCEPT, REJECT = {"type": "insecureAcceptAnything"}, {"type": "reject"}
DIGEST = Digest("sha256:" + "a" * 64)
PRIVATE, PUBLIC = generate()
KEY_DATA = base64.b64encode(PUBLIC).decode()
SIGNED = {"type": "sigstoreSigned", "keyData": KEY_DATA}


_KEYS = (
    "type",
    "keyPath",
    "keyPaths",
    "keyData",
    "signedIdentity",
    "docker.io",
    "prefix",
    "signedPrefix",
    "dockerRepository",
)


def policy(default: Any, **scopes: Any) -> Policy:
    document = {"default": default, "transports": {"docker": scopes}}
    return parse_policy(json.dumps(document).encode(), "policy.json")


@pytest.mark.parametrize(
    ("image", "accepted"),
    [
        ("registry.example/team/app:1", True),
        ("registry.example/team/app:2", False),
        ("registry.example/team/other", True),
        ("registry.example/team", True),
        ("registry.example/teammate/app", False),
        ("registry.example/x", False),
        ("sub.wild.example/x", True),
        ("a.sub.wild.example/x", True),
        ("wild.example/x", False),
        ("busybox", True),
        ("docker.io/me/app", False),
    ],
)
def test_the_narrowest_scope_counts(image: str, accepted: bool) -> None:
    scopes = {
        "registry.example/team": [ACCEPT],
        "registry.example/team/app:2": [REJECT],
        "registry.example": [REJECT],
        "*.wild.example": [ACCEPT],
        "docker.io/library": [ACCEPT],
    }
    found = policy([REJECT], **scopes).for_image(parse(image).tagged())
    assert found == ((Accept(),) if accepted else (Reject(),))


@pytest.mark.parametrize("scope", ["registry.example/team", "REGISTRY.example/team", "registry.example:443/team"])
@pytest.mark.parametrize("host", ["registry.example", "Registry.EXAMPLE", "registry.example:443"])
def test_a_registry_has_one_name_however_it_is_spelled(scope: str, host: str) -> None:
    assert policy([ACCEPT], **{scope: [REJECT]}).for_image(parse(f"{host}/team/app:1")) == (Reject(),)


@pytest.mark.parametrize(
    "scope",
    [
        "busybox",
        "library/busybox",
        "index.docker.io/library",
        "registry.example/",
        "registry.example/Team",
        "*",
        "*.",
        "a b",
    ],
)
def test_a_scope_that_no_image_begins_with_is_an_error(scope: str) -> None:
    with pytest.raises(InvalidArgument, match=r"policy\.json"):
        policy([ACCEPT], **{scope: [REJECT]})


@pytest.mark.parametrize(
    "scope",
    [
        "",
        "docker.io",
        "docker.io/me",
        "localhost:5000",
        "[::1]:5000/x",
        "*.example",
        f"a.example/b@{DIGEST}",
        "a.example/b:c",
    ],
)
def test_what_images_begin_with_is_a_scope(scope: str) -> None:
    assert policy([ACCEPT], **{scope: [REJECT]}).scopes == {scope: (Reject(),)}


def test_the_empty_scope_is_all_of_the_transport() -> None:
    assert policy([ACCEPT], **{"": [REJECT]}).for_image(parse("busybox").tagged()) == (Reject(),)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{}", "default is missing"),
        ('{"default": []}', "at least one requirement"),
        ('{"default": [{"type": "maybe"}]}', "'maybe' is not a kind of requirement"),
        ('{"default": [{"type": "signedBy", "keyPath": "x"}]}', "does not support OpenPGP"),
        ('{"default": [{"type": "reject", "unless": "x"}]}', "does not support unless"),
        ('{"default": [{"type": "reject"}], "extra": 1}', "does not support extra"),
        ('{"default": [{"type": "sigstoreSigned"}]}', "keyPath or keyData is missing"),
        ('{"default": [{"type": "sigstoreSigned", "keyPath": "/absent.pub"}]}', "/absent.pub: no such file"),
        ('{"default": [{"type": "sigstoreSigned", "keyData": "eA=="}]}', "not a public key"),
        ('{"default": [{"type": "sigstoreSigned", "keyData": "!"}]}', "not base64"),
        ('{"default": [{"type": "sigstoreSigned", "fulcio": {}}]}', "does not support fulcio"),
        (
            json.dumps({"default": [{**SIGNED, "signedIdentity": {"type": "matchExact"}}]}),
            "does not support a signedIdentity of type 'matchExact'",
        ),
        ('{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}', "a key occurs twice"),
        ("rubbish", "not valid JSON"),
    ],
)
def test_what_is_not_understood_is_an_error(document: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text(document)
    with pytest.raises(InvalidArgument, match=message) as refusal:
        read(str(tmp_path / "policy.json"))
    assert "policy.json" in str(refusal.value)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([KEY_DATA, "/\0", "/", "reject"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {"default": _VALUES}, optional={"transports": st.fixed_dictionaries({"docker": _VALUES}), "x": _VALUES}
    )
    | _VALUES
)
def test_no_document_is_a_surprise(document: object) -> None:
    try:
        found = parse_policy(json.dumps(document).encode(), "policy.json")
    except InvalidArgument:
        return
    assert found.for_image(parse("registry.example/x:1"))


def test_keys_are_read_with_the_policy(tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_bytes(PUBLIC)
    [requirement] = policy([{"type": "sigstoreSigned", "keyPaths": [str(tmp_path / "a.pub")]}]).default
    assert isinstance(requirement, Signed) and len(requirement.keys) == 1


def signed(repository: str, digest: Digest = DIGEST, private: bytes = PRIVATE) -> Signature:
    document = cosign.payload(Claim(repository, digest))
    return Signature(document, sign(load_private(private, name="x"), document))


REFERENCE = parse("registry.example/team/app:1")


@pytest.mark.parametrize(
    ("signature", "identity"),
    [
        (signed("registry.example/team/app"), None),
        (signed("other.example/x"), {"type": "exactRepository", "dockerRepository": "other.example/x"}),
        (
            signed("source.example/group/app"),
            {"type": "remapIdentity", "prefix": "registry.example/team", "signedPrefix": "source.example/group"},
        ),
    ],
)
def test_a_signature_by_the_right_key_for_the_right_repository_lets_in(
    signature: Signature, identity: dict[str, str] | None
) -> None:
    requirement = SIGNED if identity is None else {**SIGNED, "signedIdentity": identity}
    check(policy([requirement]).default, [signed("elsewhere.example/x"), signature], REFERENCE, DIGEST)


@pytest.mark.parametrize(
    ("signatures", "message"),
    [
        ([], "a signature was required, but no signature exists"),
        ([signed("registry.example/team/other")], "none of its 1 signatures"),
        ([signed("registry.example/team/app", Digest("sha256:" + "b" * 64))], "none of its 1 signatures"),
        ([signed("registry.example/team/app", private=generate()[0])], "none of its 1 signatures"),
        ([Signature(signed("registry.example/team/app").document + b" ", signed("x").signature)], "none of"),
        ([Signature(b"rubbish", sign(load_private(PRIVATE, name="x"), b"rubbish"))], "none of its 1 signatures"),
    ],
)
def test_every_other_signature_does_not(signatures: list[Signature], message: str) -> None:
    with pytest.raises(PermissionDenied, match=message):
        check(policy([SIGNED]).default, signatures, REFERENCE, DIGEST)


def test_all_requirements_must_hold() -> None:
    with pytest.raises(PermissionDenied, match="is rejected by policy"):
        check(policy([ACCEPT, REJECT]).default, [], REFERENCE, DIGEST)
