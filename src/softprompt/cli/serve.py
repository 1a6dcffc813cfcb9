"""`softprompt serve`: the library over HTTP."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.bases.options import BaseOptions
from softprompt.cli.options import Json, Location, PassagesFrom, base_options, library_options
from softprompt.cli.output import emit, warn
from softprompt.cli.serving import (
    MOST_PROMPTS,
    EngineQueue,
    EngineRows,
    Grace,
    Host,
    LogLevel,
    MaxBodyKb,
    MaxRows,
    MaxTokens,
    Port,
    RequireKeys,
    Source,
    choose,
    limit,
    wished_device,
)
from softprompt.errors import ConfigError

if TYPE_CHECKING:
    from softprompt.http.opening import Settings
    from softprompt.library.library import Library
    from softprompt.serving.monitor import Monitor
    from softprompt.serving.service import AsyncService


class EngineName(StrEnum):
    """What runs the base."""

    process = "process"
    vllm = "vllm"


def _watch(text: str, *, flag: str | None = None, **bounds: Any) -> Any:
    """An option of what is made of requests beside their answers."""
    named = [flag] if flag is not None else []
    return typer.Option(*named, help=text, rich_help_panel="What is seen of requests", **bounds)


@library_options
@base_options
def serve(
    *,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    source: Source = None,
    base: BaseOptions,
    engine: Annotated[
        EngineName, typer.Option(help="What runs the base: the engine in this process, or vLLM, where it is installed.")
    ] = EngineName.process,
    engine_args: Annotated[
        str | None,
        typer.Option(help="vLLM's own arguments, as a JSON object by the names of its AsyncEngineArgs.", show_default=False),
    ] = None,
    passages: PassagesFrom = None,
    require_keys: RequireKeys = False,
    prompt_cache_size: Annotated[
        int | None, limit("Prompts held in memory; by default the most that a task file asks for, else 10000.", said=True)
    ] = None,
    prompt_cache_mb: Annotated[int, limit("Megabytes of their vectors.")] = 256,
    prefix_cache_mb: Annotated[int, limit("Megabytes of their keys and values.")] = 1024,
    engine_rows: EngineRows = 64,
    engine_queue: EngineQueue = 1024,
    max_tokens: MaxTokens = 4096,
    max_rows: MaxRows = 256,
    max_body_kb: MaxBodyKb = 4096,
    max_upload_mb: Annotated[int, limit("Longest upload to /v1/files.")] = 100,
    max_job_rows: Annotated[int, limit("Most rows that a job trains on, repetitions counted.")] = 2_000_000,
    max_streams: Annotated[int, limit("Most streams open at once.")] = 1024,
    requests_per_minute: Annotated[int | None, limit("Requests of a key in a minute.", endless=True)] = None,
    tokens_per_minute: Annotated[int | None, limit("Tokens of a key in a minute.", endless=True)] = None,
    grace: Grace = 30,
    drift: Annotated[bool, _watch("Watch rows for `softprompt drift`, as sums alone.", flag="--drift/--no-drift")] = True,
    drift_level: Annotated[
        float | None,
        _watch("Rate of false alarms of a look, one every 64 rows of a version; by default 0.001.", min=1e-9, max=0.5),
    ] = None,
    review_below: Annotated[
        float | None, _watch("Keep texts answered with less confidence for `softprompt review`.", min=0, max=1)
    ] = None,
    webhook: Annotated[str | None, _watch("URL that is told, signed, when a task begins to drift.")] = None,
    traces: Annotated[
        str | None, _watch("Send a span of each request to this OpenTelemetry collector (OTLP over HTTP).")
    ] = None,
    log_level: LogLevel = "warning",
    where: Location,
    as_json: Json = False,
) -> None:
    """Serve the library over HTTP, in OpenAI's API. SIGTERM or Ctrl-C lets what runs finish; Ctrl-C again does not."""
    from softprompt.bases.folder import check_options

    check_options(replace(base, source=source))  # what is wrong is told before torch is loaded
    from softprompt.http.auth import is_loopback
    from softprompt.http.limits import Limits
    from softprompt.http.opening import Settings, bind, log_to_stderr, refuse_open_doors, url_of
    from softprompt.library.passages import read_sources
    from softprompt.progress import Bars
    from softprompt.serving.which_base import read_wishes

    if engine_args is not None and engine is not EngineName.vllm:
        raise ConfigError("--engine-args are vLLM's; add --engine vllm, or leave them out")
    if engine is EngineName.vllm:
        from softprompt.vllm.arguments import check_vllm, read_arguments

        read_arguments(engine_args)
        check_vllm(base)
    log_to_stderr(log_level)
    sources = read_sources(passages or [])
    watching = _Watching(drift, drift_level, review_below, webhook, traces)
    watching.check()
    where.check_home()
    with where.open(make=True) as library, bind(host, port) as bound:
        refuse_open_doors(library, bound.getsockname()[0])
        chosen = source or choose(library)
        named = set(sources) if isinstance(sources, dict) else set()
        for task in sorted(named - {name for _, name in library.registry.tasks_named(named)}):
            warn(f"--passages names {task!r}, and there is no such task yet")
        if not library.registry.bases():
            at = where.registry and library.registry.database.shown
            warn(
                f"the library in {at or library.home} has no prompts: {chosen} is served as it is, and tasks as soon as "
                "they are published there"
            )
        wishes = read_wishes(library, chosen)
        for warning in wishes.warnings:
            warn(warning)
        settings = Settings(
            base=replace(base, source=chosen, device=base.device or wished_device(wishes)),
            always_keys=require_keys or not is_loopback(bound.getsockname()[0]),
            registry=where.registry,
            store=where.store,
            max_prompts=prompt_cache_size or wishes.prompts or MOST_PROMPTS,
            max_prompt_bytes=prompt_cache_mb << 20,
            prefix_bytes=prefix_cache_mb << 20,
            passages=sources,
            engine_rows=engine_rows,
            engine_queue=engine_queue,
            grace_s=grace,
            limits=Limits(
                body_bytes=max_body_kb << 10,
                upload_bytes=max_upload_mb << 20,
                trained_rows=max_job_rows,
                max_tokens=max_tokens,
                max_rows=max_rows,
                max_streams=max_streams,
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
            ),
        )
        progress = Bars()
        with progress.loading(settings.base.shown):
            from softprompt.http.server import load, run

            live = (
                load(library, settings, watching.monitor(library))
                if engine is EngineName.process
                else _load_vllm(library, settings, engine_args, watching.monitor(library))
            )

        for tenant, name in sorted(live.targets.hidden.find()):
            other = "the base's name" if name == live.base_name else "the name by which requests let their input choose"
            warn(
                f"task {name!r} of tenant {tenant!r} has {other}: requests that say {name!r} are refused, and {name}@N "
                f"still answers; give it another name "
                f"(`softprompt export {name}@N DIR --format softprompt`, `softprompt import FILE --task NAME`)"
            )

        def ready() -> None:
            dtype = str(live.base.dtype).removeprefix("torch.")
            if as_json:
                row = {"url": url_of(bound), "base": live.base_name, "fingerprint": live.fingerprint, "dtype": dtype}
                emit([row], True, "Serving")
            progress.note(f"serving {live.base_name} in {dtype} on {url_of(bound)}")

        run(live, library, settings, bound, on_ready=ready)


