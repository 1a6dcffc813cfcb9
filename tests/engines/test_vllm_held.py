"""Prompts that vLLM's workers hold, with a worker that stands for them: what requests say, what is let go and when, and the
way back to vectors with each request. On a real vLLM: tests/vllm."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.engines.protocol import GenerateJob, Sampling, ScoreJob, Scores
from softprompt.errors import ConfigError, EngineError
from softprompt.vllm.engine import VllmEngine
from softprompt.vllm.held import EXTENSION, ROOM, room_for_prompts
from softprompt.vllm.worker import PromptHolder, put_vectors
from tests import fake_vllm
from tests.engine_jobs import Inbox, gaps_to_best, score_offline, some_vectors
from tests.fake_vllm import FakeClient, NewRequestData, handed_in, on_engine

pytestmark = pytest.mark.slow

INPUT = (40, 50, 60)
LABELS = ((41,), (42, 43), (42, 44), (300,))


@pytest.fixture(scope="module")
def base(base_folder: Path) -> FrozenBase:
    return FrozenBase.load(str(base_folder))


@pytest.fixture
def client(base: FrozenBase, monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """A vLLM that was started so that its workers can hold prompts."""
    fake_vllm.install(monkeypatch)
    monkeypatch.delenv(ROOM, raising=False)
    client = FakeClient(base)
    client.vllm_config.parallel_config.worker_extension_cls = EXTENSION
    return client


def check(base: FrozenBase, job: Any, inbox: Inbox) -> None:
    """Scores are those of the base itself."""
    (expected,) = score_offline(base, [job.prompt.on(base)], [0], [job.input], [job.labels])
    assert isinstance(inbox.last, Scores), inbox.last
    assert inbox.last.values == pytest.approx(expected, abs=1e-4)


def way(client: FakeClient, caplog: pytest.LogCaptureFixture) -> str:
    """What is said of where vectors are."""
    with caplog.at_level(logging.INFO, "vllm.softprompt"):
        held = on_engine(client, lambda engine: engine.held, checked=True)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "vllm.softprompt"]
    assert (held is not None) == ("workers hold prompts" in said)
    return said


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_it_answers_as_the_base_does(client: FakeClient, base: FrozenBase, rows: int) -> None:
    """By token ids and a digest alone."""
    prompt = some_vectors(base, rows, seed=3)
    jobs = [GenerateJob(prompt, INPUT, Sampling(max_tokens=6, logprobs=2)), ScoreJob(prompt, INPUT, LABELS)]
    written, scored = on_engine(client, lambda engine: handed_in(engine, *jobs), checked=True)
    assert len(written.tokens) == 6
    assert max(gaps_to_best(base, prompt, INPUT, written.tokens)) == 0
    check(base, jobs[1], scored)
    assert all("embeds" not in given for given, _ in client.asked), "no vectors are sent"
    assert {given["salt"] for given, _ in client.asked} == {f"{prompt.digest}:{rows}" if rows else None}
    assert len({tuple(given["ids"][:rows]) for given, _ in client.asked}) == 1, "one prompt is one key of the cache"
    assert len(client.calls) == (1 if rows else 0), "it is given once, whatever comes at once"


def test_a_request_waits_until_the_prompt_is_there(client: FakeClient, base: FrozenBase) -> None:
    """And no longer than for its own: the worker would refuse it by name."""
    order: list[str] = []
    call, generate = client.collective_rpc, client.generate

    async def collective_rpc(method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        result = await call(method, args)
        order.append(args[1] if len(args) > 1 else method)
        return result

    async def run(prompt: Any, sampling: Any, name: str) -> Any:
        order.append("asked")
        async for output in generate(prompt, sampling, name):
            yield output

    client.collective_rpc, client.generate = collective_rpc, run  # type: ignore[method-assign]
    prompt = some_vectors(base, 5, seed=9)

    def ask(engine: VllmEngine) -> None:
        order.clear()
        handed_in(engine, ScoreJob(prompt, INPUT, LABELS))

    on_engine(client, ask, checked=True)
    assert order[0] == prompt.digest
    assert set(order[1:]) == {"asked"}


@pytest.mark.parametrize("seed", range(4))
def test_workers_hold_what_there_is_room_for(
    client: FakeClient, base: FrozenBase, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever comes at once, and in whatever order: the right answer, never more than the room, some of it by vectors."""
    chance = random.Random(seed)
    prompts = [some_vectors(base, chance.choice([3, 6, 10, 14]), seed=number) for number in range(9)]
    room = 32 * base.width * 4
    monkeypatch.setenv(ROOM, str(room / 1e6))
    jobs = [ScoreJob(chance.choice(prompts), INPUT, LABELS) for _ in range(60)]

    def ask(engine: VllmEngine) -> list[Inbox]:
        done: list[Inbox] = []
        while len(done) < len(jobs):
            done += handed_in(engine, *jobs[len(done) : len(done) + chance.choice([1, 2, 8])])
        return done

    for job, inbox in zip(jobs, on_engine(client, ask, checked=True), strict=True):
        check(base, job, inbox)
    assert client.worker.most <= room
    assert any(args[-1] for method, *args in client.calls if method == "softprompt_hold"), "some were let go"
    assert len({"embeds" in given for given, _ in client.asked}) == 2, "and some found all of the room in use"
    digests = [args[1] for method, *args in client.calls]
    assert len(digests) > len(set(digests)), "what was let go is given anew"


