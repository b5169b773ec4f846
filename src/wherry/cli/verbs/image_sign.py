"""`wherry image sign`: a signature in cosign's format, put beside the image in its registry."""

from __future__ import annotations

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.signing import private_key, with_registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags
    from wherry.distribution.client import Repository
    from wherry.distribution.upload import Target
    from wherry.spec.ids import Digest


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    from wherry.spec.reference import parse
    from wherry.trust import signatures

    if not flags.text("key"):
        raise CliError("--key is needed: the file of a private key (wherry image keygen makes one)")
    key, reference = private_key(flags.text("key")), parse(arguments[0]).tagged()

    async def sign(repository: Repository, target: Target | None) -> Digest:
        assert target is not None
        image = await signatures.resolve(repository, reference)
        await signatures.publish(target, image, reference, key)
        return image.digest

    digest = with_registry(app, reference, sign, insecure=flags.on("insecure"), writing=True)
    app.out(f"{reference.familiar_name}@{digest}\n")
    return 0


COMMAND = Command(
    run,
    arguments="NAME[:TAG|@DIGEST]",
    flags=(
        Flag("insecure", "bool", "Talk to the registry without verified TLS"),
        Flag("key", "string", "File of the private key (its password: WHERRY_KEY_PASSWORD, or asked for)", short="k"),
    ),
    at_least=1,
    at_most=1,
    examples=("wherry image sign --key team.key registry.example/team/app:1.2",),
)
