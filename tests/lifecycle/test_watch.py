"""A server's watch: windows that slide, looks, alerts, what is stored, and what of rows is kept."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest

from softprompt.bases.base import FrozenBase
from softprompt.engines.protocol import Sampling
from softprompt.errors import ConfigError, NotFound, RegistryError
from softprompt.evaluation.reference import Reference, Seen
from softprompt.library.library import Library
from softprompt.lifecycle import experiments
from softprompt.lifecycle.drift.drift import keep_reference
from softprompt.lifecycle.drift.watch import BUCKET, BUCKETS, MOST_QUEUED, MOST_REVIEWS, QUIET_S, REREAD_S, Watcher, _Gauges
from softprompt.lifecycle.drift.webhook import Webhook, sign
from softprompt.registry.traffic.reviews import Review, Reviews
from softprompt.registry.traffic.windows import Windows, key_of
from softprompt.serving.answers import Message
from softprompt.serving.monitor import Monitor
from softprompt.serving.service import AsyncService
from softprompt.serving.tracing import check_tracing, tracer_of, tracer_to
from tests.commands import Run
from tests.fake_engine import FakeEngine
from tests.lifecycle.test_drift import ELSEWHERE, HERE, LABELS, rows_file, words
from tests.models import make_base, some_prompt

SECRET = "a secret of the operator"


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


def fill(library: Library, base: FrozenBase) -> None:
    for prompt in (
        some_prompt(base, "kind", labels=LABELS, input="{text} ="),
        some_prompt(base, "tell", metric="exact_match", max_new_tokens=4),
        some_prompt(base, "bare", labels=LABELS),
    ):
        library.publish(prompt.to_bytes(), base=base.address)


@pytest.fixture(scope="module")
def references(base: FrozenBase, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of two of the tasks, by name."""
    folder = tmp_path_factory.mktemp("references")
    with Library.open(folder / "home") as made:
        fill(made, base)
        file = rows_file(folder / "then.jsonl", words(HERE, 150, seed=1))
        return {task: keep_reference(task, file, library=made, base=base).told() for task in ("kind", "tell")}


@pytest.fixture
def library(tmp_path: Path, base: FrozenBase, references: dict[str, Any]) -> Iterator[Library]:
    with Library.open(tmp_path / "home") as made:
        fill(made, base)
        for task, told in references.items():
            made.registry.windows.set_reference(made.registry.resolve(task), told, "then.jsonl")
        yield made


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def seen_of(base: FrozenBase, texts: list[str]) -> list[Seen]:
    return [Seen(ids) for ids in base.encode([f"{text} =" for text in texts])]


def watching(library: Library, base: FrozenBase, clock: Clock, **options: Any) -> Watcher:
    """A watcher whose thread is the test's own."""
    made = Watcher(library, clock=clock, **options)
    made._base = base
    return made


def feed(watcher: Watcher, rows: list[Seen], *, store: bool = False) -> None:
    for row in rows:
        watcher.saw("default", "kind", 1, row, None, "yes")
        watcher.work(store=False)
    watcher.work(store=store)


def test_a_window_slides_and_is_stored_and_is_sums_alone(library: Library, base: FrozenBase) -> None:
    watcher = watching(library, base, Clock())
    texts = words(HERE, BUCKET * (BUCKETS + 2), seed=4)
    feed(watcher, seen_of(base, texts), store=True)
    ((key, tally, _),) = watcher.snapshot()
    assert (key, tally.rows) == (("default", "kind", 1), BUCKET * BUCKETS)
    version = library.registry.resolve("kind")
    (window,) = library.registry.windows.of(version)
    assert (window.server, window.rows) == (watcher.server, BUCKET * BUCKETS)
    assert window.tally["reference"] == key_of(library.registry.windows.reference(version))
    assert not any(word in json.dumps(window.tally) for word in ("green", "stone", "apple"))
    assert library.registry.reviews.of("kind") == []
    reference = Reference.read(library.registry.windows.reference(version))
    assert reference is not None
    last = reference.count(base, seen_of(base, texts[-BUCKET * BUCKETS :]))
    assert tally.lengths == last.lengths


