"""`wherry login`."""

from __future__ import annotations

import os
import sys

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.registry_auth import HUB, Logins, registry_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags

_MAX_PASSWORD = 1 << 20


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    key = registry_key(arguments[0] if arguments else "")
    logins = Logins(app)
    username, password = _given(app, flags)
    login: dict[str, str] | None = None
    if not username and not password:
        login = logins.get(key)
        if login is not None:
            shown = f" [Username: {login['username']}]" if login.get("username") else ""
            app.err(f"Authenticating with existing credentials...{shown}\n")
    if login is None:
        login = {"serveraddress": key, **_ask(app, key, username, password)}
    answer = app.registries.authenticate(login)
    if not login.get("identitytoken"):
        token = str(answer.get("IdentityToken") or "")
        logins.put(key, login.get("username", ""), login.get("password", ""), token)
        if not logins.helper(key):
            app.err(f"\nWARNING! Your credentials are stored unencrypted in '{logins.path}'.\n\n")
    app.out(f"{answer.get('Status')}\n")
    return 0


def _given(app: App, flags: Flags) -> tuple[str, str]:
    username, password = flags.text("username"), flags.text("password")
    if flags.given("username") and not username:
        raise CliError("username is empty")
    if flags.on("password-stdin"):
        if password:
            raise CliError("conflicting options: cannot specify both --password and --password-stdin")
        if not username:
            raise CliError("the --password-stdin option requires --username to be set")
        password = sys.stdin.buffer.read(_MAX_PASSWORD).decode("utf-8", "surrogateescape")
        password = password.removesuffix("\n").removesuffix("\r")
        if not password:
            raise CliError("password is empty")
    elif password:
        app.err("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n")
    return username, password


def _ask(app: App, key: str, username: str, password: str) -> dict[str, str]:
    """What is missing, from the terminal."""
    if not (username and password) and not os.isatty(0):
        raise CliError("cannot perform an interactive login from a non-TTY device: use --username and --password-stdin")
    if not username:
        if key == HUB:
            app.err("Log in with your Docker ID or email address.\n")
        app.err("Username: ")
        username = sys.stdin.readline().strip()
    if not username:
        raise CliError("username is required")
    if not password:
        from getpass import getpass

        password = getpass("Password: ")
    if not password:
        raise CliError("password is required")
    return {"username": username, "password": password}


COMMAND = Command(
    run,
    arguments="[SERVER]",
    flags=(
        Flag("username", "string", "Username", short="u"),
        Flag("password", "string", "Password or access token (seen by other users of the machine)", short="p"),
        Flag("password-stdin", "bool", "Take the password from stdin"),
    ),
    at_most=1,
    examples=("wherry login localhost:5000", "wherry login -u ann --password-stdin registry.example < token.txt"),
)
