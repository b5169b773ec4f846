"""An OCI configuration, checked: what has a wrong form, contradicts itself, or asks for what wherry does not do is
refused by the name of its field.

Pure; runs in the engine before a row is written, and in `wherry-runc` before anything is made. After `check` every
field that the runtime reads has the type and the range that `wherry.spec.oci` gives it. JSON's null is taken as
absent, as Go's programs write it: such keys are removed. Properties that the specification does not know are let
through, as it demands (config.md "Extensibility"); those that it knows and wherry does not do are refused. Source:
OCI runtime-spec 1.3.
"""

from __future__ import annotations

import os

from wherry import errors
from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.spec.oci import Config, Process, Seccomp

_DEPTH = 32
_MAX_ID = 0xFFFFFFFE  # (uid_t)-1 means "unchanged" to the kernel

# Forms of a value: one of these letters, {field: form} for an object, [form] for a list, ("map", form) for an object
# with free keys.
#   s string without NUL · p the same, an absolute path · b boolean · i signed 64 bits · n unsigned 32 bits · N
# unsigned 64 bits · g a user or group id
#   d a device number or -1 · x refused by name
_MAPPING = {"containerID": "g", "hostID": "g", "size": "n"}
_HOOK = [{"path": "p", "args": ["s"], "env": ["s"], "timeout": "i"}]
_WEIGHT = [{"major": "d", "minor": "d", "weight": "n", "leafWeight": "n"}]
_THROTTLE = [{"major": "d", "minor": "d", "rate": "N"}]
_OFFSET = {"secs": "i", "nanosecs": "n"}
_PROCESS: dict[str, Any] = {
    "terminal": "b",
    "consoleSize": {"height": "n", "width": "n"},
    "cwd": "s",
    "env": ["s"],
    "args": ["s"],
    "commandLine": "x",
    "rlimits": [{"type": "s", "soft": "N", "hard": "N"}],
    "apparmorProfile": "s",
    "capabilities": {name: ["s"] for name in ("bounding", "effective", "inheritable", "permitted", "ambient")},
    "noNewPrivileges": "b",
    "oomScoreAdj": "i",
    "user": {"uid": "g", "gid": "g", "umask": "n", "additionalGids": ["g"]},
    "selinuxLabel": "s",
    "ioPriority": {"class": "s", "priority": "i"},
    "scheduler": {
        "policy": "s",
        "nice": "i",
        "priority": "i",
        "flags": ["s"],
        "runtime": "N",
        "deadline": "N",
        "period": "N",
    },
    "execCPUAffinity": {"initial": "s", "final": "s"},
}
_RESOURCES: dict[str, Any] = {
    "devices": [{"allow": "b", "type": "s", "major": "d", "minor": "d", "access": "s"}],
    "memory": {
        "limit": "i", "reservation": "i", "swap": "i", "kernel": "i", "kernelTCP": "i", "swappiness": "N",
        "disableOOMKiller": "b", "useHierarchy": "b", "checkBeforeUpdate": "b",
    },
    "cpu": {
        "shares": "N", "quota": "i", "burst": "N", "period": "N", "realtimeRuntime": "i", "realtimePeriod": "N", "cpus": "s", "mems": "s",
        "idle": "i",
    },
    "pids": {"limit": "i"},
    "blockIO": {
        "weight": "n", "leafWeight": "n", "weightDevice": _WEIGHT, "throttleReadBpsDevice": _THROTTLE, "throttleWriteBpsDevice": _THROTTLE,
        "throttleReadIOPSDevice": _THROTTLE, "throttleWriteIOPSDevice": _THROTTLE,
    },
    "hugepageLimits": [{"pageSize": "s", "limit": "N"}],
    "network": {"classID": "n", "priorities": [{"name": "s", "priority": "n"}]},
    "rdma": ("map", {"hcaHandles": "n", "hcaObjects": "n"}),
    "unified": ("map", "s"),
}  # fmt: skip
_SECCOMP: dict[str, Any] = {
    "defaultAction": "s",
    "defaultErrnoRet": "n",
    "architectures": ["s"],
    "flags": ["s"],
    "listenerPath": "s",
    "listenerMetadata": "s",
    "syscalls": [
        {
            "names": ["s"],
            "action": "s",
            "errnoRet": "n",
            "args": [{"index": "n", "value": "N", "valueTwo": "N", "op": "s"}],
        }
    ],
}
_LINUX: dict[str, Any] = {
    "namespaces": [{"type": "s", "path": "p"}],
    "uidMappings": [_MAPPING],
    "gidMappings": [_MAPPING],
    "timeOffsets": {"monotonic": _OFFSET, "boottime": _OFFSET},
    "devices": [{"type": "s", "path": "p", "major": "d", "minor": "d", "fileMode": "n", "uid": "g", "gid": "g"}],
    "netDevices": ("map", {"name": "s"}),
    "cgroupsPath": "s",
    "resources": _RESOURCES,
    "intelRdt": {
        "closID": "s",
        "schemata": ["s"],
        "l3CacheSchema": "s",
        "memBwSchema": "s",
        "enableMonitoring": "b",
        "enableCMT": "x",  # until 1.2 of the specification
        "enableMBM": "x",
    },
    "memoryPolicy": {"mode": "s", "nodes": "s", "flags": ["s"]},
    "seccomp": _SECCOMP,
    "sysctl": ("map", "s"),
    "rootfsPropagation": "s",
    "maskedPaths": ["s"],
    "readonlyPaths": ["s"],
    "mountLabel": "s",
    "personality": {"domain": "s", "flags": ["s"]},
}
_CONFIG: dict[str, Any] = {
    "ociVersion": "s",
    "hostname": "s",
    "domainname": "s",
    "process": _PROCESS,
    "root": {"path": "s", "readonly": "b"},
    "mounts": [
        {
            "destination": "s",
            "type": "s",
            "source": "s",
            "options": ["s"],
            "uidMappings": [_MAPPING],
            "gidMappings": [_MAPPING],
        }
    ],
    "hooks": dict.fromkeys(
        ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"), _HOOK
    ),
    "annotations": ("map", "s"),
    "linux": _LINUX,
    "windows": "x",
    "solaris": "x",
    "vm": "x",
    "zos": "x",
    "freebsd": "x",
}
_NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")

