"""The file of compiled modules: used while the sources are as they were, ignored when they are not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[4]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """wherry-runc in a small installation of its own, with a copy of the package's part that it needs."""
    packages = tmp_path / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    for part in ("__init__.py", "errors.py", "linux", "runtime", "spec", "wire"):
        source, target = REPOSITORY / "src/wherry" / part, packages / "wherry" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            for path in source.rglob("*.py"):
                (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                (target / path.relative_to(source)).write_bytes(path.read_bytes())
        else:
            target.write_bytes(source.read_bytes())
    (packages / "wherry/__pycache__").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(os.path.realpath(sys.executable))
    (tmp_path / "bin/wherry-runc").write_bytes((REPOSITORY / "src/bin/wherry-runc").read_bytes())
    (tmp_path / "bin/wherry-runc").chmod(0o755)
    return tmp_path / "bin/wherry-runc"


def files(program: Path) -> list[Path]:
    return list(program.parent.parent.glob("lib/*/site-packages/wherry/__pycache__/wherry-runc.*"))


def version(program: Path) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()[0]


def test_the_first_run_writes_it_and_later_ones_leave_it(program: Path) -> None:
    first = version(program)
    [path] = files(program)
    written = path.stat().st_mtime_ns
    assert version(program) == first
    assert path.stat().st_mtime_ns == written


def test_a_changed_source_counts_at_once(program: Path) -> None:
    version(program)
    [source] = program.parent.parent.glob("lib/*/site-packages/wherry/__init__.py")
    source.write_text(source.read_text().replace("__version__ = ", "__version__ = 'changed ' + "))
    assert "changed" in version(program)
    assert "changed" in version(program)


def test_modules_come_from_it_without_their_sources_being_read(program: Path) -> None:
    version(program)
    done = subprocess.run(
        [program.parent / "python3", "-I", "-S", "-v", program, "--version"], capture_output=True, text=True, check=True
    )
    loaded = [line for line in done.stderr.splitlines() if line.startswith("import 'wherry")]
    assert loaded
    assert all("Preloaded" in line for line in loaded)


@pytest.mark.parametrize("damage", [b"", b"junk", b"\0" * 100])
def test_a_file_of_another_interpreter_is_replaced(program: Path, damage: bytes) -> None:
    first = version(program)
    [path] = files(program)
    path.write_bytes(damage)
    assert version(program) == first
    assert path.stat().st_size > 1000
