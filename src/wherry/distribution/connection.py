"""HTTP with one registry as one user: credentials, redirects, errors in Docker's words, trying again. In wherryd, on the event loop.

**Invariants**: credentials are sent to the registry's own origin only, redirects lead elsewhere without them (CVE-2020-15157); a redirect from
HTTPS to HTTP is refused; a connection on which nothing moves for `STALL_SECONDS` is given up.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urljoin

import aiohttp

from wherry import __version__
from wherry.distribution.auth import Authorizer, origin
from wherry.distribution.endpoint import Endpoint
from wherry.distribution.errors import RegistryError, beginning, registry_error
from wherry.distribution.proxies import proxy_for
from wherry.errors import InvalidArgument, PermissionDenied, Unavailable, WherryError
from wherry.spec.calls import RegistryAuth
from wherry.spec.image import MAX_DOCUMENT

T = TypeVar("T")

STALL_SECONDS = 60.0
CONNECT_SECONDS = 30.0
ATTEMPTS = 5
FIRST_BACKOFF = 0.5
MAX_RETRY_AFTER = 60.0
MAX_REDIRECTS = 10
PIECE = 1 << 20

pause = asyncio.sleep
now = time.time
"""The clock of this module: tests have their own."""

_SAME_AGAIN = (307, 308)
"""RFC 9110, 15.4: with the same method and the same body. What the others mean for a body has changed over the years: they are errors."""
_REDIRECTS = (301, 302, 303, *_SAME_AGAIN)

Body = Callable[[], bytes | AsyncIterator[bytes]]
"""What a request sends, made anew each time that it has to be sent."""


def new_session() -> aiohttp.ClientSession:
    """For all registries. It follows neither proxies (`proxies.proxy_for`, with each request) nor ~/.netrc: what is shown to a registry is said."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS)
    return aiohttp.ClientSession(
        timeout=timeout,
        headers={"User-Agent": f"wherry/{__version__}"},
        auto_decompress=False,
        read_bufsize=PIECE,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class Connection:
    """One endpoint of a registry, for one operation of one user; remembers the tokens. A `scope` is what the token server is asked for."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: Endpoint, auth: RegistryAuth) -> None:
        self._session = session
        self.endpoint = endpoint
        self._authorizer = Authorizer(session, endpoint.base, auth, tls=endpoint.tls)

    def url(self, path: str) -> str:
        return f"{self.endpoint.base}{self.endpoint.prefix}/{path}"

    async def ping(self, scope: str) -> None:
        """Finds out whether there is a registry, and how it wants its users to show who they are. Unavailable when there is none."""
        async with self.request("GET", self.url(""), {}) as answer:
            if answer.status == 401:
                self._authorizer.challenged(_challenges(answer), scope)
            elif answer.status >= 500 or answer.status == 429:
                raise registry_error(answer.status, await beginning(answer, MAX_DOCUMENT), answer.headers)

    async def log_in(self) -> str:
        """Shows the registry the user's credentials. → the identity token that stands for them from now on, "" if there is none.
        Unavailable, RegistryError, PermissionDenied."""
        await limited(lambda: self.ping(""))
        self._authorizer.identity_token = ""

        async def show() -> str:
            async with self.authorized("GET", self.url(""), "", {}):
                return self._authorizer.identity_token or ""

        return await limited(show)

    @asynccontextmanager
    async def authorized(
        self,
        method: str,
        url: str,
        scope: str,
        headers: Mapping[str, str],
        body: Body | None = None,
        accepted: tuple[int, ...] = (200, 206),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """With credentials, if `url` (the registry may have named it) is at the registry's own origin; redirects are followed, by what has
        a body those that want the same again (307, 308). RegistryError unless the answer's status is `accepted`."""
        home, place = origin(self.endpoint.base), origin(url)
        if home[0] == "https" != place[0]:
            raise InvalidArgument(f"the registry leads to an insecure place: {url[:200]}")
        for _ in range(3):
            header = await self._authorizer.header(scope) if place == home else None
            own = {**headers, "Authorization": header} if header else dict(headers)
            async with self._redirected(method, url, own, headers, body) as answer:
                if answer.status in accepted:
                    yield answer
                    return
                content = await beginning(answer, MAX_DOCUMENT)
                again = (
                    answer.status == 401
                    and origin(str(answer.url)) == home
                    and self._authorizer.challenged(_challenges(answer), scope)
                )
                if not again:
                    if answer.status == 401 and self._authorizer.lacks_password:
                        raise PermissionDenied(f'{method.capitalize()} "{url[:500]}": no basic auth credentials')
                    raise registry_error(answer.status, content, answer.headers)
        raise RegistryError(401, "UNAUTHORIZED", "authentication required")

    @asynccontextmanager
    async def _redirected(
        self, method: str, url: str, own: Mapping[str, str], foreign: Mapping[str, str], body: Body | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """`own` headers for the registry's origin, `foreign` for everywhere else."""
        home = origin(url)
        for _ in range(MAX_REDIRECTS):
            headers = own if origin(url) == home else foreign
            async with self.request(method, url, headers, body) as answer:
                location = answer.headers.get("Location")
                if answer.status not in (_SAME_AGAIN if body else _REDIRECTS) or not location:
                    yield answer
                    return
                following = resolve(url, location)
            scheme = origin(following)[0]
            if scheme not in ("http", "https") or (home[0] == "https" and scheme != "https"):
                raise InvalidArgument(f"the registry redirects to an insecure place: {following[:200]}")
            url = following
        raise InvalidArgument(f"the registry redirects more than {MAX_REDIRECTS} times")

    @asynccontextmanager
    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Unavailable when the connection cannot be made, breaks, or stalls."""
        sent = {**self.endpoint.headers, **headers} if origin(url) == origin(self.endpoint.base) else headers
        options: dict[str, Any] = {
            "headers": sent,
            "allow_redirects": False,
            "ssl": self.endpoint.tls,
            "proxy": proxy_for(url),
        }
        try:
            if body is not None:
                options["data"] = body()
            async with self._session.request(method, url, **options) as answer:
                yield answer
        except aiohttp.InvalidURL:
            raise InvalidArgument(f'"{url[:500]}" is not a URL') from None
        except (aiohttp.ClientError, ssl.SSLError, TimeoutError, ConnectionError) as error:
            raise Unavailable(f'{method.capitalize()} "{url[:500]}": {reason(error)}') from None


def resolve(base: str, location: str) -> str:
    """The URL that a Location or Link header at `base` means."""
    try:
        return urljoin(base, location)
    except ValueError as error:
        raise InvalidArgument(f'the registry leads to "{location[:200]}", which is not a URL: {error}') from None


def reason(error: BaseException) -> str:
    """In the words of Docker's transport, which people search for."""
    if isinstance(error, TimeoutError):
        return "the registry does not answer"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"tls: failed to verify certificate: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {error.host}: no such host"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        return f"dial tcp {error.host}:{error.port}: connect: {os.strerror(error.os_error.errno).lower()}"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "unexpected EOF"
    return str(error) or type(error).__name__


def _challenges(answer: aiohttp.ClientResponse) -> str:
    return ", ".join(answer.headers.getall("WWW-Authenticate", []))


async def bounded(answer: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    """All of an answer's body. InvalidArgument, naming `what`, when it is longer than `limit`."""
    data = b""
    async for piece in answer.content.iter_any():
        data += piece
        if len(data) > limit:
            raise InvalidArgument(f"{what}: larger than {limit} bytes")
    return data


# --- trying again --------------------------------------------------------------------------------------------------------------------


async def persistently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeats what failed for a passing reason, later each time."""
    return await _repeated(attempt, may_pass)


async def limited(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeats what was refused because too much was asked for (429), and nothing else: where there is another place to try, that is quicker."""
    return await _repeated(attempt, is_limit)


def is_limit(error: WherryError) -> bool:
    return isinstance(error, RegistryError) and error.status == 429


async def _repeated(attempt: Callable[[], Awaitable[T]], is_passing: Callable[[WherryError], bool]) -> T:
    failures = 0
    while True:
        try:
            return await attempt()
        except WherryError as error:
            failures += 1
            if failures >= ATTEMPTS or not is_passing(error):
                raise
            await back_off(failures, error)


def may_pass(error: WherryError) -> bool:
    """Whether the same may succeed later."""
    return error.transient if isinstance(error, RegistryError) else isinstance(error, Unavailable)


async def back_off(failures: int, error: WherryError, tell: Callable[[float], None] = lambda seconds: None) -> None:
    """Waits, longer after each failure, or as long as the registry asks; `tell` is told before how long. RegistryError (429, 503, …) at once when
    that is longer than anybody waits for: asking earlier would only be counted against the user."""
    asked = seconds_until(error.retry_after) if isinstance(error, RegistryError) else None
    if asked is not None and asked > MAX_RETRY_AFTER and isinstance(error, RegistryError):
        raise error.later(asked)
    seconds = FIRST_BACKOFF * 2 ** (failures - 1) if asked is None else asked
    tell(seconds)
    await pause(seconds)


def seconds_until(retry_after: str) -> float | None:
    """What a Retry-After header asks for: seconds, or a moment (RFC 9110, 10.2.3). None when it is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - now())
    except (ValueError, TypeError, OverflowError):
        return None
