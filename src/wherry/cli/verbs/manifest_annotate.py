"""`wherry manifest annotate`: what a list says of the platform of one of its manifests."""

from __future__ import annotations

from dataclasses import replace

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.manifests import Store, named, ordered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags

_PLATFORMS = {
    "darwin": ("386", "amd64", "arm", "arm64"),
    "dragonfly": ("amd64",),
    "freebsd": ("386", "amd64", "arm"),
    "linux": ("386", "amd64", "arm", "arm64", "ppc64le", "mips64", "mips64le", "riscv64", "s390x"),
    "netbsd": ("386", "amd64", "arm"),
    "openbsd": ("386", "amd64", "arm"),
    "plan9": ("386", "amd64"),
    "solaris": ("amd64",),
    "windows": ("386", "amd64"),
}


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    store, listing, reference = Store(app), named(arguments[0]), named(arguments[1])
    entry = store.get(listing, reference)
    if entry is None:
        raise CliError(f"manifest for image {arguments[1]} does not exist in {arguments[0]}")
    platform = {"architecture": "", "os": "", **entry.platform}
    for flag, key in (("os", "os"), ("arch", "architecture"), ("variant", "variant"), ("os-version", "os.version")):
        if flags.text(flag):
            platform[key] = flags.text(flag)
    features = [*(platform.get("os.features") or []), *flags.items("os-features")]
    platform["os.features"] = list(dict.fromkeys(features))
    if platform["architecture"] not in _PLATFORMS.get(platform["os"], ()):
        asked = f"{flags.text('os')}/{flags.text('arch')}"
        raise CliError(f"manifest entry for image has unsupported os/arch combination: {asked}")
    store.put(listing, reference, replace(entry, platform=ordered(platform)))
    return 0


COMMAND = Command(
    run,
    arguments="MANIFEST_LIST MANIFEST",
    flags=(
        Flag("arch", "string", "Set the architecture"),
        Flag("os", "string", "Set the operating system"),
        Flag("os-features", "strings", "Add features of the operating system"),
        Flag("os-version", "string", "Set the version of the operating system"),
        Flag("variant", "string", "Set the variant of the architecture"),
    ),
    at_least=2,
    at_most=2,
    examples=("wherry manifest annotate --arch arm --variant v7 registry.example/app:1 registry.example/app:1-arm",),
)
