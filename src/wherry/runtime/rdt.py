"""`linux.intelRdt`: a container's share of cache and memory bandwidth, through the resctrl file system.

Runs in the parent, and is loaded only where a configuration asks for it. The kernel and the processor must offer
resctrl and somebody must have mounted it: nothing is mounted here. Processes enter a group by writing "0" to its
`tasks`, as they do with cgroups. Source: OCI config-linux.md "IntelRdt", the kernel's
Documentation/filesystems/resctrl.rst.
"""

from __future__ import annotations

import os

from wherry.errors import FailedPrecondition, InvalidArgument, SyscallError
from wherry.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.spec import oci

_MAGIC = 0x7655821
_DEFAULT_ROOT = "/sys/fs/resctrl"


def root() -> str:
    """Where resctrl is mounted. FailedPrecondition when it is nowhere."""
    try:
        fd = os.open(_DEFAULT_ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if syscalls.filesystem_type(fd) == _MAGIC:
                return _DEFAULT_ROOT
        finally:
            os.close(fd)
    except OSError:
        pass
    from wherry.linux import cgroups

    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            if right.startswith("resctrl "):
                return cgroups.unescape(left.split(" ")[4])
    raise FailedPrecondition("linux.intelRdt: intelRdt is specified in config, but Intel RDT is not enabled")


def check(wanted: oci.IntelRdt) -> None:
    """InvalidArgument naming the field that has a wrong form."""
    clos = wanted.get("closID", "")
    if clos in (".", "..") or (len(clos) > 1 and "/" in clos):
        raise InvalidArgument(f"linux.intelRdt.closID: {clos!r} is not the name of a group")
    for field in ("l3CacheSchema", "memBwSchema"):
        if "\n" in wanted.get(field, ""):  # type: ignore[operator]
            raise InvalidArgument(f"linux.intelRdt.{field}: it has more than one line")
    if wanted.get("memBwSchema") and not wanted["memBwSchema"].startswith("MB:"):
        raise InvalidArgument("linux.intelRdt.memBwSchema: it does not begin with MB:")
    if any("\n" in line for line in wanted.get("schemata") or ()):
        raise InvalidArgument("linux.intelRdt.schemata: one of its lines is more than one")


class Group:
    """The control group (and monitoring group) that `wanted` names, or the container's id does. Making the object touches nothing."""

    def __init__(self, wanted: oci.IntelRdt, container_id: str, top: str = "") -> None:
        check(wanted)
        self._wanted = wanted
        self._top = top or root()
        clos = wanted.get("closID") or container_id
        self.path = self._top if clos == "/" else f"{self._top}/{clos}"
        self.monitor = f"{self.path}/mon_groups/{container_id}" if wanted.get("enableMonitoring") else ""
        self.made = False
        """Whether `create` has made the control group, and `delete` is to remove it."""
        for field, kind, what in (("l3CacheSchema", "L3", "CAT"), ("memBwSchema", "MB", "MBA")):
            if wanted.get(field) and not self.has(kind):
                raise FailedPrecondition(
                    f"linux.intelRdt: intelRdt.{field} is specified in config, but Intel RDT/{what} is not enabled"
                )

    def has(self, kind: str) -> bool:
        """Whether the machine divides "L3" caches, "MB" memory bandwidth."""
        return os.path.isdir(f"{self._top}/info/{kind}")

    def create(self) -> None:
        """Makes the groups and writes their schemata; what is there already must have the same. Undoes itself when it fails."""
        lines = self._lines()
        named = bool(self._wanted.get("closID"))
        try:
            if named and not lines and not os.path.isdir(self.path):
                raise FailedPrecondition(
                    f"linux.intelRdt.closID: {self.path} is not there, and without schemata it must be made beforehand"
                )
            there = not self._mkdir(self.path)
            self.made = not there and not named
            if there and named and lines:
                self._require(lines)
            elif lines:
                self._write(lines)
            if self.monitor:
                self._mkdir(self.monitor)
        except BaseException:
            self.delete()
            raise

    def _lines(self) -> list[str]:
        wanted = self._wanted
        lines = [wanted.get("l3CacheSchema", ""), wanted.get("memBwSchema", ""), *(wanted.get("schemata") or ())]
        return [line for line in lines if line]

    def _mkdir(self, path: str) -> bool:
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            return False
        except OSError as error:
            raise FailedPrecondition(
                f"linux.intelRdt: mkdir {path}: {(error.strerror or '').lower()}{self._reason()}"
            ) from None
        return True

    def _require(self, lines: list[str]) -> None:
        """The group is others' as well: it must be what is asked for."""
        have = {parsed for line in self.schemata() for parsed in _parse(line)}
        for line in lines:
            missing = [pair for pair in _parse(line) if pair not in have]
            if missing:
                raise FailedPrecondition(
                    f"linux.intelRdt: {self.path} has other schemata than {line!r} (see its file schemata)"
                )

    def _write(self, lines: list[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        try:
            fd = os.open(f"{self.path}/schemata", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, os.fsencode(text))
            finally:
                os.close(fd)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise InvalidArgument(f"linux.intelRdt: schemata {text!r}: {reason}{self._reason()}") from None

    def _reason(self) -> str:
        """The kernel's own words about the last failure."""
        try:
            with open(f"{self._top}/info/last_cmd_status", encoding="utf-8", errors="replace") as file:
                return f" ({file.read(512).strip()})"
        except OSError:
            return ""

    def schemata(self) -> list[str]:
        return _read(f"{self.path}/schemata").splitlines()

    def update(self, l3: str, bandwidth: str) -> None:
        """New schemata for a container that runs, "" for those that stay."""
        self._write([line for line in (l3, bandwidth) if line])

    def open_tasks(self) -> list[int]:
        """Descriptors for `cgroups.join`, the caller's."""
        fds: list[int] = []
        for path in (self.path, self.monitor):
            if path:
                try:
                    fds.append(os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC))
                except OSError as error:
                    for fd in fds:
                        os.close(fd)
                    raise SyscallError("open", f"{path}/tasks", error.errno or 0) from None
        return fds

    def delete(self) -> None:
        """Removes what `create` has made, and the monitoring group. Already gone is no error."""
        for path in (self.monitor, self.path if self.made else ""):
            if path:
                try:
                    os.rmdir(path)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    raise SyscallError("rmdir", path, error.errno or 0) from None

    def stats(self) -> dict[str, Any]:
        """In the form that `runc events --stats` has under "intel_rdt"."""
        mine, all_of_it = self.schemata(), _read(f"{self._top}/schemata").splitlines()
        data: dict[str, Any] = {"schemata": mine}
        if self.has("L3"):
            data["l3_cache_info"] = self._info("L3", ("cbm_mask", "min_cbm_bits", "num_closids"))
            data["l3_cache_schema_root"] = _last(all_of_it, "L3")
            data["l3_cache_schema"] = _last(mine, "L3")
        if self.has("MB"):
            data["mem_bw_info"] = self._info("MB", ("bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids"))
            data["mem_bw_schema_root"] = _last(all_of_it, "MB")
            data["mem_bw_schema"] = _last(mine, "MB")
        if self.has("L3_MON"):
            data.update(self._monitored(_read(f"{self._top}/info/L3_MON/mon_features").split()))
        return data

    def _info(self, kind: str, names: tuple[str, ...]) -> dict[str, Any]:
        texts = {name: _read(f"{self._top}/info/{kind}/{name}").strip() for name in names}
        return {name: text if name == "cbm_mask" else int(text) for name, text in texts.items()}

    def _monitored(self, features: list[str]) -> dict[str, Any]:
        """One entry per directory of mon_data, that is, per L3 cache."""
        place = f"{self.monitor or self.path}/mon_data"
        domains = sorted(os.listdir(place)) if os.path.isdir(place) else []
        data: dict[str, Any] = {}
        bandwidth = [name for name in ("mbm_total_bytes", "mbm_local_bytes") if name in features]
        if bandwidth:
            data["mbm_stats"] = [{name: int(_read(f"{place}/{d}/{name}")) for name in bandwidth} for d in domains]
        if "llc_occupancy" in features:
            data["cmt_stats"] = [{"llc_occupancy": int(_read(f"{place}/{d}/llc_occupancy"))} for d in domains]
        return data


def _parse(line: str) -> list[tuple[str, int, str]]:
    """(kind, domain, value) of each entry of a line such as "L3:0=7f0;1=1f"; values without leading zeros."""
    kind, _, entries = line.strip().partition(":")
    found = []
    for entry in entries.split(";"):
        domain, _, value = entry.partition("=")
        if not domain.strip().isdigit():
            raise InvalidArgument(f"linux.intelRdt: {line!r} is not a line of schemata")
        found.append((kind.strip(), int(domain), value.strip().lower().lstrip("0") or "0"))
    return found


def _last(lines: list[str], kind: str) -> str:
    return next((line.strip() for line in reversed(lines) if kind in line), "")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError as error:
        raise SyscallError("read", path, error.errno or 0) from None
