"""Device rules in their smallest form: what the ordered list of OCI `linux.resources.devices` comes to.

The kernel's v1 device controller keeps a default (allow or deny) and a set of exceptions; this computes the same from
the rules, so that v1 writes no more than needed and v2's program (`linux.devices_bpf`) decides exactly alike. Pure.
Source: the kernel's cgroup-v1/devices.rst, OCI config-linux.md "Allowed Device list".
"""

from __future__ import annotations

from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.spec.oci import DeviceRule

    Key = tuple[str, int, int]  # type "b" or "c", major, minor; -1 is any

ACCESS = "rwm"
_MAX = 0xFFFFFFFF


class Policy:
    """`default` is what happens to a device that no exception matches; an exception gives the accesses for which the
    opposite holds.
    """

    __slots__ = ("default", "exceptions")

    def __init__(self, default: bool) -> None:
        self.default = default
        self.exceptions: dict[Key, str] = {}

    def allows(self, kind: str, major: int, minor: int, access: str) -> bool:
        """Whether the kernel lets a task do `access` ("rw") to the device."""
        for (a_kind, a_major, a_minor), a_access in self.exceptions.items():
            if a_kind != kind or a_major not in (-1, major) or a_minor not in (-1, minor):
                continue
            if self.default:
                if any(letter in a_access for letter in access):
                    return False
            elif all(letter in a_access for letter in access):
                return True
        return self.default


def policy(rules: list[DeviceRule], *, default: bool = True) -> Policy:
    """The policy that `rules`, applied in order to a group that begins with `default`, lead to. InvalidArgument for a
    rule that cannot take effect.
    """
    result = Policy(default)
    for index, rule in enumerate(rules):
        field = f"linux.resources.devices[{index}]"
        allow = bool(rule.get("allow", False))
        kind = rule.get("type") or "a"
        access = "".join(letter for letter in ACCESS if letter in (rule.get("access") or ACCESS))
        if set(rule.get("access") or "") - set(ACCESS):
            raise InvalidArgument(f"{field}.access: {rule.get('access')!r} has letters other than r, w, m")
        major, minor = _number(rule.get("major"), f"{field}.major"), _number(rule.get("minor"), f"{field}.minor")
        if kind == "a":
            if major != -1 or minor != -1 or access != ACCESS:
                raise InvalidArgument(
                    f'{field}: a rule of type "a" speaks of all devices: no major, minor or part of the accesses'
                )
            result = Policy(allow)
            continue
        if kind not in ("b", "c", "u"):
            raise InvalidArgument(f"{field}.type: {kind!r} is not one of a, b, c, u")
        key = ("c" if kind == "u" else kind, major, minor)
        if allow == result.default:
            _remove(result, key, access, field)
        else:
            have = result.exceptions.get(key, "")
            result.exceptions[key] = "".join(letter for letter in ACCESS if letter in have or letter in access)
    return result


def _remove(result: Policy, key: Key, access: str, field: str) -> None:
    """Takes `access` out of the exception `key`. One exception that holds it by a wildcard cannot be cut: the rule
    would silently do nothing.
    """
    for other, other_access in result.exceptions.items():
        covers = other[0] == key[0] and other[1] in (-1, key[1]) and other[2] in (-1, key[2])
        if other != key and covers and any(letter in other_access for letter in access):
            raise InvalidArgument(
                f"{field}: cannot take a device out of an earlier rule with a wildcard (the kernel would ignore it)"
            )
    left = "".join(letter for letter in result.exceptions.get(key, "") if letter not in access)
    if left:
        result.exceptions[key] = left
    else:
        result.exceptions.pop(key, None)


def _number(value: int | None, field: str) -> int:
    if value is None or value == -1:
        return -1
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MAX:
        raise InvalidArgument(f"{field}: {value!r} is not a device number")
    return value


def spell(key: Key, access: str) -> str:
    """An exception as devices.allow and devices.deny take it: "c 1:3 rwm"."""
    kind, major, minor = key
    return f"{kind} {'*' if major < 0 else major}:{'*' if minor < 0 else minor} {access}"
