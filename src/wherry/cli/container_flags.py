"""The flags of `run` and `create`, and the Engine API's request that they amount to.

Whatever the API can say is sent, and the engine refuses by name what it does not do. Flags that only Windows engines know, or that need a part of
wherry that is not there, are refused here.
"""

from __future__ import annotations

import os

from . import endpoints, mounts, ports, values
from .flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .flags import Flags

_WINDOWS = "it is for Windows containers"

CONTAINER_FLAGS: tuple[Flag, ...] = (
    # what the process is
    Flag("entrypoint", "string", "Run this instead of the image's ENTRYPOINT; empty: none"),
    Flag("env", "list", "Set an environment variable (KEY=value; KEY takes it from here)", short="e", check=values.env),
    Flag("env-file", "list", "Read environment variables from a file, one per line"),
    Flag("user", "string", "User, or user:group, by name or number", short="u"),
    Flag("group-add", "list", "Add a supplementary group"),
    Flag("workdir", "string", "Working directory inside the container", short="w"),
    Flag("tty", "bool", "Allocate a terminal", short="t"),
    Flag("interactive", "bool", "Keep stdin open", short="i"),
    Flag("attach", "list", "Attach only to STDIN, STDOUT or STDERR", short="a", check=values.stream),
    Flag("init", "bool", "Run an init as process 1 that forwards signals and reaps processes"),
    Flag("stop-signal", "string", "Signal that stops the container"),
    Flag("stop-timeout", "int", "Seconds to wait after the stop signal before SIGKILL"),
    # what the container is called, and how long it stays
    Flag("name", "string", "Name of the container"),
    Flag("label", "list", "Set a label (key=value)", short="l", check=values.label),
    Flag("label-file", "list", "Read labels from a file, one per line"),
    Flag("annotation", "map", "Pass an annotation to the OCI runtime (key=value)", check=values.annotation),
    Flag("cidfile", "string", "Write the container's ID to this file, which must not exist"),
    Flag("rm", "bool", "Remove the container and its anonymous volumes when it exits"),
    Flag("restart", "string", "Restart policy: no, on-failure[:max], always, unless-stopped", default="no"),
    Flag("health-cmd", "string", "Command that checks the container's health"),
    Flag("health-interval", "duration", "Time between health checks"),
    Flag("health-retries", "int", "Consecutive failures that mean unhealthy"),
    Flag("health-start-interval", "duration", "Time between checks in the start period"),
    Flag("health-start-period", "duration", "Time to start up before failures count"),
    Flag("health-timeout", "duration", "Time limit of one check"),
    Flag("no-healthcheck", "bool", "Ignore the image's HEALTHCHECK"),
    Flag("log-driver", "string", "Log driver: json-file, none"),
    Flag("log-opt", "list", "Option of the log driver (max-size=10m)"),
    # the image
    Flag("platform", "string", "Platform of the image (linux/arm64)"),
    Flag("pull", "string", "When to pull the image: always, missing, never", default="missing"),
    Flag("quiet", "bool", "Do not show the progress of a pull", short="q"),
    # file systems
    Flag("volume", "list", "Mount a volume or a directory (source:target[:options])", short="v"),
    Flag("mount", "mount", "Mount (type=bind|volume|tmpfs,source=…,target=…[,readonly…])", check=mounts.mount),
    Flag("tmpfs", "list", "Mount a file system in memory (/path[:options])"),
    Flag("volumes-from", "list", "Mount the volumes of another container"),
    Flag("volume-driver", "string", "Driver of volumes named with -v"),
    Flag("read-only", "bool", "Make the root file system read-only"),
    Flag("shm-size", "bytes", "Size of /dev/shm"),
    Flag("storage-opt", "list", "Option of the container's writable layer"),
    # network
    Flag("network", "network", "Network: bridge, host, none, container:NAME", check=endpoints.attachment),
    Flag("net", "network", "", check=endpoints.attachment, hidden=True),
    Flag("network-alias", "list", "Additional name of the container in its network"),
    Flag("net-alias", "list", "", hidden=True),
    Flag("publish", "list", "Publish a port ([[address:]host:]container[/proto])", short="p"),
    Flag("publish-all", "bool", "Publish all exposed ports to free ports", short="P"),
    Flag("expose", "list", "Expose a port or a range of ports"),
    Flag("hostname", "string", "Host name", short="h"),
    Flag("domainname", "string", "NIS domain name"),
    Flag("add-host", "list", "Add a line to /etc/hosts (name:address)", check=values.extra_host),
    Flag("dns", "list", "Name server", check=values.ip_address),
    Flag("dns-option", "list", "Option of the resolver"),
    Flag("dns-opt", "list", "", hidden=True),
    Flag("dns-search", "list", "Search domain", check=values.dns_search),
    Flag("ip", "string", "IPv4 address", check=values.ip_address),
    Flag("ip6", "string", "IPv6 address", check=values.ip_address),
    Flag("link", "list", "Link to another container", check=values.link),
    Flag("link-local-ip", "list", "Link-local address"),
    Flag("mac-address", "string", "MAC address"),
    # limits
    Flag("memory", "bytes", "Memory limit (512m)", short="m"),
    Flag("memory-reservation", "bytes", "Soft memory limit"),
    Flag("memory-swap", "bytes", "Limit of memory and swap together; -1: no limit"),
    Flag("memory-swappiness", "int", "Tendency to swap memory out (0 to 100)", default=-1),
    Flag("oom-kill-disable", "bool", "Do not kill processes when memory runs out"),
    Flag("oom-score-adj", "int", "Score adjustment for the host's OOM killer (-1000 to 1000)"),
    Flag("cpus", "decimal", "Number of CPUs (1.5)"),
    Flag("cpu-shares", "int", "Relative weight of CPU time", short="c"),
    Flag("cpu-period", "int", "Period of the CPU limit, in microseconds"),
    Flag("cpu-quota", "int", "CPU time per period, in microseconds"),
    Flag("cpu-rt-period", "int", "Period of real-time CPU, in microseconds"),
    Flag("cpu-rt-runtime", "int", "Real-time CPU time per period, in microseconds"),
    Flag("cpuset-cpus", "string", "CPUs to run on (0-3, 0,1)"),
    Flag("cpuset-mems", "string", "Memory nodes to use (0-3, 0,1)"),
    Flag("pids-limit", "int", "Number of processes; -1: no limit"),
    Flag("ulimit", "ulimit", "Resource limit (nofile=1024:2048)", check=values.ulimit),
    Flag("blkio-weight", "uint16", "Relative weight of block I/O (10 to 1000)"),
    Flag("blkio-weight-device", "list", "Weight for one device (/dev/sda:500)", check=values.weight),
    Flag("device-read-bps", "list", "Bytes per second to read (/dev/sda:1mb)", check=values.rate_bytes),
    Flag("device-write-bps", "list", "Bytes per second to write", check=values.rate_bytes),
    Flag("device-read-iops", "list", "Reads per second (/dev/sda:1000)", check=values.rate_operations),
    Flag("device-write-iops", "list", "Writes per second", check=values.rate_operations),
    # isolation
    Flag("privileged", "bool", "Give the container full privileges on the host"),
    Flag("cap-add", "list", "Add a capability", check=values.capability),
    Flag("cap-drop", "list", "Drop a capability", check=values.capability),
    Flag("security-opt", "list", "seccomp=FILE|unconfined, apparmor=PROFILE, no-new-privileges …"),
    Flag("device", "list", "Give access to a device (/dev/x[:/dev/y][:rwm])"),
    Flag("device-cgroup-rule", "list", "Allow devices (c 1:3 rwm)", check=values.device_rule),
    Flag("sysctl", "map", "Set a kernel parameter of the container's namespaces", check=values.sysctl),
    Flag("runtime", "string", "OCI runtime"),
    Flag("cgroup-parent", "string", "Parent cgroup"),
    Flag("cgroupns", "string", "Cgroup namespace: host, private"),
    Flag("ipc", "string", "IPC namespace: private, host, shareable, none, container:NAME"),
    Flag("pid", "string", "PID namespace: host, container:NAME"),
    Flag("userns", "string", "User namespace: host"),
    Flag("uts", "string", "UTS namespace: host"),
    # refused by name
    Flag("cpu-count", "int", refused=_WINDOWS),
    Flag("cpu-percent", "int", refused=_WINDOWS),
    Flag("io-maxbandwidth", "bytes", refused=_WINDOWS),
    Flag("io-maxiops", "uint64", refused=_WINDOWS),
    Flag("isolation", "string", refused=_WINDOWS),
    Flag("gpus", "list", refused="give the devices with --device"),
    Flag(
        "use-api-socket", "bool", refused="mount the engine's socket with -v if the container is to be trusted with it"
    ),
    Flag("kernel-memory", "bytes", refused="the kernel has no such limit any more"),
    Flag("disable-content-trust", "bool", refused="images are not signed in Docker's way any more"),
)


