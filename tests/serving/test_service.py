"""The live service: names to prompts, texts to jobs, and nothing lost when a client goes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.protocol import EmbedJob, GenerateJob, Piece, Sampling, ScoreJob
from softprompt.engines.scheduler import Limits
from softprompt.errors import (
    ConfigError,
    ContextError,
    DataError,
    EngineBusy,
    EngineError,
    FingerprintMismatch,
    NameRefused,
    NotFound,
)
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.model.embedding import single_tokens
from softprompt.names import AUTO
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.records import Origin
from softprompt.serving.answers import Message
from softprompt.serving.inputs import raw_input
from softprompt.serving.monitor import BASE, OTHER, UNKNOWN, Monitor
from softprompt.serving.offline import Service
from softprompt.serving.service import AsyncService
from softprompt.serving.stream import Stream, _Strip
from softprompt.tasks.wording.chat import chat_frame, words_of
from tests.engine_jobs import generate_offline
from tests.fake_engine import FakeEngine, fake_embedding, fake_score
from tests.models import make_base, some_prompt

LABELS = ("yes", "no", "the river")
GREEDY = Sampling(max_tokens=4)
USER = [Message("user", "red")]


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


@pytest.fixture
def library(tmp_path: Path, base: FrozenBase) -> Iterator[Library]:
    with Library.open(tmp_path / "home") as made:
        for prompt in (
            some_prompt(base, "kind", seed=1, rows=3, labels=LABELS),
            some_prompt(base, "kind", seed=2, rows=7, labels=LABELS, input="So: {text}\n"),
            some_prompt(base, "tell", seed=3, rows=5, metric="exact_match", max_new_tokens=6, input="Q: {text}\nA:"),
            some_prompt(base, "pair", seed=5, rows=2, labels=LABELS, input="{one} and {two}"),
        ):
            made.publish(prompt.to_bytes(), base=base.address)
        made.promote("kind@1", "staging")
        yield made


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine()
    yield made
    made.going.set()
    made.stop(drain=False, timeout=20)


@pytest.fixture
def live(library: Library, base: FrozenBase, engine: FakeEngine) -> Iterator[AsyncService]:
    made = AsyncService(library, base, engine)
    yield made
    made.close()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


def job_of(engine: FakeEngine) -> Any:
    return engine.tickets[-1].job


async def pieces(stream: Stream) -> list[Piece]:
    async with stream:
        return [piece async for piece in stream]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


def test_raw_text_goes_behind_the_prompt_without_a_template(
    live: AsyncService, engine: FakeEngine, library: Library, base: FrozenBase
) -> None:
    answer = run(live.complete("default", "tell", "red apple", GREEDY))
    job = job_of(engine)
    assert isinstance(job, GenerateJob)
    assert list(job.input) == base.encode(["red apple"])[0]
    assert job.sampling == GREEDY
    digest = library.registry.resolve("tell").digest
    assert job.prompt.digest == digest
    assert torch.equal(job.prompt.vectors_PD, some_prompt(base, "tell", seed=3, rows=5).vectors_PD)
    head = answer.head
    assert (head.model, head.task, head.version, head.routed) == ("tell@1", "tell", 1, None)
    assert head.system_fingerprint == f"{base.fingerprint[:12]}-{digest[:12]}"
    assert (head.virtual_tokens, head.input_tokens) == (5, len(job.input))
    assert (answer.finish, answer.output_tokens) == ("length", 4)
    assert answer.text == engine.tickets[-1].text


@pytest.mark.parametrize(("name", "version"), [("kind", 2), ("kind@1", 1), ("kind@staging", 1), ("kind@2", 2)])
def test_every_way_to_name_a_version(
    live: AsyncService, engine: FakeEngine, library: Library, name: str, version: int
) -> None:
    head = run(live.complete("default", name, "red", GREEDY)).head
    assert head.model == f"kind@{version}"
    assert job_of(engine).prompt.digest == library.registry.resolve(f"kind@{version}").digest


def test_the_base_by_its_own_name_has_no_prompt(live: AsyncService, engine: FakeEngine, base: FrozenBase) -> None:
    answer = run(live.complete("default", base.name, (5, 6, 7), GREEDY))
    assert (job_of(engine).prompt.digest, len(job_of(engine).prompt), job_of(engine).input) == ("", 0, (5, 6, 7))
    assert (answer.head.model, answer.head.task) == (base.name, None)
    assert answer.head.system_fingerprint == base.fingerprint[:12]
    assert (live.base_name, live.fingerprint) == (base.name, base.fingerprint)


def test_a_stream_is_the_whole_answer_in_pieces(live: AsyncService) -> None:
    sampling = Sampling(max_tokens=8, logprobs=2, temperature=1.0, seed=5)
    whole = run(live.complete("default", "tell", "red", sampling))

    async def streamed() -> tuple[list[Piece], Any]:
        stream = await live.stream("default", "tell", "red", sampling)
        return await pieces(stream), stream.head

    got, head = run(streamed())
    assert head == whole.head
    assert "".join(piece.text for piece in got) == whole.text
    assert tuple(token for piece in got for token in piece.tokens) == whole.tokens
    assert len(whole.tokens) == 8
    assert [piece.finish for piece in got] == [None] * 7 + ["length"]
    assert got[-1].count == whole.output_tokens == 8


TURNS = [Message("system", "be good"), Message("user", "red"), Message("assistant", "no"), Message("user", "blue?")]


def test_the_last_message_of_the_user_goes_through_the_template(
    live: AsyncService, engine: FakeEngine, base: FrozenBase
) -> None:
    answer = run(live.chat("default", "tell", TURNS, Sampling(max_tokens=3)))
    assert list(job_of(engine).input) == base.encode(["Q: blue?\nA:"])[0]
    assert answer.output_tokens == 3
    assert answer.text == engine.tickets[-1].text.strip()  # white space around it is left out, in pieces too


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.lists(st.builds(Message, st.sampled_from(["system", "developer", "user", "assistant"]), st.text(max_size=9))),
    text=st.sampled_from(["red", "blue apple", " stone\n", "{text}"]),
    task=st.sampled_from(["tell", "kind"]),
)
def test_no_words_but_the_users_last_change_the_input(
    live: AsyncService, engine: FakeEngine, before: list[Message], text: str, task: str
) -> None:
    run(live.chat("default", task, [Message("user", text)], GREEDY))
    alone = job_of(engine).input
    run(live.chat("default", task, [*before, Message("user", text)], GREEDY))
    assert job_of(engine).input == alone


def test_a_task_tuned_on_whole_chats_reads_all_of_one(
    library: Library, base: FrozenBase, live: AsyncService, engine: FakeEngine
) -> None:
    def add(task: str, template: str, **serving: str) -> None:
        data = some_prompt(base, task, metric="exact_match", input=template).to_bytes()
        library.publish_all([data], base=base.address, origins=[Origin(None, {"serving": serving}, [])])

    add("said", "{prompt} =>", chat_input="conversation")
    add("last", "{prompt}\nAnswer:", chat_input="last_user_message")
    library.publish(some_prompt(base, "old", metric="exact_match", input="{prompt}\nAnswer:").to_bytes(), base=base.address)
    whole = "be good\nred\nno\nblue?"
    for task, read in (("said", f"{whole} =>"), ("last", "blue?\nAnswer:"), ("old", f"{whole}\nAnswer:")):
        run(live.chat("default", task, TURNS, Sampling(max_tokens=3)))
        assert list(job_of(engine).input) == base.encode([read])[0], task


def test_a_chat_that_does_not_end_with_the_user_is_refused(live: AsyncService, engine: FakeEngine) -> None:
    for turns, message in (
        (TURNS[:3], "the last message is of the role 'assistant'"),
        (TURNS[:1], "the last message is of the role 'system'"),
        ([*TURNS, Message("developer", "be brief")], "the last message is of the role 'developer'"),
        ([], "there is no message"),
    ):
        for model in ("tell", "kind", AUTO):
            with pytest.raises(DataError, match=message):
                run(live.chat("default", model, turns, GREEDY))
    assert not engine.tickets
    run(live.chat("default", live.base_name, TURNS[:3], GREEDY))  # the base reads all, as its template words it


def test_a_task_keeps_to_its_own_bound_unless_told_otherwise(live: AsyncService, engine: FakeEngine) -> None:
    asked = {"own": True, "less": False, "more": False}
    sampling = {"own": Sampling(max_tokens=16), "less": Sampling(max_tokens=2), "more": Sampling(max_tokens=9)}
    answer = {}
    for name, own in asked.items():
        run(live.chat("default", "tell", USER, sampling[name], own_bound=own))
        answer[name] = job_of(engine).sampling.max_tokens
    assert answer == {"own": 6, "less": 2, "more": 9}
    run(live.chat("default", live.base_name, USER, Sampling(max_tokens=16), own_bound=True))
    assert job_of(engine).sampling.max_tokens == 16
    long = [Message("user", "red " * 80)]  # with 5 virtual tokens and the template little is left of 96
    given = len(live.base.encode(["Q: " + "red " * 80 + "\nA:"])[0])
    assert 96 - 6 < 5 + given < 96
    run(live.chat("default", "tell", long, Sampling(max_tokens=16), own_bound=True))
    assert job_of(engine).sampling.max_tokens == 96 - 5 - given
    with pytest.raises(ContextError):
        run(live.chat("default", "tell", long, Sampling(max_tokens=16)))


def test_a_task_with_labels_answers_a_conversation_with_the_likeliest(live: AsyncService, engine: FakeEngine) -> None:
    async def streamed() -> list[Piece]:
        return await pieces(await live.stream_chat("default", "kind", USER, GREEDY))

    (piece,) = run(streamed())
    job = job_of(engine)
    assert isinstance(job, ScoreJob)
    scores = [fake_score(job.prompt.digest, job.input, label) for label in job.labels]
    best = scores.index(max(scores))
    assert (piece.text, piece.finish, piece.count) == (LABELS[best], "stop", len(job.labels[best]))
    assert run(live.chat("default", "kind", USER, GREEDY)).text == piece.text
    (row,) = run(live.classify("default", "kind", ["red"])).rows
    assert row.label == piece.text


def test_the_base_words_a_conversation_as_its_tokenizer_does(library: Library, engine: FakeEngine) -> None:
    import copy

    base = make_base("llama", seed=3)
    base = replace(base, tokenizer=copy.deepcopy(base.tokenizer))
    live = AsyncService(library, base, engine)
    turns = [Message("system", "good"), Message("user", "red")]
    run(live.chat("default", base.name, turns, GREEDY))
    assert list(job_of(engine).input) == base.encode(["good\nred"])[0]
    base.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}answer:{% endif %}"
    )
    run(live.chat("default", base.name, turns, GREEDY))
    assert list(job_of(engine).input) == base.encode(["system: good\nuser: red\nanswer:"])[0]
    base.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="roles must alternate"):
        run(live.chat("default", base.name, turns, GREEDY))
    live.close()


def test_a_message_to_a_prompt_that_was_tuned_in_the_chat_template_stands_in_it_once(
    library: Library, engine: FakeEngine
) -> None:
    import copy

    base = make_base("llama")
    base = replace(base, tokenizer=copy.deepcopy(base.tokenizer))
    base.tokenizer.chat_template = (
        "{% for m in messages %}<end>{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<end>answer:{% endif %}"
    )
    form = words_of(["text"], "label", chat_frame(base.tokenizer, base.spelling.controls), generates=True)
    for task, labels, metric in (("picks", LABELS, "accuracy"), ("writes", None, "exact_match")):
        prompt = some_prompt(base, task, labels=labels, metric=metric, **form)
        library.publish(prompt.to_bytes(), base=base.address)
    live = AsyncService(library, base, engine)
    turns = [Message("system", "good"), Message("user", "blue"), Message("assistant", "no"), Message("user", "red <end> ?")]
    for task in ("picks", "writes"):
        run(live.chat("default", task, turns, GREEDY))
        said = job_of(engine).input
        run(live.chat("default", base.name, [Message("user", "red <end> ?")], GREEDY))
        assert said == job_of(engine).input, task
        assert said.count(base.tokenizer.eos_token_id) == 2
    run(live.classify("default", "picks", ["red <end> ?"]))
    assert job_of(engine).input == said
    live.close()


@pytest.mark.parametrize("model", ["kind", "kind@1", "pair"])
def test_classification_equals_predict_row_by_row_and_goes_in_one_batch(
    library: Library, base: FrozenBase, model: str
) -> None:
    texts = ["red", "an apple " * 60, "what is a river"]
    if model == "pair":
        texts = [json.dumps({"one": text, "two": "a"}) for text in texts]
    engine = ContinuousEngine(architecture_of(base))
    live = AsyncService(library, base, engine)
    batches: list[int] = []
    honest = engine.submit_all
    engine.submit_all = lambda jobs: batches.append(len(jobs)) or honest(jobs)  # type: ignore[method-assign, func-returns-value]
    try:
        answer = run(live.classify("default", model, texts))
        expected = Service(library, base=base).predict(texts, model)
        assert batches == [3]
        for row, needed in zip(answer.rows, expected, strict=True):
            assert row.label == needed.output
            assert row.scores == pytest.approx(needed.scores, abs=1e-4)
            assert list(row.scores) == list(LABELS)
            assert row.truncated == needed.truncated
        assert [row.truncated for row in answer.rows] == [False, True, False]
        assert answer.truncated == 1
        assert answer.head.input_tokens > 90
    finally:
        engine.stop()
        live.close()


def test_generation_behind_a_real_engine_equals_the_local_one(library: Library, base: FrozenBase) -> None:
    engine = ContinuousEngine(architecture_of(base))
    live = AsyncService(library, base, engine)
    try:
        answer = run(live.chat("default", "tell", USER, Sampling(max_tokens=6)))
        (expected,) = Service(library, base=base).predict(["red"], "tell")
        assert answer.text == expected.output
        raw = run(live.complete("default", "tell", "red", Sampling(max_tokens=6)))
        vectors = some_prompt(base, "tell", seed=3, rows=5).vectors_PD
        (ids,) = generate_offline(base, [vectors], [0], base.encode(["red"]), [6])
        assert raw.text == base.decode(ids)
    finally:
        engine.stop()
        live.close()


def test_what_cannot_be_answered_is_told(live: AsyncService, engine: FakeEngine) -> None:
    wrong: list[tuple[type[Exception], str, Coroutine[Any, Any, Any]]] = [
        (NotFound, "did you mean 'kind'", live.complete("default", "kid", "red", GREEDY)),
        (NotFound, "no version 9", live.complete("default", "kind@9", "red", GREEDY)),
        (NotFound, "no alias 'live'", live.classify("default", "kind@live", ["red"])),
        (NameRefused, "is refused", live.complete("default", "no/such", "red", GREEDY)),
        (DataError, "the input is empty", live.complete("default", "tell", "", GREEDY)),
        (DataError, "has no tokens", live.complete("default", "tell", [], GREEDY)),
        (DataError, "token id 320 is not in the vocabulary", live.complete("default", "tell", [1, 320], GREEDY)),
        (DataError, "token id -1 is not in the vocabulary", live.complete("default", "tell", [-1], GREEDY)),
        (DataError, "not valid Unicode", live.complete("default", "tell", "red \ud800", GREEDY)),
        (DataError, "last message of the user is empty", live.chat("default", "tell", [Message("user", " ")], GREEDY)),
        (DataError, "the conversation is empty", live.chat("default", live.base_name, [Message("user", " ")], GREEDY)),
        (DataError, "the conversation is empty", live.chat("default", live.base_name, [], GREEDY)),
        (DataError, "not valid Unicode", live.chat("default", "tell", [Message("user", "\udfff")], GREEDY)),
        (DataError, "2 columns", live.chat("default", "pair", USER, GREEDY)),
        (DataError, "no field 'two'", live.classify("default", "pair", ['{"one": "red"}'])),
        (DataError, "input for task 'kind' is empty", live.classify("default", "kind", ["red", ""])),
        (DataError, "there is no input", live.classify("default", "kind", [])),
        (ConfigError, "task 'tell' generates text and has no labels", live.classify("default", "tell", ["red"])),
        (ConfigError, "is the base, which has no labels", live.classify("default", live.base_name, ["red"])),
    ]
    for kind, message, call in wrong:
        with pytest.raises(kind, match=message):
            run(call)
    assert not engine.tickets


def test_what_does_not_fit_is_told_in_numbers(live: AsyncService) -> None:
    text = "red " * 100
    given = len(live.base.encode([text])[0])
    with pytest.raises(ContextError) as caught:
        run(live.complete("default", "tell", text, Sampling(max_tokens=7)))
    for part in ("5 virtual tokens", f"{given} of the input", "7 asked for", f"make {5 + given + 7}", "96 tokens"):
        assert part in str(caught.value)
    with pytest.raises(ContextError, match=r"^0 virtual tokens .* 96 asked for make 97"):
        run(live.complete("default", live.base_name, [5], Sampling(max_tokens=96)))
    with pytest.raises(ContextError, match="7 virtual tokens"):
        run(live.chat("default", "kind", [Message("user", text)], GREEDY))
    assert run(live.complete("default", live.base_name, [5], Sampling(max_tokens=95))).output_tokens == 12


def test_a_task_of_another_base_is_refused_and_not_listed(live: AsyncService, library: Library) -> None:
    other = make_base("llama", seed=9)
    library.publish(some_prompt(other, "far", labels=LABELS).to_bytes(), base=other.address)
    library.publish(some_prompt(other, "kind", labels=LABELS).to_bytes(), base=other.address)
    with pytest.raises(FingerprintMismatch, match=other.fingerprint):
        run(live.complete("default", "far", "red", GREEDY))
    rows = {row.id: row for row in run(live.models("default"))}
    assert list(rows) == [live.base_name, "kind", "pair", "tell"]
    assert rows["kind"].version is None  # the newest is on the other base
    assert rows["kind"].versions == (1, 2)
    with pytest.raises(FingerprintMismatch, match=other.fingerprint):
        run(live.model("default", "far"))


def test_models_are_the_base_and_the_tenants_tasks(live: AsyncService, library: Library, base: FrozenBase) -> None:
    library.for_tenant("other").publish(some_prompt(base, "theirs").to_bytes(), base=base.address)
    rows = {row.id: row for row in run(live.models("default"))}
    assert list(rows) == [base.name, "kind", "pair", "tell"]
    assert (rows[base.name].task, rows[base.name].created) == (None, 0)
    kind = rows["kind"]
    assert (kind.version, kind.versions, kind.aliases) == (2, (1, 2), {"staging": 1})
    assert kind.created > 1_700_000_000
    assert kind.system_fingerprint == f"{base.fingerprint[:12]}-{library.registry.resolve('kind@2').digest[:12]}"
    assert [row.id for row in run(live.models("other"))] == [base.name, "theirs"]
    assert [row.id for row in run(live.models("third"))] == [base.name]
    one = run(live.model("default", "kind@staging"))
    assert (one.id, one.task, one.version, one.versions, one.aliases) == ("kind@staging", "kind", 1, (1, 2), {"staging": 1})
    assert run(live.model("default", "kind")) == kind
    assert run(live.model("default", base.name)) == rows[base.name]
    library.promote("kind@1", "production")
    assert {row.id: row.version for row in run(live.models("default"))}["kind"] == 1


def test_anothers_task_is_as_unknown_as_one_that_never_was(live: AsyncService, library: Library, base: FrozenBase) -> None:
    library.for_tenant("other").publish(some_prompt(base, "theirs", labels=LABELS).to_bytes(), base=base.address)
    assert run(live.complete("other", "theirs", "red", GREEDY)).head.task == "theirs"
    for ask in (
        lambda name: live.complete("default", name, "red", GREEDY),
        lambda name: live.chat("default", name, USER, GREEDY),
        lambda name: live.classify("default", name, ["red"]),
        lambda name: live.model("default", name),
    ):
        answer = []
        for name in ("theirs", "nobody"):
            with pytest.raises(NotFound) as caught:
                run(ask(name))
            answer.append(str(caught.value).replace(name, "NAME"))
        assert answer[0] == answer[1]
    with pytest.raises(NotFound, match="no task 'kind'"):
        run(live.complete("other", "kind", "red", GREEDY))


def test_a_task_published_and_promoted_while_serving_is_served(
    library: Library, base: FrozenBase, engine: FakeEngine
) -> None:
    live = AsyncService(library, base, engine, fresh_s=0.0)

    async def work() -> None:
        assert (await live.complete("default", "kind", "red", GREEDY)).head.version == 2
        library.promote("kind@1", "production")
        assert (await live.complete("default", "kind", "red", GREEDY)).head.version == 1
        library.publish(some_prompt(base, "late").to_bytes(), base=base.address)
        assert (await live.complete("default", "late", "red", GREEDY)).head.model == "late@1"

    run(work())
    live.close()


@contextlib.asynccontextmanager
async def going(live: AsyncService, engine: FakeEngine, call: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """A request whose jobs are in the engine's hands."""
    before = len(engine.tickets)
    task = asyncio.create_task(call)
    await until(lambda: len(engine.tickets) > before)
    yield task


