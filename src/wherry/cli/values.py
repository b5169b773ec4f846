"""The values of container flags, one function per form: `KEY=value`, ulimits, devices, rates, hosts. Each takes what the user typed, gives what the
Engine API wants, and raises ValueError with the words that Docker's client has for it."""

from __future__ import annotations

import os

from .units import parse_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ULIMITS = frozenset(
    [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)
_SYSCTLS = frozenset(
    f"kernel.{name}" for name in ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"]
)
_LINE_LIMIT = 64 * 1024


# -- key=value -------------------------------------------------------------------------------------------------------------------------------


def env(text: str) -> str:
    """`KEY=value`; `KEY` takes the value of the caller's environment, and stays bare when there is none."""
    key, separator, _ = text.partition("=")
    if not key:
        raise ValueError(f"invalid environment variable: {text}")
    if not separator and key in os.environ:
        return f"{key}={os.environ[key]}"
    return text


def label(text: str) -> str:
    key = text.partition("=")[0].lstrip(" \t")
    if not key:
        raise ValueError(f"invalid label '{text}': empty name")
    if " " in key or "\t" in key:
        raise ValueError(f"label '{key}' contains whitespaces")
    return text


def sysctl(pair: tuple[str, str]) -> tuple[str, str]:
    key, value = pair
    if not key or not (key in _SYSCTLS or key.startswith(("net.", "fs.mqueue."))):
        raise ValueError(f"sysctl '{key}{'=' + value if value else ''}' is not allowed")
    return pair


def annotation(pair: tuple[str, str]) -> tuple[str, str]:
    if not pair[0].strip():
        raise ValueError(f"invalid annotation '{pair[0]}={pair[1]}': empty name")
    return pair


def to_map(pairs: Sequence[str]) -> dict[str, str]:
    """["a=1", "b"] → {"a": "1", "b": ""}."""
    found = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        found[key] = value
    return found


def read_file(path: str, lookup: Callable[[str], str | None] | None) -> list[str]:
    """The pairs of an `--env-file` or `--label-file`: a pair a line, `#` comments; a bare key is looked up, and left out when that finds nothing."""
    with open(path, "rb") as file:
        data = file.read()
    found: list[str] = []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.removesuffix(b"\r").decode().lstrip()
        except UnicodeDecodeError:
            shown = "[" + " ".join(str(byte) for byte in raw) + "]"
            raise ValueError(f"invalid env file ({path}): invalid utf8 bytes at line {number}: {shown}") from None
        if len(raw) > _LINE_LIMIT:
            raise ValueError(f"invalid env file ({path}): bufio.Scanner: token too long")
        if not line or line.startswith("#"):
            continue
        key, separator, _ = line.partition("=")
        if not key:
            raise ValueError(f"invalid env file ({path}): no variable name on line '{line}'")
        if " " in key or "\t" in key:
            raise ValueError(f"invalid env file ({path}): variable '{key}' contains whitespaces")
        if separator:
            found.append(line)
        elif lookup is not None and (value := lookup(key)) is not None:
            found.append(f"{key}={value}")
    return found


# -- limits and devices ----------------------------------------------------------------------------------------------------------------------


def ulimit(text: str) -> dict[str, object]:
    """`nofile=1024[:2048]`."""
    name, separator, limits = text.partition("=")
    if not separator:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in _ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    parts = limits.split(":")
    if len(parts) > 2:
        raise ValueError(f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`")
    numbers = [_decimal(part) for part in reversed(parts)]  # the hard limit's error comes first
    hard, soft = numbers[0], numbers[-1]
    if hard != -1:
        if soft == -1:
            raise ValueError(
                f"ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
            )
        if soft > hard:
            raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return {"Name": name, "Soft": soft, "Hard": hard}


def _decimal(text: str) -> int:
    from .flags import go_quote

    if not text.removeprefix("-").removeprefix("+").isdecimal() or not text.isascii():
        raise ValueError(f"strconv.ParseInt: parsing {go_quote(text)}: invalid syntax")
    return int(text)


def device(text: str) -> dict[str, str]:
    """`/dev/host[:/dev/container][:rwm]`."""
    parts = text.split(":")
    if len(parts) > 3 or not parts[0]:
        raise ValueError(f"bad format for path: {text}")
    source, target, permissions = parts[0], "", "rwm"
    if len(parts) == 2:
        if _is_device_mode(parts[1]):
            permissions = parts[1]
        else:
            target = parts[1]
    elif len(parts) == 3:
        target, permissions = parts[1], parts[2]
        if not _is_device_mode(permissions):
            raise ValueError(f"bad mode specified: {permissions}")
    inside = target or source
    if not inside.startswith("/"):
        raise ValueError(f"{inside} is not an absolute path")
    if not target:
        source = _clean(source)
    elif len(parts) == 2:
        target = _clean(target)
    return {"PathOnHost": source, "PathInContainer": target or source, "CgroupPermissions": permissions}


def _clean(path: str) -> str:
    from posixpath import normpath

    path = normpath(path)
    return path[1:] if path.startswith("//") else path


def _is_device_mode(text: str) -> bool:
    return bool(text) and len(set(text)) == len(text) and set(text) <= set("rwm")


def capability(name: str) -> str:
    """`net_admin` in the API's spelling: CAP_NET_ADMIN; ALL stays."""
    name = name.strip().upper()
    return name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}"


def device_rule(text: str) -> str:
    """`c 1:3 rwm`."""
    parts = text.split(" ")
    valid = len(parts) == 3 and parts[0] in ("a", "b", "c") and parts[1].count(":") == 1
    if valid:
        numbers = parts[1].split(":")
        valid = all(number == "*" or number.isdecimal() for number in numbers)
        valid = valid and 1 <= len(parts[2]) <= 3 and set(parts[2]) <= set("rwm")
    if not valid:
        raise ValueError(f"invalid device cgroup format '{text}'")
    return text


def _device_path(text: str) -> tuple[str, str]:
    path, separator, value = text.partition(":")
    if not separator or not path:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    return path, value


def rate_bytes(text: str) -> dict[str, object]:
    """`/dev/sda:1mb`."""
    path, value = _device_path(text)
    try:
        rate = parse_bytes(value)
        if rate < 0:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]."
            " Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        ) from None
    return {"Path": path, "Rate": rate}


def rate_operations(text: str) -> dict[str, object]:
    """`/dev/sda:1000`."""
    path, value = _device_path(text)
    if not value.isdecimal():
        raise ValueError(
            f"invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive integer"
        )
    return {"Path": path, "Rate": int(value)}


def weight(text: str) -> dict[str, object]:
    """`/dev/sda:500`."""
    path, value = _device_path(text)
    if not value.isdecimal() or (int(value) and not 10 <= int(value) <= 1000):
        raise ValueError(f"invalid weight for device: {text}")
    return {"Path": path, "Weight": int(value)}


# -- names and addresses ---------------------------------------------------------------------------------------------------------------------


def is_ip(text: str) -> bool:
    from _socket import AF_INET, AF_INET6, inet_pton

    for family in (AF_INET, AF_INET6):
        try:
            inet_pton(family, text)
            return True
        except OSError:
            pass
    return False


def ip_address(text: str) -> str:
    address = text.strip()
    if not is_ip(address):
        raise ValueError(f"IP address is not correctly formatted: {text}")
    return address


def extra_host(text: str) -> str:
    """`name:address` or `name=address`; `host-gateway` stands for the host."""
    from .flags import go_quote

    name, separator, address = text.partition("=")
    if not separator:
        name, separator, address = text.partition(":")
    if not separator or not name:
        raise ValueError(f"bad format for add-host: {go_quote(text)}")
    if len(address) > 2 and address[0] == "[" and address[-1] == "]":
        address = address[1:-1]
    if address != "host-gateway" and not is_ip(address):
        raise ValueError(f"invalid IP address in add-host: {go_quote(address)}")
    return f"{name}:{address}"


def dns_search(text: str) -> str:
    domain = text.strip(" ")
    if domain == ".":
        return domain
    labels = domain.split(".")
    valid = any(character.isalpha() for character in domain) and len(domain) < 255
    valid = valid and all(
        part
        and part.replace("-", "").replace("_", "").isalnum()
        and part.isascii()
        and part[0] != "-"
        and part[-1] != "-"
        for part in labels
    )
    if not valid:
        raise ValueError(f"{domain} is not a valid domain")
    return domain


def stream(text: str) -> str:
    """`--attach`'s STDIN, STDOUT or STDERR."""
    name = text.lower()
    if name not in ("stdin", "stdout", "stderr"):
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return name


def link(text: str) -> str:
    if not text:
        raise ValueError("empty string specified for links")
    if text.count(":") > 1:
        raise ValueError(f"bad format for links: {text}")
    return text


def mac_address(text: str) -> str:
    """Six bytes in hex, with colons, dashes or dots."""
    plain = text.strip()
    digits = plain.replace(":", "").replace("-", "").replace(".", "")
    if len(digits) not in (12, 16, 40) or any(character not in "0123456789abcdefABCDEF" for character in digits):
        raise ValueError(f"{text} is not a valid mac address")
    return ":".join(digits[index : index + 2] for index in range(0, len(digits), 2)).lower()


def restart_policy(text: str) -> dict[str, object]:
    """`on-failure:3`."""
    name, separator, count = text.partition(":")
    if separator and not name:
        raise ValueError("invalid restart policy format: no policy provided before colon")
    retries = 0
    if count:
        if not count.removeprefix("-").isdecimal():
            raise ValueError("invalid restart policy format: maximum retry count must be an integer")
        retries = int(count)
    return {"Name": name, "MaximumRetryCount": retries}


def security_option(text: str) -> str:
    """`seccomp=FILE` becomes the file's content; all else goes to the engine as it is."""
    from .flags import go_quote

    key, separator, value = text.partition("=")
    if not separator and key != "no-new-privileges":
        key, separator, value = text.partition(":")
    if key != "no-new-privileges" and not value:
        raise ValueError(f"Invalid --security-opt: {go_quote(text)}")
    if key != "seccomp" or value in ("unconfined", "builtin"):
        return text
    from wherry.wire.fastjson import dumps, loads

    try:
        with open(value, "rb") as file:
            content = file.read()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"opening seccomp profile ({value}) failed: open {value}: {reason}") from None
    try:
        return "seccomp=" + dumps(loads(content)).decode("ascii")
    except ValueError as error:
        raise ValueError(f"compacting json for seccomp profile ({value}) failed: {error}") from None


def detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` → the bytes that a terminal sends for it."""
    codes = bytearray()
    for key in text.split(","):
        if len(key) == 1:
            codes += key.encode("latin-1", "replace")
        elif key == "DEL":
            codes.append(127)
        elif len(key) == 6 and key.startswith("ctrl-") and key[5] in "@abcdefghijklmnopqrstuvwxyz[\\]^_":
            codes.append("@abcdefghijklmnopqrstuvwxyz[\\]^_".index(key[5]))
        else:
            raise ValueError(f"invalid detach keys ({text}): Unknown character: '{key}'")
    return bytes(codes)
