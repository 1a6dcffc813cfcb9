"""OpenTelemetry: where the spans of requests go. Its packages are looked for only where somebody asks."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from softprompt.errors import ConfigError

_SDK, _EXPORTER = "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http.trace_exporter"


def check_tracing(url: str) -> None:
    """Raises `ConfigError` where a URL is none, or OpenTelemetry is not installed."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--traces {url!r} is no address; write http://host:4318/v1/traces")
    for name in (_SDK, _EXPORTER):
        try:
            import_module(name)
        except ImportError as error:
            raise ConfigError(f"--traces needs OpenTelemetry ({error}); pip install 'softprompt[otel]'") from None


def tracer_to(url: str) -> Any:
    """A tracer whose spans go to a collector, some at a time, from a thread of its own.

    Raises:
        ConfigError: as :func:`check_tracing`.
    """
    check_tracing(url)
    return tracer_of(import_module(_EXPORTER).OTLPSpanExporter(endpoint=url))


def tracer_of(exporter: Any, *, at_once: bool = False) -> Any:
    """A tracer whose spans go to an exporter: `at_once` each as it ends, else some at a time."""
    trace, export = import_module(f"{_SDK}.trace"), import_module(f"{_SDK}.trace.export")
    resource = import_module(f"{_SDK}.resources").Resource.create({"service.name": "softprompt"})
    provider = trace.TracerProvider(resource=resource)
    processor = export.SimpleSpanProcessor if at_once else export.BatchSpanProcessor
    provider.add_span_processor(processor(exporter))
    return provider.get_tracer("softprompt", version("softprompt"))
