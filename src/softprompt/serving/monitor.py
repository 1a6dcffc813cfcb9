"""Counters of the service, in Prometheus' shape; spans for a tracer, and rows for an observer, where there are such."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from softprompt.engines.protocol import EngineStatus
from softprompt.evaluation.reference import Seen, answers_of, confidence_of
from softprompt.serving.residents.residents import ResidentsStatus

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase
    from softprompt.serving.residents.resident import Resident
    from softprompt.tasks.answers.kinds import Said
    from softprompt.tasks.form import Form

Kind = Literal["completion", "chat", "classify", "decide", "embeddings"]

UNKNOWN, OTHER, BASE = "(unknown)", "(other)", "(base)"
"""In place of a task's name, which never has brackets: no such task; tasks beyond the bound; the base alone."""

_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TOTAL = (*_FIRST, 60, 120, 300)
_SWAP = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.1, 1)

_OPERATIONS: dict[Kind, str] = {
    "completion": "text_completion",
    "chat": "chat",
    "classify": "classify",
    "decide": "decide",
    "embeddings": "embeddings",
}
"""OpenTelemetry's names for what requests ask."""

TELL_S = 60.0
"""Seconds between two warnings of one kind."""

_LOG = logging.getLogger(__name__)


class Observer(Protocol):
    """Is told of every row that a version answers; users' own prompts apart. Quick, and it never raises."""

    def begin(self, base: FrozenBase, monitor: Monitor) -> None:
        """Rows come from now on, as this base reads them."""

    def saw(self, tenant: str, task: str, version: int, seen: Seen, text: str | None, output: str) -> None:
        """A row was answered; `text` is what the client sent, where that is known, and is kept by nobody but on demand."""

    def close(self) -> None:
        """No more rows come."""


class Monitor:
    """Counts what tasks do. Only tasks that exist are told apart, and only so many, so that names cannot fill the memory."""

    def __init__(
        self,
        *,
        max_tasks: int = 200,
        clock: Callable[[], float] = time.monotonic,
        observer: Observer | None = None,
        tracer: Any = None,
    ) -> None:
        """Count at most `max_tasks` tasks apart; warnings come now and then, by `clock`. An OpenTelemetry `tracer` gets a
        span for each request."""
        self._clock = clock
        self.observer, self.tracer = observer, tracer
        self.registry = CollectorRegistry()
        self.max_tasks = max_tasks
        self._known: set[tuple[str, str]] = set()
        labels = ("tenant", "task")

        def counter(name: str, what: str, *more: str) -> Counter:
            return Counter(f"softprompt_{name}", what, (*labels, *more), registry=self.registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"softprompt_{name}", what, labels, buckets=buckets, registry=self.registry)

        self.requests = counter("requests", "Requests begun.", "kind")
        self.errors = counter("errors", "Requests that ended with an error, or were given up (`cancelled`).", "error")
        self.input_tokens = counter("input_tokens", "Tokens of inputs; those of soft prompts are not counted.")
        self.output_tokens = counter("output_tokens", "Tokens generated.")
        self.first_token = histogram("first_token_seconds", "Seconds until the first token, or the labels' scores.", _FIRST)
        self.total = histogram("request_seconds", "Seconds until the whole answer.", _TOTAL)

        self.swap = Histogram(
            "softprompt_swap_seconds", "Seconds from the name of a prompt in memory to its vectors.", buckets=_SWAP,
            registry=self.registry,
        )  # fmt: skip
        self.slow_swaps = counter("swaps_over_budget", "Swaps slower than their task file's swap_latency_budget_ms.")
        self._untold = 0
        self._tell_after = -math.inf

    def swapped(self, tenant: str, resident: Resident, seconds: float) -> None:
        """A prompt in memory was found; too slowly, where its task file has a bound: then it is counted, and told now and
        then."""
        self.swap.observe(seconds)
        budget_ms = resident.wishes.swap_latency_budget_ms
        if budget_ms is None or 1000 * seconds <= budget_ms:
            return
        self.slow_swaps.labels(*self.labels(tenant, resident.task)).inc()
        self._untold += 1
        if (now := self._clock()) >= self._tell_after:
            _LOG.warning(
                "swaps slower than their task files' swap_latency_budget_ms: %d, the last of them %.3f ms, to %s, which has "
                "%g ms; softprompt_swap_seconds of /metrics counts all",
                self._untold, 1000 * seconds, resident.ref, budget_ms,
            )  # fmt: skip
            self._untold, self._tell_after = 0, now + TELL_S

    def begin(self, tenant: str, kind: Kind, whole: Whole | None = None, *, repeat: bool = False) -> Watch:
        """Begin to watch a request, or one answer of a `whole` one; a `repeat` is one more answer to an input that is
        counted beside it."""
        return Watch(self, tenant, kind, whole or Whole(), repeat=repeat)

    def watch(
        self, engine: Callable[[], EngineStatus], residents: Callable[[], ResidentsStatus], base: FrozenBase | None = None
    ) -> None:
        """Show how an engine and the prompts in memory stand, whenever the counters are read; rows come from now on."""
        self.registry.register(_Gauges(engine, residents))
        if self.observer is not None and base is not None:
            self.observer.begin(base, self)

    def close(self) -> None:
        """No more rows come."""
        if self.observer is not None:
            self.observer.close()

    def labels(self, tenant: str, task: str | None) -> tuple[str, str]:
        """The labels of a task that exists (None: the base alone)."""
        if task is None:
            return tenant, BASE
        if (tenant, task) not in self._known:
            if len(self._known) >= self.max_tasks:
                return OTHER, OTHER
            self._known.add((tenant, task))
        return tenant, task


