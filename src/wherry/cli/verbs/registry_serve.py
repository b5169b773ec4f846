"""`wherry registry serve`: an OCI registry in this process, until it is told to stop. Needs no engine."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    from wherry.registry.serve import Config, run

    run(
        Config(
            addr=flags.text("addr"),
            root=flags.text("root"),
            tls_cert=flags.text("tls-cert"),
            tls_key=flags.text("tls-key"),
            tls_client_ca=flags.text("tls-client-ca"),
            read_only=flags.on("read-only"),
            access_log=not flags.on("no-access-log"),
        )
    )
    return 0


COMMAND = Command(
    run,
    flags=(
        Flag("addr", "string", "Where to serve: HOST:PORT, or :PORT on all addresses", default="127.0.0.1:5000"),
        Flag("no-access-log", "bool", "Do not write a line per request to stdout"),
        Flag("read-only", "bool", "Serve what is there; refuse to change it"),
        Flag("root", "string", "Directory of the registry's data", default="/var/lib/wherry-registry"),
        Flag("tls-cert", "string", "Serve HTTPS with this certificate (PEM, with its chain)"),
        Flag("tls-client-ca", "string", "Let only clients in that have a certificate of this CA"),
        Flag("tls-key", "string", "The certificate's key"),
    ),
    at_most=0,
    examples=(
        "wherry registry serve --root /srv/registry",
        "wherry registry serve --addr :443 --root /srv/registry --tls-cert cert.pem --tls-key key.pem",
    ),
)