def test_few_rows_are_stored_too(library: Library, base: FrozenBase) -> None:
    watcher = watching(library, base, Clock())
    feed(watcher, seen_of(base, words(HERE, 5, seed=4)), store=True)
    feed(watcher, seen_of(base, words(HERE, 4, seed=5)), store=True)
    (window,) = library.registry.windows.of(library.registry.resolve("kind"))
    assert window.rows == 9


def test_an_alert_when_drift_begins_and_none_again_soon(library: Library, base: FrozenBase) -> None:
    sent: list[Any] = []

    class Hook:
        def send(self, event: Any) -> None:
            sent.append(json.loads(json.dumps(event)))

        def close(self) -> None:
            pass

    clock = Clock()
    watcher = watching(library, base, clock, webhook=Hook())
    feed(watcher, seen_of(base, words(HERE, BUCKET, seed=4)))
    assert sent == []
    feed(watcher, seen_of(base, words(ELSEWHERE, BUCKET * 3, seed=5)))
    (event,) = sent
    assert (event["event"], event["task"], event["version"]) == ("drift", "kind", 1)
    assert "inputs" in [one["what"] for one in event["drifted"]]
    feed(watcher, seen_of(base, words(HERE, BUCKET * BUCKETS, seed=6)))
    assert not next(watcher.snapshot())[2][0].drifted
    feed(watcher, seen_of(base, words(ELSEWHERE, BUCKET * 4, seed=7)))
    assert len(sent) == 1
    feed(watcher, seen_of(base, words(HERE, BUCKET * BUCKETS, seed=8)))
    clock.now += QUIET_S
    feed(watcher, seen_of(base, words(ELSEWHERE, BUCKET * 4, seed=9)))
    assert len(sent) == 2
    feed(watcher, seen_of(base, words(HERE, BUCKET * BUCKETS, seed=10)))
    feed(watcher, seen_of(base, words(ELSEWHERE, BUCKET * 4, seed=11)))
    assert len(sent) == 2
    clock.now += QUIET_S  # and it drifts still
    feed(watcher, seen_of(base, words(ELSEWHERE, BUCKET * 2, seed=12)))
    assert len(sent) == 3


