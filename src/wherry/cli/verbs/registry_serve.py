"""`wherry registry serve`: an OCI registry in this process, until it is told to stop. Needs no engine."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    from wherry.registry.collector import Policy
    from wherry.registry.serve import Config
    from wherry.registry.serve import run as serve

    serve(
        Config(
            addr=flags.text("addr"),
            root=flags.text("root"),
            storage=flags.text("storage"),
            tls_cert=flags.text("tls-cert"),
            tls_key=flags.text("tls-key"),
            tls_client_ca=flags.text("tls-client-ca"),
            read_only=flags.on("read-only"),
            access_log=not flags.on("no-access-log"),
            htpasswd=flags.text("htpasswd"),
            anonymous_pull=flags.on("anonymous-pull"),
            token=flags.on("token"),
            token_realm=flags.text("token-realm"),
            token_service=flags.text("token-service"),
            token_issuer=flags.text("token-issuer"),
            token_keys=flags.text("token-keys"),
            url=flags.text("url"),
            proxy=flags.text("proxy"),
            proxy_username=flags.text("proxy-username"),
            proxy_password=_first_line(flags.text("proxy-password-file")),
            metrics_addr=flags.text("metrics-addr"),
            policy=Policy(
                grace=_seconds(flags, "gc-grace", 24),
                interval=max(_seconds(flags, "gc-interval", 1), 1.0),
                untagged=flags.on("gc-untagged"),
                max_age=_seconds(flags, "proxy-max-age", 168) if flags.text("proxy") else 0.0,
            ),
        )
    )
    return 0


def _seconds(flags: Flags, name: str, hours: float) -> float:
    return flags.number(name) / 1e9 if flags.given(name) else hours * 3600


def _first_line(path: str) -> str:
    if not path:
        return ""
    with open(path, encoding="utf-8") as file:
        return file.readline().rstrip("\r\n")


COMMAND = Command(
    run,
    flags=(
        Flag("addr", "string", "Where to serve: HOST:PORT, or :PORT on all addresses", default="127.0.0.1:5000"),
        Flag("anonymous-pull", "bool", "With --htpasswd: who has no password may still pull"),
        Flag("gc-grace", "duration", "How long blobs without a manifest, and uploads, are kept (default 24h)"),
        Flag("gc-interval", "duration", "How often unneeded content is looked for (default 1h)"),
        Flag("gc-untagged", "bool", "Remove manifests that no tag leads to as well"),
        Flag("htpasswd", "string", "Let only users of this file in (bcrypt, as htpasswd -B writes it)"),
        Flag("metrics-addr", "string", "Serve Prometheus metrics at http://HOST:PORT/metrics"),
        Flag("no-access-log", "bool", "Do not write a line per request to stdout"),
        Flag("proxy", "string", "Be a read-only cache of the registry at this URL"),
        Flag("proxy-max-age", "duration", "How long a cache keeps what nobody asks for (0: always; default 168h)"),
        Flag("proxy-password-file", "string", "File whose first line is the password for --proxy"),
        Flag("proxy-username", "string", "User name for --proxy"),
        Flag("read-only", "bool", "Serve what is there; refuse to change it"),
        Flag("root", "string", "Directory of the registry's data", default="/var/lib/wherry-registry"),
        Flag(
            "storage", "string", "Keep blobs in an object store that fsspec knows (s3://BUCKET/PREFIX), not in the root"
        ),
        Flag("tls-cert", "string", "Serve HTTPS with this certificate (PEM, with its chain)"),
        Flag("tls-client-ca", "string", "Let only clients in that have a certificate of this CA"),
        Flag("tls-key", "string", "The certificate's key"),
        Flag(
            "token",
            "bool",
            "With --htpasswd: clients get bearer tokens at /token, instead of sending passwords each time",
        ),
        Flag("token-issuer", "string", "Issuer that tokens must name", default="wherry-registry"),
        Flag("token-keys", "string", "Public keys or certificates (PEM) that sign the tokens of --token-realm"),
        Flag("token-realm", "string", "URL of another token server: its tokens are let in"),
        Flag("token-service", "string", "Audience that tokens must name", default="wherry-registry"),
        Flag("url", "string", "With --token: where clients find this registry, when a proxy is in between"),
    ),
    at_most=0,
    examples=(
        "wherry registry serve --root /srv/registry",
        "wherry registry serve --proxy https://registry-1.docker.io --root /srv/cache",
        "wherry registry serve --htpasswd users --token --anonymous-pull",
        "wherry registry serve --addr :443 --root /srv/registry --tls-cert cert.pem --tls-key key.pem",
    ),
)