def test_jobs_of_a_client_that_is_gone_are_given_up(live: AsyncService, engine: FakeEngine) -> None:
    engine.endless = True

    async def work() -> None:
        for call in (
            live.complete("default", "tell", "red", GREEDY),
            live.chat("default", "tell", USER, GREEDY),
        ):
            async with going(live, engine, call) as task:
                assert engine.live_jobs() == 1
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert engine.tickets[-1].cancelled
                await until(lambda: engine.live_jobs() == 0)
        engine.going.clear()
        for call, jobs in (
            (live.classify("default", "kind", ["red", "blue"]), 2),
            (live.chat("default", "kind", USER, GREEDY), 1),
        ):
            async with going(live, engine, call) as task:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert all(ticket.cancelled for ticket in engine.tickets[-jobs:])
        engine.going.set()
        stream = await live.stream("default", "tell", "red", GREEDY)
        assert (await anext(stream)).text
        await stream.aclose()
        assert engine.tickets[-1].cancelled
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        stream = await live.stream("default", "tell", "red", GREEDY)
        with contextlib.suppress(ZeroDivisionError):
            async with stream:
                raise ZeroDivisionError
        assert engine.tickets[-1].cancelled
        stream = await live.stream("default", "tell", "red", GREEDY)
        waiting = asyncio.create_task(pieces(stream))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert engine.tickets[-1].cancelled

    run(work())
    count = live.monitor.registry.get_sample_value
    labels = {"tenant": "default", "error": "cancelled"}
    assert count("softprompt_errors_total", {**labels, "task": "tell"}) == 5
    assert count("softprompt_errors_total", {**labels, "task": "kind"}) == 2


