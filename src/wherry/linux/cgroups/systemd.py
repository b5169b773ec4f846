"""systemd's cgroup driver: the container's group is a scope (or slice) that systemd makes, limits and removes.

Runs in `wherry-runc --systemd-cgroup`, loaded only there. The OCI `linux.cgroupsPath` is "slice:prefix:name"; the unit
"prefix-name.scope" lies in the slice. systemd starts a scope only around a process, so a placeholder of ours is its
first one, and ends (`release`) when the container's own is in it. Limits are told to systemd and then written to the
control files as without systemd: it has not got properties for all of them.
**Invariant:** every wait for systemd ends. Sources: org.freedesktop.systemd1(5), systemd.slice(5), systemd's
"Control Group APIs and Delegation".
"""

from __future__ import annotations

import os

from wherry.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from wherry.linux import cgroups, dbus, namespaces
from wherry.linux.cgroups import systemd_properties
from wherry.linux.cgroups.v1 import CgroupV1
from wherry.linux.cgroups.v2 import CgroupV2
from wherry.linux.dbus import DbusError, Variant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.linux.cgroups import Layout
    from wherry.linux.cgroups.systemd_properties import Property
    from wherry.spec.oci import Resources

_NAME, _PATH = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_PRIVATE = "/run/systemd/private"
_SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
_PREFIX = "wherry"
_NAME_LIMIT = 255


# ------------------------------------------------------------------------------------------------------------- systemd


class Systemd:
    """A connection to the service manager: of the system for root, of the user else. Unavailable when there is none."""

    def __init__(self) -> None:
        self._destination = _NAME
        self._connection = self._connect()
        self._version: int | None = None

    def _connect(self) -> dbus.Connection:
        if os.geteuid():
            return self._connect_user()
        address = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", "")
        if not address:
            if not os.path.isdir("/run/systemd/system"):
                raise FailedPrecondition("systemd not running on this host, cannot use systemd cgroups manager")
            try:  # for root, and without a bus in between
                connection = dbus.Connection(_PRIVATE, bus=False)
                self._destination = ""
                return connection
            except Unavailable:
                address = _SYSTEM_BUS
        return dbus.Connection(dbus.socket_path(address), bus=True)

    def _connect_user(self) -> dbus.Connection:
        address, runtime = os.environ.get("DBUS_SESSION_BUS_ADDRESS", ""), os.environ.get("XDG_RUNTIME_DIR", "")
        if address:
            return dbus.Connection(dbus.socket_path(address), bus=True)
        if not runtime:
            raise Unavailable("systemd of the user: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set")
        try:
            connection = dbus.Connection(f"{runtime}/systemd/private", bus=False)
            self._destination = ""
            return connection
        except Unavailable:
            return dbus.Connection(f"{runtime}/bus", bus=True)

    def __enter__(self) -> Systemd:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _call(self, member: str, signature: str, *values: object) -> list[object]:
        return self._connection.call(self._destination, _PATH, _MANAGER, member, signature, values)

    def _property(self, name: str) -> object:
        place = (self._destination, _PATH, "org.freedesktop.DBus.Properties", "Get")
        return self._connection.call(*place, "ss", (_MANAGER, name))[0].value

    def version(self) -> int:
        """252 of "252.5-2". 0 for what has no number."""
        if self._version is None:
            digits = str(self._property("Version")).lstrip('"v')
            self._version = int(digits[: len(digits) - len(digits.lstrip("0123456789"))] or "0")
        return self._version

    def control_group(self) -> str:
        """The manager's own group: of a user's, where its units lie."""
        return str(self._property("ControlGroup"))

    def start(self, unit: str, properties: list[Property]) -> None:
        """Starts a transient unit, and returns when it runs. A failed one of that name, left over, makes room."""
        self._subscribe()
        for last in (False, True):
            try:
                self._finish(
                    unit, self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", properties, [])
                )
                return
            except DbusError as error:
                if last or error.name != "org.freedesktop.systemd1.UnitExists":
                    raise FailedPrecondition(f"unable to start unit {unit!r}: {error}") from None
                self._reset(unit)

    def stop(self, unit: str) -> None:
        """Stops the unit; one that is not there is no error."""
        self._subscribe()
        try:
            self._finish(unit, self._call("StopUnit", "ss", unit, "replace"))
        except DbusError as error:
            if error.name != "org.freedesktop.systemd1.NoSuchUnit":
                raise FailedPrecondition(f"unable to stop unit {unit!r}: {error}") from None
        self._reset(unit)

    def set_properties(self, unit: str, properties: list[Property]) -> None:
        try:
            self._call("SetUnitProperties", "sba(sv)", unit, True, properties)
        except DbusError as error:
            raise FailedPrecondition(f"unable to set properties of unit {unit!r}: {error}") from None

    def _subscribe(self) -> None:
        """To JobRemoved, which a bus delivers only to those who have asked."""
        if self._destination:
            rule = f"type='signal',sender='{_NAME}',interface='{_MANAGER}',member='JobRemoved'"
            place = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch")
            self._connection.call(*place, "s", (rule,))

    def _finish(self, unit: str, answer: list[object]) -> None:
        job = answer[0]
        signal = self._connection.wait_for(
            lambda message: message.is_signal(_MANAGER, "JobRemoved") and message.body[1:2] == [job]
        )
        if signal.body[3] != "done":
            self._reset(unit)
            raise FailedPrecondition(f"systemd: the job for unit {unit!r} ended as {signal.body[3]!r}")

    def _reset(self, unit: str) -> None:
        try:
            self._call("ResetFailedUnit", "s", unit)
        except DbusError:
            pass  # it has not failed, or is gone


