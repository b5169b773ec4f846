"""`wherry-runc update`: changes the limits of a container while it runs."""

from __future__ import annotations

import os

from wherry.errors import Conflict, InvalidArgument
from wherry.runtime import oci_validate
from wherry.runtime import state as states
from wherry.runtime.cli import options
from wherry.runtime.cli.options import Option
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals
    from wherry.runtime.rdt import Group as Resctrl

USAGE = "update [options] <container-id>"
EXAMPLES = '   wherry-runc update --memory 256m --pids-limit 100 web\n   echo \'{"cpu": {"quota": 50000}}\' | wherry-runc update --resources - web\n'
OPTIONS = (
    Option(
        "resources",
        "file with the resources to update as in config.json, or '-' for stdin; other options are ignored then",
        short="r",
    ),
    Option("blkio-weight", "weight of block I/O, 10 to 1000", kind="number"),
    Option("cpu-period", "CPU CFS period (in usecs)", kind="number"),
    Option("cpu-quota", "CPU CFS hardcap limit (in usecs)", kind="number"),
    Option("cpu-burst", "CPU CFS hardcap burst limit (in usecs)", kind="number"),
    Option("cpu-share", "CPU shares (relative weight)", kind="number"),
    Option("cpu-rt-period", "CPU realtime period (in usecs)", kind="number"),
    Option("cpu-rt-runtime", "CPU realtime hardcap limit (in usecs)", kind="number"),
    Option("cpu-idle", "1: run only when nothing else wants the CPU", kind="number"),
    Option("cpuset-cpus", "CPU(s) to use"),
    Option("cpuset-mems", "memory node(s) to use"),
    Option("memory", "memory limit (bytes, or 64m, 1g; -1 for none)"),
    Option("memory-reservation", "memory reservation or soft limit"),
    Option("memory-swap", "memory and swap together; -1 for unlimited swap"),
    Option("kernel-memory", "kernels count it with all other memory", kind="refused"),
    Option("kernel-memory-tcp", "kernels count it with all other memory", kind="refused"),
    Option("pids-limit", "maximum number of processes, -1 for any", kind="number"),
    Option("l3-cache-schema", "the schema of Intel RDT/CAT for L3 caches"),
    Option("mem-bw-schema", "the schema of Intel RDT/MBA for memory bandwidth"),
)
_NUMBERS = (
    ("cpu", "shares", "cpu-share"), ("cpu", "quota", "cpu-quota"), ("cpu", "period", "cpu-period"), ("cpu", "burst", "cpu-burst"),
    ("cpu", "realtimePeriod", "cpu-rt-period"), ("cpu", "realtimeRuntime", "cpu-rt-runtime"), ("cpu", "idle", "cpu-idle"),
    ("cpu", "cpus", "cpuset-cpus"), ("cpu", "mems", "cpuset-mems"), ("pids", "limit", "pids-limit"), ("blockIO", "weight", "blkio-weight"),
)  # fmt: skip
_SIZES = (("limit", "memory"), ("reservation", "memory-reservation"), ("swap", "memory-swap"))


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 1, 1, USAGE)
    state = states.load(settings.root, arguments[0])
    state.lock()  # of two updates at once, one sees the other's
    if not state.is_alive():
        raise Conflict("container not running")
    changes = _from_file(values["resources"]) if values["resources"] else _from_options(values)
    config: Any = state.config()
    resources = config["linux"].get("resources") or {}
    for section, fields in changes.items():
        merged = isinstance(fields, dict)
        resources[section] = {**(resources.get(section) or {}), **fields} if merged else fields
    config["linux"]["resources"] = resources
    resctrl = _resctrl(state, config, values["l3-cache-schema"], values["mem-bw-schema"])
    oci_validate.check(config)
    if resctrl is not None:
        resctrl.update(values["l3-cache-schema"], values["mem-bw-schema"])
    state.cgroup().apply(changes, update=True)  # type: ignore[arg-type]
    states.write_file(f"{state.directory}/config.json", fastjson.dumps(config))
    return 0


def _resctrl(state: states.State, config: Any, l3: str, bandwidth: str) -> Resctrl | None:
    """The group whose schemata are to change, noted in `config` as well."""
    if not l3 and not bandwidth:
        return None
    from wherry.runtime.cli.ending import resctrl_of

    group = resctrl_of(state, config)
    if group is None:
        raise Conflict("updating a non-existent Intel RDT configuration is not supported")
    if l3 and not group.has("L3"):
        raise Conflict("Intel RDT/CAT: l3 cache schema is not enabled")
    if bandwidth and not group.has("MB"):
        raise Conflict("Intel RDT/MBA: memory bandwidth schema is not enabled")
    changes = (("l3CacheSchema", l3), ("memBwSchema", bandwidth))
    config["linux"]["intelRdt"].update({field: text for field, text in changes if text})
    return group


def _from_file(path: str) -> dict[str, Any]:
    changes: Any
    if path == "-":
        data = b""
        while part := os.read(0, 1 << 16):
            data += part
            if len(data) > 1 << 20:
                raise InvalidArgument("--resources: more than a megabyte")
        try:
            changes = fastjson.loads(data)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"--resources: not valid JSON: {error}") from None
    else:
        changes = states.read_config(os.path.abspath(path))[1]
    if not isinstance(changes, dict):
        raise InvalidArgument("--resources: a JSON object is needed")
    probe: Any = {
        "ociVersion": "1.0.0",
        "root": {"path": "/"},
        "linux": {"namespaces": [{"type": "mount"}], "resources": changes},
    }
    oci_validate.check(probe)  # also removes what is null
    changes.pop("devices", None)  # as runc: devices are not changed by an update
    return _without_zeros(changes)


def _without_zeros(changes: dict[str, Any]) -> dict[str, Any]:
    """0 and "" say "unchanged" in runc's format of this file, burst and idle excepted."""
    result = {}
    for section, fields in changes.items():
        if isinstance(fields, dict):
            fields = {
                name: value
                for name, value in fields.items()
                if value not in (0, "")
                or value is False
                or name in ("burst", "idle")
                or (section, name) == ("pids", "limit")
            }
        if fields:
            result[section] = fields
    return result


def _from_options(values: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for section, field, option in _NUMBERS:
        if values[option] not in (None, "") and (values[option] != 0 or field in ("burst", "idle", "limit")):
            changes.setdefault(section, {})[field] = values[option]
    for field, option in _SIZES:
        if values[option]:
            changes.setdefault("memory", {})[field] = options.size(f"--{option}", values[option])
    return changes