_HOOKS = frozenset(("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"))


def check(config: Config) -> None:
    """Raises InvalidArgument, or NotImplemented for what is right but not done, with the field's name. Removes keys
    whose value is null.
    """
    if not isinstance(config, dict):
        raise InvalidArgument("config.json: a configuration is a JSON object")
    _walk(config, _CONFIG, "", 0)
    version = config.get("ociVersion", "")
    if version.split(".")[0] != "1" or version.count(".") < 2:
        raise InvalidArgument(f"ociVersion: {version!r} is not a version 1 of the specification")
    if not config.get("root", {}).get("path"):
        raise InvalidArgument("root.path: a container needs a root file system")
    if "linux" not in config:
        raise InvalidArgument("linux: only containers for Linux are run")
    for index, mount in enumerate(config.get("mounts", ())):
        if "destination" not in mount:
            raise InvalidArgument(f"mounts[{index}].destination is missing")
    for name, hooks in config.get("hooks", {}).items():
        if name not in _HOOKS:
            raise InvalidArgument(f"hooks.{name}: there are no such hooks")
        for index, hook in enumerate(hooks):  # type: ignore[var-annotated, arg-type]
            if "path" not in hook:
                raise InvalidArgument(f"hooks.{name}[{index}].path is missing")
    if "process" in config:
        check_process(config["process"])
    _check_linux(config)


def check_process(process: Process) -> None:
    """The same for a process alone, as `exec --process` gets it."""
    if not isinstance(process, dict):
        raise InvalidArgument("process: a process is a JSON object")
    _walk(process, _PROCESS, "process", 0)
    if not process.get("args"):
        raise InvalidArgument("process.args: args must not be empty")
    if not process.get("cwd", "").startswith("/"):
        raise InvalidArgument("process.cwd: Cwd must be an absolute path")
    for variable in process.get("env", ()):
        if variable.find("=") < 1:
            what = "name cannot be empty" if variable.startswith("=") else "missing '='"
            raise InvalidArgument(f"process.env: invalid environment variable: {what}")
    seen = set()
    for index, limit in enumerate(process.get("rlimits", ())):
        for field in ("type", "soft", "hard"):
            if field not in limit:
                raise InvalidArgument(f"process.rlimits[{index}].{field} is missing")
        if limit["type"] in seen:
            raise InvalidArgument(f"process.rlimits[{index}]: {limit['type']} is there twice")
        seen.add(limit["type"])
    adjustment = process.get("oomScoreAdj", 0)
    if not -1000 <= adjustment <= 1000:
        raise InvalidArgument(f"process.oomScoreAdj: {adjustment} is not between -1000 and 1000")
    if process.get("scheduler") or process.get("execCPUAffinity"):
        from wherry.runtime import scheduling

        if process.get("scheduler"):
            scheduling.Scheduler(process["scheduler"])
        scheduling.Affinity(process.get("execCPUAffinity", {}))
    if process.get("user", {}).get("umask", 0) > 0o777:
        raise InvalidArgument(f"process.user.umask: {process['user']['umask']:#o} has more than the permission bits")


