"""Requests to one engine: paths and queries, JSON in and out, errors as exceptions, idle connections kept for the next call.

Paths are sent without an API version (the engine answers with its newest), until an engine says that it is newer than `API_VERSION`: then that
version is asked for. DOCKER_API_VERSION or `api_version` pins one. So no `ping` precedes the first request.
"""

from __future__ import annotations

import os

from wherry.errors import DataLoss, InvalidArgument, WherryError
from wherry.wire.fastjson import dumps, loads

from .errors import ConnectionFailed, api_error
from .http import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from .address import Address
    from .http import Response, Stream

API_VERSION = "1.56"
_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~/")


def quote(text: str, safe: frozenset[str] = _SAFE) -> str:
    """Percent-encoding for paths and queries."""
    if all(character in safe for character in text):
        return text
    encoded = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if chr(byte) in safe else f"%{byte:02X}" for byte in encoded)


def segment(text: str) -> str:
    """One path segment, or an image reference with its slashes; `?` and `#` cannot leave it, nor can `..`."""
    if not text:
        raise InvalidArgument("invalid name or ID: value is empty")
    return "/".join(part if part not in (".", "..") else part.replace(".", "%2E") for part in quote(text).split("/"))


def encode_query(values: Mapping[str, object]) -> str:
    """`?a=1&b=x`; None is left out, True is 1, False is 0, a list repeats its key, a dictionary is JSON (Docker's `filters`)."""
    parts: list[str] = []
    for key, value in values.items():
        if value is None:
            continue
        items = value if isinstance(value, list | tuple) else [value]
        for item in items:
            if isinstance(item, bool):
                text = "1" if item else "0"
            elif isinstance(item, dict):
                if not item:
                    continue
                text = dumps(item).decode("ascii")
            else:
                text = str(item)
            parts.append(f"{key}={quote(text)}")
    return "?" + "&".join(parts) if parts else ""


def version_tuple(text: str) -> tuple[int, int]:
    """ "1.41" → (1, 41); (0, 0) for what is none."""
    major, _, minor = text.partition(".")
    try:
        return int(major), int(minor)
    except ValueError:
        return 0, 0


class Session:
    """One engine, as seen by one thread. Close it, or use it as a context manager."""

    def __init__(self, address: Address, *, api_version: str | None = None) -> None:
        self.address = address
        pinned = api_version or os.environ.get("DOCKER_API_VERSION")
        self._prefix = f"/v{pinned}" if pinned else ""
        self._pinned = bool(pinned)
        self.engine_api_version = ""
        """The engine's newest API version, once it has answered."""
        self._idle: list[Connection] = []

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    @property
    def api_version(self) -> str:
        """The version that is spoken with the engine; "" before the first answer of an unpinned session."""
        if self._prefix:
            return self._prefix[2:]
        return self.engine_api_version

    def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The response with its body unread, whatever its status below 400; ApiError otherwise."""
        target = f"{self._prefix}{path}{encode_query(query) if query else ''}"
        extra = dict(headers) if headers else {}
        connection = self._connection()
        retry = connection.used and method in ("GET", "HEAD")
        try:
            connection.send(method, target, extra, body)
            response = connection.receive(method)
        except ConnectionFailed:
            if not retry:
                raise
            connection = Connection(self.address)
            connection.send(method, target, extra, body)
            response = connection.receive(method)
        response.release = self._idle.append
        self._note_version(response)
        if response.status >= 400:
            raise self._error(response)
        response.finish_if_empty()
        return response

    def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_alive():
                return connection
            connection.close()
        return Connection(self.address)

    def _note_version(self, response: Response) -> None:
        version = response.headers.get("api-version", "")
        if version and not self.engine_api_version:
            self.engine_api_version = version
            if not self._pinned and version_tuple(version) > version_tuple(API_VERSION):
                self._prefix = f"/v{API_VERSION}"

    @staticmethod
    def _error(response: Response) -> Exception:
        body = response.read()
        message = body.decode("utf-8", "replace").strip()
        if response.headers.get("content-type", "").startswith("application/json"):
            try:
                value = loads(body)
            except ValueError:
                value = None
            if isinstance(value, dict) and isinstance(value.get("message"), str):
                message = value["message"]
        return api_error(response.status, message.strip() or f"request returned HTTP status {response.status}")

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        json: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """One exchange: a JSON body if `json` is given, the decoded JSON of the answer (None when it has none)."""
        response = self.send_json(method, path, query=query, json=json, headers=headers)
        return decode(response.read())

    def send_json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        json: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """As `call`, with the answer's body unread."""
        body = None
        extra = dict(headers) if headers else {}
        if json is not None:
            body = dumps(json)
            extra["Content-Type"] = "application/json"
        return self.open(method, path, query=query, body=body, headers=extra)

    def stream(self, response: Response) -> Iterator[Any]:
        """The JSON values of a response that sends one a line."""
        for line in response.lines():
            yield decode(line)

    def progress(self, response: Response) -> Iterator[Any]:
        """As `stream`, of work that reports how far it is; the error that ends it is raised."""
        for value in self.stream(response):
            problem = value.get("errorDetail") or value.get("error") if isinstance(value, dict) else None
            if problem:
                response.close()
                raise WherryError(problem if isinstance(problem, str) else str(problem.get("message", problem)))
            yield value

    def upgrade(
        self, method: str, path: str, *, query: Mapping[str, object] | None = None, json: object = None
    ) -> Stream:
        """A hijacked connection: the exchange upgraded to a raw stream."""
        target = f"{self._prefix}{path}{encode_query(query) if query else ''}"
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        body = None
        if json is not None:
            body = dumps(json)
            headers["Content-Type"] = "application/json"
        connection = self._connection()
        connection.send(method, target, headers, body)
        response = connection.receive(method)
        self._note_version(response)
        if response.status >= 400:
            raise self._error(response)
        return response.upgrade()


def decode(data: bytes) -> Any:
    """The JSON value of `data`, None for nothing. DataLoss when it is no JSON."""
    if not data.strip():
        return None
    try:
        return loads(data)
    except (ValueError, UnicodeDecodeError):
        try:
            return loads(data.decode("utf-8", "replace"))
        except ValueError as error:
            raise DataLoss(f"the engine's answer is not JSON: {error}") from error