def request(flags: Flags, image: str, command: list[str]) -> dict[str, Any]:
    """The body of POST /containers/create. ValueError with Docker's words when flags contradict each other or a value is wrong."""
    attach = flags.items("attach")
    stdin = flags.on("interactive")
    body: dict[str, Any] = {
        "Image": image,
        "AttachStdin": stdin or "stdin" in attach,
        "AttachStdout": not attach or "stdout" in attach,
        "AttachStderr": not attach or "stderr" in attach,
        "Tty": flags.on("tty"),
        "OpenStdin": stdin,
        "StdinOnce": stdin,
    }
    _fill(body, flags, _TEXTS)
    if command:
        body["Cmd"] = command
    if flags.text("entrypoint"):
        body["Entrypoint"] = [flags.text("entrypoint")]
    elif flags.given("entrypoint"):
        body["Entrypoint"] = [""]
    if flags.given("stop-timeout"):
        body["StopTimeout"] = flags.number("stop-timeout")
    _add_pairs(body, flags)
    _add_health(body, flags)
    host = _host_config(flags)
    host["Binds"], anonymous = mounts.volumes(flags.items("volume"))
    if anonymous:
        body["Volumes"] = {path: {} for path in anonymous}
    bindings = ports.publish(flags.items("publish"))
    if bindings:
        host["PortBindings"] = bindings
    exposed = list(bindings) + ports.expose(flags.items("expose"))
    if exposed:
        body["ExposedPorts"] = {port: {} for port in exposed}
    for older, newer in (("net", "network"), ("net-alias", "network-alias"), ("dns-opt", "dns-option")):
        for value in flags.items(older):
            flags.items(newer).append(value)
    host["NetworkMode"], networks = endpoints.build(flags)
    if flags.items("dns-option"):
        host["DnsOptions"] = flags.items("dns-option")
    if networks:
        body["NetworkingConfig"] = {"EndpointsConfig": networks}
    body["HostConfig"] = {key: value for key, value in host.items() if value not in ([], {}, None)}
    return body


