"""The package's own image: what the generator writes, byte by byte, and whether it is what it says."""

from __future__ import annotations

import filecmp
import importlib.util
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from wherry.core import embedded
from wherry.errors import DataLoss
from wherry.spec.image import digest_of
from wherry.spec.reference import parse

ROOT = Path(__file__).parents[3]
PACKAGED = Path(embedded.__file__).parent / "hello-world"
MACHINES = {"amd64": 62, "arm64": 183}
PAGES = {"amd64": 0x1000, "arm64": 0x10000}


@pytest.fixture(scope="module")
def generator() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("make_hello", ROOT / "tools/make_hello.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_the_generator_writes_what_the_package_carries(generator: ModuleType, tmp_path: Path) -> None:
    generator.write(tmp_path)
    assert files(tmp_path) == files(PACKAGED)
    same, different, failed = filecmp.cmpfiles(tmp_path, PACKAGED, files(PACKAGED), shallow=False)
    assert (set(same), different, failed) == (files(PACKAGED), [], [])


def test_every_blob_has_the_digest_that_is_its_name() -> None:
    for name in files(PACKAGED):
        if name.startswith("blobs/"):
            assert digest_of((PACKAGED / name).read_bytes()) == "sha256:" + name.rpartition("/")[2]


@pytest.mark.parametrize("architecture", MACHINES)
def test_the_program_is_a_static_elf_whose_only_segment_is_readable_and_executable(
    generator: ModuleType, architecture: str
) -> None:
    binary = generator.hello(architecture)
    assert binary[:7] == b"\x7fELF\x02\x01\x01"
    kind, machine, version, entry, program_headers, sections = struct.unpack_from("<HHIQQQ", binary, 16)
    sizes = struct.unpack_from("<HHHHHH", binary, 52)
    assert (kind, machine, version, program_headers, sections) == (2, MACHINES[architecture], 1, 64, 0)
    assert sizes[:3] == (64, 56, 1)
    load, flags, offset, address, _, in_file, in_memory, align = struct.unpack_from("<IIQQQQQQ", binary, 64)
    assert (load, flags, offset, in_file, in_memory) == (1, 5, 0, len(binary), len(binary))
    assert align == PAGES[architecture] and address % align == 0
    assert address + 64 + 56 == entry
    assert len(binary) < 2048


@pytest.mark.parametrize("architecture", MACHINES)
def test_the_code_points_at_the_text_and_gives_its_length(generator: ModuleType, architecture: str) -> None:
    binary = generator.hello(architecture)
    text = generator.TEXT.format(architecture=architecture).encode()
    code = binary[120 : -len(text)]
    assert binary.endswith(text)
    if architecture == "amd64":
        [distance] = struct.unpack_from("<i", code, 13)
        [length] = struct.unpack_from("<I", code, 18)
        assert (17 + distance, length) == (len(code), len(text))
    else:
        words = struct.unpack("<8I", code)
        assert [word & 0x9F00001F for word in words if word >> 24 == 0x10] == [0x10000001]  # adr x1
        assert 8 + ((words[2] >> 5 & 0x7FFFF) << 2 | words[2] >> 29 & 3) == len(code)
        assert words[3] >> 5 & 0xFFFF == len(text)


@pytest.mark.parametrize("architecture", MACHINES)
def test_the_program_prints_its_text_and_ends_well(generator: ModuleType, architecture: str, tmp_path: Path) -> None:
    program = tmp_path / "hello"
    program.write_bytes(generator.hello(architecture))
    program.chmod(0o755)
    native = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine) == architecture
    emulator = [] if native else [f"qemu-{ {'amd64': 'x86_64', 'arm64': 'aarch64'}[architecture] }"]
    try:
        done = subprocess.run([*emulator, str(program)], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"{emulator[0]} is not installed")
    assert (done.returncode, done.stdout.decode(), done.stderr) == (
        0,
        generator.TEXT.format(architecture=architecture),
        b"",
    )


def test_only_the_official_name_with_the_tag_latest_is_embedded() -> None:
    for name in ("hello-world", "hello-world:latest", "docker.io/library/hello-world", "index.docker.io/hello-world"):
        assert embedded.find(parse(name)) is not None
    for name in ("hello-world:linux", "me/hello-world", "quay.io/library/hello-world", "busybox"):
        assert embedded.find(parse(name)) is None


def test_a_damaged_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "hello-world"
    subprocess.run(["cp", "-r", str(PACKAGED), str(copy)], check=True)
    for blob in (copy / "blobs/sha256").iterdir():
        blob.write_bytes(b"{}")
    monkeypatch.setattr(embedded, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(DataLoss, match="install wherry again"):
        embedded.find(parse("hello-world"))
