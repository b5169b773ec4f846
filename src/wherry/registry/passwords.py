"""A gate that asks for a name and a password (RFC 7617), kept as bcrypt hashes in a file that `htpasswd -B` writes.

**Invariants**: hashing happens in threads, a few at a time, and what was right is remembered for a while, so that a pull of a hundred layers hashes
once. A name that does not exist takes as long as a wrong password. The file is read again when it changes. Deliberately absent: MD5, SHA-1, crypt.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import bcrypt

from wherry.errors import FailedPrecondition
from wherry.registry.errors import Code, Refused
from wherry.registry.gate import Access, Visitor

REMEMBER_SECONDS = 300.0
MAX_REMEMBERED = 10_000
AT_ONCE = 4
MAX_PASSWORD = 4096


@dataclass(frozen=True, slots=True)
class User:
    """Somebody whose password was right: may do everything."""

    name: str

    def may(self, access: Access) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody without a password, where pulling needs none."""

    name: str = ""

    def may(self, access: Access) -> bool:
        return access.kind == "repository" and access.action == "pull"


class Passwords:
    """`Passwords(path)` reads the file. FailedPrecondition when it cannot be read or has another kind of hash."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._hashes: dict[str, bytes] = {}
        self._stamp: tuple[int, int, int] = (0, 0, 0)
        self._secret = os.urandom(32)
        self._right: dict[bytes, float] = {}
        self._hashing = asyncio.Semaphore(AT_ONCE)
        self._nobody = b"$2b$10$" + b"." * 53
        self._load()

    def _load(self) -> None:
        try:
            with open(self._path, encoding="utf-8") as file:
                status = os.fstat(file.fileno())
                lines = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise FailedPrecondition(f"--htpasswd {self._path}: {getattr(error, 'strerror', None) or error}") from None
        hashes: dict[str, bytes] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, colon, hashed = line.strip().partition(":")
            if not colon or not name or not hashed.startswith(("$2a$", "$2b$", "$2y$")) or len(hashed) != 60:
                raise FailedPrecondition(
                    f"--htpasswd {self._path}, line {number}: not NAME:BCRYPT-HASH (make them with htpasswd -B)"
                )
            hashes[name] = hashed.encode()
        self._hashes = hashes
        self._stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        self._right.clear()
        self._nobody = next(iter(hashes.values()), self._nobody)

    def _refresh(self) -> None:
        """Takes the file's new content; while it cannot be read, the old one holds."""
        try:
            status = os.stat(self._path)
            if (status.st_mtime_ns, status.st_size, status.st_ino) != self._stamp:
                self._load()
        except (OSError, FailedPrecondition):
            pass

    def mark(self, name: str) -> str:
        """What changes with a user's password; "" when there is no such user."""
        self._refresh()
        hashed = self._hashes.get(name)
        return blake2b(hashed, digest_size=16).hexdigest() if hashed is not None else ""

    async def check(self, name: str, password: str) -> bool:
        self._refresh()
        hashed = self._hashes.get(name)
        key = blake2b(f"{name}\0{password}".encode(), key=self._secret + (hashed or b"")[:32], digest_size=32).digest()
        now = time.monotonic()
        if hashed is not None and self._right.get(key, 0.0) > now:
            return True
        if len(password.encode()) > MAX_PASSWORD:
            return False
        async with self._hashing:
            right = await asyncio.to_thread(_matches, password, hashed or self._nobody)
        if not right or hashed is None:
            return False
        if len(self._right) >= MAX_REMEMBERED:
            self._right.clear()
        self._right[key] = now + REMEMBER_SECONDS
        return True


def _matches(password: str, hashed: bytes) -> bool:
    """bcrypt counts 72 bytes; htpasswd cuts there, so that it is cut here."""
    try:
        return hmac.compare_digest(bcrypt.hashpw(password.encode()[:72], hashed), hashed)
    except ValueError:
        return False


def parse_basic(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """(name, password) that a request shows; None when it shows none."""
    scheme, _, encoded = headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (name, password) if colon and "\0" not in name + password else None


class PasswordGate:
    """`anonymous_pull`: who shows nothing may pull."""

    def __init__(self, passwords: Passwords, *, anonymous_pull: bool = False, realm: str = "wherry registry") -> None:
        self._passwords = passwords
        self._anonymous_pull = anonymous_pull
        self._realm = realm

    async def admit(self, headers: Mapping[str, str], wanted: Sequence[Access], here: str) -> Visitor:
        shown = parse_basic(headers)
        if shown is not None:
            if await self._passwords.check(*shown):
                return User(shown[0])
        elif self._anonymous_pull and wanted and all(Reader().may(access) for access in wanted):
            return Reader()
        challenge = {"WWW-Authenticate": f'Basic realm="{self._realm}"'}
        raise Refused(Code.UNAUTHORIZED, "authentication required", headers=challenge)