def test_a_version_that_cannot_be_watched_takes_no_other_along(
    library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Windows.find

    def find(self: Windows, task: str, number: int) -> Any:
        if task == "tell":
            raise RegistryError("its row cannot be read")
        return honest(self, task, number)

    monkeypatch.setattr(Windows, "find", find)
    watcher = watching(library, base, Clock())
    for row in seen_of(base, words(HERE, 20, seed=4)):
        watcher.saw("default", "tell", 1, row, None, "yes")
        watcher.saw("default", "kind", 1, row, None, "yes")
    watcher.work(store=True)
    assert [(key[1], tally.rows) for key, tally, _ in watcher.snapshot()] == [("kind", 20)]


def test_the_versions_that_are_watched_are_those_asked_last(
    library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softprompt.lifecycle.drift.watch.MOST_VERSIONS", 3)
    watcher = watching(library, base, Clock())
    (row,) = seen_of(base, ["red"])
    for number in range(9):  # a version that is asked all the time, among many that are asked once
        watcher.saw("default", "kind", 1, row, None, "yes")
        watcher.saw("default", f"other-{number}", 1, row, None, "yes")
    assert len(watcher._watched) == 3
    watcher.work(store=True)
    assert [window.rows for window in library.registry.windows.of(library.registry.resolve("kind"))] == [9]


def test_what_cannot_be_judged_is_not_kept(library: Library, base: FrozenBase) -> None:
    clock = Clock()
    watcher = watching(library, base, clock)
    for row in seen_of(base, words(HERE, 20, seed=4)):
        watcher.saw("default", "bare", 1, row, None, "yes")
        watcher.saw("default", "gone", 3, row, None, "yes")
    watcher.work(store=True)
    assert list(watcher.snapshot()) == []
    assert library.registry.windows.of(library.registry.resolve("bare")) == []
    folder = library.home.parent
    keep_reference("bare", rows_file(folder / "b.jsonl", words(HERE, 30, seed=1)), library=library, base=base)
    clock.now += REREAD_S  # it is found without a new start
    for row in seen_of(base, words(HERE, 20, seed=4)):
        watcher.saw("default", "bare", 1, row, None, "yes")
    watcher.work(store=True)
    assert library.registry.windows.of(library.registry.resolve("bare"))[0].rows == 20


def test_memory_is_bounded_while_the_thread_is_away(library: Library, base: FrozenBase) -> None:
    watcher = watching(library, base, Clock(), review_below=0.95)
    row = seen_of(base, ["red"])[0]._replace(confidence=0.5)
    for _ in range(MOST_QUEUED + 10):
        watcher.saw("default", "kind", 1, row, "red", "yes")
    (one,) = watcher._watched.values()
    assert len(one.queue) == MOST_QUEUED
    assert len(one.reviews) == MOST_REVIEWS
    for number in range(1200):
        watcher.saw("default", f"t{number}", 1, row, None, "yes")
    assert len(watcher._watched) == 1000


def test_rows_for_review_wait_for_a_registry_that_fails_and_those_beyond_the_bound_are_counted(
    library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = watching(library, base, Clock(), review_below=0.95)
    row = seen_of(base, ["red"])[0]._replace(confidence=0.5)
    add, away = Reviews.add, [True]

    def failing(self: Reviews, task: str, rows: Sequence[Review]) -> None:
        if away[0]:
            watcher.saw("default", "kind", 1, row, "meanwhile", "yes")
            raise RegistryError("the registry is away")
        add(self, task, rows)

    def ask(texts: Iterable[str]) -> None:
        for text in texts:
            watcher.saw("default", "kind", 1, row, text, "yes")

    monkeypatch.setattr(Reviews, "add", failing)
    ask("ab")
    watcher.work(store=True)
    assert "rows for review cannot be stored, which is tried again: RegistryError" in caplog.text
    assert watcher.lost == 0
    away[0] = False
    watcher.work(store=True)
    assert [one.text for one in library.registry.reviews.of("kind")] == ["a", "b", "meanwhile"]
    away[0] = True
    ask(map(str, range(MOST_REVIEWS + 3)))
    assert watcher.lost == 3
    watcher.work(store=True)
    assert watcher.lost == 4  # for the one that came meanwhile
    away[0] = False
    watcher.work(store=True)
    kept = [one.text for one in library.registry.reviews.of("kind")]
    assert kept[3:] == [*map(str, range(4, MOST_REVIEWS + 3)), "meanwhile"]
    (told,) = [one for one in _Gauges(watcher, Monitor()).collect() if one.name == "softprompt_reviews_lost"]
    assert [sample.value for sample in told.samples] == [4]


def test_what_is_left_for_review_at_the_end_of_a_server_is_told(
    library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(self: Reviews, task: str, rows: Sequence[Review]) -> None:
        raise RegistryError("the registry is away")

    monkeypatch.setattr(Reviews, "add", failing)
    watcher = Watcher(library, review_below=0.95)
    watcher.begin(base, Monitor())
    watcher.saw("default", "kind", 1, seen_of(base, ["red"])[0]._replace(confidence=0.5), "red", "yes")
    watcher.close()
    assert "1 row for review is lost, as it could not be stored" in caplog.text


def test_a_registry_that_fails_holds_nothing_up_and_loses_nothing(
    library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = watching(library, base, Clock())
    feed(watcher, seen_of(base, words(HERE, 40, seed=4)))

    def fails(*_: Any) -> None:
        raise RegistryError("it is away")

    with monkeypatch.context() as patch:
        patch.setattr(Windows, "store", fails)
        watcher.work(store=True)
    watcher.work(store=True)
    assert library.registry.windows.of(library.registry.resolve("kind"))[0].rows == 40


# In a service


def asked(library: Library, base: FrozenBase, work: Any, **options: Any) -> AsyncService:
    """A service that did some work and was closed."""
    monitor = Monitor(observer=Watcher(library, **options))
    engine = FakeEngine(context=base.context)

    async def run() -> AsyncService:
        service = AsyncService(library, base, engine, monitor=monitor)
        try:
            await work(service)
        finally:
            service.close()
        return service

    try:
        return asyncio.run(run())
    finally:
        engine.going.set()
        engine.stop(drain=False, timeout=5)


def test_every_route_is_watched_and_closing_stores_it(library: Library, base: FrozenBase) -> None:
    async def work(service: AsyncService) -> None:
        await service.classify("default", "kind", ["red", "green stone"])
        await service.chat("default", "kind", [Message("user", "blue")], Sampling(max_tokens=3))
        await service.complete("default", "kind@1", "apple", Sampling(max_tokens=3))
        await service.complete("default", "tell", "apple", Sampling(max_tokens=3))
        await service.complete("default", base.name, "apple", Sampling(max_tokens=3))

    service = asked(library, base, work)
    registry = library.registry
    (kind,), (tell,) = (registry.windows.of(registry.resolve(task)) for task in ("kind", "tell"))
    assert (kind.rows, kind.tally["answered"], sum(kind.tally["confidence"].values())) == (4, 3, 3)
    assert set(kind.tally["answers"]) <= set(LABELS)
    assert (tell.rows, tell.tally["answered"], tell.tally["confidence"]) == (1, 1, {})
    assert registry.reviews.of("kind") == []  # no text is kept unless it is asked for
    text = generate_latest(service.monitor.registry).decode()
    assert 'softprompt_window_rows{task="kind",tenant="default",version="1"} 4.0' in text


def test_the_same_answer_again_is_no_other_row(library: Library, base: FrozenBase) -> None:
    """Of `n` answers that nothing tells apart one is watched and kept for review; those that are drawn are rows of their
    own."""

    greedy, drawn = Sampling(max_tokens=3), Sampling(max_tokens=3, temperature=1.0)

    async def work(service: AsyncService) -> None:
        for repeat in (False, True, True):
            await service.chat("default", "kind", [Message("user", "blue")], drawn, repeat=repeat)
            await service.complete("default", "tell", "apple", greedy, repeat=repeat)
            await service.complete("default", "tell", "red", drawn, repeat=repeat)

    asked(library, base, work, review_below=1.1)
    registry = library.registry
    assert [one.text for one in registry.reviews.of("kind")] == ["blue"]
    assert [registry.windows.of(registry.resolve(task))[0].rows for task in ("kind", "tell")] == [1, 1 + 3]


def test_a_candidate_in_the_shadow_is_no_request(
    library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers are compared, and neither counted, nor watched, nor kept for review."""
    library.publish(some_prompt(base, "kind", seed=9, labels=LABELS, input="{text} =").to_bytes(), base=base.address)
    library.publish(some_prompt(base, "tell", seed=9, metric="exact_match", max_new_tokens=4).to_bytes(), base=base.address)
    for task in ("kind", "tell"):
        experiments.start(library, task, control="1", candidate="2", shadow=True)
    monkeypatch.setattr("softprompt.serving.shadow.AFTER_S", 0.0)

    async def work(service: AsyncService) -> None:
        await service.classify("default", "kind", ["red", "green stone"], user="ann")
        await service.chat("default", "kind", [Message("user", "blue")], Sampling(max_tokens=3), user="ann")
        await service.complete("default", "tell", "apple", Sampling(max_tokens=3), user="ann")
        while service.shadow._running:
            await asyncio.gather(*service.shadow._running)

    service = asked(library, base, work, review_below=1.1)
    registry = library.registry
    assert [experiments.status(library, task)[0]["compared"] for task in ("kind", "tell")] == [3, 1]
    assert [(one.text, one.version) for one in registry.reviews.of("kind")] == [("red", 1), ("green stone", 1), ("blue", 1)]
    assert registry.windows.of(registry.resolve("kind@2")) == registry.windows.of(registry.resolve("tell@2")) == []
    text = generate_latest(service.monitor.registry).decode()
    assert 'softprompt_requests_total{kind="classify",task="kind",tenant="default"} 1.0' in text
    assert 'softprompt_requests_total{kind="chat",task="kind",tenant="default"} 1.0' in text
    assert 'softprompt_requests_total{kind="completion",task="tell",tenant="default"} 1.0' in text


def test_rows_for_review_become_training_data(library: Library, base: FrozenBase, run: Run, tmp_path: Path) -> None:
    async def work(service: AsyncService) -> None:
        await service.classify("default", "kind", ["red", "green stone"])
        await service.chat("default", "kind", [Message("user", "blue")], Sampling(max_tokens=3))

    asked(library, base, work, review_below=1.1)
    home = ["--home", library.home]
    rows = run("review", "kind", *home, "--json").rows
    assert [(row["id"], row["text"], row["version"], row["answer"]) for row in rows] == [
        (1, "red", 1, None), (2, "green stone", 1, None), (3, "blue", 1, None),
    ]  # fmt: skip
    assert all(row["output"] in LABELS for row in rows)
    out = tmp_path / "more.jsonl"
    assert "say what is right" in run("review", "kind", "--export", out, *home).refused()
    assert "'maybe' is not among `labels`" in run("review", "kind", "--answer", "1=maybe", *home).refused()
    assert "no row 9" in run("review", "kind", "--answer", "1=yes", "--answer", "9=no", *home).refused()
    assert all(row["answer"] is None for row in run("review", "kind", *home, "--json").rows)
    assert "2 of 3 rows labelled" in run("review", "kind", "--answer", "1=yes", "--answer", "3=no", *home).out
    assert "2 rows written" in run("review", "kind", "--export", out, *home).out
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert written == [{"text": "red", "label": "yes"}, {"text": "blue", "label": "no"}]
    assert "is there already" in run("review", "kind", "--export", out, "--unlabelled", *home).refused()
    assert len(out.read_text().splitlines()) == 2, "what was labelled in an editor is not lost"
    (told,) = run("review", "kind", "--export", out, "--unlabelled", "--force", *home, "--json").rows
    assert told == {"task": "kind", "rows": 1, "path": str(out)}
    assert json.loads(out.read_text()) == {"text": "green stone", "label": None}
    assert run("review", "kind", "--erase", "--row", "2", *home, "--json").rows == [{"task": "kind", "erased": 1}]
    assert run("review", "kind", "--erase", *home, "--json").rows == [{"task": "kind", "erased": 2}]
    assert "has no rows for review" in run("review", "kind", *home).err
    assert library.registry.audit("kind")[-1].before == {"rows": 2}
    for wrong in (["--row", "1"], ["--unlabelled"], ["--erase", "--answer", "1=yes"], ["--answer", "yes"]):
        assert run("review", "kind", *wrong, *home).code == 2


def test_the_queue_is_bounded_and_what_is_labelled_stays(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    from softprompt.registry.traffic import reviews
    from softprompt.registry.traffic.reviews import Review

    monkeypatch.setattr(reviews, "MOST_ROWS", 3)
    queue = library.registry.reviews
    queue.add("kind", [Review(0, "kind", 1, "a", "yes", 0.5)])
    queue.label("kind", {1: "no"})
    queue.add("kind", [Review(0, "kind", 1, text, "yes", 0.5) for text in "bcdef"])
    assert [row.text for row in queue.of("kind")] == ["a", "d", "e", "f"]
    queue.label("kind", {row.id: "no" for row in queue.of("kind")})
    queue.add("kind", [Review(0, "kind", 1, "g", "yes", 0.5)])
    assert [row.text for row in queue.of("kind")] == ["a", "d", "e", "f", "g"], "labelled rows leave no room for new ones"
    for ask in (lambda row: queue.label("kind", {row: "no"}), lambda row: queue.erase("kind", [row])):
        for number in (999, 10**30):  # more than a database counts to
            with pytest.raises(NotFound, match=f"has no row {number} for review"):
                ask(number)
    assert library.for_tenant("other").registry.reviews._scope.tenant == "other"
    with pytest.raises(Exception, match="no task 'kind' for tenant 'other'"):
        library.for_tenant("other").registry.reviews.of("kind")


# Rules, spans and the webhook


def test_the_alert_rules_name_counters_that_there_are(library: Library, base: FrozenBase) -> None:
    import re

    async def work(service: AsyncService) -> None:
        await service.classify("default", "kind", words(HERE, BUCKET, seed=3))
        with pytest.raises(ConfigError):
            await service.classify("default", "tell", ["red"])
        for _ in range(100):
            if "softprompt_drifted{" in generate_latest(service.monitor.registry).decode():
                return
            await asyncio.sleep(0.05)

    there = generate_latest(asked(library, base, work).monitor.registry).decode()
    rules = yaml.safe_load((Path(__file__).parents[2] / "docs" / "alerts.yml").read_text())
    found = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in found}) == len(found) > 3
    for rule in found:
        assert {"alert", "expr", "labels", "annotations"} <= rule.keys()
        names = re.findall(r"softprompt_\w+", rule["expr"])
        assert names
        for name in names:
            assert re.search(rf"^{name}[{{ ]", there, re.MULTILINE), f"{rule['alert']}: there is no {name}"
        for what in re.findall(r'what="(\w+)"', rule["expr"]):
            assert f'what="{what}"' in there


class Span:
    """A span as OpenTelemetry's interface has it."""

    def __init__(self, name: str, attributes: dict[str, Any]) -> None:
        self.name, self.attributes, self.ended = name, dict(attributes), 0

    def set_attribute(self, name: str, value: Any) -> None:
        self.attributes[name] = value

    def end(self) -> None:
        self.ended += 1


class Tracer:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def start_span(self, name: str, *, attributes: dict[str, Any]) -> Span:
        self.spans.append(Span(name, attributes))
        return self.spans[-1]


def test_a_span_for_each_request(library: Library, base: FrozenBase) -> None:
    tracer, engine = Tracer(), FakeEngine(context=base.context)

    async def run() -> None:
        service = AsyncService(library, base, engine, monitor=Monitor(tracer=tracer))
        await service.classify("default", "kind", ["red"])
        await service.complete("default", "tell", "apple", Sampling(max_tokens=3))
        with pytest.raises(ConfigError):
            await service.classify("default", "tell", ["red"])
        service.close()

    try:
        asyncio.run(run())
    finally:
        engine.going.set()
        engine.stop(drain=False, timeout=5)
    first, second, third = tracer.spans
    assert [span.ended for span in tracer.spans] == [1, 1, 1]
    assert (first.name, first.attributes["gen_ai.request.model"]) == ("softprompt classify", "kind@1")
    assert (first.attributes["softprompt.task"], first.attributes["softprompt.version"]) == ("kind", 1)
    assert first.attributes["gen_ai.usage.input_tokens"] > 0
    assert second.attributes["gen_ai.usage.output_tokens"] == 3
    assert third.attributes["error.type"] == "FieldError"
    assert not any("red" in str(value) for span in tracer.spans for value in span.attributes.values())


def test_spans_are_refused_by_name_where_they_cannot_be_sent() -> None:
    with pytest.raises(ConfigError, match="--traces 'collector' is no address"):
        check_tracing("collector")
    check_tracing("http://localhost:4318/v1/traces")


def test_without_its_packages_the_way_to_them_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    with pytest.raises(ConfigError, match=r"pip install 'softprompt\[otel\]'"):
        check_tracing("http://localhost:4318/v1/traces")


def ask(library: Library, base: FrozenBase, tracer: Any) -> None:
    """One label, with a tracer."""

    async def run() -> None:
        service = AsyncService(library, base, engine, monitor=Monitor(tracer=tracer))
        await service.classify("default", "kind", ["red"])
        service.close()

    engine = FakeEngine(context=base.context)
    try:
        asyncio.run(run())
    finally:
        engine.going.set()
        engine.stop(drain=False, timeout=5)


def test_spans_are_those_of_opentelemetry(library: Library, base: FrozenBase) -> None:
    exporter = InMemorySpanExporter()
    ask(library, base, tracer_of(exporter, at_once=True))
    (span,) = exporter.get_finished_spans()
    assert span.name == "softprompt classify"
    assert dict(span.attributes or {})["gen_ai.request.model"] == "kind@1"
    assert span.resource.attributes["service.name"] == "softprompt"
    assert (span.end_time or 0) > (span.start_time or 0)


def test_spans_reach_a_collector(library: Library, base: FrozenBase) -> None:
    with Receiver(200) as collector:
        tracer = tracer_to(collector.url)
        ask(library, base, tracer)
        tracer.span_processor.shutdown()
    ((_, body),) = collector.got
    assert b"softprompt classify" in (gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body)


class Receiver(HTTPServer):
    """Takes events, after as many refusals as it is told."""

    def __init__(self, *answers: int) -> None:
        self.answers, self.got = list(answers), list[tuple[dict[str, str], bytes]]()
        super().__init__(("127.0.0.1", 0), _Take)

    def __enter__(self) -> Receiver:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Take(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers), body))  # type: ignore[attr-defined]
        answers = self.server.answers  # type: ignore[attr-defined]
        code = answers.pop(0) if answers else 204
        self.send_response(code)
        if code == 302:
            self.send_header("Location", self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def until(done: Any, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_event_is_signed_and_sent_until_it_is_taken() -> None:
    with Receiver(500, 429, 204) as there:
        hook = Webhook(there.url, SECRET, wait_s=0.01)
        hook.send({"event": "drift", "task": "é"})
        until(lambda: len(there.got) == 3)
        hook.close()
    bodies = {body for _, body in there.got}
    assert len(bodies) == 1
    assert json.loads(bodies.pop()) == {"event": "drift", "task": "é"}
    assert len({headers["X-Softprompt-Delivery"] for headers, _ in there.got}) == 1
    for headers, body in there.got:
        stamp = headers["X-Softprompt-Timestamp"]
        mac = hmac.new(SECRET.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        assert headers["X-Softprompt-Signature"] == f"sha256={mac}" == sign(SECRET, stamp, body)
        assert abs(time.time() - int(stamp)) < 60


@pytest.mark.parametrize("code", [400, 302])
def test_what_is_refused_for_good_is_not_sent_again(code: int, caplog: pytest.LogCaptureFixture) -> None:
    with Receiver(code) as there:
        hook = Webhook(there.url, SECRET, wait_s=0.01)
        hook.send({"event": "drift"})
        until(lambda: "did not take an event" in caplog.text)
        assert f"HTTP {code}" in caplog.text
        hook.close()
        assert len(there.got) == 1


def test_a_receiver_that_is_away_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    with Receiver() as there:
        url = there.url
    hook = Webhook(url, SECRET, wait_s=30)
    began = time.perf_counter()
    for _ in range(150):
        hook.send({"event": "drift"})
    assert time.perf_counter() - began < 1
    assert "is behind: an event is dropped" in caplog.text
    waiting = hook._events.qsize()
    hook.close(0.0)
    hook._thread.join(5)
    assert not hook._thread.is_alive()  # which tries no more than the one event that it has in hand
    assert caplog.text.count("did not take an event") < waiting / 2


def test_a_webhook_needs_an_address_and_a_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOFTPROMPT_WEBHOOK_SECRET", raising=False)
    assert "SOFTPROMPT_WEBHOOK_SECRET" in run("serve", "--webhook", "https://example.com/hook").refused()
    assert "is no address" in run("serve", "--webhook", "file:///etc/passwd").refused()
    for option, value in (("--review-below", "0.5"), ("--drift-level", "0.01"), ("--drift-level", "0.001")):
        assert f"{option} needs the watch" in run("serve", "--no-drift", option, value).refused()


def test_the_versions_asked_last_are_watched(library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those that were asked for the first time last: the one that is always asked would be forgotten."""
    monkeypatch.setattr("softprompt.lifecycle.drift.watch.MOST_VERSIONS", 2)
    watcher, (seen,) = Watcher(library), seen_of(base, ["red"])
    for task in ("kind", "tell", "kind", "bare", "kind"):
        watcher.saw("default", task, 1, seen, None, "yes")
    assert {task: len(one.queue) for (_, task, _), one in watcher._watched.items()} == {"kind": 3, "bare": 1}
