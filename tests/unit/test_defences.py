"""Every attack of tests/security is proven: it names a defence, and what would be left of the source without that."""

from __future__ import annotations

import ast
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
