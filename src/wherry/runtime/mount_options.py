"""The options of an OCI mount, sorted into what the kernel takes them as: mount attributes, propagation, flags and data
of the file system.

Pure; runs wherever a configuration is checked or applied. Source: OCI config.md "Linux mount options", mount(8).
**Invariant:** every word of the options ends in exactly one place; what no one knows goes to the file system, which
refuses it by name.
"""

from __future__ import annotations

from wherry.errors import InvalidArgument
from wherry.linux import mounts

_ATTRIBUTES = {
    "ro": mounts.RDONLY, "nosuid": mounts.NOSUID, "nodev": mounts.NODEV, "noexec": mounts.NOEXEC, "nodiratime": mounts.NODIRATIME,
    "nosymfollow": mounts.NOSYMFOLLOW, "noatime": mounts.NOATIME, "strictatime": mounts.STRICTATIME, "relatime": 0,
}  # fmt: skip
_INVERSE = {
    "rw": mounts.RDONLY, "suid": mounts.NOSUID, "dev": mounts.NODEV, "exec": mounts.NOEXEC, "diratime": mounts.NODIRATIME,
    "symfollow": mounts.NOSYMFOLLOW, "atime": 0, "norelatime": 0, "nostrictatime": 0,
}  # fmt: skip
_ATIMES = frozenset(("noatime", "strictatime", "relatime"))
_LOCKED = mounts.RDONLY | mounts.NOSUID | mounts.NODEV | mounts.NOEXEC
_FLAGS = _LOCKED | mounts.NOSYMFOLLOW
_ST_NOATIME, _ST_NODIRATIME, _ST_RELATIME = 1024, 2048, 4096
_TIMES = mounts.ATIME_MASK | mounts.NODIRATIME
_PROPAGATION = {
    "private": mounts.PRIVATE,
    "shared": mounts.SHARED,
    "slave": mounts.SLAVE,
    "unbindable": mounts.UNBINDABLE,
}
_SUPERBLOCK = frozenset(("sync", "dirsync", "lazytime", "mand", "iversion"))
_IGNORED = frozenset(("defaults", "async", "nolazytime", "nomand", "noiversion", "loud", "silent"))


class Options:
    """An OCI mount's options, understood.

    `attributes`/`recursive_attributes`: for the mount, for it and all below it; `propagation` with `propagate_recursively`; `data`: (key, value|None)
    for the file system; `bind`, `recursive` (rbind), `remount`, `copy_up` (tmpcopyup); `idmap` names the option that asked for an id-mapped mount.
    `names_attributes`: a word is one of an attribute, be it one that clears nothing.
    """

    __slots__ = (
        "attributes", "bind", "copy_up", "data", "idmap", "names_attributes", "propagate_recursively", "propagation", "recursive",
        "recursive_attributes", "remount",
    )  # fmt: skip

    def __init__(self) -> None:
        self.attributes = mounts.Attributes()
        self.names_attributes = False
        self.recursive_attributes = mounts.Attributes()
        self.propagation = 0
        self.propagate_recursively = False
        self.data: list[tuple[str, str | None]] = []
        self.bind = False
        self.recursive = False
        self.remount = False
        self.copy_up = False
        self.idmap = ""

    @property
    def readonly(self) -> bool:
        return bool(self.of_new_mount() & mounts.RDONLY)

    def of_bind_mount(self) -> mounts.Attributes:
        """As runc, by mount(2) with MS_BIND and MS_REMOUNT: one attribute that is named sets all. Those of access times are a
        group of their own.
        """
        if not self.names_attributes:
            return mounts.Attributes()
        wanted = self.attributes.set
        clear = _FLAGS & ~wanted | self.attributes.clear & mounts.NODIRATIME
        if self._names_access_times():
            clear |= mounts.ATIME_MASK | mounts.NODIRATIME & ~wanted
        return mounts.Attributes(wanted, clear)

    def of_locked_mount(self, has: int) -> mounts.Attributes:
        """The same in a user namespace, where what the source's mount `has` (statvfs(3)'s flags) is locked (mount_namespaces(7)): it is
        kept. InvalidArgument where a word asks to clear it.
        """
        if not self.names_attributes:
            return mounts.Attributes()
        locked = has & _LOCKED
        times = self.attributes.set & _TIMES
        if locked & self.attributes.clear or (self._names_access_times() and times != _access_times(has)):
            raise InvalidArgument("cannot clear flags of the source that are locked in a user namespace: operation not permitted")  # fmt: skip
        wanted = self.attributes.set & _FLAGS | locked
        return mounts.Attributes(wanted, _FLAGS & ~wanted)

    def _names_access_times(self) -> bool:
        return bool(self.attributes.set & _TIMES or self.attributes.clear & mounts.ATIME_MASK)

    def of_new_mount(self) -> int:
        """The attributes of a mount that has nothing below it."""
        return self.attributes.set & ~self.recursive_attributes.clear | self.recursive_attributes.set


