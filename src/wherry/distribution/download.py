"""A file from anywhere by HTTP, as a stream: what `docker import URL` reads. In wherryd, on the event loop.

**Invariants**: only http and https, also after redirects, of which there are few and none from https to http; a connection on which nothing moves is
given up (`connection.STALL_SECONDS`); no more than a piece is held. How large the file may be is the disk's affair, as with an upload.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from wherry.distribution.auth import origin
from wherry.distribution.connection import MAX_REDIRECTS, new_session, reason, resolve
from wherry.distribution.errors import beginning
from wherry.distribution.proxies import proxy_for
from wherry.errors import InvalidArgument, NotFound, Unavailable, WherryError

MAX_WORDS = 1024


@dataclass(frozen=True, slots=True)
class Download:
    """`size` None: the server does not say."""

    pieces: AsyncIterator[bytes]
    size: int | None


def full_url(text: str) -> str:
    """What a user's text means: without a scheme it is http, as dockerd reads it. InvalidArgument when it is another one."""
    url = text if "://" in text else f"http://{text}"
    scheme, host, _ = origin(url)
    if scheme not in ("http", "https") or not host:
        raise InvalidArgument(f"{without_password(url)[:500]}: only http:// and https:// URLs can be downloaded")
    return url


def without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@asynccontextmanager
async def download(url: str) -> AsyncIterator[Download]:
    """`url` is one of `full_url`. InvalidArgument, NotFound, Unavailable; the same from the pieces when the connection breaks."""
    async with new_session() as session, AsyncExitStack() as stack:
        for _ in range(MAX_REDIRECTS):
            try:
                request = session.get(url, allow_redirects=False, proxy=proxy_for(url))
                answer = await stack.enter_async_context(request)
                location = answer.headers.get("Location")
                if answer.status == 200:
                    break
                if answer.status not in (301, 302, 303, 307, 308) or not location:
                    raise await _refusal(url, answer)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                raise _broken(url, error) from None
            await stack.aclose()
            following = full_url(resolve(url, location))
            if origin(url)[0] == "https" and origin(following)[0] != "https":
                raise InvalidArgument(f"{without_password(url)[:500]} redirects to an insecure place")
            url = following
        else:
            raise InvalidArgument(f"{without_password(url)[:500]}: more than {MAX_REDIRECTS} redirects")
        yield Download(_pieces(url, answer), answer.content_length)


async def _pieces(url: str, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.content.iter_any():
            yield piece
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise _broken(url, error) from None


def _broken(url: str, error: BaseException) -> WherryError:
    return Unavailable(f'Get "{without_password(url)[:500]}": {reason(error)}')


async def _refusal(url: str, answer: aiohttp.ClientResponse) -> WherryError:
    words = (await beginning(answer, MAX_WORDS)).decode("utf-8", "replace")
    words = "".join(character if character.isprintable() else " " for character in words).strip()
    status = f"{answer.status} {answer.reason or ''}".strip()
    kind = NotFound if answer.status == 404 else InvalidArgument if answer.status < 500 else Unavailable
    return kind(f"failed to GET {without_password(url)[:500]} with status {status}{f': {words}' if words else ''}")