_TEXTS = (
    ("hostname", "Hostname"),
    ("domainname", "Domainname"),
    ("user", "User"),
    ("workdir", "WorkingDir"),
    ("stop-signal", "StopSignal"),
)
_HOST_VALUES = (
    ("cidfile", "ContainerIDFile"),
    ("oom-score-adj", "OomScoreAdj"),
    ("rm", "AutoRemove"),
    ("privileged", "Privileged"),
    ("publish-all", "PublishAllPorts"),
    ("dns", "Dns"),
    ("dns-search", "DnsSearch"),
    ("add-host", "ExtraHosts"),
    ("volumes-from", "VolumesFrom"),
    ("volume-driver", "VolumeDriver"),
    ("link", "Links"),
    ("ipc", "IpcMode"),
    ("pid", "PidMode"),
    ("uts", "UTSMode"),
    ("userns", "UsernsMode"),
    ("cgroupns", "CgroupnsMode"),
    ("group-add", "GroupAdd"),
    ("read-only", "ReadonlyRootfs"),
    ("shm-size", "ShmSize"),
    ("sysctl", "Sysctls"),
    ("runtime", "Runtime"),
    ("mount", "Mounts"),
    ("annotation", "Annotations"),
    ("cgroup-parent", "CgroupParent"),
    ("memory", "Memory"),
    ("memory-reservation", "MemoryReservation"),
    ("memory-swap", "MemorySwap"),
    ("oom-kill-disable", "OomKillDisable"),
    ("cpus", "NanoCpus"),
    ("cpu-shares", "CpuShares"),
    ("cpu-period", "CpuPeriod"),
    ("cpu-quota", "CpuQuota"),
    ("cpu-rt-period", "CpuRealtimePeriod"),
    ("cpu-rt-runtime", "CpuRealtimeRuntime"),
    ("cpuset-cpus", "CpusetCpus"),
    ("cpuset-mems", "CpusetMems"),
    ("pids-limit", "PidsLimit"),
    ("blkio-weight", "BlkioWeight"),
    ("blkio-weight-device", "BlkioWeightDevice"),
    ("device-read-bps", "BlkioDeviceReadBps"),
    ("device-write-bps", "BlkioDeviceWriteBps"),
    ("device-read-iops", "BlkioDeviceReadIOps"),
    ("device-write-iops", "BlkioDeviceWriteIOps"),
    ("device-cgroup-rule", "DeviceCgroupRules"),
)


def _fill(target: dict[str, Any], flags: Flags, table: tuple[tuple[str, str], ...]) -> None:
    for flag, key in table:
        value: Any = flags.value(flag)
        if value:
            target[key] = value


