"""OCI `linux.resources` as properties of a systemd unit, so that systemd, which owns the group's limits, does not set
others when it next looks at it.

Pure, but for the names of device groups in /proc/devices. What systemd has no property for is in the control files alone
(`v1_resources`, `v2_resources` write them all afterwards). Sources: systemd.resource-control(5),
org.freedesktop.systemd1(5), runc's and crun's systemd drivers.
"""

from __future__ import annotations

from wherry.errors import InvalidArgument
from wherry.linux import cpulist
from wherry.linux.cgroups import devices as device_rules
from wherry.linux.dbus import Variant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.spec.oci import Cpu, DeviceRule, Resources

    Property = tuple[str, Variant]

_INFINITY = (1 << 64) - 1
_DEFAULT_PERIOD = 100000
_PREFIX = "org.systemd.property."
_INTEGERS = {
    "byte": "y",
    "int16": "n",
    "uint16": "q",
    "int32": "i",
    "uint32": "u",
    "int64": "x",
    "uint64": "t",
    "double": "d",
}


def of_resources(resources: Resources, *, mode: str, version: int) -> list[Property]:
    """The properties for all that `resources` holds. `mode` "v1" or "v2"; `version` of systemd."""
    found: list[Property] = []
    if rules := resources.get("devices"):
        found += _devices(rules)
    memory = resources.get("memory") or {}
    limit = memory.get("limit") or 0
    if limit:
        found.append(("MemoryMax" if mode == "v2" else "MemoryLimit", _number(limit)))
    if mode == "v2":
        if reservation := memory.get("reservation"):
            found.append(("MemoryLow", _number(reservation)))
        swap = memory.get("swap") or (-1 if limit == -1 else 0)
        if swap:
            found.append(("MemorySwapMax", _number(swap if swap < 0 else swap - limit)))
    found += _cpu(resources.get("cpu") or {}, mode=mode, version=version)
    if mode == "v1" and (weight := (resources.get("blockIO") or {}).get("weight")):
        found.append(("BlockIOWeight", _number(weight)))
    tasks = (resources.get("pids") or {}).get("limit")
    if tasks is not None:
        found.append(("TasksMax", _number(tasks or 1)))
    if mode == "v2":
        found += _unified(resources.get("unified") or {}, version=version)
    return found


def _number(value: int) -> Variant:
    """A limit; below zero, none."""
    return Variant("t", _INFINITY if value < 0 else value)


