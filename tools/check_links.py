"""Check that every relative link in the repository's documents leads to a file, and every #Lnn to a line that exists."""

from __future__ import annotations

import pathlib
import re
import sys

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def broken(document: pathlib.Path) -> list[str]:
    found = []
    for target in LINK.findall(document.read_text()):
        if target.startswith(("http://", "https://", "#", "mailto:")):
            continue
        path, _, fragment = target.partition("#")
        file = (document.parent / path).resolve()
        if not file.exists():
            found.append(f"{document}: {target}: no such file")
        elif (
            fragment.startswith("L")
            and fragment[1:].isdigit()
            and int(fragment[1:]) > len(file.read_text().splitlines())
        ):
            found.append(f"{document}: {target}: the file is shorter")
    return found


def main() -> int:
    root = pathlib.Path(__file__).parent.parent
    documents = [*root.glob("*.md"), *root.glob("docs/**/*.md")]
    problems = [problem for document in documents for problem in broken(document)]
    print("\n".join(problems) or f"{len(documents)} documents, all links lead somewhere")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
