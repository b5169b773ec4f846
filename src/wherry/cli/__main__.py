"""`python -m wherry.cli`."""

from __future__ import annotations

from .main import entry

if __name__ == "__main__":
    entry()