def test_a_finished_stream_is_not_cancelled_when_it_is_closed(live: AsyncService, engine: FakeEngine) -> None:
    run(live.complete("default", "tell", "red", GREEDY))
    assert not engine.tickets[-1].cancelled


def test_errors_of_the_engine_reach_the_one_who_asked(live: AsyncService, library: Library, base: FrozenBase) -> None:
    engine = FakeEngine(max_waiting=2)
    live = AsyncService(library, base, engine)
    engine.failing = "the base failed"
    with pytest.raises(EngineError, match="the base failed"):
        run(live.complete("default", "tell", "red", GREEDY))
    with pytest.raises(EngineError, match="the base failed"):
        run(live.classify("default", "kind", ["red", "blue"]))
    engine.failing = None
    while engine.status().running:  # what was given up may still be in hand
        time.sleep(0.002)
    engine.going.clear()

    async def full() -> None:
        streams = [await live.stream("default", "tell", "red", GREEDY) for _ in range(2)]
        with pytest.raises(EngineBusy):  # when it is opened, not at the first piece
            await live.stream("default", "tell", "red", GREEDY)
        with pytest.raises(EngineBusy):
            await live.classify("default", "kind", ["red"])
        engine.going.set()
        for stream in streams:
            assert (await pieces(stream))[-1].finish == "length"

    run(full())
    assert live.monitor.registry.get_sample_value(
        "softprompt_errors_total", {"tenant": "default", "task": "tell", "error": "EngineBusy"}
    ) == 1  # fmt: skip
    engine.stop(timeout=20)
    with pytest.raises(EngineError, match="stopped"):
        run(live.complete("default", "tell", "red", GREEDY))
    live.close()


