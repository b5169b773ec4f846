"""`wherry image trust set`: one rule of a policy file. No engine is needed; one that runs reads the file again at SIGHUP."""

from __future__ import annotations

import os

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.signing import public_key, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags

POLICY = "/etc/wherry/policy.json"
_TYPES = {"accept": "insecureAcceptAnything", "reject": "reject", "sigstoreSigned": "sigstoreSigned"}


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    from wherry.trust.policy import parse_policy

    scope, path, kind, keys = arguments[0], flags.text("policy"), flags.text("type"), flags.items("key")
    if kind not in _TYPES:
        raise CliError(f"--type {kind!r}: it is accept, reject or sigstoreSigned")
    if bool(keys) != (kind == "sigstoreSigned"):
        raise CliError("--key goes with --type sigstoreSigned, which needs one or more")
    for key in keys:
        public_key(key)
    rule: dict[str, Any] = {"type": _TYPES[kind]}
    if keys:
        rule["keyPaths"] = [os.path.abspath(key) for key in keys]
    document = _read(path)
    if scope == "default":
        document["default"] = [rule]
    else:
        document.setdefault("transports", {}).setdefault("docker", {})[scope] = [rule]
    from wherry.cli.template_functions import pretty_json

    data = (pretty_json(document) + "\n").encode()
    parse_policy(data, path)
    _replace(path, data)
    return 0


def _read(path: str) -> dict[str, Any]:
    """The policy; one that accepts everything if there is none. What cannot be read is not overwritten."""
    from wherry.spec.image import decode
    from wherry.trust.policy import parse_policy

    if not os.path.lexists(path):
        return {"default": [{"type": "insecureAcceptAnything"}]}
    data = read_file(path)
    parse_policy(data, path)
    return decode(data, path)


def _replace(path: str, data: bytes) -> None:
    new = f"{path}.new"
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(new, path)
    except OSError as error:
        raise CliError(f"{path}: {(error.strerror or str(error)).lower()}") from None


COMMAND = Command(
    run,
    arguments="REGISTRY[/REPOSITORY]|default",
    flags=(
        Flag("key", "list", "File of a public key that may sign; one of several is enough", short="k"),
        Flag("policy", "string", "The policy file", default=POLICY),
        Flag("type", "string", "accept, reject or sigstoreSigned", short="t", default="sigstoreSigned"),
    ),
    at_least=1,
    at_most=1,
    examples=(
        "wherry image trust set --key team.pub registry.example/team",
        "wherry image trust set --type reject default",
    ),
)
