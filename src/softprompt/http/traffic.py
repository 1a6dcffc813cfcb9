"""Counters of requests, and what `/metrics` shows to whom."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

PRIVATE = {"task", "tenant"}
"""Labels that tell tasks, which belong to tenants."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Traffic:
    """Requests by route and status. Routes are templates of paths, so that there are few."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "softprompt_http_requests", "Requests answered.", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "softprompt_http_seconds", "Seconds from a request to the end of its answer.", ("route",), buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.running = Gauge("softprompt_http_running", "Requests that are being answered.", registry=registry)

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that is over."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


class _WithoutTasks:
    """A registry as those see it who may not know the tasks of others."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            kept = [sample for sample in metric.samples if PRIVATE.isdisjoint(sample.labels)]
            if kept or not metric.samples:
                shown = Metric(metric.name, metric.documentation, metric.type, metric.unit)
                shown.samples = kept
                yield shown


def exposition(registry: CollectorRegistry, *, tasks: bool) -> bytes:
    """All metrics in Prometheus' text format; without `tasks`, those that are counted by task are left out."""
    shown = registry if tasks else _WithoutTasks(registry)
    return generate_latest(shown)