def _check_linux(config: Config) -> None:
    linux = config["linux"]
    kinds: dict[str, str] = {}
    for index, namespace in enumerate(linux.get("namespaces", ())):
        kind = namespace.get("type", "")
        if kind not in _NAMESPACES:
            raise InvalidArgument(f"linux.namespaces[{index}].type: {kind!r} is not one of {', '.join(_NAMESPACES)}")
        if kind in kinds:
            raise InvalidArgument(f"linux.namespaces[{index}]: malformed spec file: duplicated ns {kind!r}")
        kinds[kind] = namespace.get("path", "")
    if config.get("hostname") and "uts" not in kinds:
        raise InvalidArgument("hostname: unable to set hostname without a private UTS namespace")
    if config.get("domainname") and "uts" not in kinds:
        raise InvalidArgument("domainname: unable to set domainname without a private UTS namespace")
    _check_mappings(linux.get("uidMappings", []), "linux.uidMappings", needed="user" in kinds and not kinds["user"])
    _check_mappings(linux.get("gidMappings", []), "linux.gidMappings", needed="user" in kinds and not kinds["user"])
    for name in ("uidMappings", "gidMappings"):
        if linux.get(name) and "user" not in kinds:
            raise InvalidArgument(f"linux.{name}: mappings need a user namespace")
    for index, device in enumerate(linux.get("devices", ())):
        if "path" not in device:
            raise InvalidArgument(f"linux.devices[{index}].path is missing")
        if device.get("type") not in ("c", "u", "b", "p"):
            raise InvalidArgument(f"linux.devices[{index}].type: {device.get('type')!r} is not one of c, u, b, p")
        if device["type"] != "p" and ("major" not in device or "minor" not in device):
            raise InvalidArgument(f"linux.devices[{index}]: {device['path']} has no major and minor number")
    resources = linux.get("resources", {})
    for index, rule in enumerate(resources.get("devices", ())):
        if rule.get("type", "a") not in ("", "a", "b", "c", "u"):
            raise InvalidArgument(f"linux.resources.devices[{index}].type: {rule['type']!r} is not one of a, b, c, u")
        if set(rule.get("access", "")) - set("rwm"):
            raise InvalidArgument(
                f"linux.resources.devices[{index}].access: {rule['access']!r} has letters other than r, w, m"
            )
    block: Any = resources.get("blockIO", {})
    for field in ("weightDevice", *_THROTTLES):
        for index, entry in enumerate(block.get(field, ())):
            needed = ("major", "minor") if field == "weightDevice" else ("major", "minor", "rate")
            if any(name not in entry for name in needed):
                raise InvalidArgument(f"linux.resources.blockIO.{field}[{index}]: {', '.join(needed)} are needed")
    for index, page in enumerate(resources.get("hugepageLimits", ())):
        if "pageSize" not in page or "limit" not in page or "/" in page["pageSize"]:
            raise InvalidArgument(f"linux.resources.hugepageLimits[{index}]: pageSize and limit are needed")
    network: Any = resources.get("network", {})
    for index, entry in enumerate(network.get("priorities", ())):
        if "name" not in entry or "priority" not in entry:
            raise InvalidArgument(f"linux.resources.network.priorities[{index}]: name and priority are needed")
    offsets = linux.get("timeOffsets", {})
    for clock, offset in offsets.items():
        if clock not in ("monotonic", "boottime"):
            raise InvalidArgument(f"linux.timeOffsets.{clock}: there is no such clock")
        if offset.get("nanosecs", 0) > 999_999_999:
            raise InvalidArgument(f"linux.timeOffsets.{clock}.nanosecs: {offset['nanosecs']} is a second or more")
    if offsets and kinds.get("time") != "":
        raise InvalidArgument("linux.timeOffsets: offsets need a new time namespace")
    if linux.get("memoryPolicy") is not None:
        from wherry.runtime import scheduling

        scheduling.MemoryPolicy(linux["memoryPolicy"])
    if linux.get("netDevices"):
        from wherry.runtime import netdevices

        netdevices.check(linux["netDevices"], own=set(kinds))
    if "intelRdt" in linux:
        from wherry.runtime import rdt

        rdt.check(linux["intelRdt"])
    if "seccomp" in linux:
        _check_seccomp(linux["seccomp"])
    if resources.get("cpu", {}).get("idle", 0) not in (0, 1):
        raise InvalidArgument("linux.resources.cpu.idle: it is 0 or 1")