def test_the_longest_unwanted_is_let_go(client: FakeClient, base: FrozenBase, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (some_vectors(base, 10, seed=number) for number in range(3))
    monkeypatch.setenv(ROOM, str(20 * base.width * 4 / 1e6))

    def ask(engine: VllmEngine) -> None:
        for prompt in (first, second, first, third):
            handed_in(engine, ScoreJob(prompt, INPUT, LABELS))

    on_engine(client, ask, checked=True)
    assert client.worker.held().keys() == {first.digest, third.digest}
    assert all(torch.equal(client.worker.held()[prompt.digest], prompt.on(base)) for prompt in (first, third))


def test_a_prompt_that_workers_did_not_take_is_given_anew(client: FakeClient, base: FrozenBase) -> None:
    prompt = some_vectors(base, 5, seed=4)

    def ask(engine: VllmEngine) -> list[Inbox]:
        client.worker.softprompt_hold = lambda *_: 1 / 0  # type: ignore[method-assign, assignment]
        (failed,) = handed_in(engine, ScoreJob(prompt, INPUT, LABELS))
        del client.worker.softprompt_hold
        return [failed, *handed_in(engine, ScoreJob(prompt, INPUT, LABELS))]

    failed, answered = on_engine(client, ask, checked=True)
    assert isinstance(failed.last, EngineError)
    assert "vLLM failed: ZeroDivisionError" in str(failed.last)
    check(base, ScoreJob(prompt, INPUT, LABELS), answered)


# in a worker


def a_request(length: int, extra: dict[str, str] | None) -> NewRequestData:
    return NewRequestData([5] * length, SimpleNamespace(extra_args=extra))


def test_vectors_are_put_where_they_are_asked_for_and_nowhere_else() -> None:
    one_PD, two_PD = torch.randn(2, 4), torch.randn(3, 4)
    held = {"server": {"one": one_PD, "two": two_PD}, "other": {"one": two_PD}}
    plain = [a_request(6, None), a_request(6, {"vllm": "x"}), a_request(6, {"stranger": "one", "softprompt": "one"})]
    pooling = NewRequestData([5], None)
    requests = [a_request(6, {"server": "one"}), a_request(4, {"server": "two", "x": "y"}), a_request(6, {"other": "one"})]
    put_vectors([*plain, *requests, pooling], held)
    assert all(request.prompt_embeds is None and request.prompt_is_token_ids is None for request in (*plain, pooling))
    for request, rows_PD in zip(requests, (one_PD, two_PD, two_PD), strict=True):
        assert request.prompt_embeds is not None
        assert request.prompt_is_token_ids is not None
        assert len(request.prompt_embeds) == len(request.prompt_is_token_ids) == len(request.prompt_token_ids or ())
        assert torch.equal(request.prompt_embeds[~torch.tensor(request.prompt_is_token_ids)], rows_PD)
        assert request.prompt_is_token_ids == sorted(request.prompt_is_token_ids), "they come first"


@pytest.mark.parametrize(("length", "digest"), [(6, "lost"), (2, "one"), (0, "one")])
def test_a_worker_never_answers_without_the_prompt(length: int, digest: str) -> None:
    with pytest.raises(RuntimeError, match="softprompt: the vectors of prompt"):
        put_vectors([a_request(length, {"server": digest})], {"server": {"one": torch.randn(2, 4)}})


def test_two_servers_of_one_worker(base: FrozenBase, client: FakeClient) -> None:
    """What one lets go the other still has, and requests are looked at once."""
    worker, numbers = client.worker, torch.randn(2, base.width)
    for server in ("one", "two", "one"):
        worker.softprompt_begin(server)
    for server in ("one", "two"):
        worker.softprompt_hold(server, "it", numbers.numpy().tobytes(), 2, "float32", [])
    worker.softprompt_hold("one", "else", numbers.numpy().tobytes(), 2, "float32", ["it", "unknown"])
    (rows_SD,) = worker.execute_model(SimpleNamespace(scheduled_new_reqs=[a_request(3, {"two": "it"})]))
    assert torch.equal(rows_SD[:2], numbers)
    with pytest.raises(RuntimeError, match="held here: False"):
        worker.execute_model(SimpleNamespace(scheduled_new_reqs=[a_request(3, {"one": "it"})]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_come_as_they_were(client: FakeClient, dtype: torch.dtype) -> None:
    rows_PD = torch.randn(3, 8).to(dtype)
    client.worker.softprompt_begin("one")
    numbers = rows_PD.view(torch.uint8).numpy().tobytes()
    client.worker.softprompt_hold("one", "it", numbers, 3, str(dtype).removeprefix("torch."), [])
    assert torch.equal(client.worker.held()["it"], rows_PD)


# where workers cannot


def test_workers_that_can_are_named(client: FakeClient, caplog: pytest.LogCaptureFixture) -> None:
    assert way(client, caplog) == f"softprompt: vLLM's workers hold prompts, 256 MB of them at most ({ROOM})"


@pytest.mark.parametrize(
    ("parallel", "room", "why"),
    [
        ({"worker_extension_cls": ""}, None, f"it was not started with --worker-extension-cls {EXTENSION}"),
        ({"worker_extension_cls": "my.Own"}, None, "it was not started with --worker-extension-cls"),
        ({"enable_elastic_ep": True}, None, "with --enable-elastic-ep workers come later that hold none"),
        ({}, "0", f"{ROOM} is 0"),
        ({}, "0.0001", f"{ROOM} leaves no room for a prompt of a few tokens"),
    ],
)
def test_vectors_go_with_each_request_where_workers_hold_none(
    client: FakeClient, base: FrozenBase, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    parallel: dict[str, Any], room: str | None, why: str,
) -> None:  # fmt: skip
    vars(client.vllm_config.parallel_config).update(parallel)
    if room is not None:
        monkeypatch.setenv(ROOM, room)
    assert way(client, caplog).startswith(f"softprompt: vectors go to vLLM with each request, which costs more: {why}")
    prompt = some_vectors(base, 5, seed=1)
    (inbox,) = on_engine(client, lambda engine: handed_in(engine, ScoreJob(prompt, INPUT, LABELS)), checked=True)
    check(base, ScoreJob(prompt, INPUT, LABELS), inbox)
    assert all("embeds" in given and getattr(sampling, "extra_args", None) is None for given, sampling in client.asked)


def test_workers_that_do_something_else_hold_none(
    client: FakeClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose requests have other parts, one that has no such call, and one that puts nothing in."""
    fields = NewRequestData.__dataclass_fields__
    with monkeypatch.context() as patch:
        patch.setattr(NewRequestData, "__dataclass_fields__", {name: fields[name] for name in list(fields)[:2]})
        assert "(AttributeError: requests in this worker have no prompt_embeds)" in way(client, caplog)
    caplog.clear()
    with monkeypatch.context() as patch:
        patch.setattr(client, "collective_rpc", None)
        assert "its workers cannot hold them (TypeError: " in way(client, caplog)
    caplog.clear()
    monkeypatch.setattr(
        PromptHolder, "softprompt_begin", lambda self, server: vars(self).update(_softprompt_held={server: {}})
    )
    assert "with vectors that its workers hold log-probabilities lie " in way(client, caplog)


def test_an_engine_that_is_lost_meanwhile_ends_the_start(client: FakeClient) -> None:
    def lose(server: str) -> None:
        client.errored = True
        raise RuntimeError("EngineCore encountered an issue")

    client.worker.softprompt_begin = lose  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="start the server again"):
        on_engine(client, lambda engine: None, checked=True)


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_room_that_is_none_is_refused(client: FakeClient, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(ROOM, text)
    with pytest.raises(ConfigError, match=f"{ROOM} is '{text}'; give megabytes"):
        on_engine(client, lambda engine: None, checked=True)


def test_room_is_in_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOM, "1.5")
    assert room_for_prompts() == 1_500_000
