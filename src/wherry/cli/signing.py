"""What the verbs that sign and verify share: a registry spoken to from the command line itself (no engine is needed), and keys from files."""

from __future__ import annotations

import os

from wherry.cli.command import CliError
from wherry.cli.registry_auth import auth_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    from wherry.distribution.client import Repository
    from wherry.distribution.upload import Target
    from wherry.spec.reference import Reference
    from wherry.trust.keys import PrivateKey, PublicKey

    from .app import App

    T = TypeVar("T")

PASSWORD = "WHERRY_KEY_PASSWORD"


def with_registry(
    app: App,
    reference: Reference,
    work: Callable[[Repository, Target | None], Awaitable[T]],
    *,
    insecure: bool,
    writing: bool,
) -> T:
    """What `work` answers, given the image's repository (and the same to write to, with `writing`), with the user's login for it."""
    import asyncio

    from wherry.distribution.client import Repository
    from wherry.distribution.connection import new_session
    from wherry.distribution.errors import RegistryError
    from wherry.distribution.hosts import RegistryHosts
    from wherry.distribution.upload import Target
    from wherry.spec.calls import RegistryAuth

    login = auth_for(app, str(reference)) or {}
    auth = RegistryAuth(
        login.get("username", ""),
        login.get("password", ""),
        login.get("identitytoken", ""),
        login.get("registrytoken", ""),
    )
    hosts = RegistryHosts([reference.domain] if insecure else ())

    async def run() -> T:
        async with new_session() as session:
            repository = await Repository.open(session, hosts, reference, auth)
            target = await Target.open(session, hosts, reference, auth) if writing else None
            return await work(repository, target)

    try:
        return asyncio.run(run())
    except RegistryError as error:
        raise CliError(f"{reference.familiar}: {error}") from None


def private_key(path: str) -> PrivateKey:
    """From a file; its password from the environment (WHERRY_KEY_PASSWORD), or asked for on the terminal."""
    from wherry.errors import PermissionDenied
    from wherry.trust.keys import load_private

    pem = read_file(path)
    password = os.environ.get(PASSWORD, "").encode()
    try:
        return load_private(pem, password, name=path)
    except PermissionDenied:
        if password or not os.isatty(0):
            raise
    from getpass import getpass

    return load_private(pem, getpass(f"Password of {path}: ").encode(), name=path)


def public_key(path: str) -> PublicKey:
    from wherry.trust.keys import load_public

    return load_public(read_file(path), name=path)


def read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError as error:
        raise CliError(f"{path}: {(error.strerror or str(error)).lower()}") from None
