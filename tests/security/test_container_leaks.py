"""Attacks by what is left open or visible: descriptors, the interpreter, processes that join, capabilities and groups.

Each test is named after the CVE whose attack it makes, and asserts that the attack has failed.
"""

from __future__ import annotations

import ctypes
import encodings
import errno
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.root.test_wherry_runc import Runtime
from tests.runtime_lab import DEFAULT_CAPABILITIES, ID_MAP, NAMESPACES, Lab, bind
from tests.security.swapping import swapping

from wherry.errors import StartError
from wherry.runtime import users
from wherry.runtime.exec import Exec

ROOT = Path(__file__).parents[2]


def capabilities(*more: str) -> dict[str, list[str]]:
    return {kind: [*DEFAULT_CAPABILITIES, *more] for kind in ("bounding", "effective", "permitted")}


def look_at_a_joining_process(
    lab: Lab, place: Path, monkeypatch: pytest.MonkeyPatch, step: str, look: str, *more: str
) -> list[str]:
    """What `look`, run by the container's first process, says of $p, a process that joins and is held before `step`: the race, won.

    `more`: capabilities of the first process.
    """
    for name in ("joined", "looked"):
        os.mkfifo(place / name)
    original = getattr(Exec, step)

    def hold(job: Exec) -> None:
        with open("/mnt/joined", "w") as joined:
            joined.write(f"{os.getpid()}\n")
        with open("/mnt/looked") as looked:
            looked.read()
        original(job)

    monkeypatch.setattr(Exec, step, hold)
    watch = f"read p < /mnt/joined; ({look}) > /mnt/found 2>&1; : > /mnt/looked; exec sleep 100"
    with lab.start("sh", "-c", watch, mounts=[bind(place, "/mnt")], capabilities=capabilities(*more)) as box:
        assert box.exec("true").status == 0
    return (place / "found").read_text().splitlines()


