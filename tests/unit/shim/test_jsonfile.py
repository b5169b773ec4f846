"""The json-file log is what Docker writes. The table's records were taken from a real dockerd 20.10, times apart."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.shim import jsonfile
from wherry.shim.jsonfile import MAX_LINE, JsonFileLog

RECORD = re.compile(
    rb'\{"log":"(?P<log>(?:[^"\\]|\\.)*)","stream":"(?P<stream>stdout|stderr)"(?P<attrs>,"attrs":\{[^}]*\})?,'
    rb'"time":"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{0,8}[1-9])?Z)"\}\n'
)

DOCKER = {
    "plain lines": (b"hello\nworld\n", [r"hello\n", r"world\n"]),
    "no newline at the end": (b"hello", ["hello"]),
    "empty lines": (b"\n\n\n", [r"\n", r"\n", r"\n"]),
    "controls": (
        bytes(code for code in range(32) if code != 10) + b"\x7f\n",
        [
            r"\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\u0008\u0009\u000b\u000c\r\u000e\u000f\u0010\u0011\u0012\u0013\u0014"
            r"\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f" + "\x7f" + r"\n"
        ],
    ),
    "valid UTF-8": ("hä € 😀 \u2028 \u2029 � \u0080\n".encode(), ["hä € 😀 " + r"\u2028 \u2029" + " � \u0080" + r"\n"]),
    "invalid UTF-8": (
        b"\x80a\xc3(\xe2\x82A\xf0\x80\x80B\xed\xa0\x80C\xff\xfe\xf4\x90\x80\x80D\xc0\xafE\xe2\x82\n\xf0\x9f\x98\n",
        [
            r"\ufffda\ufffd(\ufffd\ufffdA\ufffd\ufffd\ufffdB\ufffd\ufffd\ufffdC\ufffd\ufffd\ufffd\ufffd\ufffd\ufffdD\ufffd\ufffdE\ufffd\ufffd\n",
            r"\ufffd\ufffd\ufffd\n",
        ],
    ),
    "HTML and quotes": (
        b'<a href="x">&\'\\</a>\r\n',
        [r"\u003ca href=\"x\"\u003e\u0026'\\\u003c/a\u003e\r\n"],
    ),
    "exactly 16 KiB and a newline": (b"x" * 16384 + b"\n", ["x" * 16384, r"\n"]),
    "16 KiB less one and a newline": (b"x" * 16383 + b"\nnext\n", ["x" * 16383 + r"\n", r"next\n"]),
    "16 KiB and one": (b"x" * 16385 + b"\n", ["x" * 16384, r"x\n"]),
    "40000 bytes without a newline": (b"y" * 40000, ["y" * 16384, "y" * 16384, "y" * 7232]),
    "cut within a character": (b"x" * 16383 + "€€\n".encode(), ["x" * 16383 + r"\ufffd", r"\ufffd\ufffd€\n"]),
    "long and short lines": (
        b"a" * 33000 + b"\nb\nc\n" + b"d" * 16384 + b"\n" + b"e" * 16384,
        ["a" * 16384, "a" * 16384, "a" * 232 + r"\n", r"b\n", r"c\n", "d" * 16384, r"\n", "e" * 16384],
    ),
}


def _write(path: Path, pieces: list[bytes], **options: object) -> None:
    log = JsonFileLog(str(path), **options)  # type: ignore[arg-type]
    for piece in pieces:
        log.write(1, piece)
    log.finish()
    log.close()


def _records(path: Path) -> list[re.Match[bytes]]:
    data = path.read_bytes()
    found = list(RECORD.finditer(data))
    assert b"".join(record[0] for record in found) == data, "a line is not a record of Docker's form"
    return found


@pytest.mark.parametrize("size", [1 << 20, 16384, 16385, 4096, 700, 1])
@pytest.mark.parametrize("case", DOCKER)
def test_records_are_those_of_docker_however_the_output_arrives(tmp_path: Path, case: str, size: int) -> None:
    data, expected = DOCKER[case]
    _write(tmp_path / "log", [data[start : start + size] for start in range(0, len(data), size)])
    assert [record["log"].decode() for record in _records(tmp_path / "log")] == expected


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=60)), max_size=20))
@settings(max_examples=60)
def test_each_stream_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, output: list[tuple[int, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = JsonFileLog(str(path))
    for stream, data in output:
        log.write(stream, data)
    log.finish()
    log.close()
    read = {"stdout": "", "stderr": ""}
    for line in path.read_text().removesuffix("\n").split("\n") if path.stat().st_size else []:
        record = json.loads(line)
        read[record["stream"]] += record["log"]
    for number, name in ((1, "stdout"), (2, "stderr")):
        written = b"".join(data for stream, data in output if stream == number)
        # One U+FFFD for each byte that is not UTF-8, as Go decodes.
        assert read[name] == re.sub("[\udc80-\udcff]", "�", written.decode("utf-8", "surrogateescape"))


@given(st.binary(max_size=30_000), st.sampled_from([1, 50_000]), st.sampled_from([b"", b"\0", b"\xff", b"\n"]))
@settings(max_examples=60, deadline=None)
def test_any_output_makes_valid_records_with_its_newlines(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, repeat: int, filler: bytes
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    data += filler * repeat
    _write(path, [data])
    logs = [json.loads(line)["log"] for line in path.read_text().split("\n")[:-1]]
    assert sum(log.endswith("\n") for log in logs) == data.count(b"\n")
    assert not any("\n" in log[:-1] for log in logs)


def test_records_of_both_streams_stand_in_the_order_of_reading(tmp_path: Path) -> None:
    log = JsonFileLog(str(tmp_path / "log"))
    for number in range(6):
        log.write(1 + number % 2, b"%d\n" % number)
    log.close()
    assert [(record["stream"], record["log"]) for record in _records(tmp_path / "log")] == [
        (b"stdout" if number % 2 == 0 else b"stderr", b"%d\\n" % number) for number in range(6)
    ]


def test_pieces_of_a_cut_line_bear_the_time_of_the_first(tmp_path: Path) -> None:
    log = JsonFileLog(str(tmp_path / "log"))
    log.write(1, b"x" * MAX_LINE)
    log.write(1, b"x" * MAX_LINE)
    log.write(1, b"end\nnext\n")
    log.close()
    times = [record["time"] for record in _records(tmp_path / "log")]
    assert times[0] == times[1] == times[2] < times[3]


def test_options_become_attrs(tmp_path: Path) -> None:
    _write(tmp_path / "log", [b"a\n"], attrs={"tag": "web"})
    assert _records(tmp_path / "log")[0]["attrs"] == b',"attrs":{"tag":"web"}'


def test_a_new_log_goes_on_where_the_old_one_ended(tmp_path: Path) -> None:
    _write(tmp_path / "log", [b"before\n"])
    _write(tmp_path / "log", [b"after\n"])
    assert [record["log"] for record in _records(tmp_path / "log")] == [rb"before\n", rb"after\n"]
    assert os.stat(tmp_path / "log").st_mode & 0o777 == 0o640


@pytest.mark.parametrize("pieces", [1, 100])
def test_rotation_keeps_the_newest_files_and_cuts_between_records(tmp_path: Path, pieces: int) -> None:
    lines = [b"line %04d\n" % number for number in range(500)]
    step = len(lines) // pieces
    _write(tmp_path / "log", [b"".join(lines[at : at + step]) for at in range(0, 500, step)], max_size=2000, max_file=3)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    kept = [record["log"] for name in ("log.2", "log.1", "log") for record in _records(tmp_path / name)]
    assert kept == [line[:-1] + b"\\n" for line in lines[-len(kept) :]]
    for name in ("log.1", "log.2"):
        assert (
            2000 <= (tmp_path / name).stat().st_size < 2000 + 100
        )  # as Docker: the record that reaches the size is still written


def test_rotation_with_one_file_starts_it_anew(tmp_path: Path) -> None:
    _write(tmp_path / "log", [b"line %04d\n" % number for number in range(100)], max_size=1000, max_file=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["log"]
    assert _records(tmp_path / "log")[-1]["log"] == rb"line 0099\n"
    assert (tmp_path / "log").stat().st_size < 1100


def test_a_log_that_was_full_before_is_rotated_at_the_first_record(tmp_path: Path) -> None:
    _write(tmp_path / "log", [b"x" * 500 + b"\n"])
    _write(tmp_path / "log", [b"new\n"], max_size=100, max_file=2)
    assert len(_records(tmp_path / "log")) == len(_records(tmp_path / "log.1")) == 1


def test_a_log_that_cannot_be_opened_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(jsonfile.SyscallError, match="no such file"):
        JsonFileLog(str(tmp_path / "absent" / "log"))


def test_a_full_disk_loses_whole_records_and_the_log_goes_on_after(tmp_path: Path) -> None:
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = JsonFileLog(str(tmp_path / "log"))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        log.write(1, b"".join(b"line %02d\n" % number for number in range(40)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    log.write(1, b"there is room again\n")
    log.close()
    logs = [record["log"] for record in _records(tmp_path / "log")]
    assert logs[0] == rb"line 00\n"
    assert logs[-1] == rb"there is room again\n"
    assert log.lost == 40 - (len(logs) - 1) > 0
