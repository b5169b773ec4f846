"""`wherry image verify`: whether an image in a registry is signed by a key."""

from __future__ import annotations

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.signing import public_key, with_registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags
    from wherry.distribution.client import Repository
    from wherry.distribution.upload import Target
    from wherry.spec.ids import Digest
    from wherry.trust.signatures import Signature


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    from wherry.spec.reference import parse
    from wherry.trust import signatures

    paths = flags.items("key")
    if not paths:
        raise CliError("--key is needed: the file of a public key")
    keys, reference = [public_key(path) for path in paths], parse(arguments[0]).tagged()

    async def look(repository: Repository, target: Target | None) -> tuple[Digest, list[Signature]]:
        digest = (await signatures.resolve(repository, reference)).digest
        return digest, await signatures.find(repository, digest)

    digest, found = with_registry(app, reference, look, insecure=flags.on("insecure"), writing=False)
    name = f"{reference.familiar_name}@{digest}"
    good = signatures.signers(found, keys, reference.name, digest)
    for path, key in zip(paths, keys, strict=True):
        if key in good:
            app.out(f"{name}: signed by {path}\n")
    if good:
        return 0
    if not found:
        raise CliError(f"{name}: no signature exists")
    raise CliError(f"{name}: none of its {len(found)} signatures is by {' or '.join(paths)}")


COMMAND = Command(
    run,
    arguments="NAME[:TAG|@DIGEST]",
    flags=(
        Flag("insecure", "bool", "Talk to the registry without verified TLS"),
        Flag("key", "list", "File of a public key; one of several is enough", short="k"),
    ),
    at_least=1,
    at_most=1,
    examples=("wherry image verify --key team.pub registry.example/team/app:1.2",),
)
