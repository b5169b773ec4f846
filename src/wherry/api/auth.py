"""Credentials for registries as clients send them: for one the X-Registry-Auth header (base64url of a JSON object), for several X-Registry-Config
(of an object of such objects), and the body of POST /auth.

Strict and bounded (the server limits a header's size). An empty header, or an empty object, is anonymous. The values never appear in a message.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from wherry.errors import InvalidArgument
from wherry.spec.calls import RegistryAuth

HEADER = "X-Registry-Auth"
HEADER_OF_SEVERAL = "X-Registry-Config"


class _AuthConfig(msgspec.Struct, rename="lower"):
    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


def parse_auth(header: str) -> RegistryAuth:
    """InvalidArgument when it is not what Docker's clients send."""
    return _auth_of(_decoded(header, HEADER), f"{HEADER} header") if header else RegistryAuth()


def parse_auths(header: str) -> dict[str, RegistryAuth]:
    """By registry, as references name it ("docker.io"). InvalidArgument when it is not what it should be."""
    what = f"{HEADER_OF_SEVERAL} header"
    try:
        entries = msgspec.json.decode(_decoded(header, HEADER_OF_SEVERAL) or b"{}", type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        raise InvalidArgument(f"invalid {what}: invalid JSON") from None
    return {registry: _auth_of(bytes(entry), what) for registry, entry in entries.items()}


def _decoded(header: str, name: str) -> bytes:
    try:
        padded = header + "=" * (-len(header) % 4)  # some clients leave it out
        return base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument(f"invalid {name} header: must be a valid base64url-encoded string") from None


def parse_login(body: bytes) -> RegistryAuth:
    """The body of POST /auth. InvalidArgument when it is not what Docker's clients send."""
    return _auth_of(body, "body") if body.strip() else RegistryAuth()


def _auth_of(data: bytes, what: str) -> RegistryAuth:
    try:
        config = msgspec.json.decode(data, type=_AuthConfig | None)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        raise InvalidArgument(f"invalid {what}: invalid JSON") from None
    if config is None:
        return RegistryAuth()
    username, password = config.username, config.password
    if config.auth and not username:
        try:
            username, _, password = base64.b64decode(config.auth, validate=True).decode().partition(":")
        except ValueError:
            raise InvalidArgument(f"invalid {what}: auth must be base64 of user:password") from None
    return RegistryAuth(
        username=username,
        password=password,
        identity_token=config.identitytoken,
        registry_token=config.registrytoken,
        server_address=config.serveraddress,
    )
