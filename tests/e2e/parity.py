"""Asking an engine the same with `wherry` and with `docker`."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.harness import Engine

SOURCES = str(Path(__file__).parent.parent.parent / "src")
DOCKER = ["docker"]
WHERRY = [sys.executable, "-m", "wherry.cli"]

_versions: dict[str, str] = {}


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


def environment(engine: Engine) -> dict[str, str]:
    """For both programs: they speak the version of the API that docker agrees on with the engine."""
    version = _versions.get(engine.socket_path)
    if version is None:
        version = _versions[engine.socket_path] = engine.output("version", "-f", "{{.Client.APIVersion}}")
    return {**engine.client_environment, "PYTHONPATH": SOURCES, "DOCKER_API_VERSION": version}


def ask(engine: Engine, program: list[str], words: list[str], stdin: str = "") -> Answer:
    done = subprocess.run(
        [*program, *words],
        env=environment(engine),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Answer(done.returncode, normal(done.stdout), normal(done.stderr))


_PATTERNS = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "<id>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<short id>"),
    (re.compile(r"\d+(\.\d+)?(?=(s|ms)\b)"), "<n>"),
    (re.compile(r"(\d+|Less than a|About a|About an) (second|minute|hour)s?"), "<time>"),
    (re.compile(r"\b\d+(\.\d+)?(%|[kKMG]?i?B)"), "<size>"),
    (re.compile(r" {3,}"), "   "),
    (re.compile(r"\bwherry\b"), "docker"),
)


def normal(text: str) -> str:
    """Without what differs from one moment to the next: ids, times, sizes; and with one name for the program."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