def _host_config(flags: Flags) -> dict[str, Any]:
    host: dict[str, Any] = {}
    _fill(host, flags, _HOST_VALUES)
    _check_modes(flags)
    swappiness = flags.number("memory-swappiness")
    if swappiness != -1:
        if not 0 <= swappiness <= 100:
            raise ValueError(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
        host["MemorySwappiness"] = swappiness
    host["CapAdd"], host["CapDrop"] = (sorted(set(flags.items(name))) for name in ("cap-add", "cap-drop"))
    limits = {item["Name"]: item for item in flags.items("ulimit")}
    if limits:
        host["Ulimits"] = [limits[name] for name in sorted(limits)]
    if flags.items("device"):
        host["Devices"] = [values.device(text) for text in flags.items("device")]
    host["Tmpfs"] = mounts.tmpfs(flags.items("tmpfs"))
    if flags.text("restart"):
        host["RestartPolicy"] = policy = values.restart_policy(flags.text("restart"))
        if flags.on("rm") and policy["Name"] not in ("", "no"):
            raise ValueError("conflicting options: cannot specify both --restart and --rm")
    if flags.given("init"):
        host["Init"] = flags.on("init")
    _add_logging(host, flags)
    _add_security(host, flags)
    for option in flags.items("storage-opt"):
        key, separator, value = option.partition("=")
        if not separator:
            raise ValueError("invalid storage option")
        host.setdefault("StorageOpt", {})[key] = value
    return host


def _check_modes(flags: Flags) -> None:
    if flags.text("mac-address"):
        values.mac_address(flags.text("mac-address"))
    pid = flags.text("pid")
    if pid not in ("", "host", "private") and not (pid.startswith("container:") and len(pid) > 10):
        raise ValueError("--pid: invalid PID mode")
    if flags.text("uts") not in ("", "host"):
        raise ValueError("--uts: invalid UTS mode")
    if flags.text("userns") not in ("", "host"):
        raise ValueError("--userns: invalid USER mode")
    if flags.text("cgroupns") not in ("", "host", "private"):
        raise ValueError("--cgroupns: invalid CGROUP mode")


def _add_logging(host: dict[str, Any], flags: Flags) -> None:
    driver, options = flags.text("log-driver"), flags.items("log-opt")
    if driver == "none" and options:
        raise ValueError(f"invalid logging opts for driver {driver}")
    if driver or options:
        host["LogConfig"] = {"Type": driver, "Config": values.to_map(options)}


def _add_security(host: dict[str, Any], flags: Flags) -> None:
    options = [values.security_option(text) for text in flags.items("security-opt")]
    if "systempaths=unconfined" in options:  # the client's own affair: the engine knows only the lists
        host["MaskedPaths"], host["ReadonlyPaths"] = (), ()
        options = [text for text in options if text != "systempaths=unconfined"]
    if options:
        host["SecurityOpt"] = options


def _add_pairs(body: dict[str, Any], flags: Flags) -> None:
    body_env: list[str] = []
    for path in flags.items("env-file"):
        body_env += _read("--env-file", path, with_environment=True)
    body_env += flags.items("env")
    if body_env:
        body["Env"] = body_env
    labels: list[str] = []
    for path in flags.items("label-file"):
        labels += _read("--label-file", path, with_environment=False)
    labels += flags.items("label")
    if labels:
        body["Labels"] = values.to_map(labels)


def _read(flag: str, path: str, *, with_environment: bool) -> list[str]:
    try:
        return values.read_file(path, os.environ.get if with_environment else None)
    except OSError as error:
        raise ValueError(f"{flag}: open {path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from None


def _add_health(body: dict[str, Any], flags: Flags) -> None:
    names = ("health-interval", "health-timeout", "health-retries", "health-start-period", "health-start-interval")
    asked = bool(flags.text("health-cmd")) or any(flags.number(name) for name in names)
    if flags.on("no-healthcheck"):
        if asked:
            raise ValueError("--no-healthcheck conflicts with --health-* options")
        body["Healthcheck"] = {"Test": ["NONE"]}
        return
    if not asked:
        return
    health: dict[str, Any] = {}
    if flags.text("health-cmd"):
        health["Test"] = ["CMD-SHELL", flags.text("health-cmd")]
    keys = ("Interval", "Timeout", "Retries", "StartPeriod", "StartInterval")
    for name, key in zip(names, keys, strict=True):
        if flags.number(name) < 0:
            raise ValueError(f"--{name} cannot be negative")
        if flags.number(name):
            health[key] = flags.number(name)
    body["Healthcheck"] = health
