"""The start of a command: what it imports, and that every verb of the tables exists."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wherry.cli import commands
from wherry.cli.command import Command

HEAVY = [
    "re",
    "enum",
    "typing",
    "json",
    "socket",
    "argparse",
    "logging",
    "asyncio",
    "aiohttp",
    "rich",
    "dataclasses",
    "inspect",
    "threading",
    "collections",
    "contextlib",
    "selectors",
    "datetime",
    "ssl",
    "urllib.parse",
    "http",
    "shlex",
    "subprocess",
    "functools",
    "msgspec",
]


@pytest.mark.parametrize("verb", ["run", "exec", "ps", "logs", "rm"])
def test_a_hot_verb_imports_nothing_slow(verb: str) -> None:
    script = f"""
import sys
before = set(sys.modules)
import wherry.cli.main, wherry.cli.app, wherry.cli.streams, wherry.client.containers, wherry.client.images, wherry.cli.verbs.{verb}
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert set(done.stdout.split()) & set(HEAVY) == set()


@pytest.mark.parametrize("path", sorted(commands.VERBS))
def test_every_verb_of_the_table_has_a_module_with_a_command(path: str) -> None:
    module = __import__(f"wherry.cli.verbs.{commands.VERBS[path][0]}", fromlist=["COMMAND"])
    assert isinstance(module.COMMAND, Command)
    assert commands.summary(path)
    assert module.COMMAND.examples, "help shows how a verb is used"
