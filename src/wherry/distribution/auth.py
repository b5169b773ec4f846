"""How a client shows a registry who it is: Basic, or a bearer token fetched from the server that the registry names.

Sources: RFC 9110 §11 (challenges), the distribution project's token specification and OAuth2 variant, RFC 6749.

**Invariants**: credentials go to the registry's own origin and to the token server that it names over TLS (or in the clear only if the
registry itself is spoken to in the clear), and nowhere else (CVE-2020-15157); a token is kept for its scope and no longer than it lasts.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp

from wherry.distribution.errors import RegistryError, beginning, registry_error
from wherry.distribution.proxies import proxy_for
from wherry.errors import InvalidArgument, PermissionDenied, Unavailable
from wherry.spec.calls import RegistryAuth

CLIENT_ID = "wherry"
MAX_TOKEN_ANSWER = 1 << 20
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_CHALLENGE = re.compile(rf"\s*({_TOKEN})(?:\s+|\Z|(?=,))")
_PARAMETER = re.compile(rf'\s*,?\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_DEFAULT_LIFETIME = 60.0


@dataclass(frozen=True, slots=True)
class Challenge:
    scheme: str  # lower case
    parameters: dict[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of a WWW-Authenticate header. What is malformed ends the list."""
    found: list[Challenge] = []
    position = 0
    header = header[:8192]
    while position < len(header):
        started = _CHALLENGE.match(header, position)
        if started is None:
            break
        position = started.end()
        parameters: dict[str, str] = {}
        while (matched := _PARAMETER.match(header, position)) is not None:
            value = matched[2] if matched[2] is not None else matched[3]
            parameters[matched[1].lower()] = re.sub(r"\\(.)", r"\1", value)
            position = matched.end()
        found.append(Challenge(started[1].lower(), parameters))
        comma = re.compile(r"\s*,").match(header, position)
        if comma is not None:
            position = comma.end()
    return found


def origin(url: str) -> tuple[str, str, int]:
    """(scheme, host, port) of a URL: what two URLs must share for credentials to be sent to both. InvalidArgument when it is none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError as error:
        raise InvalidArgument(f'"{url[:200]}" is not a URL: {error}') from None
    return parts.scheme, (parts.hostname or "").lower(), port


class Authorizer:
    """Makes the Authorization header for one registry, one user. `clock` in seconds, monotonic."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base: str,
        auth: RegistryAuth,
        *,
        tls: bool | ssl.SSLContext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._base = base
        self._auth = auth
        self._tls = tls
        self._clock = clock
        self._challenge: Challenge | None = None
        self._tokens: dict[str, tuple[str, float]] = {}
        self.lacks_password = False
        """Whether the registry wants a user and password, and there is none."""
        self.identity_token: str | None = None
        """What the token server gives in place of the password, for who asked for it by setting "" here."""

    async def header(self, scope: str) -> str | None:
        """For a request to the registry's origin; None as long as it has not asked for anything. `scope`: one or more, a space between."""
        challenge = self._challenge
        if self._auth.registry_token:
            return f"Bearer {self._auth.registry_token}"
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return self._basic()
        token, expires = self._tokens.get(scope, ("", 0.0))
        if not token or self._clock() >= expires:
            token, lifetime = await self._fetch(challenge, scope)
            self._tokens[scope] = (token, self._clock() + lifetime)
        return f"Bearer {token}"

    def challenged(self, header: str, scope: str) -> bool:
        """Takes a 401's challenge. → whether trying again may help: it does not when what it asks for was just shown and refused."""
        first_time = self._challenge is None
        had_token = self._tokens.pop(scope, None) is not None
        challenges = {challenge.scheme: challenge for challenge in parse_challenges(header)}
        if self._auth.registry_token:
            return False
        if "bearer" in challenges and challenges["bearer"].parameters.get("realm"):
            self._challenge = challenges["bearer"]
            return first_time or had_token
        if "basic" in challenges:
            self.lacks_password = not self._auth.username
            if self._auth.username:
                self._challenge = challenges["basic"]
                return first_time
        return False

    def _basic(self) -> str:
        pair = f"{self._auth.username}:{self._auth.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()

    async def _fetch(self, challenge: Challenge, scope: str) -> tuple[str, float]:
        """A new token and how long it lasts."""
        realm, service = challenge.parameters["realm"], challenge.parameters.get("service", "")
        scheme = origin(realm)[0]
        if scheme != "https" and not (scheme == "http" and origin(self._base)[0] == "http"):
            raise PermissionDenied(
                f"the registry {self._base} sends its users to an insecure token server: {realm[:200]}"
            )
        request: dict[str, Any] = {"ssl": self._tls, "allow_redirects": False, "proxy": proxy_for(realm)}
        wants_identity = self.identity_token is not None
        if self._auth.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": self._auth.identity_token,
                "service": service,
                "scope": scope,
                "client_id": CLIENT_ID,
            }
            call = self._session.post(realm, data=form, **request)
        else:
            query = [("service", service), *(("scope", one) for one in scope.split(" ")), ("client_id", CLIENT_ID)]
            if self._auth.username:
                query.append(("account", self._auth.username))
                query.append(("offline_token", "true" if wants_identity else ""))
                request["headers"] = {"Authorization": self._basic()}
            separator = "&" if urlsplit(realm).query else "?"
            encoded = urlencode([(key, value) for key, value in query if value])
            call = self._session.get(f"{realm}{separator}{encoded}", **request)
        try:
            async with call as answer:
                data = await beginning(answer, MAX_TOKEN_ANSWER)
                if answer.status != 200:
                    raise registry_error(answer.status, data, answer.headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"token server {realm[:200]}: {error or type(error).__name__}") from None
        token, lifetime, refresh = _parse_token(data)
        if wants_identity:
            self.identity_token = refresh or self._auth.identity_token
        return token, lifetime


def _parse_token(data: bytes) -> tuple[str, float, str]:
    """→ token, seconds that it lasts, and the token that gets new ones ("" if there is none)."""
    try:
        answer = json.loads(data)
        token = answer.get("token") or answer.get("access_token")
        lifetime = answer.get("expires_in") or _DEFAULT_LIFETIME
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise ValueError
        refresh = answer.get("refresh_token")
        return token, max(float(lifetime), _DEFAULT_LIFETIME) * 0.9, refresh if isinstance(refresh, str) else ""
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise RegistryError(
            200, "UNAUTHORIZED", "authorization server did not include a token in the response"
        ) from None