def parse(words: list[str]) -> Options:
    """Sorts `words`. A later word overrides an earlier one that says the opposite. InvalidArgument for a word with a NUL byte."""
    result = Options()
    for word in words:
        if "\0" in word:
            raise InvalidArgument(f"mount option {word!r} holds a NUL byte")
        result.names_attributes |= word in _ATTRIBUTES or word in _INVERSE
        if word in _ATTRIBUTES:
            _set(result.attributes, word, _ATTRIBUTES[word])
        elif word in _INVERSE:
            _clear(result.attributes, _INVERSE[word])
        elif word[:1] == "r" and word[1:] in _ATTRIBUTES:
            _set(result.recursive_attributes, word[1:], _ATTRIBUTES[word[1:]])
        elif word[:1] == "r" and word[1:] in _INVERSE:
            _clear(result.recursive_attributes, _INVERSE[word[1:]])
        elif word in _PROPAGATION:
            result.propagation, result.propagate_recursively = _PROPAGATION[word], False
        elif word[:1] == "r" and word[1:] in _PROPAGATION:
            result.propagation, result.propagate_recursively = _PROPAGATION[word[1:]], True
        elif word in ("bind", "rbind"):
            result.bind, result.recursive = True, result.recursive or word == "rbind"
        elif word == "remount":
            result.remount = True
        elif word == "tmpcopyup":
            result.copy_up = True
        elif word in ("idmap", "ridmap"):
            result.idmap = word
        elif word in _SUPERBLOCK:
            result.data.append((word, None))
        elif word not in _IGNORED and word:
            key, separator, value = word.partition("=")
            result.data.append((key, value if separator else None))
    return result


def known() -> list[str]:
    """Every word that `parse` gives a meaning, for `wherry-runc features`; all others go to the file system."""
    plain = [*_ATTRIBUTES, *_INVERSE, *_PROPAGATION]
    words = {
        *plain,
        *(f"r{word}" for word in plain),
        *_SUPERBLOCK,
        *_IGNORED,
        "bind",
        "rbind",
        "remount",
        "tmpcopyup",
        "idmap",
        "ridmap",
    }
    return sorted(words)


def _set(attributes: mounts.Attributes, word: str, bit: int) -> None:
    if word in _ATIMES:  # one field of three values: relatime is 0
        attributes.set = attributes.set & ~mounts.ATIME_MASK | bit
        attributes.clear |= mounts.ATIME_MASK
        return
    attributes.set |= bit
    attributes.clear &= ~bit


def _access_times(flags: int) -> int:
    """The attributes of access times that statvfs(3)'s flags speak of."""
    times = mounts.NODIRATIME if flags & _ST_NODIRATIME else 0
    if flags & _ST_NOATIME:
        return times | mounts.NOATIME
    return times if flags & _ST_RELATIME else times | mounts.STRICTATIME


def _clear(attributes: mounts.Attributes, bit: int) -> None:
    attributes.set &= ~bit
    attributes.clear |= bit


def propagation(word: str) -> tuple[int, bool]:
    """(type, recursive) of `linux.rootfsPropagation`; (0, False) for "". InvalidArgument for an unknown word."""
    if not word:
        return 0, False
    bare = word[1:] if word[1:] in _PROPAGATION and word[:1] == "r" else word
    if bare not in _PROPAGATION:
        raise InvalidArgument(
            f"linux.rootfsPropagation: {word!r} is not private, slave, shared or unbindable, nor one of them with an r"
        )
    return _PROPAGATION[bare], bare != word