def test_more_rows_than_the_queue_ever_holds_are_refused_with_the_numbers(library: Library, base: FrozenBase) -> None:
    engine = ContinuousEngine(architecture_of(base), Limits(max_waiting=2))
    live = AsyncService(library, base, engine)
    try:
        assert len(run(live.classify("default", "kind", ["red", "blue"])).rows) == 2
        with pytest.raises(ConfigError, match=r"^3 rows .* queue holds 2 at most; hand in fewer"):
            run(live.classify("default", "kind", ["red", "blue", "green"]))
    finally:
        engine.stop()
        live.close()


@pytest.mark.parametrize("call", ["classify", "chat"])
def test_labels_are_not_chosen_by_what_is_no_number(live: AsyncService, engine: FakeEngine, call: str) -> None:
    engine.score = lambda *_: float("nan")
    asked = live.classify("default", "kind", ["red"]) if call == "classify" else live.chat("default", "kind", USER, GREEDY)
    with pytest.raises(EngineError, match="task 'kind' got no numbers"):
        run(asked)


def test_many_requests_at_once_are_each_answered_as_alone(live: AsyncService) -> None:
    names = ["kind", "tell", "kind@1", live.base_name]
    asks = [(names[place % 4], f"red {place}") for place in range(60)]

    async def together() -> list[Any]:
        return await asyncio.gather(*(live.complete("default", name, text, GREEDY) for name, text in asks))

    for (name, text), answer in zip(asks, run(together()), strict=True):
        assert answer == run(live.complete("default", name, text, GREEDY))


