"""The entry point of `wherry`: global flags, the verb, its flags, its module; errors become text on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from _signal import SIG_DFL, SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found,unused-ignore]

from wherry.errors import InvalidArgument, WherryError

from . import commands
from .command import CliError
from .flags import Flag, FlagError, Flags
from .flags import parse as parse_flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.client.address import Address, Tls

    from .app import App
    from .command import Command

GLOBAL_FLAGS: tuple[Flag, ...] = (
    Flag("config", "string", "Directory of the client's configuration files (registry logins), in Docker's format"),
    Flag("context", "string", "", short="c", refused="name the engine with -H or WHERRY_HOST"),
    Flag("debug", "bool", "Print debugging information", short="D"),
    Flag("host", "list", "The engine's address (unix:///path or tcp://host:port)", short="H"),
    Flag("log-level", "string", "debug, info, warn, error or fatal", short="l", default="info"),
    Flag("tls", "bool", "Use TLS"),
    Flag("tlscacert", "string", "Trust certificates signed by this CA"),
    Flag("tlscert", "string", "The client's certificate"),
    Flag("tlskey", "string", "The client's key"),
    Flag("tlsverify", "bool", "Use TLS, and check the engine's certificate"),
    Flag("version", "bool", "Print the version", short="v"),
)
_LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
_SIGPIPE = 13


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if getsignal(SIGINT) == SIG_DFL:  # by bin/wherry
            signal(SIGINT, default_int_handler)
        return _dispatch(arguments)
    except BrokenPipeError:
        return 128 + _SIGPIPE
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if "-D" in arguments or "--debug" in arguments:
            raise
        return _complain(f"wherry: internal error: {type(error).__name__}: {error} (--debug shows where)", 1)


def entry() -> None:
    """`wherry` as a process: ends without the interpreter's own slow farewell; a reader that went away ends it as SIGPIPE would."""
    code = main()
    if code == 128 + _SIGPIPE:
        signal(_SIGPIPE, SIG_DFL)
        os.kill(os.getpid(), _SIGPIPE)
    os._exit(code)


def _dispatch(arguments: list[str]) -> int:
    try:
        settings, words, wants_help = parse_flags(GLOBAL_FLAGS, arguments, interspersed=False)
    except FlagError as error:
        return _complain(
            f"{error}\n\nUsage:  wherry [OPTIONS] COMMAND [ARG...]\n\nRun 'wherry --help' for more information", 125
        )
    if settings.on("version"):
        from wherry import __version__

        os.write(1, f"wherry version {__version__}\n".encode())
        return 0
    if wants_help or not words or words[0] == "help":
        return _help(words[1:] if words[:1] == ["help"] else [])
    path, rest = _find(words)
    if not path:
        return _unknown(words)
    if path in commands.GROUPS:
        from . import help as helping

        os.write(1 if not rest or rest[0] in ("--help", "-h") else 2, helping.group(path).encode())
        return 0
    command: Command = __import__(f"wherry.cli.verbs.{commands.VERBS[path][0]}", fromlist=["COMMAND"]).COMMAND
    return _run(path, command, settings, rest)


def _run(path: str, command: Command, settings: Flags, rest: list[str]) -> int:
    try:
        flags, operands, wants_help = parse_flags(command.flags, rest, interspersed=command.interspersed)
    except FlagError as error:
        return _complain(
            f"{error}\n\nUsage:  {command.usage(path)}\n\nRun 'wherry {path} --help' for more information", 125
        )
    if wants_help:
        from . import help as helping

        os.write(1, helping.verb(path, command).encode())
        return 0
    wrong = command.check_count(path, operands)
    if wrong:
        hint = "See" if "requires at" in wrong else "Run"
        return _complain(
            f"wherry: {wrong}\n\nUsage:  {command.usage(path)}\n\n{hint} 'wherry {path} --help' for more information", 1
        )
    try:
        app = make_app(settings)
        app.path = path
        return command.run(app, flags, operands)
    except CliError as error:
        return _complain(error.message, error.code) if error.message else error.code
    except BrokenPipeError:
        raise
    except (WherryError, OSError) as error:
        text = describe(error)
        if command.fails_with == 125:
            text = f"wherry: {text}\n\nRun 'wherry {path} --help' for more information"
        return _complain(text, command.fails_with)