# --------------------------------------------------------------------------------------------------------------- units


def parse_path(cgroups_path: str, container_id: str) -> tuple[str, str]:
    """(slice, unit) of "slice:prefix:name"; without a path the container's id in the default slice (slice "")."""
    if not cgroups_path:
        return "", check_unit(f"{_PREFIX}-{container_id}.scope")
    parts = cgroups_path.split(":")
    if len(parts) != 3:
        raise InvalidArgument(
            f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got {cgroups_path!r} instead'
        )
    parent, prefix, name = parts
    return parent, check_unit(name if name.endswith(".slice") else f"{prefix}-{name}.scope")


def check_unit(unit: str) -> str:
    """The unit's name, if it can be one (systemd.unit(5))."""
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@")
    if len(unit) > _NAME_LIMIT or not set(unit) <= allowed or unit.startswith(("-", ".")):
        raise InvalidArgument(f"linux.cgroupsPath: {unit!r} is not the name of a systemd unit")
    return unit


def expand_slice(name: str) -> str:
    """The path of a slice: "a-b.slice" lies in "/a.slice/a-b.slice". "-.slice" is the root."""
    stem = name.removesuffix(".slice")
    if stem == name or not stem or "/" in name:
        raise InvalidArgument(f"linux.cgroupsPath: invalid slice name: {name!r}")
    if stem == "-":
        return ""
    check_unit(name)
    parts = stem.split("-")
    if "" in parts:
        raise InvalidArgument(f"linux.cgroupsPath: invalid slice name: {name!r}")
    return "".join(f"/{'-'.join(parts[: end + 1])}.slice" for end in range(len(parts)))


class _Unit:
    """What a group that systemd makes does differently; the rest is that of its version's."""

    unit: str
    paths: dict[str, str]
    mode: str

    def plan(self, parent: str, description: str, properties: list[Property], resources: Resources) -> None:
        """What `create` is to ask for. A group that is only reopened has none."""
        self._parent = parent
        self._description = description
        self._properties = properties
        self._unified = resources.get("unified") or {}
        self._placeholder = self._end = -1

    def start_unit(self) -> None:
        accounting = (
            "MemoryAccounting",
            "CPUAccounting",
            "IOAccounting" if self.mode == "v2" else "BlockIOAccounting",
            "TasksAccounting",
        )
        wanted: list[Property] = [("Description", Variant("s", self._description))]
        if self.unit.endswith(".slice"):
            wanted.append(("Wants", Variant("as", [self._parent])))
        else:
            self._start_placeholder()
            wanted += [
                ("Slice", Variant("s", self._parent)),
                ("Delegate", Variant("b", True)),
                ("PIDs", Variant("au", [self._placeholder])),
            ]
        wanted += [(name, Variant("b", True)) for name in accounting]
        wanted += [("DefaultDependencies", Variant("b", False)), *self._properties]
        wanted += systemd_properties.at_start(self._unified)
        try:
            with Systemd() as manager:
                manager.start(self.unit, wanted)
        except BaseException:
            self.release()
            raise

    def _start_placeholder(self) -> None:
        reading, self._end = os.pipe2(os.O_CLOEXEC)
        pid, pidfd = namespaces.clone()
        if pid == 0:
            os.close(self._end)
            os.read(reading, 1)  # until our parent lets us go, or is gone
            os._exit(0)
        os.close(reading)
        os.close(pidfd)
        self._placeholder = pid

    def release(self) -> None:
        """The container's own process is in the group (or never will be): the placeholder may go."""
        if self._placeholder > 0:
            os.close(self._end)
            os.waitpid(self._placeholder, 0)
            self._placeholder = self._end = -1

    def tell(self, resources: Resources, *, update: bool) -> None:
        with Systemd() as manager:
            wanted: Resources = {**resources}
            if update:
                wanted.pop("devices", None)
            properties = systemd_properties.of_resources(wanted, mode=self.mode, version=manager.version())
            if properties:
                manager.set_properties(self.unit, properties)

    def stop_unit(self) -> None:
        try:
            with Systemd() as manager:
                manager.stop(self.unit)
        except (Unavailable, NotFound):
            pass  # a manager that is gone has nothing to stop: the directories go all the same


