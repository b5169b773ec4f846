"""`wherry manifest push`: a list as an index in a registry, with the manifests that come from other repositories there."""

from __future__ import annotations

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.manifests import Store, index_of, named
from wherry.cli.signing import with_registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.cli.app import App
    from wherry.cli.flags import Flags
    from wherry.cli.manifests import Entry
    from wherry.distribution.client import Repository
    from wherry.distribution.upload import Target
    from wherry.spec.reference import Reference


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    from wherry.spec.image import digest_of, parse_document

    store, listing = Store(app), named(arguments[0])
    entries = store.entries(listing)
    if entries is None:
        raise CliError(f"No such manifest: {listing}")
    _check(listing, entries)
    index = index_of(entries)
    digest, media_type = digest_of(index), parse_document(index).media_type

    async def push(_: Repository, target: Target | None) -> None:
        assert target is not None
        for entry in entries:
            if entry.reference.path != listing.path:
                await _take_over(target, listing, entry)
                app.out(f"Pushed ref {listing.name}@{entry.digest} with digest: {entry.digest}\n")
        await target.put_manifest(listing.tag or digest, index, media_type, digest)

    with_registry(app, listing, push, insecure=flags.on("insecure"), writing=True)
    app.out(f"{digest}\n")
    if flags.on("purge"):
        store.remove(listing)
    return 0


def _check(listing: Reference, entries: Sequence[Entry]) -> None:
    if not entries:
        raise CliError(f"{listing} not found")
    for entry in entries:
        if not entry.platform.get("architecture") or not entry.platform.get("os"):
            raise CliError(f"manifest {entry.reference} must have an OS and Architecture to be pushed to a registry")
        if entry.reference.domain != listing.domain:
            raise CliError(
                "cannot use source images from a different registry than the target image: "
                f"{entry.reference.domain} != {listing.domain}"
            )


async def _take_over(target: Target, listing: Reference, entry: Entry) -> None:
    """A manifest of another repository, and what it names."""
    from wherry.spec.image import Manifest, parse_document

    document = parse_document(entry.data, entry.media_type)
    assert isinstance(document, Manifest)
    for part in (document.config, *document.layers):
        if not await target.mount(part.digest, entry.reference.path) and entry.platform["os"] != "windows":
            raise CliError(f"error mounting {entry.reference.path}@{part.digest} to {listing}")
    await target.put_manifest(entry.digest, entry.data, entry.media_type, entry.digest)


COMMAND = Command(
    run,
    arguments="MANIFEST_LIST",
    flags=(
        Flag("insecure", "bool", "Talk to the registry without verified TLS"),
        Flag("purge", "bool", "Remove the list here once it is pushed", short="p"),
    ),
    at_least=1,
    at_most=1,
    examples=("wherry manifest push --purge registry.example/app:1",),
)