def test_results_for_a_loop_that_is_gone_harm_nobody(live: AsyncService, engine: FakeEngine) -> None:
    engine.going.clear()

    async def leave() -> None:
        await live.stream("default", "tell", "red", GREEDY)

    run(leave())
    engine.going.set()
    assert run(live.complete("default", "tell", "red", GREEDY)).output_tokens == 4


def test_counters_tell_tasks_apart_and_only_those_that_exist(live: AsyncService) -> None:
    count = live.monitor.registry.get_sample_value
    labels = {"tenant": "default", "task": "tell"}
    answer = run(live.complete("default", "tell", "red", GREEDY))
    run(live.chat("default", "tell", USER, GREEDY))
    run(live.classify("default", "kind", ["red", "blue"]))
    run(live.complete("default", live.base_name, "red", GREEDY))
    for name in ("made-up", "no/such", "kind@9"):
        with pytest.raises((NotFound, NameRefused)):
            run(live.complete("default", name, "red", GREEDY))
    with pytest.raises(DataError):
        run(live.complete("default", "tell", "", GREEDY))
    assert count("softprompt_requests_total", {**labels, "kind": "completion"}) == 1
    assert count("softprompt_requests_total", {**labels, "kind": "chat"}) == 1
    assert count("softprompt_requests_total", {"tenant": "default", "task": "kind", "kind": "classify"}) == 1
    assert count("softprompt_requests_total", {"tenant": "default", "task": BASE, "kind": "completion"}) == 1
    assert count("softprompt_output_tokens_total", labels) == 8
    assert (count("softprompt_input_tokens_total", labels) or 0) > answer.head.input_tokens
    for name in ("first_token", "request"):
        assert count(f"softprompt_{name}_seconds_count", labels) == 2
    unknown = {"tenant": "", "task": UNKNOWN}
    assert count("softprompt_errors_total", {**unknown, "error": "NotFound"}) == 2
    assert count("softprompt_errors_total", {**unknown, "error": "NameRefused"}) == 1
    assert count("softprompt_errors_total", {**unknown, "error": "DataError"}) == 1
    assert count("softprompt_prompts", {}) == 2
    assert count("softprompt_prompt_bytes", {}) == (5 + 7) * 32 * 4
    assert count("softprompt_prompt_misses_total", {}) == 4  # two prompts, and two names that mean nothing
    assert (count("softprompt_engine_steps_total", {}) or 0) > 0
    assert count("softprompt_engine_waiting", {}) == 0
    assert count("softprompt_near_ties_total", {}) == 0


