"""Every attack of tests/security is proven: it names a defence, and what would be left of the source without that.

The threat model names them all.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.security.defences import DEFENCES

TESTS = Path(__file__).resolve().parents[1]
SOURCE = TESTS.parent / "src/wherry"


def attacks() -> set[str]:
    return {
        f"security/{file.name}::{node.name}"
        for file in (TESTS / "security").glob("test_*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_attack_is_one_that_some_defence_holds_off() -> None:
    assert {name.partition("[")[0] for defence in DEFENCES for name in defence.tests} == attacks()


def test_what_prove_takes_out_is_there_once() -> None:
    edits = [edit for defence in DEFENCES for edit in (defence, *defence.also)]
    wrong = [(edit.file, edit.code) for edit in edits if (SOURCE / edit.file).read_text().count(edit.code) != 1]
    assert wrong == []


def test_the_threat_model_names_the_attacks_that_there_are() -> None:
    rows = [
        line.split(" | ")
        for line in (TESTS.parent / "docs/THREAT_MODEL.md").read_text().splitlines()
        if line[:2] == "| "
    ]
    named = {number for case, *_ in rows for number in re.findall(r"\b\d{4}-\d{4,5}\b", case)}
    promised = {
        number
        for case, wherry, *_ in rows
        if "of this name" in wherry or "of these names" in wherry
        for number in re.findall(r"\b\d{4}-\d{4,5}\b", re.sub(r"\([^)]*\)", "", case))
    }
    tested = {f"{year}-{number}" for name in attacks() for year, number in re.findall(r"(\d{4})_(\d{4,5})(?=_)", name)}
    assert promised <= tested <= named, (promised - tested, tested - named)
