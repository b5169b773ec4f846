"""`wherry image keygen`: a new pair of keys to sign images with."""

from __future__ import annotations

import os

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.signing import PASSWORD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    from wherry.trust.keys import generate

    prefix = arguments[0] if arguments else "wherry"
    private, public = generate(b"" if flags.on("no-password") else _password())
    for path, data, mode in ((f"{prefix}.key", private, 0o600), (f"{prefix}.pub", public, 0o644)):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        except FileExistsError:
            raise CliError(f"{path} exists already; wherry does not overwrite keys") from None
        except OSError as error:
            raise CliError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        with open(fd, "wb") as file:
            file.write(data)
    app.out(f"{prefix}.key\n{prefix}.pub\n")
    return 0


def _password() -> bytes:
    if os.environ.get(PASSWORD):
        return os.environ[PASSWORD].encode()
    if not os.isatty(0):
        raise CliError(f"a password for the key is needed: set {PASSWORD}, or say --no-password")
    from getpass import getpass

    password = getpass("Password for the private key: ")
    if not password or getpass("Once more: ") != password:
        raise CliError("the passwords are empty, or differ")
    return password.encode()


COMMAND = Command(
    run,
    arguments="[PREFIX]",
    flags=(Flag("no-password", "bool", "Do not encrypt the private key"),),
    at_most=1,
    examples=("wherry image keygen team", "WHERRY_KEY_PASSWORD=… wherry image keygen team"),
)