def test_cve_2016_9962_a_joining_process_has_nothing_of_the_host_from_the_first(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held before its first step, and looked at by a container that may trace."""
    (lab.rootfs / "marker").touch()
    (tmp_path / "mnt").mkdir()
    look = (
        "ls -d /proc/$p/root/marker; ls -d /proc/$p/cwd/marker; for f in /proc/$p/fd/*; do readlink $f; done | cut -d: -f1 | sort;"
        "for n in mnt pid net ipc uts cgroup; do [ $(readlink /proc/$p/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n; done"
    )
    found = look_at_a_joining_process(
        lab, tmp_path / "mnt", monkeypatch, "close_descriptors", look, "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"
    )
    assert [line.partition("/marker")[0].split("/")[-1] for line in found[:2]] == ["root", "cwd"]
    standard, ways_to_tell = ["/dev/null", "pipe", "pipe"], ["socket", "socket"]
    assert found[2:] == standard + ways_to_tell


def test_cve_2016_9962_a_joining_process_shows_nothing_of_itself(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held when it has no more power than the container has: what is left of our memory and descriptors may not be read."""
    (tmp_path / "mnt").mkdir()
    look = (
        "for f in exe cwd root fd/0 ns/mnt; do readlink /proc/$p/$f && echo $f; done;"
        "for f in maps environ auxv; do head -c 1 /proc/$p/$f > /dev/null && echo $f; done; echo end"
    )
    found = look_at_a_joining_process(lab, tmp_path / "mnt", monkeypatch, "find_program", look)
    assert not {"exe", "cwd", "root", "fd/0", "maps", "environ"} & set(found) and found[-1] == "end"


IN_OPEN = 0x20


@contextmanager
def watching(path: Path) -> Iterator[Callable[[], bytes]]:
    """A function that tells, as inotify(7) events, who has opened the file since."""
    libc = ctypes.CDLL(None)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert libc.inotify_add_watch(fd, os.fsencode(path), IN_OPEN) >= 0

    def events() -> bytes:
        try:
            return os.read(fd, 4096)
        except BlockingIOError:
            return b""

    yield events
    os.close(fd)


HOLD = """
import os, sys
sys.path[:0] = {path!r}
from pathlib import Path
from wherry.linux import exe
if {protect!r} and not exe.is_protected():
    exe.execute([*sys.argv], dict(os.environ))
from tests.runtime_lab import Lab
lab = Lab(Path({directory!r}))
box = lab.create(lab.config("true"), hold=True)
print(box.pid, flush=True)
sys.stdin.read()
lab.remove(box)
lab.close()
"""


def _open_for_writing(link: int) -> int | None:
    """None: somebody runs it, or just looks at the memory of one that did."""
    try:
        return os.open(f"/proc/self/fd/{link}", os.O_WRONLY)
    except OSError as error:
        if error.errno != errno.ETXTBSY:
            raise
        return None


@pytest.mark.parametrize("protect", [True, False])
def test_cve_2019_5736_the_interpreter_cannot_be_written_through_proc_pid_exe(tmp_path: Path, protect: bool) -> None:
    """What an attacker in the container does: keep the link to our program until nobody runs it, then write.

    Unprotected it works: the test is a real attack.
    """
    interpreter = tmp_path / "python"
    shutil.copy(os.path.realpath(sys.executable), interpreter)
    script = tmp_path / "hold.py"
    script.write_text(
        HOLD.format(
            path=[str(ROOT / "src"), str(ROOT), *sys.path[1:]], directory=str(tmp_path / "lab"), protect=protect
        )
    )
    env = {**os.environ, "PYTHONHOME": sys.base_prefix}
    with subprocess.Popen(
        [interpreter, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        link = os.open(f"/proc/{pid}/exe", os.O_PATH)
        holder.communicate("")
    try:
        if protect:
            with pytest.raises(OSError, match="Read-only file system"):
                os.open(f"/proc/self/fd/{link}", os.O_WRONLY)
        else:
            while (writable := _open_for_writing(link)) is None:
                pass
            os.close(writable)
    finally:
        os.close(link)


@pytest.fixture
def leaked(tmp_path: Path) -> Iterator[list[int]]:
    """Descriptors of a directory of the host's, with a program in it, that somebody has left open in the runtime for everybody to inherit."""
    place = tmp_path / "host"
    (place / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", place / "bin")
    fds = [os.open(place, os.O_PATH | os.O_DIRECTORY) for _ in range(8)]
    for fd in fds:
        os.set_inheritable(fd, True)
    yield fds
    for fd in fds:
        os.close(fd)


def test_cve_2024_21626_a_leaked_descriptor_is_no_working_directory(lab: Lab, leaked: list[int]) -> None:
    for number in {*range(3, 12), *leaked}:
        for cwd in (f"/proc/self/fd/{number}", f"/proc/thread-self/fd/{number}"):
            with pytest.raises(StartError) as caught:
                lab.run("true", cwd=cwd)
            assert caught.value.step in ("chdir", "make_working_directory")


def test_cve_2024_21626_a_descriptor_that_somebody_leaks_into_the_runtime_ends_there(lab: Lab, tmp_path: Path) -> None:
    leaked = os.open(tmp_path, os.O_PATH)
    os.set_inheritable(leaked, True)
    try:
        with lab.start("sleep", "100") as box:
            first = {int(name) for name in os.listdir(f"/proc/{box.pid}/fd")}
            joined = box.exec("sh", "-c", "for fd in /proc/$$/fd/*; do readlink $fd; done").lines
    finally:
        os.close(leaked)
    assert first == {0, 1, 2}
    assert not [line for line in joined if line.startswith(str(tmp_path))]


def test_cve_2024_21626_nor_of_an_exec(lab: Lab, leaked: list[int]) -> None:
    with lab.start("sleep", "100") as box:
        for number in {*range(3, 16), *leaked}:
            with pytest.raises(StartError):
                box.exec("true", cwd=f"/proc/self/fd/{number}")


def test_cve_2024_21626_a_preserved_descriptor_of_a_host_directory_is_no_working_directory(
    runtime: Runtime, tmp_path: Path
) -> None:
    """The one descriptor of the host's that an exec may have: what its caller has given it by name."""
    run_in_background(runtime)
    words = runtime.command("exec", "--preserve-fds", "1", "--cwd", "/proc/self/fd/3", "box", "ls", "..")
    done = subprocess.run(
        ["sh", "-c", 'exec 3< "$0"; exec "$@"', str(tmp_path), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 255 and done.stdout == ""
    assert "current working directory is outside of container mount namespace root" in done.stderr


def test_cve_2024_21626_a_working_directory_symlink_to_a_descriptor(lab: Lab, leaked: list[int]) -> None:
    for number in {*range(3, 12), *leaked}:
        (lab.rootfs / f"cwd{number}").symlink_to(f"/proc/self/fd/{number}")
        with pytest.raises(StartError):
            lab.run("true", cwd=f"/cwd{number}")


def test_cve_2024_21626_the_program_is_not_taken_from_a_descriptor(lab: Lab, leaked: list[int]) -> None:
    for number in {*range(3, 12), *leaked}:
        with pytest.raises(StartError):
            lab.run(f"/proc/self/fd/{number}/bin/busybox", "true")


def test_cve_2022_24769_inheritable_capabilities_are_empty_when_not_asked_for(lab: Lab) -> None:
    with lab.start("sleep", "100") as box:
        inside = box.exec("grep", "CapInh", "/proc/1/status", "/proc/self/status").out
    assert {line.split()[-1] for line in inside.splitlines()} == {"0000000000000000"}


@pytest.mark.parametrize("groups", [[], [10, 2000]])
def test_cve_2022_36109_and_2023_25173_supplementary_groups_are_exactly_the_given_ones(
    lab: Lab, groups: list[int]
) -> None:
    user = {"uid": 1000, "gid": 1000, "additionalGids": groups}
    ask = "grep ^Groups /proc/self/status"
    with lab.start("sleep", "100", user=user) as box:
        inside = box.exec("sh", "-c", ask).out
        first = box.exec("grep", "^Groups", "/proc/1/status").out
    assert sorted(int(word) for word in inside.split()[1:]) == groups
    assert sorted(int(word) for word in first.split()[1:]) == groups


def run_in_background(runtime: Runtime) -> None:
    runtime.write("sleep", "100")
    words = runtime.command("run", "-d", "-b", str(runtime.bundle), "box")
    subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def test_cve_2022_29162_an_added_capability_of_an_exec_is_not_inheritable(runtime: Runtime) -> None:
    run_in_background(runtime)
    done = runtime("exec", "--cap", "CAP_SYS_ADMIN", "box", "cat", "/proc/self/status")
    sets = dict(line.split(":\t") for line in done.stdout.splitlines() if line.startswith("Cap"))
    assert int(sets["CapEff"], 16) >> 21 & 1 and int(sets["CapInh"], 16) == int(sets["CapAmb"], 16) == 0


@pytest.mark.parametrize(
    "user",
    [
        "4294967296",
        "4294967295",
        "18446744073709551616",
        "-1",
        "0x0",
        " 0",
        "0 ",
        "+0",
        "root",
        "1000:-1",
        "1000:4294967296",
        ":0",
        "\u0661",
    ],
)
def test_cve_2026_30892_what_is_no_user_id_is_never_taken_for_one(runtime: Runtime, user: str) -> None:
    run_in_background(runtime)
    done = runtime("exec", "--user", user, "box", "id", "-u")
    assert done.returncode == 255 and done.stdout == "" and "is not a user or group id" in done.stderr


def test_cve_2026_30892_a_user_id_is_the_one_that_was_given(runtime: Runtime) -> None:
    run_in_background(runtime)
    for user in ("1", "10", "1000", "1000:1001", "4294967294:7"):
        uid, _, gid = user.partition(":")
        assert runtime("exec", "--user", user, "box", "sh", "-c", "id -u; id -g").stdout == f"{uid}\n{gid or 0}\n"


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_cve_2024_9676_what_is_no_file_is_not_even_opened(lab: Lab, kind: str) -> None:
    """To open an image's FIFO may block, to open its device may do anything: the kernel tells whether somebody has."""
    passwd = lab.rootfs / "etc/passwd"
    passwd.unlink()
    os.mknod(passwd, 0o10644 if kind == "fifo" else 0o20644, os.makedev(1, 5))
    root = os.open(lab.rootfs, os.O_PATH | os.O_DIRECTORY)
    try:
        with watching(passwd) as events:
            assert users.resolve(root, "5:6", []).uid == 5
            assert events() == b""
    finally:
        os.close(root)


def test_cve_2025_47291_a_container_in_a_user_namespace_is_in_its_group(lab: Lab) -> None:
    """With all that is executed in it: else its limits hold nobody."""
    maps = {"uidMappings": ID_MAP, "gidMappings": ID_MAP}
    spaces = [{"type": kind} for kind in (*NAMESPACES, "user")]
    linux = {"namespaces": spaces, **maps, "resources": {"pids": {"limit": 8}}}
    for place in (lab.rootfs, *lab.rootfs.rglob("*")):
        os.chown(place, ID_MAP[0]["hostID"], ID_MAP[0]["hostID"], follow_symlinks=False)
    bomb = "for n in 1 2 3 4 5 6 7 8 9 10; do sleep 100 >/dev/null 2>&1 & done; echo all"
    with lab.start("sleep", "100", linux=linux) as box:
        fork = box.exec("sh", "-c", bomb)
        found = Path(f"/proc/{box.pid}/cgroup").read_text().splitlines()
        os.kill(box.pid, signal.SIGKILL)  # whether or not it is where the runtime looks for it
    assert fork.status != 0 and "all" not in fork.out
    assert any(
        line.endswith(f"/{lab.group}/{lab.count}") and ("pids" in line or line.startswith("0:")) for line in found
    )


def test_dev_null_exchanged_while_an_exec_opens_it(lab: Lab) -> None:
    """The container's root puts something else in the place of /dev/null in the moment between look and use."""
    with lab.start("sleep", "100") as box:
        dev = Path(f"/proc/{box.pid}/root/dev")
        os.mkfifo(dev / "fifo")
        with swapping(dev / "null", dev / "fifo"):
            for _ in range(30):
                assert box.exec("stat", "-L", "-c", "%F", "/proc/self/fd/0").out == "character special file\n"


def test_nothing_is_imported_once_the_root_is_the_containers(runtime: Runtime) -> None:
    """A fresh interpreter each time, and an image that has something else for every module of the standard library."""
    rootfs = Path(runtime.config["root"]["path"])
    library = rootfs / os.path.dirname(os.__file__).lstrip("/")
    (library / "encodings").mkdir(parents=True)
    names = [
        *sys.stdlib_module_names,
        *(f"encodings/{found.name}" for found in pkgutil.iter_modules(encodings.__path__)),
    ]
    for name in names:
        (library / f"{name}.py").write_text("import posix\nposix.write(2, b'imported from the image')")
    ways: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (("true",), {}),
        (("true",), {"process_cwd": "/bin/true"}),
        (("true",), {"process_user": {"uid": 4, "gid": 5, "additionalGids": [6]}}),
        (("/no/such/\u00fc",), {}),
        (("nonesuch",), {}),
    ]
    try:
        for words, changes in ways:
            done = runtime.run(*words, **changes)
            assert "imported from the image" not in done.stderr
            assert (done.returncode == 0) == (words == ("true",) and "process_cwd" not in changes), done.stderr
        run_in_background(runtime)
        for words in (("true",), ("/no/such/\u00fc",), ("nonesuch",)):
            assert "imported from the image" not in runtime("exec", "box", *words).stderr
    finally:
        shutil.rmtree(rootfs / library.relative_to(rootfs).parts[0])