def _check_seccomp(section: Seccomp) -> None:
    if not section.get("defaultAction"):
        raise InvalidArgument("linux.seccomp.defaultAction is missing")
    actions = {section["defaultAction"], *(rule.get("action", "") for rule in section.get("syscalls", ()))}
    if "SCMP_ACT_NOTIFY" in actions:
        from wherry.runtime import seccomp_notify

        seccomp_notify.check(section)


_THROTTLES = ("throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice")


def _check_mappings(mappings: list[Any], field: str, *, needed: bool) -> None:
    if needed and not mappings:
        raise InvalidArgument(f"{field}: a new user namespace needs mappings")
    for index, mapping in enumerate(mappings):
        for name in ("containerID", "hostID", "size"):
            if name not in mapping:
                raise InvalidArgument(f"{field}[{index}].{name} is missing")
        if mapping["size"] == 0 or max(mapping["containerID"], mapping["hostID"]) + mapping["size"] - 1 > _MAX_ID:
            raise InvalidArgument(f"{field}[{index}]: the range is empty or ends above {_MAX_ID}")


def _walk(value: Any, form: Any, path: str, depth: int) -> None:
    """Compares `value` at `path` with its form."""
    if depth > _DEPTH:
        raise InvalidArgument(f"{path}: nested too deeply")
    if isinstance(form, str):
        _leaf(value, form, path)
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise InvalidArgument(f"{path}: a list is needed, not {_shown(value)}")
        for index, item in enumerate(value):
            _walk(item, form[0], f"{path}[{index}]", depth + 1)
    else:
        if not isinstance(value, dict):
            raise InvalidArgument(f"{path}: an object is needed, not {_shown(value)}")
        for key in [key for key, item in value.items() if item is None]:
            del value[key]
        if isinstance(form, dict):
            for key, item in value.items():
                if key in form:
                    _walk(item, form[key], f"{path}.{key}" if path else key, depth + 1)
        else:
            for key, item in value.items():
                _leaf(key, "s", f"{path} (a key)")
                _walk(item, form[1], f"{path}.{key}", depth + 1)


_RANGES = {
    "i": (-(1 << 63), (1 << 63) - 1),
    "n": (0, (1 << 32) - 1),
    "N": (0, (1 << 64) - 1),
    "g": (0, _MAX_ID),
    "d": (-1, (1 << 32) - 1),
}


def _leaf(value: Any, form: str, path: str) -> None:
    if form in _RANGES:
        low, high = _RANGES[form]
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidArgument(f"{path}: a number is needed, not {_shown(value)}")
        if not low <= value <= high:
            raise InvalidArgument(f"{path}: {value} is not between {low} and {high}")
    elif form == "b":
        if not isinstance(value, bool):
            raise InvalidArgument(f"{path}: true or false is needed, not {_shown(value)}")
    elif form == "x":
        if value:
            raise errors.NotImplemented(f"{path}: wherry does not support it")
    else:
        if not isinstance(value, str):
            raise InvalidArgument(f"{path}: a string is needed, not {_shown(value)}")
        if "\0" in value:
            raise InvalidArgument(f"{path}: {_shown(value)} holds a NUL byte")
        if not value.isascii():
            try:
                os.fsencode(value)
            except UnicodeEncodeError:
                raise InvalidArgument(f"{path}: {_shown(value)} holds half of a character (a lone surrogate)") from None
        if form == "p" and value and not value.startswith("/"):
            raise InvalidArgument(f"{path}: {_shown(value)} is not an absolute path")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
