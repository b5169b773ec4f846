"""The leak check: what a test may leave on the machine is nothing.

`Watch` counts, before and after, what a container engine makes in the kernel: mounts in the host's namespace, cgroups, links, network
namespaces (named, and anonymous ones held by the test's processes), nftables rules, processes, sockets, and files below given roots.
What is there more often afterwards than before, and stays for WAIT_SECONDS (the kernel tears down veths and namespaces by itself,
later), is a leak.

The test process is a child subreaper, so every orphan (shim, zygote, init) becomes its child and is found whatever it did to its session.
Several engines may share a machine: once an engine of this run is registered (`watch_instance`), things tagged with the instance of
another engine are not ours.
"""

from __future__ import annotations

import collections
import ctypes
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence

WAIT_SECONDS = 60.0
PR_SET_CHILD_SUBREAPER = 36
TCP_LISTEN = "0A"
UNIX_LISTENS = 0x10000  # __SO_ACCEPTCON in the flags of /proc/net/unix

_TAG = re.compile(r"\b(?:wh|peer)(?:erry[-_])?([0-9a-f]{6})\b")
_own_instances: set[str] = set()
_kept_ready: dict[str, int] = {}


def watch_instance(tag: str) -> None:
    """Register the instance tag (six hex digits) of an engine that this run started."""
    _own_instances.add(tag)


def allow_pool(label: str, size: int) -> None:
    """`size` more things of this label may be there at any time: an engine's pool, kept ready and refilled at its own time.
    Negative when that engine has ended."""
    _kept_ready[label] = _kept_ready.get(label, 0) + size


def _is_parent(label: str) -> bool:
    """An engine's own parent group: made with its first container, removed at its end."""
    return any(label.endswith(f"/wherry-{tag}") for tag in _own_instances)