def test_swaps_are_measured_and_held_against_the_budget_of_the_task_file(
    library: Library, base: FrozenBase, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def add(task: str, **serving: float) -> None:
        data = some_prompt(base, task, labels=LABELS).to_bytes()
        library.publish_all([data], base=base.address, origins=[Origin(None, {"serving": serving}, [])])

    add("strict", swap_latency_budget_ms=1e-9)
    add("easy", swap_latency_budget_ms=60_000.0)
    now = [0.0]
    live = AsyncService(library, base, engine, fresh_s=3600)
    live.monitor._clock = lambda: now[0]
    count = live.monitor.registry.get_sample_value

    def over(task: str) -> float | None:
        return count("softprompt_swaps_over_budget_total", {"tenant": "default", "task": task})

    for task in ("strict", "easy", "kind"):
        run(live.classify("default", task, ["red"]))
    assert count("softprompt_swap_seconds_count") == 0  # they were loaded, not swapped
    for _ in range(3):
        for task in ("strict", "easy", "kind"):
            run(live.classify("default", task, ["red"]))
    assert count("softprompt_swap_seconds_count") == 9
    assert 0 < (count("softprompt_swap_seconds_sum") or 0) < 9
    assert (over("strict"), over("easy"), over("kind")) == (3, None, None)
    assert caplog.text.count("swap_latency_budget_ms") == 1
    assert "to strict@1, which has 1e-09 ms" in caplog.text
    now[0] += 60
    run(live.classify("default", "strict", ["red"]))
    assert (
        "swaps slower than their task files' swap_latency_budget_ms: 3, the last" in caplog.text
    )  # the two untold, and this one
    live.close()


def test_tasks_beyond_the_bound_are_counted_together() -> None:
    monitor = Monitor(max_tasks=3)
    for place in range(10):
        for _ in range(2):
            watch = monitor.begin("default", "chat")
            watch.found(f"t{place}")
            watch.done(5)
            watch.failed()  # too late to count
    count = monitor.registry.get_sample_value
    assert count("softprompt_output_tokens_total", {"tenant": "default", "task": "t2"}) == 10
    assert count("softprompt_output_tokens_total", {"tenant": "default", "task": "t3"}) is None
    assert count("softprompt_output_tokens_total", {"tenant": OTHER, "task": OTHER}) == 70
    assert count("softprompt_errors_total", {"tenant": "default", "task": "t2", "error": "cancelled"}) is None


def test_white_space_is_held_back_until_it_is_known_to_be_inside() -> None:
    for texts in (["  ", " a", " ", "\n", "b ", " ", ""], ["", "  "], ["a", "b"], [" a b "]):
        strip = _Strip()
        got = [strip(Piece(text, finish="stop" if at == len(texts) - 1 else None)) for at, text in enumerate(texts)]
        assert "".join(piece.text for piece in got) == "".join(texts).strip()
        assert got[-1].finish == "stop"


def with_centroid(base: FrozenBase, task: str, texts: list[str], *, seed: int = 0, **fields: Any) -> SoftPrompt:
    """A prompt whose centroid is that of texts in the fake engine's embedding."""
    origin = np.mean([fake_embedding(ids, base.width) for ids in single_tokens(base)], axis=0)
    directions = np.asarray([fake_embedding(ids, base.width) for ids in base.encode(texts)]) - origin
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    prompt = some_prompt(base, task, seed=seed, **fields)
    return SoftPrompt(prompt.vectors_PD, prompt.card, torch.tensor(directions.mean(0), dtype=torch.float32))


@pytest.fixture
def routed(library: Library, base: FrozenBase) -> Library:
    tasks = {"colour": ["red green", "green blue", "red blue"], "fruit": ["apple stone", "stone river", "apple river"]}
    for seed, (task, texts) in enumerate(tasks.items()):
        prompt = with_centroid(base, task, texts, seed=seed, labels=LABELS)
        library.publish(prompt.to_bytes(), base=base.address)
    return library


def test_auto_takes_the_nearest_task_and_says_so(routed: Library, live: AsyncService, engine: FakeEngine) -> None:
    answer = run(live.complete("default", AUTO, "blue green red", GREEDY))
    assert answer.head.model == "colour@1"
    assert answer.head.routed is not None
    assert answer.head.routed.task == "colour"
    assert answer.head.routed.row() == {"task": "colour", "score": round(answer.head.routed.score, 4)}
    assert -0.2 < answer.head.routed.score < 1
    assert run(live.chat("default", AUTO, [Message("user", "river apple")], GREEDY)).head.task == "fruit"
    reply = run(live.classify("default", AUTO, ["stone apple", "river"]))
    assert reply.head.task == "fruit"
    assert len(reply.rows) == 2
    alone = run(live.classify("default", "fruit", ["stone apple", "river"]))
    assert reply.rows == alone.rows
    assert run(live.complete("default", "fruit", "red", GREEDY)).head.routed is None
    embedded = [ticket.job for ticket in engine.tickets if isinstance(ticket.job, EmbedJob)]
    assert len(embedded) == len(single_tokens(live.base)) + 4  # the origin once, then each input


def test_auto_asks_for_the_origin_once_also_when_many_come_first(
    routed: Library, live: AsyncService, engine: FakeEngine
) -> None:
    async def together() -> list[Any]:
        return await asyncio.gather(*(live.complete("default", AUTO, "red green", GREEDY) for _ in range(8)))

    assert {answer.head.task for answer in run(together())} == {"colour"}
    assert sum(isinstance(ticket.job, EmbedJob) for ticket in engine.tickets) == len(single_tokens(live.base)) + 8


def test_auto_goes_on_after_an_engine_that_failed(routed: Library, live: AsyncService, engine: FakeEngine) -> None:
    engine.failing = "the base failed"
    with pytest.raises(EngineError, match="the base failed"):
        run(live.complete("default", AUTO, "red green", GREEDY))
    engine.failing = None
    assert run(live.complete("default", AUTO, "red green", GREEDY)).head.task == "colour"


def test_auto_hands_in_no_more_than_the_queue_holds(routed: Library, base: FrozenBase) -> None:
    engine = ContinuousEngine(architecture_of(base), Limits(max_waiting=3))
    live = AsyncService(routed, base, engine, threshold=-2.0)
    try:
        assert run(live.classify("default", AUTO, ["red", "green", "blue"])).head.task in ("colour", "fruit")
        with pytest.raises(ConfigError, match=r"^4 rows"):
            run(live.classify("default", AUTO, ["red"] * 4))
    finally:
        engine.stop(drain=False, timeout=20)
        live.close()


def test_auto_abstains_where_nothing_is_near(
    routed: Library, live: AsyncService, base: FrozenBase, engine: FakeEngine
) -> None:
    with pytest.raises(NotFound, match=r"no task is near enough: the nearest is '\w+' with -0\.\d+, and -0\.200 is needed"):
        run(live.complete("default", AUTO, "true false good bad yes no", GREEDY))
    lenient = AsyncService(routed, base, engine, threshold=-2.0)
    assert run(lenient.complete("default", AUTO, "true false good bad yes no", GREEDY)).head.task in ("colour", "fruit")
    lenient.close()


def test_auto_without_any_centroid_is_a_clear_error_and_costs_no_pass(live: AsyncService, engine: FakeEngine) -> None:
    with pytest.raises(NotFound, match="none has a centroid on this base"):
        run(live.complete("default", AUTO, "red", GREEDY))
    assert not engine.tickets


def test_auto_sees_new_tasks_promotions_and_only_the_tenants_own(
    routed: Library, base: FrozenBase, engine: FakeEngine
) -> None:
    live = AsyncService(routed, base, engine, fresh_s=0.0)
    other = routed.for_tenant("other")
    other.publish(with_centroid(base, "theirs", ["red green", "blue"], labels=LABELS).to_bytes(), base=base.address)

    async def chosen(tenant: str, text: str) -> str | None:
        try:
            return (await live.complete(tenant, AUTO, text, GREEDY)).head.task
        except NotFound:
            return None

    async def work() -> None:
        assert await chosen("default", "red blue") == "colour"
        assert await chosen("other", "red blue") == "theirs"
        assert await chosen("default", "good bad") is None
        routed.publish(
            with_centroid(base, "mood", ["good bad", "bad good good"], labels=LABELS).to_bytes(), base=base.address
        )
        assert await chosen("default", "good bad") == "mood"
        assert await chosen("default", "red blue") == "colour"
        routed.publish(some_prompt(base, "colour", seed=8, labels=LABELS).to_bytes(), base=base.address)
        assert await chosen("default", "red blue") is None  # the newest version has no centroid
        routed.promote("colour@1", "production")
        assert await chosen("default", "red blue") == "colour"
        routed.registry.delete_task("mood")
        assert await chosen("default", "good bad") is None
        assert await chosen("other", "good bad") is None

    run(work())
    live.close()


def test_a_raw_input_of_several_columns_is_their_values() -> None:
    assert raw_input("red") == "red"
    assert raw_input('{"one": "red", "two": 3}') == "red\n3"
    assert raw_input('  {"one": "red"}') == "red"
    for text in ("{}", "{not json", '["a"]', "{" * 5000, '"text"'):
        assert raw_input(text) == text