class Whole:
    """A request that may ask for several answers, each with a watch of its own: it is counted once, and so is its error."""

    def __init__(self, answers: int = 1) -> None:
        self._left = answers
        self._counted: set[str] = set()

    def first(self, what: str) -> bool:
        """Whether this is the first time that it happens to the request."""
        new = what not in self._counted
        self._counted.add(what)
        return new

    def last(self) -> bool:
        """One more answer is whole; whether it was the last."""
        self._left -= 1
        return self._left == 0


class Watch:
    """One request, or one answer of it, from its beginning to its end."""

    def __init__(self, monitor: Monitor, tenant: str, kind: Kind, whole: Whole, *, repeat: bool = False) -> None:
        self._monitor, self._tenant, self._kind = monitor, tenant, kind
        self._whole, self._repeat = whole, repeat
        self._labels = ("", UNKNOWN)
        self._began = time.perf_counter()
        self._started = self._over = False
        self.text: str | None = None
        """What was asked, where an answer is a label."""
        self._resident: Resident | None = None
        self._rows: list[tuple[Seen, str | None, str]] = []
        self._written: tuple[Sequence[int], list[str]] | None = None
        self._span = None
        if monitor.tracer is not None:
            self._span = monitor.tracer.start_span(
                f"softprompt {kind}", attributes={"gen_ai.operation.name": _OPERATIONS[kind]}
            )

    def found(self, task: str | None, resident: Resident | None = None) -> None:
        """Its task is known and exists (None: the base alone), and the prompt that answers."""
        self._labels = self._monitor.labels(self._tenant, task)
        if resident is not None and resident.user is None and self._monitor.observer is not None:
            # What stands before a placed prompt is not told of in a chat.
            self._resident = None if self._kind == "chat" and resident.form.is_placed else resident
        if self._span is not None:
            self._span.set_attribute("softprompt.tenant", self._tenant)
            if resident is not None:
                self._span.set_attribute("gen_ai.request.model", resident.ref)
                self._span.set_attribute("softprompt.task", resident.task)
                self._span.set_attribute("softprompt.version", resident.version)

    def accepted(self, input_tokens: int, ids: Sequence[int] | None = None) -> None:
        """It is accepted, with so many tokens of input; these, where an answer will be written."""
        if not self._repeat:
            self._monitor.input_tokens.labels(*self._labels).inc(input_tokens)
        if ids is not None and self._resident is not None:
            self._written = (ids, [])
        if self._span is not None:
            self._span.set_attribute("gen_ai.usage.input_tokens", input_tokens)

    def chose(self, texts: Sequence[str | None], rows: Sequence[Sequence[int]], said: Sequence[Said]) -> None:
        """Inputs, as texts and as token ids, get these answers."""
        if self._resident is not None:
            form = self._resident.form
            for text, ids, one in zip(texts, rows, said, strict=True):
                seen = Seen(ids, answers_of(form, one.output), confidence_of(form, one.scores))
                self._rows.append((seen, text, one.output))

    def repeats(self) -> None:
        """It says once more what is said beside it: no observer is told of it."""
        self._resident = None

    def wrote(self, text: str) -> None:
        """A piece of an answer."""
        if self._written is not None:
            self._written[1].append(text)

    def first_token(self) -> None:
        """The first token, or the labels' scores, are there; harmless after that."""
        if not self._started:
            self._started = True
            if self._whole.first("token"):
                self._monitor.first_token.labels(*self._labels).observe(time.perf_counter() - self._began)

    def done(self, output_tokens: int = 0) -> None:
        """The answer is whole."""
        self.first_token()
        if self._end():
            self._monitor.output_tokens.labels(*self._labels).inc(output_tokens)
            if self._whole.last():
                self._monitor.total.labels(*self._labels).observe(time.perf_counter() - self._began)
            self._observe()
            if self._span is not None:
                self._span.set_attribute("gen_ai.usage.output_tokens", output_tokens)
                self._span.end()

    def failed(self, error: BaseException | None = None) -> None:
        """It ended with an error; without one, it was given up. Harmless after its end."""
        name = type(error).__name__ if isinstance(error, Exception) else "cancelled"
        if self._end():
            if self._whole.first("error"):
                self._monitor.errors.labels(*self._labels, name).inc()
            if self._span is not None:
                self._span.set_attribute("error.type", name)
                self._span.end()

    def _observe(self) -> None:
        resident, observer = self._resident, self._monitor.observer
        if resident is None or observer is None:
            return
        if self._written is not None and not self._rows:
            ids, text = self._written[0], "".join(self._written[1])
            self._rows.append((Seen(ids, _answers(resident.form, text)), None, text))
        for seen, asked, output in self._rows:
            observer.saw(self._tenant, resident.task, resident.version, seen, asked, output)

    def _end(self) -> bool:
        first, self._over = not self._over, True
        if first and self._whole.first("request"):
            self._monitor.requests.labels(*self._labels, self._kind).inc()
        return first


