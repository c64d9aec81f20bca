"""Metrics in Prometheus' text form: what was asked, how long it took, what is held."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily

from qp2train.serve.encodings import Encodings
from qp2train.serve.workers import Workers

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One server's numbers. Of a request only the route is kept, never what was sent."""

    def __init__(self, encodings: Encodings, workers: Workers) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "qp2train_requests", "Requests answered", ["route", "method", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "qp2train_request_seconds",
            "From the first byte of a request to the last of its answer",
            ["route"],
            registry=self._registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
        )
        for name, said, value in (
            ("qp2train_queue", "Requests waiting or worked on", lambda: workers.held),
            ("qp2train_views", "Encoded views kept", lambda: len(encodings)),
            ("qp2train_views_bytes", "What encoded views take", lambda: encodings.nbytes),
        ):
            Gauge(name, said, registry=self._registry).set_function(value)
        self._registry.register(_Views(encodings))

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Views:
    """Counters that somebody else counts."""

    def __init__(self, encodings: Encodings) -> None:
        self._encodings = encodings

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(
            "qp2train_views_hits", "Prompts on a view that was encoded already", value=self._encodings.hits
        )
        yield CounterMetricFamily("qp2train_views_misses", "Views that were encoded", value=self._encodings.misses)