class UnitV2(_Unit, CgroupV2):
    def __init__(self, paths: dict[str, str], layout: Layout, unit: str) -> None:
        mountpoint = layout.unified.mountpoint if layout.unified else "/sys/fs/cgroup"
        CgroupV2.__init__(self, paths[""], mountpoint)
        self.unit = unit

    def create(self, *, populated: bool = False) -> None:
        self.start_unit()
        CgroupV2.create(self, populated=True)

    def clone_fd(self, beside: int = 0) -> int | None:
        if os.geteuid():
            _come_near(self.paths[""])
        return CgroupV2.clone_fd(self, beside)

    def apply(self, resources: Resources, *, update: bool = False) -> None:
        self.tell(resources, update=update)
        CgroupV2.apply(self, resources, update=update)

    def delete(self) -> None:
        self.stop_unit()
        CgroupV2.delete(self)


class UnitV1(_Unit, CgroupV1):
    def __init__(self, paths: dict[str, str], layout: Layout, unit: str) -> None:
        CgroupV1.__init__(self, paths, layout.v1)
        self.unit = unit

    def create(self, *, populated: bool = False) -> None:
        self.start_unit()
        CgroupV1.create(self, populated=True)

    def apply(self, resources: Resources, *, update: bool = False) -> None:
        self.tell(resources, update=update)
        CgroupV1.apply(self, resources, update=update)

    def delete(self) -> None:
        self.stop_unit()
        CgroupV1.delete(self)


def _come_near(directory: str) -> None:
    """Out of a login session, if this process is in one, into a scope of its user's systemd, which ends with it: a process can
    be made in a group only by who may write what both groups are below (cgroups(7) "Delegation containment"). systemd may: it asks
    the system's manager.
    """
    unified = cgroups.detect().unified
    assert unified is not None
    common = os.path.commonpath((f"{unified.mountpoint}{cgroups.own_groups().get('', '/')}", directory))
    if os.access(f"{common}/cgroup.procs", os.W_OK):
        return
    pid = os.getpid()
    wanted = [("Description", Variant("s", "wherry-runc")), ("PIDs", Variant("au", [pid]))]
    with Systemd() as manager:
        manager.start(f"{_PREFIX}-runc-{pid}.scope", wanted)


def open_unit(
    cgroups_path: str,
    container_id: str,
    annotations: dict[str, str],
    resources: Resources,
    *,
    layout: Layout | None = None,
) -> UnitV1 | UnitV2:
    """The group of an OCI `linux.cgroupsPath` "slice:prefix:name"; `annotations` may have properties for its unit."""
    layout = layout or cgroups.detect()
    rootless = os.geteuid() != 0
    if layout.v1 and rootless:
        raise FailedPrecondition("cannot use rootless systemd cgroups manager on cgroup v1")
    parent, unit = parse_path(cgroups_path, container_id)
    parent = parent or ("user.slice" if rootless else "system.slice")
    place = f"{expand_slice(parent)}/{unit}"
    if rootless:
        with Systemd() as manager:
            place = manager.control_group().rstrip("/") + place
    if unit.endswith(".slice"):
        place = expand_slice(unit)
    paths = {}
    for hierarchy in layout.v1:
        for controller in hierarchy.controllers:
            paths[controller] = f"{hierarchy.mountpoint}{place}"
    if layout.unified or not layout.v1:  # also on a hybrid machine: there systemd counts a unit's processes
        paths[""] = f"{layout.unified.mountpoint if layout.unified else '/sys/fs/cgroup'}{place}"
    group = reopen(paths, unit, layout=layout)
    group.plan(
        parent, f"wherry-runc container {container_id}", systemd_properties.of_annotations(annotations), resources
    )
    return group


def reopen(paths: dict[str, str], unit: str, *, layout: Layout | None = None) -> UnitV1 | UnitV2:
    """The group that had these `paths` and that unit, for a process that did not make it."""
    layout = layout or cgroups.detect()
    return UnitV2(paths, layout, unit) if paths.keys() == {""} else UnitV1(paths, layout, unit)
