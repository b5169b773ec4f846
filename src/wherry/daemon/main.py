"""wherryd's front door: the command line.

Imports little, so that --help, --version and --validate answer at once; the engine is imported when it is to run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wherry import __version__
from wherry.daemon import config
from wherry.daemon.options import usage
from wherry.errors import WherryError


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 after a clean end, 1 when the engine could not run."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        command = config.load(arguments)
    except WherryError as error:
        print(f"wherryd: {error}\nSee 'wherryd --help'.", file=sys.stderr)
        return 1
    match command.verb:
        case "help":
            print(usage(), end="")
        case "version":
            print(f"wherry version {__version__}")
        case "validate":
            print("configuration OK", file=sys.stderr)
        case _:
            from wherry.daemon.serve import run
            from wherry.daemon.wiring import compose

            return run(command.config, compose, lambda: config.load(arguments).config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
