"""The user's logins for registries, in Docker's client configuration (`~/.docker/config.json`, DOCKER_CONFIG, `--config`) or in credential helpers.

A credential helper is a program `docker-credential-NAME` that keeps logins elsewhere (a key ring, a cloud's tokens); it is asked as Docker's
protocol for them says: a verb as its argument, JSON on its standard streams. `credHelpers` names one for a registry, `credsStore` one for all.
**Invariants**: the configuration is replaced as a whole, readable by its owner alone, and keeps what wherry does not know; a password is never
an argument of a program, nor in a message.
"""

from __future__ import annotations

import os

from wherry.cli.command import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .app import App

HUB = "https://index.docker.io/v1/"
_TOKEN_USER = "<token>"
"""What a helper's Username is when its Secret is an identity token."""


def auth_for(app: App, reference: str) -> dict[str, str] | None:
    """The X-Registry-Auth content for the registry that `reference` names; None without a login."""
    from wherry.client.reference import domain

    registry = domain(reference)
    return Logins(app).get(HUB if registry == "docker.io" else registry)


def _host_of(key: str) -> str:
    return key.removeprefix("http://").removeprefix("https://").partition("/")[0]


class Logins:
    """`key`: a registry's host with its port, or HUB."""

    def __init__(self, app: App) -> None:
        folder = app.config_folder or os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
        self.path = f"{folder}/config.json"
        self._app = app
        self._config = self._read()

    def _read(self) -> dict[str, Any]:
        """{} when there is none, or (said on stderr) when it is not one."""
        from wherry.wire.fastjson import loads

        try:
            with open(self.path, "rb") as file:
                config = loads(file.read())
        except OSError:
            return {}
        except ValueError as error:
            self._app.err(f"WARNING: Error loading config file: {self.path}: {error}\n")
            return {}
        return config if isinstance(config, dict) else {}

    def helper(self, key: str) -> str:
        """The credential helper of a registry, "" for none."""
        helpers = self._config.get("credHelpers")
        name = helpers.get(key) if isinstance(helpers, dict) else None
        name = name or self._config.get("credsStore")
        return name if isinstance(name, str) else ""

    def get(self, key: str) -> dict[str, str] | None:
        name = self.helper(key)
        if name:
            answer = _ask(name, "get", key)
            if answer is None:
                return None
            user, secret = str(answer.get("Username") or ""), str(answer.get("Secret") or "")
            if user == _TOKEN_USER:
                return {"serveraddress": key, "identitytoken": secret}
            return {"serveraddress": key, "username": user, "password": secret}
        logins = self._config.get("auths")
        if not isinstance(logins, dict):
            return None
        # old clients have written whole URLs
        entry = logins.get(key) or next((entry for name, entry in logins.items() if _host_of(name) == key), None)
        return _decode(entry, key) if isinstance(entry, dict) else None

    def put(self, key: str, username: str, password: str, identity_token: str) -> None:
        name = self.helper(key)
        if name:
            user, secret = (_TOKEN_USER, identity_token) if identity_token else (username, password)
            _ask(name, "store", {"ServerURL": key, "Username": user, "Secret": secret})
            entry: dict[str, str] = {}
        else:
            entry = {"auth": _encode(username, "" if identity_token else password)}
            if identity_token:
                entry["identitytoken"] = identity_token
        logins = self._config.get("auths")
        self._config["auths"] = {**(logins if isinstance(logins, dict) else {}), key: entry}
        self._write()

    def remove(self, key: str) -> bool:
        """→ whether there was a login."""
        logins = self._config.get("auths")
        known = isinstance(logins, dict) and key in logins
        name = self.helper(key)
        if name:
            known = _ask(name, "get", key) is not None or known
            if known:
                _ask(name, "erase", key)
        if isinstance(logins, dict) and key in logins:
            del logins[key]
            self._write()
        return known

    def _write(self) -> None:
        """Under a temporary name first. A configuration that is a link stays one."""
        from tempfile import mkstemp

        from wherry.wire.fastjson import dumps

        path = os.path.realpath(self.path)
        folder = os.path.dirname(path)
        try:
            os.makedirs(folder, 0o700, exist_ok=True)
            fd, temporary = mkstemp(dir=folder, prefix="config.json")  # 0600
            try:
                with open(fd, "wb") as file:
                    file.write(dumps(self._config) + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise CliError(f"Error saving credentials: {self.path}: {(error.strerror or str(error)).lower()}") from None


def registry_key(server: str) -> str:
    """The key of the server that a user names: HUB for "", docker.io and its kin; the host of a URL."""
    host = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return HUB if host in ("", "docker.io", "index.docker.io", "registry-1.docker.io") else host


def _ask(name: str, verb: str, request: str | dict[str, str]) -> dict[str, Any] | None:
    """One question to a helper. → its answer ({} for verbs without one); None when it knows no such login. CliError when it fails."""
    from subprocess import run

    from wherry.wire.fastjson import dumps, loads

    program = f"docker-credential-{name}"
    if "/" in name:
        raise CliError(f"error getting credentials - {name!r} is not the name of a credential helper")
    data = request.encode() if isinstance(request, str) else dumps(request)
    try:
        done = run([program, verb], input=data, capture_output=True, check=False)
    except OSError as error:
        reason = "executable file not found in $PATH" if isinstance(error, FileNotFoundError) else str(error)
        raise CliError(f'error getting credentials - err: exec: "{program}": {reason}') from None
    said = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode != 0:
        if "credentials not found" in said:
            return None
        problem = said or done.stderr.decode("utf-8", "replace").strip()
        raise CliError(f"error getting credentials - err: exit status {done.returncode}, out: `{problem}`")
    if verb != "get":
        return {}
    try:
        answer = loads(done.stdout)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise CliError(f"error getting credentials - {program} did not answer with JSON")
    return answer


def _encode(username: str, password: str) -> str:
    from binascii import b2a_base64

    return b2a_base64(f"{username}:{password}".encode(), newline=False).decode("ascii")


def _decode(entry: dict[str, object], registry: str) -> dict[str, str] | None:
    from binascii import Error, a2b_base64

    found = {"serveraddress": registry}
    for name in ("identitytoken", "registrytoken", "username", "password"):
        value = entry.get(name)
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
