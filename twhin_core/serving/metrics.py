"""What `/metrics` shows, in the format of Prometheus."""

from __future__ import annotations

import time

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ENDPOINTS = ("/neighbors", "/recommend", "/score", "/embed", "/healthz", "/metrics")
"""Other paths count as `other`, so that requests cannot add labels without end."""
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
QUERIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # when each label was first seen is of no use
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "twhin_requests", "Requests that were answered.", ["endpoint", "status"], registry=self.registry
        )
        self.errors = Counter(
            "twhin_errors", "Requests that failed by a fault of the server.", ["endpoint"], registry=self.registry
        )
        self.seconds = Histogram(
            "twhin_request_seconds", "Seconds from a request's headers to the end of its answer.", ["endpoint"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge("twhin_requests_in_flight", "Requests that are being answered.", registry=self.registry)
        self.queries = Histogram(
            "twhin_search_queries", "Queries that one search answers.", buckets=QUERIES, registry=self.registry
        )
        self.version = Gauge(
            "twhin_version_info", "The version that is served.", ["version", "step"], registry=self.registry
        )
        self.reloads = Counter(
            "twhin_reloads", "Versions that were loaded to replace another.", ["result"], registry=self.registry
        )
        for result in ("done", "failed"):
            self.reloads.labels(result)
        for endpoint in ENDPOINTS:
            self.errors.labels(endpoint)

    def serves(self, version: str | None, step: int) -> None:
        self.version.clear()
        self.version.labels(version or "", str(step)).set(1)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Measured:
    """Counts the requests to an app and their seconds."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        endpoint = scope["path"] if scope["path"] in ENDPOINTS else "other"
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, watched)
        finally:
            self._metrics.in_flight.dec()
            self._metrics.requests.labels(endpoint, str(status)).inc()
            self._metrics.seconds.labels(endpoint).observe(time.perf_counter() - started)
            if status >= 500:
                self._metrics.errors.labels(endpoint).inc()