def _load_vllm(library: Library, settings: Settings, arguments: str | None, monitor: Monitor) -> AsyncService:
    from softprompt.http.server import service_on
    from softprompt.vllm.arguments import read_arguments
    from softprompt.vllm.start import start_vllm

    told = {"max_num_seqs": settings.engine_rows, **read_arguments(arguments)}
    engine = start_vllm(settings.base, told, max_waiting=settings.engine_queue)
    return service_on(library, engine.base, engine, settings, monitor)


@dataclass(frozen=True)
class _Watching:
    """What is made of requests beside their answers."""

    drift: bool
    level: float | None
    review_below: float | None
    webhook: str | None
    traces: str | None

    def check(self) -> None:
        """Raises `ConfigError` where options contradict each other, or what they need is not there."""
        needing = {"--drift-level": self.level, "--review-below": self.review_below, "--webhook": self.webhook}
        for name, value in needing.items():
            if value is not None and not self.drift:
                raise ConfigError(f"{name} needs the watch over drift; leave --no-drift out")
        if self.traces is not None:
            from softprompt.serving.tracing import check_tracing

            check_tracing(self.traces)
        if self.webhook is not None:
            from softprompt.lifecycle.drift.webhook import check_webhook

            check_webhook(self.webhook, self._secret)

    def monitor(self, library: Library) -> Monitor:
        """What counts requests."""
        from softprompt.evaluation.statistics.drift_tests import LEVEL
        from softprompt.lifecycle.drift.watch import Watcher
        from softprompt.lifecycle.drift.webhook import Webhook
        from softprompt.serving.monitor import Monitor
        from softprompt.serving.tracing import tracer_to

        hook = Webhook(self.webhook, self._secret) if self.webhook is not None else None
        below = self.review_below
        level = LEVEL if self.level is None else self.level
        watcher = Watcher(library, level=level, review_below=below, webhook=hook) if self.drift else None
        return Monitor(observer=watcher, tracer=tracer_to(self.traces) if self.traces is not None else None)

    @property
    def _secret(self) -> str:
        from softprompt.lifecycle.drift.webhook import SECRET

        return os.environ.get(SECRET, "")