def engine_roots() -> str:
    """What the paths of this run's engines begin with. Short: a unix socket's path has at most 107 bytes."""
    return f"/tmp/we2e-{os.getpid()}-"


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent dies (PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _lines(path: str) -> list[str]:
    try:
        with open(path, errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _stat(pid: int) -> tuple[int, str, str] | None:
    """→ (parent, state, name) from /proc/PID/stat, or None when the process is gone."""
    lines = _lines(f"/proc/{pid}/stat")
    if not lines:
        return None
    name, _, rest = lines[0].partition("(")[2].rpartition(")")
    fields = rest.split()
    return int(fields[1]), fields[0], name


def descendants(of: int | None = None) -> dict[int, tuple[str, str]]:
    """Every process below `of` (this one by default): pid → (state, name)."""
    children: dict[int, list[tuple[int, str, str]]] = collections.defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := _stat(int(entry))):
            children[found[0]].append((int(entry), found[1], found[2]))
    result: dict[int, tuple[str, str]] = {}
    queue = [os.getpid() if of is None else of]
    while queue:
        for pid, state, name in children.get(queue.pop(), ()):
            result[pid] = (state, name)
            queue.append(pid)
    return result


def reap_orphans(*, of_other_sessions: bool = False) -> None:
    """Collect adopted children that have ended, as PID 1 does. Without `of_other_sessions` also this process's own children, whose
    subprocess objects then no longer learn the exit status: for the end of a test."""
    me, group = os.getpid(), os.getpgrp()
    for pid, (state, _) in descendants().items():
        found = _stat(pid)
        if state != "Z" or not found or found[0] != me:
            continue
        try:
            if not of_other_sessions or os.getpgid(pid) != group:
                os.waitpid(pid, os.WNOHANG)
        except (ChildProcessError, ProcessLookupError):
            pass


def _command(pid: int, name: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        words = []
    return " ".join(word.decode(errors="replace") for word in words if word)[:120] or f"[{name}]"


def _processes() -> Iterator[str]:
    for pid, (state, name) in descendants().items():
        if state != "Z":
            yield f"process: {_command(pid, name)}"


def _mounts(roots: Sequence[str]) -> Iterator[str]:
    for line in _lines("/proc/self/mountinfo"):
        fields, _, source = line.partition(" - ")
        point = fields.split()[4]
        below_ours = any(point.startswith(root) for root in roots)
        if below_ours or not point.startswith(("/tmp/", "/var/", "/run/")):
            yield f"mount: {point} {source.split()[0]}"


def cgroup_hierarchies() -> list[str]:
    """The mount points of every cgroup hierarchy of this machine, v1 and v2."""
    points = []
    for line in _lines("/proc/self/mountinfo"):
        fields, _, source = line.partition(" - ")
        if source.split()[0] in ("cgroup", "cgroup2"):
            points.append(fields.split()[4])
    return points


def _cgroups() -> Iterator[str]:
    for point in cgroup_hierarchies():
        for name in os.listdir(point):
            if name.startswith("wherry") and os.path.isdir(f"{point}/{name}"):
                for directory, _, _ in os.walk(f"{point}/{name}"):
                    yield f"cgroup: {directory}"


def _links() -> Iterator[str]:
    for name in os.listdir("/sys/class/net"):
        try:
            master = os.path.basename(os.readlink(f"/sys/class/net/{name}/master"))
        except OSError:
            master = ""
        if "docker0" in (name, master):  # of a peer that runs beside this test
            continue
        yield f"link: veth on {master}" if master else f"link: {name}"


def _namespaces() -> Iterator[str]:
    for directory in ("/run/netns", "/run/docker/netns"):
        if os.path.isdir(directory):
            for name in os.listdir(directory):
                yield f"named network namespace: {directory}/{name}"
    held: dict[str, str] = {}
    for pid, (_, name) in descendants().items():
        for link in _namespace_links(pid):
            held.setdefault(link, name)
    own = os.readlink("/proc/self/ns/net")
    for link, name in held.items():
        if link != own:
            yield f"network namespace held by {name}"


def _namespace_links(pid: int) -> Iterator[str]:
    try:
        yield os.readlink(f"/proc/{pid}/ns/net")
        for fd in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            if target.startswith("net:["):
                yield target
    except OSError:
        return


def _nftables() -> Iterator[str]:
    try:
        listed = subprocess.run(["nft", "-s", "list", "ruleset"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return
    table = ""
    for line in listed.splitlines():
        if line.startswith("table "):
            table = line.split()[2]
        if table.startswith("wherry") and line.strip() not in ("", "}"):
            yield f"nftables: {table}: {line.strip()}"


def _sockets(roots: Sequence[str]) -> Iterator[str]:
    for line in _lines("/proc/net/unix")[1:]:
        fields = line.split()
        listens = int(fields[3], 16) & UNIX_LISTENS
        if listens and len(fields) > 7 and any(root in fields[7] for root in roots):
            yield f"unix socket: {fields[7]}"
    inodes = set()
    for pid in descendants():
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        except OSError:
            continue
    for table in ("tcp", "tcp6"):
        for line in _lines(f"/proc/net/{table}")[1:]:
            fields = line.split()
            if fields[3] == TCP_LISTEN and fields[9] in inodes:
                yield f"listening on {table} {fields[1]}"


def _machine() -> Iterator[str]:
    """What tests of attacks aim at, and what nobody else would notice for a while."""
    yield f"/dev/null is the device {os.lstat('/dev/null').st_rdev}"


def _files(roots: Sequence[str]) -> Iterator[str]:
    for root in roots:
        for directory, folders, files in os.walk(root):
            for name in (*folders, *files):
                yield f"file: {directory}/{name}"


def _is_foreign(label: str) -> bool:
    if not _own_instances:
        return False
    tags = set(_TAG.findall(label))
    return bool(tags) and not tags & _own_instances


class Watch:
    """Counts now; `what_is_left` says what there is more of later.

    `roots`: directories of this run (mounts and sockets below them are ours); `file_roots`: directories whose every file counts too.
    """

    def __init__(self, roots: Sequence[str] = (), file_roots: Sequence[str] = ()) -> None:
        self._roots = roots
        self._file_roots = file_roots
        self._bridges = {
            name for name in os.listdir("/sys/class/net") if os.path.isdir(f"/sys/class/net/{name}/bridge")
        }
        self._before = self._count()

    def _count(self) -> collections.Counter[str]:
        labels: list[str] = []
        for part in (
            _mounts(self._roots),
            _cgroups(),
            _links(),
            _namespaces(),
            _nftables(),
            _processes(),
            _sockets(self._roots),
            _files(self._file_roots),
            _machine(),
        ):
            labels += part
        return collections.Counter(label for label in labels if not _is_foreign(label))

    def _left(self, but_engines: bool) -> collections.Counter[str]:
        now = self._count()
        more = now - self._before
        if but_engines:
            for label in list(more):
                if now[label] <= _kept_ready.get(label, 0) or _is_parent(label):
                    del more[label]
        if not _own_instances:
            for bridge in self._bridges:  # of an engine that runs beside this test
                more.pop(f"link: veth on {bridge}", None)
        return more

    def what_is_left(self, wait_seconds: float = WAIT_SECONDS, *, but_engines: bool = True) -> list[str]:
        """Sorted labels of what is left once the kernel has had `wait_seconds` to finish; empty when nothing is. `but_engines`: what
        a registered engine keeps as long as it lives (pools, parent groups) does not count."""
        deadline = time.monotonic() + wait_seconds
        pause = 0.01
        while True:
            reap_orphans()
            left = self._left(but_engines)
            if not left or time.monotonic() > deadline:
                return sorted(f"{label} (x{count})" if count > 1 else label for label, count in left.items())
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