def _answers(form: Form, text: str) -> tuple[str, ...] | None:
    """What a text that was written counts as; of a task with labels, one of them or nothing."""
    if form.labels is None:
        return answers_of(form, text)
    return (text.strip(),) if text.strip() in form.labels and not form.is_set else None


class _Gauges(Collector):
    """Figures that are read, not counted here."""

    def __init__(self, engine: Callable[[], EngineStatus], residents: Callable[[], ResidentsStatus]) -> None:
        self._engine, self._residents = engine, residents

    def describe(self) -> Iterator[Metric]:
        return iter(())  # or a registry would collect once to learn the names

    def collect(self) -> Iterator[Metric]:
        engine, residents = self._engine(), self._residents()
        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        for kind, name, what, value in (
            (gauge, "engine_running", "Jobs that the engine has begun and not done with.", engine.running),
            (gauge, "engine_waiting", "Jobs in the engine's queue.", engine.waiting),
            (counter, "engine_steps", "Forward passes of the base.", engine.steps),
            (
                counter,
                "near_ties",
                "Choices that rounding could have turned, and so the rest of the batch.",
                engine.near_ties,
            ),
            (gauge, "prefix_bytes", "Bytes of keys and values held of prompts.", engine.prefix_bytes),
            (counter, "prefix_hits", "Jobs whose prompt's keys and values were there.", engine.prefix_hits),
            (counter, "prefix_misses", "Jobs whose prompt's keys and values had to be computed.", engine.prefix_misses),
            (gauge, "prompts", "Prompts in memory.", residents.prompts),
            (gauge, "prompt_bytes", "Bytes of the vectors of prompts in memory.", residents.bytes),
            (counter, "prompt_hits", "Requests whose prompt was in memory.", residents.hits),
            (counter, "prompt_misses", "Requests whose prompt had to be fetched.", residents.misses),
            (counter, "prompt_evictions", "References to prompts dropped to make room.", residents.evictions),
            (counter, "prompt_failures", "Checks of prompts in memory that failed.", residents.failures),
        ):
            yield kind(f"softprompt_{name}", what, value)
