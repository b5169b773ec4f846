"""The registry's own token server: /token gives bearer tokens to who shows a password, or a refresh token that was given for one.

Source: the distribution project's token specification and its OAuth2 variant (GET with Basic credentials and `offline_token`, POST of a form with the
grants `password` and `refresh_token`).

**Invariants**: a refresh token is no bearer token (its audience is this server, not the registry). It opens what the user's password opens, until
that changes in the file. A bearer token lasts `LIFETIME_SECONDS`. Deliberately absent: rights for each user.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from wherry.errors import DeadlineExceeded
from wherry.registry.call import API_VERSION, IDLE_SECONDS
from wherry.registry.errors import Code, Refused
from wherry.registry.gate import Access, Visitor
from wherry.registry.passwords import Passwords, Reader, User, parse_basic
from wherry.registry.tokens import TokenSettings

LIFETIME_SECONDS = 300
MAX_SCOPES = 50
MAX_FORM = 64 << 10
MAX_REFRESH_TOKEN = 4096
_SCOPE = re.compile(r"(repository|registry)(?:\([a-z0-9]+\))?:([^:\s]+(?::\d+/[^:\s]+)?):([a-z*,]*)\Z")


Query = Any
"""A mapping of names to several values: `get`, `getall`."""


class Issuer:
    """`answer` is the handler of /token. Who has a password may do everything, others what `anonymous_pull` says."""

    def __init__(
        self, settings: TokenSettings, key: ec.EllipticCurvePrivateKey, passwords: Passwords, *, anonymous_pull: bool
    ) -> None:
        self._settings = settings
        self._key = key
        self._passwords = passwords
        self._anonymous_pull = anonymous_pull

    async def answer(self, http: web.BaseRequest) -> web.StreamResponse:
        match http.method:
            case "GET":
                query: Query = http.rel_url.query
                self._check_service(query)
                offered = "Authorization" in http.headers
                visitor = await self._visitor(parse_basic(http.headers), offered=offered)
                offline = query.get("offline_token") == "true"
            case "POST":
                query = await self._form(http)
                self._check_service(query)
                visitor = await self._granted(query)
                offline = query.get("access_type") == "offline"
            case _:
                raise Refused(Code.UNSUPPORTED, "the operation is unsupported", headers={"Allow": "GET, POST"})
        scopes = [scope for entry in query.getall("scope", []) for scope in entry.split()]
        if len(scopes) > MAX_SCOPES:
            raise Refused(Code.DENIED, f"more than {MAX_SCOPES} scopes", status=400)
        token = self.token(visitor, scopes)
        issued = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        document = {"token": token, "access_token": token, "expires_in": LIFETIME_SECONDS, "issued_at": issued}
        if offline and isinstance(visitor, User):
            document["refresh_token"] = self.refresh_token(visitor)
        return web.json_response(document, headers={**API_VERSION, "Cache-Control": "no-store"})

    def _check_service(self, query: Query) -> None:
        if query.get("service", self._settings.service) != self._settings.service:
            raise Refused(Code.DENIED, "tokens for another service are not made here", status=400)

    @staticmethod
    async def _form(http: web.BaseRequest) -> Query:
        if http.content_length is None or http.content_length > MAX_FORM:
            raise Refused(Code.SIZE_INVALID, "the form is too large", status=413)
        if http.content_type != "application/x-www-form-urlencoded":
            raise Refused(Code.UNSUPPORTED, "the form is not application/x-www-form-urlencoded", status=415)
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                data = await http.content.read()
            pairs = parse_qsl(data.decode("ascii"), keep_blank_values=True, errors="strict")
        except TimeoutError:
            raise DeadlineExceeded("the client has stopped sending") from None
        except ValueError:
            raise Refused(Code.UNSUPPORTED, "the form is malformed", status=400) from None
        return http.rel_url.with_query(pairs).query

    async def _granted(self, form: Query) -> Visitor:
        """Who a form is from."""
        match form.get("grant_type"):
            case "password":
                shown = form.get("username", ""), form.get("password", "")
                return await self._visitor(shown, offered=True)
            case "refresh_token":
                user = self._holder(form.get("refresh_token", ""))
                return user if user is not None else await self._visitor(None, offered=True)
        raise Refused(Code.UNSUPPORTED, "only the grant types password and refresh_token are supported", status=400)

    async def _visitor(self, shown: tuple[str, str] | None, *, offered: bool) -> Visitor:
        if shown is not None and await self._passwords.check(*shown):
            return User(shown[0])
        if offered or not self._anonymous_pull:
            challenge = {"WWW-Authenticate": f'Basic realm="{self._settings.service}"'}
            raise Refused(Code.UNAUTHORIZED, "authentication required", headers=challenge)
        return Reader()

    # --- tokens

    @property
    def _own_audience(self) -> str:
        return f"{self._settings.service}/token"

    def refresh_token(self, user: User) -> str:
        claims = {
            "iss": self._settings.issuer,
            "aud": self._own_audience,
            "sub": user.name,
            "iat": int(time.time()),
            "jti": secrets.token_hex(8),
            "mark": self._passwords.mark(user.name),
        }
        return jwt.encode(claims, self._key, algorithm="ES256")

    def _holder(self, token: str) -> User | None:
        """Whose refresh token it is; None when it is none, or the password has changed since."""
        try:
            claims = jwt.decode(
                token[:MAX_REFRESH_TOKEN],
                self._key.public_key(),
                algorithms=["ES256"],
                audience=self._own_audience,
                issuer=self._settings.issuer,
                options={"require": ["iss", "aud", "sub"]},
            )
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            return None
        name, mark = claims.get("sub"), claims.get("mark")
        if not isinstance(name, str) or not isinstance(mark, str) or not mark.isascii():
            return None
        return User(name) if mark and hmac.compare_digest(mark, self._passwords.mark(name)) else None

    def token(self, visitor: Visitor, scopes: Sequence[str]) -> str:
        """What was asked for, less what the visitor may not do."""
        access: list[dict[str, Any]] = []
        for scope in scopes:
            matched = _SCOPE.match(scope)
            if matched is None:
                continue
            kind, name, actions = matched.groups()
            allowed = [action for action in actions.split(",") if action and visitor.may(Access(kind, name, action))]
            access.append({"type": kind, "name": name, "actions": allowed})
        now = int(time.time())
        claims = {
            "iss": self._settings.issuer,
            "aud": self._settings.service,
            "sub": visitor.name,
            "iat": now,
            "nbf": now,
            "exp": now + LIFETIME_SECONDS,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        return jwt.encode(claims, self._key, algorithm="ES256")
