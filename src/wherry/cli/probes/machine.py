"""Probes of the process's own powers: Python, privileges, descriptors, other programs, Docker's CLI."""

from __future__ import annotations

import os
import sys

from .finding import Finding, degraded, missing, ok

INITS = ("docker-init", "tini-static")
"""What the engine runs as process 1 for --init, unless its configuration names another."""
_NEEDED = (
    "CAP_SYS_ADMIN",
    "CAP_NET_ADMIN",
    "CAP_MKNOD",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_KILL",
    "CAP_SYS_CHROOT",
)


def python() -> Finding:
    """Version 3.11 or newer, and the C modules that the runtime calls the kernel with."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < (3, 11):  # noqa: UP036 - this is the question
        return missing(
            "Python",
            version,
            "wherry is written for Python 3.11 and newer",
            "install python3.11 or newer, and wherry with it",
        )
    try:
        __import__("_ctypes")
    except ImportError:
        return missing(
            "Python",
            f"{version} without _ctypes",
            "wherry calls the kernel through it",
            "build Python with libffi (Debian: libffi-dev)",
        )
    return ok("Python", version)


def capabilities() -> set[str]:
    """The names of this process's effective capabilities."""
    from wherry.linux.capabilities import NAMES

    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        masks = [int(line.split()[1], 16) for line in status if line.startswith("CapEff:")]
    mask = masks[0] if masks else 0
    return {name for number, name in enumerate(NAMES) if mask >> number & 1}


def privileges() -> Finding:
    """Root with the capabilities that making a container takes."""
    have = capabilities()
    lacking = [name for name in _NEEDED if name not in have]
    if os.geteuid() != 0:
        return missing(
            "privileges",
            f"user {os.geteuid()}",
            "the engine mounts file systems and makes namespaces and devices",
            "run it as root: sudo wherry doctor",
        )
    if lacking:
        return missing(
            "privileges",
            f"root without {', '.join(lacking)}",
            "the engine cannot do all that containers need",
            "in a container, start it with --privileged",
        )
    return ok("privileges", "root, with CAP_SYS_ADMIN and the other capabilities needed")


def resource_capability() -> Finding:
    """CAP_SYS_RESOURCE: what raises limits."""
    if "CAP_SYS_RESOURCE" in capabilities():
        return ok("CAP_SYS_RESOURCE", "held")
    return degraded(
        "CAP_SYS_RESOURCE",
        "not held",
        "containers cannot get higher resource limits (--ulimit) than the engine has, nor a lower --oom-score-adj",
        "start the engine with CAP_SYS_RESOURCE",
    )


def open_files() -> Finding:
    """The engine holds a few descriptors for each container."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 < hard < 4096:
        return degraded(
            "open files",
            f"at most {hard}",
            "a few hundred containers use them up",
            "raise the limit: ulimit -Hn, LimitNOFILE= in the unit",
        )
    return ok("open files", f"{soft}, at most {'unlimited' if hard < 0 else hard}")


def programs() -> Finding:
    """What the engine has others do; none of it is on the way of a plain `run`."""
    have = {name for name in ("ps", *INITS) if _find(name, f"{os.environ.get('PATH', '')}:/usr/bin:/bin")}
    lacking = []
    if "ps" not in have:
        lacking.append(("ps", "top is refused", "procps"))
    if not have & set(INITS):
        lacking.append((" or ".join(INITS), "--init is refused", "tini"))
    if not lacking:
        return ok("programs", ", ".join(sorted(have)))
    names, meanings, packages = zip(*lacking, strict=True)
    return degraded(
        "programs",
        f"not installed: {', '.join(names)}",
        ", ".join(meanings),
        f"install {' and '.join(packages)}",
    )


def _find(name: str, path: str) -> str | None:
    for folder in path.split(":"):
        if folder and os.access(f"{folder}/{name}", os.X_OK):
            return f"{folder}/{name}"
    return None


def docker_cli() -> Finding:
    """Docker's own command line works with the engine, too."""
    found = _find("docker", os.environ.get("PATH", ""))
    if found:
        return ok("docker CLI", f"{found} (use it with DOCKER_HOST=unix:///run/wherry.sock)")
    return ok("docker CLI", "not installed (not needed: wherry has the same commands)")
