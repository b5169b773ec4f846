"""What the registry counts, as Prometheus reads it: an own set of collectors, so that nothing else of the process is in it."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from wherry.registry.collector import Collected

_KNOWN_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"))
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Metrics:
    def __init__(self, uploads: Callable[[], int]) -> None:
        """`uploads`: how many sessions are open."""
        self._all = CollectorRegistry()
        names = ("method", "resource")
        self._requests = Counter(
            "wherry_registry_requests_total", "Requests answered", (*names, "status"), registry=self._all
        )
        self._seconds = Histogram(
            "wherry_registry_request_seconds",
            "From the request's head to the answer's end",
            names,
            buckets=_SECONDS,
            registry=self._all,
        )
        self._sent = Counter("wherry_registry_sent_bytes_total", "Bytes of answers' bodies", registry=self._all)
        self._collected = Counter(
            "wherry_registry_collected_total", "Removed by garbage collection", ("what",), registry=self._all
        )
        self._cache = Counter(
            "wherry_registry_cache_total",
            "What a cache found when it was asked",
            ("what", "result"),
            registry=self._all,
        )
        open_uploads = Gauge("wherry_registry_uploads", "Upload sessions that are open", registry=self._all)
        open_uploads.set_function(uploads)

    def observe(self, method: str, resource: str, status: int, sent: int, seconds: float) -> None:
        method = method if method in _KNOWN_METHODS else "other"
        self._requests.labels(method, resource, str(status)).inc()
        self._seconds.labels(method, resource).observe(seconds)
        self._sent.inc(sent)

    def collected(self, collected: Collected) -> None:
        for what in ("uploads", "manifests", "links", "contents", "bytes"):
            self._collected.labels(what).inc(getattr(collected, what))

    def cached(self, what: str, result: str) -> None:
        """`what`: manifest or blob; `result`: hit, miss, stale."""
        self._cache.labels(what, result).inc()

    async def answer(self, http: web.BaseRequest) -> web.StreamResponse:
        """GET /metrics."""
        if http.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        return web.Response(body=generate_latest(self._all), headers={"Content-Type": CONTENT_TYPE_LATEST})