def describe(error: Exception) -> str:
    """An error as the user reads it: the engine's words are marked as such, as Docker's client marks them."""
    from wherry.client.errors import ApiError

    if isinstance(error, ApiError):
        return f"Error response from daemon: {error.message}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
    return str(error)


def make_app(settings: Flags) -> App:
    """The App that the global flags describe."""
    from wherry.client.address import parse

    from .app import App

    hosts = settings.items("host")
    if len(hosts) > 1:
        raise InvalidArgument("specify only one -H")
    level = settings.text("log-level")
    if level not in _LOG_LEVELS:
        raise InvalidArgument(f"Unable to parse logging level: {level}")
    environment = os.environ
    host = str(hosts[0]) if hosts else environment.get("WHERRY_HOST") or environment.get("DOCKER_HOST") or ""
    if not host and environment.get("DOCKER_CONTEXT", "default") != "default":
        raise InvalidArgument(
            "DOCKER_CONTEXT is set: contexts are not supported by wherry: name the engine with -H or WHERRY_HOST"
        )
    address: Address = parse(host, _tls(settings))
    return App(
        address,
        debug=settings.on("debug") or level == "debug",
        config_folder=settings.text("config"),
        autostart=not host and environment.get("WHERRY_AUTOSTART", "1") != "0",
    )


def _tls(settings: Flags) -> Tls | None:
    from wherry.client.address import Tls, environment_tls, tls_from_folder

    base = environment_tls(os.environ)
    if not any(settings.given(name) for name in ("tls", "tlsverify", "tlscacert", "tlscert", "tlskey")):
        return base
    if not settings.on("tls") and not settings.on("tlsverify") and base is None:
        return None
    if base is None:
        folder = settings.text("config") or os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
        base = tls_from_folder(folder, verify=False)
    verify = settings.on("tlsverify") if settings.given("tlsverify") else base.verify
    return Tls(
        settings.text("tlscacert") or base.ca,
        settings.text("tlscert") or base.cert,
        settings.text("tlskey") or base.key,
        verify=verify,
    )


def _find(words: list[str]) -> tuple[str, list[str]]:
    """(path, what follows it): the longest path in the tables that the words begin with; ("", words) if there is none."""
    first = words[0]
    if first in commands.GROUPS:
        path, rest = first, words[1:]
        while path in commands.GROUPS and rest and not rest[0].startswith("-"):
            path = f"{path} {rest[0]}"
            path, rest = commands.ALIASES.get(path, path), rest[1:]
        return (path, rest) if path in commands.VERBS or path in commands.GROUPS else ("", words)
    return (first, words[1:]) if first in commands.VERBS else ("", words)


def _unknown(words: list[str]) -> int:
    name = words[0]
    if len(words) > 2 and f"{name} {words[1]}" in commands.GROUPS:
        name, words = f"{name} {words[1]}", words[1:]
    if name in commands.GROUPS:
        return _complain(
            f"wherry: unknown command: wherry {name} {words[1]}\n\nUsage:  wherry {name}\n\nRun 'wherry {name} --help' for more information",
            1,
        )
    if name in commands.ABSENT:
        return _complain(
            f"wherry: 'wherry {name}' is not supported by wherry\n\nRun 'wherry --help' for more information", 1
        )
    return _complain(f"wherry: unknown command: wherry {name}\n\nRun 'wherry --help' for more information", 1)


def _help(words: list[str]) -> int:
    from . import help as helping

    if not words:
        os.write(1, helping.program().encode())
        return 0
    path, rest = _find(words)
    if not path or rest:
        return _unknown(words)
    if path in commands.GROUPS:
        os.write(1, helping.group(path).encode())
        return 0
    command = __import__(f"wherry.cli.verbs.{commands.VERBS[path][0]}", fromlist=["COMMAND"]).COMMAND
    os.write(1, helping.verb(path, command).encode())
    return 0


def _complain(text: str, code: int) -> int:
    os.write(2, (text + "\n").encode("utf-8", "surrogateescape"))
    return code