def _cpu(cpu: Cpu, *, mode: str, version: int) -> list[Property]:
    found: list[Property] = []
    shares = cpu.get("shares") or 0
    if mode == "v2":
        idle = cpu.get("idle") == 1 and version >= 252
        if idle:
            found.append(("CPUWeight", Variant("t", 0)))  # how systemd says cpu.idle
        elif shares:
            from wherry.linux.cgroups.v2_resources import weight_of_shares

            found.append(("CPUWeight", Variant("t", weight_of_shares(shares))))
    elif shares:
        found.append(("CPUShares", Variant("t", shares)))
    found += _quota(cpu.get("quota") or 0, cpu.get("period") or 0, version)
    if version >= 244:
        for field, name in (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes")):
            if text := cpu.get(field):
                found.append((name, _members(str(text), f"cpu.{field}")))
    return found


def _quota(quota: int, period: int, version: int) -> list[Property]:
    found: list[Property] = []
    if period and version >= 242:
        found.append(("CPUQuotaPeriodUSec", Variant("t", period)))
    if quota or period:
        per_second = _INFINITY
        if quota > 0:
            # systemd keeps whole percents: rounded up, so that what is written to the file afterwards fits in
            per_second = -(-quota * 1000000 // (period or _DEFAULT_PERIOD))
            per_second = -(-per_second // 10000) * 10000
        found.append(("CPUQuotaPerSecUSec", Variant("t", per_second)))
    return found


def _members(text: str, field: str) -> Variant:
    mask = cpulist.parse(text, field)
    return Variant("ay", mask.to_bytes(max(1, (mask.bit_length() + 7) // 8), "little"))


_MEMORY = {
    "memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.min": "MemoryMin", "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax", "cpu.weight": "CPUWeight",
}  # fmt: skip
_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}


def _unified(files: dict[str, str], *, version: int) -> list[Property]:
    found: list[Property] = []
    for name, text in files.items():
        value = text.strip()
        field = f"unified.{name}"
        if name in _MEMORY:
            found.append((_MEMORY[name], _number(-1 if value == "max" else _integer(value, field))))
        elif name in _SETS and version >= 244:
            found.append((_SETS[name], _members(value, field)))
        elif name == "cpu.max":
            quota, *period = value.split()
            found += _quota(
                0 if quota == "max" else _integer(quota, field),
                _integer(period[0], field) if period else _DEFAULT_PERIOD,
                version,
            )
        elif name == "cpu.idle" and value == "1" and version >= 252:
            found.append(("CPUWeight", Variant("t", 0)))
    return found


def _integer(text: str, field: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidArgument(f"{field}: {text!r} is not a number")
    return int(text)


def at_start(unified: dict[str, str]) -> list[Property]:
    """What can only be said when the unit begins."""
    wanted = {"0": "continue", "1": "kill"}.get(unified.get("memory.oom.group", "").strip())
    return [("OOMPolicy", Variant("s", wanted))] if wanted else []


def _devices(rules: list[DeviceRule]) -> list[Property]:
    """DevicePolicy and DeviceAllow. systemd knows only what is allowed: a policy of "all but these" is left to our own rules."""
    policy = device_rules.policy(rules)
    if policy.default:
        return [("DevicePolicy", Variant("s", "auto")), ("DeviceAllow", Variant("a(ss)", []))]
    allowed = []
    for (kind, major, minor), access in policy.exceptions.items():
        word = "char" if kind == "c" else "block"
        if major < 0:
            allowed.append((f"{word}-*", access))
        elif minor >= 0:
            allowed.append((f"/dev/{word}/{major}:{minor}", access))
        elif name := _device_group(kind, major):
            allowed.append((f"{word}-{name}", access))
    return [
        ("DevicePolicy", Variant("s", "strict")),
        ("DeviceAllow", Variant("a(ss)", [])),  # empties the list
        ("DeviceAllow", Variant("a(ss)", allowed)),
    ]


def _device_group(kind: str, major: int) -> str:
    """The name that /proc/devices has for a major number; "" when it has none."""
    wanted, section = "Character devices:" if kind == "c" else "Block devices:", ""
    with open("/proc/devices", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.rstrip().endswith(":"):
                section = line.strip()
            elif section == wanted and line.split()[:1] == [str(major)]:
                return line.split()[1]
    return ""


# ------------------------------------------------------------------------------------------------- a user's own properties


def of_annotations(annotations: dict[str, str]) -> list[Property]:
    """The properties that annotations "org.systemd.property.NAME" ask for; their values in GVariant's text form.

    A name that ends in Sec is given in seconds and becomes USec. InvalidArgument naming the annotation.
    """
    found: list[Property] = []
    for key, text in annotations.items():
        if not key.startswith(_PREFIX):
            continue
        name = key[len(_PREFIX) :]
        if len(name) < 3 or not (name.isascii() and name.isalpha()):
            raise InvalidArgument(f"annotation {key}: {name!r} is not the name of a property of systemd's")
        value = _Text(text, key).whole()
        stem = name.removesuffix("Sec")
        if stem != name and stem[-1:].islower():
            if value.signature not in "ynqiuxtd":
                raise InvalidArgument(f"annotation {key}: {text!r} is not a number")
            name, value = f"{stem}USec", Variant("t", int(value.value * 1000000))
        found.append((name, value))
    return found


class _Text:
    """A reader of values such as "'text'", "true", "uint64 5", "['a', 'b']", "@as []"."""

    def __init__(self, text: str, annotation: str) -> None:
        self._text = text
        self._annotation = annotation
        self._at = 0

    def whole(self) -> Variant:
        value = self._value("")
        self._blanks()
        if self._at != len(self._text):
            raise self._wrong()
        return value

    def _wrong(self) -> InvalidArgument:
        return InvalidArgument(f"annotation {self._annotation}: {self._text!r} is not a value that wherry understands")

    def _blanks(self) -> None:
        while self._text[self._at : self._at + 1].isspace():
            self._at += 1

    def _value(self, wanted: str) -> Variant:
        self._blanks()
        start = self._text[self._at : self._at + 1]
        if start in ("'", '"'):
            return Variant("s", self._string(start))
        if start == "[":
            return self._list(wanted[1:] if wanted.startswith("a") else "")
        word = self._word()
        if word in ("true", "false"):
            return Variant("b", word == "true")
        if word in _INTEGERS:
            return Variant(_INTEGERS[word], self._number(self._next_word(), _INTEGERS[word]))
        if word.startswith("@"):
            return self._value(word[1:])
        if word in ("string", "boolean"):
            return self._value("s" if word == "string" else "b")
        kind = wanted or ("d" if "." in word else "i")
        return Variant(kind, self._number(word, kind))

    def _word(self) -> str:
        start = self._at
        while self._text[self._at : self._at + 1] not in ("", ",", "]", " ", "\t", "\n"):
            self._at += 1
        if start == self._at:
            raise self._wrong()
        return self._text[start : self._at]

    def _next_word(self) -> str:
        self._blanks()
        return self._word()

    def _number(self, word: str, kind: str) -> int | float:
        try:
            return float(word) if kind == "d" else int(word, 0)
        except ValueError:
            raise self._wrong() from None

    def _string(self, quote: str) -> str:
        self._at += 1
        found = ""
        while (letter := self._text[self._at : self._at + 1]) != quote:
            if letter == "\\":
                self._at += 1
                letter = self._text[self._at : self._at + 1]
            if not letter:
                raise self._wrong()
            found += letter
            self._at += 1
        self._at += 1
        return found

    def _list(self, wanted: str) -> Variant:
        self._at += 1
        items: list[Variant] = []
        while True:
            self._blanks()
            if self._text[self._at : self._at + 1] == "]":
                self._at += 1
                break
            items.append(self._value(wanted))
            self._blanks()
            if self._text[self._at : self._at + 1] == ",":
                self._at += 1
            elif self._text[self._at : self._at + 1] != "]":
                raise self._wrong()
        kinds = {item.signature for item in items} or {wanted}
        if len(kinds) != 1 or kinds == {""}:
            raise self._wrong()
        kind = kinds.pop()
        values = [item.value for item in items]
        return Variant(f"a{kind}", bytes(values) if kind == "y" else values)
