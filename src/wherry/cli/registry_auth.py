"""The user's login for a registry, from Docker's client configuration (`~/.docker/config.json`, DOCKER_CONFIG, `--config`).

Credential helpers are programs of Docker's; wherry does not run them, and says so when one is configured for the registry at hand.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .app import App

_HUB = "https://index.docker.io/v1/"


def auth_for(app: App, reference: str) -> dict[str, str] | None:
    """The X-Registry-Auth content for the registry that `reference` names; None without a login."""
    from wherry.client.reference import domain

    folder = app.config_folder or os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    path = f"{folder}/config.json"
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return None
    from wherry.wire.fastjson import loads

    try:
        config = loads(data)
    except ValueError as error:
        app.err(f"WARNING: Error loading config file: {path}: {error}\n")
        return None
    if not isinstance(config, dict):
        return None
    registry = domain(reference)
    key = _HUB if registry == "docker.io" else registry
    helpers = config.get("credHelpers")
    if config.get("credsStore") or (isinstance(helpers, dict) and key in helpers):
        app.err(f"WARNING: {path} names a credential helper for {registry}; wherry does not run it\n")
    logins = config.get("auths")
    entry = logins.get(key) if isinstance(logins, dict) else None
    return _decode(entry, key) if isinstance(entry, dict) else None


def _decode(entry: dict[str, object], registry: str) -> dict[str, str] | None:
    from binascii import Error, a2b_base64

    found = {"serveraddress": registry}
    for key, name in (
        ("identitytoken", "identitytoken"),
        ("registrytoken", "registrytoken"),
        ("username", "username"),
        ("password", "password"),
    ):
        value = entry.get(key)
        if isinstance(value, str) and value:
            found[name] = value
    auth = entry.get("auth")
    if isinstance(auth, str) and auth:
        try:
            user, separator, password = a2b_base64(auth).decode().partition(":")
        except (Error, UnicodeDecodeError):
            return None
        if separator:
            found.setdefault("username", user)
            found.setdefault("password", password.rstrip("\0"))
    return found if len(found) > 1 else None
