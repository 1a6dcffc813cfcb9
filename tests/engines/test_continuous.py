"""The serving engine: every row as if it were alone, whatever comes and goes beside it."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.engines import continuous
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.protocol import (
    NO_PROMPT,
    Embedding,
    EmbedJob,
    Engine,
    GenerateJob,
    Piece,
    Result,
    Sampling,
    ScoreJob,
    Scores,
    Ticket,
    Vectors,
)
from softprompt.engines.scheduler import Limits
from softprompt.errors import ConfigError, ContextError, EngineBusy, EngineError
from softprompt.model.architecture import architecture_of
from softprompt.model.kinds.causal import Causal
from tests.engine_jobs import PATIENCE, Inbox, gaps_to_best, idle, score_offline, some_vectors
from tests.models import ARCHITECTURES, UNEVEN, VOCABULARY, make_base

TIE = 1e-4
"""Where the two best logits are nearer than this, rounding decides."""


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


@pytest.fixture
def engine(base: FrozenBase) -> Iterator[ContinuousEngine]:
    engine = ContinuousEngine(architecture_of(base), Limits(max_rows=4))
    yield engine
    engine.stop(drain=False)


def some_ids(draw: random.Random, count: int) -> tuple[int, ...]:
    return tuple(draw.randrange(2, VOCABULARY) for _ in range(count))


def ask(engine: Engine, prompt: Vectors, ids: tuple[int, ...], **sampling: Any) -> Inbox:
    inbox = Inbox()
    sampling.setdefault("logprobs", 0)
    engine.submit(GenerateJob(prompt, ids, Sampling(**sampling)), inbox)
    return inbox


def same_but_for_ties(base: FrozenBase, prompt: Vectors, ids: tuple[int, ...], count: int, answered: list[int]) -> bool:
    """Whether the tokens are those of the row alone; at a tie another may be told, and the row goes on behind it. True where
    there was one."""
    gaps = gaps_to_best(base, prompt, ids, answered)
    assert max(gaps) < TIE
    ends = [place for place, token in enumerate(answered) if token in base.end_ids]
    assert ends in ([], [len(answered) - 1])
    assert len(answered) == count or (ends and len(answered) < count)
    return any(gaps)


@pytest.mark.parametrize(
    ("architecture", "attention"),
    [*((name, "eager") for name in [*ARCHITECTURES, UNEVEN]), ("llama", "sdpa"), ("mistral", "sdpa")],
)
def test_each_row_is_what_it_is_alone(architecture: str, attention: str) -> None:
    base = make_base(architecture, attention=attention)
    draw = random.Random(f"{architecture} {attention}")
    engine = ContinuousEngine(architecture_of(base), Limits(max_rows=5, token_budget=24), prefix_bytes=1 << 14)
    prompts = [some_vectors(base, rows, seed) for seed, rows in enumerate([0, 3, 7, 1, 12])]
    asked: list[tuple[Vectors, tuple[int, ...], int, Inbox]] = []
    scored: list[tuple[Vectors, tuple[int, ...], Inbox]] = []
    labels = ((5,), (6, 7), (6, 8, 9))
    for _ in range(24):
        prompt, ids, count = draw.choice(prompts), some_ids(draw, draw.randrange(1, 20)), draw.randrange(1, 14)
        asked.append((prompt, ids, count, ask(engine, prompt, ids, max_tokens=count)))
        if draw.random() < 0.3:
            scores = Inbox()
            engine.submit(ScoreJob(prompt, ids, labels), scores)
            scored.append((prompt, ids, scores))
        if draw.random() < 0.3:  # one that leaves early, at any time
            engine.submit(GenerateJob(prompt, ids, Sampling(max_tokens=9)), lambda _: None).cancel()
        if draw.random() < 0.2:  # some come while others run, some when nothing runs
            draw.choice(asked)[3].wait()
    ties = sum(same_but_for_ties(base, prompt, ids, count, inbox.tokens) for prompt, ids, count, inbox in asked)
    assert ties <= 1
    for prompt, ids, inbox in scored:
        vectors_PD = torch.zeros(0, base.width) if prompt.vectors_PD is None else prompt.vectors_PD
        (alone,) = score_offline(base, [vectors_PD], [0], [ids], [labels])
        assert isinstance(inbox.last, Scores)
        assert inbox.last.values == pytest.approx(alone, abs=1e-4)
    idle(engine)
    engine.stop()


def test_rows_are_end_aligned_over_compaction_and_growth(base: FrozenBase) -> None:
    """Short rows come while a long one runs on, for longer than the buffer was first made for."""
    engine = ContinuousEngine(architecture_of(base), Limits(max_rows=6))
    draw = random.Random(1)
    prompt, ids = some_vectors(base, 2, 1), some_ids(draw, 3)
    long = ask(engine, prompt, ids, max_tokens=90)
    others = []
    while not long.done.is_set():
        row = some_vectors(base, draw.randrange(0, 30), draw.randrange(3)), some_ids(draw, draw.randrange(1, 30))
        others.append((*row, ask(engine, *row, max_tokens=4).wait()))
    assert len(others) > 3
    assert not same_but_for_ties(base, prompt, ids, 90, long.tokens)
    assert sum(same_but_for_ties(base, p, i, 4, inbox.tokens) for p, i, inbox in others) <= 1
    engine.stop()


def test_bases_that_share_no_prefix_are_run_by_concatenation() -> None:
    base = make_base("llama")
    causal = Causal(base)
    causal.shares_prefix = False
    engine = ContinuousEngine(causal, Limits(max_rows=3))
    draw = random.Random(2)
    rows = [(some_vectors(base, n % 4, n), some_ids(draw, n + 1)) for n in range(6)]
    asked = [ask(engine, *row, max_tokens=5) for row in rows]
    scores = Inbox()
    engine.submit(ScoreJob(*rows[1], ((3,), (4, 5))), scores)
    assert not any(same_but_for_ties(base, *row, 5, inbox.tokens) for row, inbox in zip(rows, asked, strict=True))
    vectors_PD = rows[1][0].vectors_PD
    assert vectors_PD is not None
    assert isinstance(scores.last, Scores)
    assert scores.last.values == pytest.approx(score_offline(base, [vectors_PD], [0], [rows[1][1]], [((3,), (4, 5))])[0])
    assert engine.status().prefix_bytes == 0
    engine.stop()


def test_seeded_draws_are_the_same_alone_and_in_a_batch(base: FrozenBase, engine: ContinuousEngine) -> None:
    draw = random.Random(3)
    rows = [
        (
            some_vectors(base, n % 3, n),
            some_ids(draw, 2 + n),
            {"temperature": 1.0 + n / 4, "top_p": 0.9, "top_k": 50, "seed": n},
        )
        for n in range(8)
    ]
    together = [ask(engine, prompt, ids, max_tokens=8, **how) for prompt, ids, how in rows]
    together = [inbox.wait() for inbox in together]
    for (prompt, ids, how), inbox in zip(rows, together, strict=True):
        idle(engine)
        assert ask(engine, prompt, ids, max_tokens=8, **how).tokens == inbox.tokens
    prompt, ids, how = rows[0]
    others = {tuple(ask(engine, prompt, ids, max_tokens=8, **{**how, "seed": seed}).tokens) for seed in range(5)}
    assert len(others) > 1


def test_a_seed_below_zero_is_a_seed_of_its_own(base: FrozenBase, engine: ContinuousEngine) -> None:
    answered = [ask(engine, NO_PROMPT, (5, 6), max_tokens=8, temperature=3.0, seed=seed).tokens for seed in (-3, 3, -3)]
    assert answered[0] == answered[2] != answered[1]


def test_logprobs_are_those_of_the_base(base: FrozenBase, engine: ContinuousEngine) -> None:
    prompt, ids = some_vectors(base, 3, 5), (5, 6, 7)
    inbox = ask(engine, prompt, ids, max_tokens=4, logprobs=3, temperature=5.0, seed=1)
    answered = [token for piece in inbox.pieces for token in piece.tokens]
    assert len(answered) == inbox.pieces[-1].count == 4
    vectors_PD = prompt.vectors_PD
    assert vectors_PD is not None
    for number, token in enumerate(answered):
        row = (*ids, *(earlier.id for earlier in answered[:number]))
        labels = tuple((candidate,) for candidate in range(VOCABULARY))
        (scores,) = score_offline(base, [vectors_PD], [0], [row], [labels])
        best = sorted(range(VOCABULARY), key=lambda c: -scores[c])[:3]
        assert token.logprob == pytest.approx(scores[token.id], abs=1e-4)
        assert [other for other, _, _ in token.top] == best
        assert [value for _, _, value in token.top] == pytest.approx([scores[c] for c in best], abs=1e-4)
    assert "".join(token.text for token in answered) == inbox.text == base.decode([token.id for token in answered])


def test_text_is_that_of_all_tokens_together(base: FrozenBase, engine: ContinuousEngine) -> None:
    draw = random.Random(4)
    for n in range(6):
        ids = some_ids(draw, 4)
        inbox = ask(engine, some_vectors(base, n, n), ids, max_tokens=25, temperature=2.0, seed=n)
        answered = [token for token in inbox.tokens if token not in base.end_ids]
        assert base.decode(ids).rstrip("�") + inbox.text == base.decode([*ids, *answered])


def test_stop_texts_end_a_row_and_are_cut_off(base: FrozenBase, engine: ContinuousEngine) -> None:
    prompt, ids = some_vectors(base, 4, 8), (9, 10, 11)
    whole = ask(engine, prompt, ids, max_tokens=20)
    stop = whole.text[5:8]
    stopped = ask(engine, prompt, ids, max_tokens=20, stop=("never to be seen", stop))
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.pieces[-1].finish == "stop"
    assert stopped.pieces[-1].count == len(stopped.tokens) <= len(whole.tokens)


def test_a_row_ends_with_the_context(base: FrozenBase, engine: ContinuousEngine) -> None:
    context = base.context
    assert context is not None
    for rows in (0, 20):
        prompt = some_vectors(base, rows, 9)
        ids = tuple(range(2, 2 + context - rows - 3))
        inbox = ask(engine, prompt, ids, max_tokens=50, temperature=1.0, seed=0)
        assert inbox.pieces[-1].finish in ("length", "stop")
        assert inbox.pieces[-1].count == 3 if inbox.pieces[-1].finish == "length" else inbox.pieces[-1].count <= 3
        with pytest.raises(ContextError, match=f"{rows} virtual tokens"):
            ask(engine, prompt, tuple(range(2, 2 + context - rows)), max_tokens=1)
        with pytest.raises(ContextError, match="label"):
            engine.submit(ScoreJob(prompt, ids, ((1, 2, 3, 4),)), Inbox())
    with pytest.raises(ContextError):
        engine.submit(EmbedJob(tuple([2] * (context + 1))), Inbox())


@pytest.mark.parametrize("architecture", ["llama", "opt", "gemma2"])
def test_embeddings_are_means_of_the_last_states(architecture: str) -> None:
    base = make_base(architecture)
    engine = ContinuousEngine(architecture_of(base))
    draw = random.Random(5)
    rows = [some_ids(draw, n) for n in (1, 9, 4)]
    inboxes = [Inbox() for _ in rows]
    engine.submit_all([(EmbedJob(ids), inbox) for ids, inbox in zip(rows, inboxes, strict=True)])
    for ids, inbox in zip(rows, inboxes, strict=True):
        with torch.no_grad():
            states = base.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
        assert isinstance(inbox.last, Embedding)
        assert inbox.last.values == pytest.approx(states[0].mean(0).tolist(), abs=1e-4)
    engine.stop()


def test_a_prompt_is_computed_once(base: FrozenBase, engine: ContinuousEngine) -> None:
    prompt = some_vectors(base, 6, 11)
    for ids in ((3, 4), (5, 6)):
        ask(engine, prompt, ids, max_tokens=2).wait()
        inbox = Inbox()
        engine.submit(ScoreJob(prompt, ids, ((3,), (4,))), inbox)
        inbox.wait()
    status = engine.status()
    assert (status.prefix_misses, status.prefix_hits) == (1, 3)
    assert status.prefix_bytes == 2 * 2 * 2 * 6 * 8 * 4  # layers, keys and values, heads, tokens, width, bytes


class _Gate:
    """Holds the engine's thread in a forward pass until it is opened."""

    def __init__(self, base: FrozenBase) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self.handle = base.model.register_forward_pre_hook(self._hold)

    def _hold(self, *_: Any) -> None:
        self.reached.set()
        assert self.open.wait(60)

    def __enter__(self) -> _Gate:
        return self

    def __exit__(self, *_: Any) -> None:
        self.open.set()
        self.handle.remove()


def test_the_queue_is_bounded(base: FrozenBase) -> None:
    engine = ContinuousEngine(architecture_of(base), Limits(max_rows=1, max_waiting=2))
    with _Gate(base) as gate:
        first = ask(engine, NO_PROMPT, (3,), max_tokens=3)
        assert gate.reached.wait(60)
        waiting = [ask(engine, NO_PROMPT, (3,), max_tokens=3) for _ in range(2)]
        with pytest.raises(EngineBusy, match=r"2 jobs waiting.*2 may wait"):
            ask(engine, NO_PROMPT, (3,), max_tokens=3)
        assert engine.status().waiting == 2
    assert [inbox.pieces[-1].count for inbox in [first, *waiting]] == [3, 3, 3]
    engine.stop()


def test_more_jobs_than_may_ever_wait_are_no_matter_of_trying_again(base: FrozenBase) -> None:
    engine = ContinuousEngine(architecture_of(base), Limits(max_waiting=2))
    job = ScoreJob(NO_PROMPT, (3,), ((5,), (6,)))
    inboxes = [Inbox(), Inbox()]
    engine.submit_all([(job, inbox) for inbox in inboxes])
    assert all(isinstance(inbox.last, Scores) for inbox in inboxes)
    with pytest.raises(ConfigError, match=r"3 rows .* holds 2 .*--engine-queue"):
        engine.submit_all([(job, Inbox()) for _ in range(3)])
    assert engine.max_waiting == 2
    engine.stop()


def test_single_passes_do_not_wait_behind_generations(base: FrozenBase) -> None:
    engine = ContinuousEngine(architecture_of(base), Limits(max_rows=1))
    rows = [ask(engine, NO_PROMPT, (3, n), max_tokens=60, temperature=1.0, seed=n) for n in range(2, 8)]
    score, embed = Inbox(), Inbox()
    engine.submit(ScoreJob(NO_PROMPT, (3, 4), ((5,), (6,))), score)
    engine.submit(EmbedJob((3, 4)), embed)
    score.wait()
    embed.wait()
    assert not rows[-1].done.is_set()
    engine.stop(drain=False)


def test_a_cancelled_row_leaves_at_the_next_step(base: FrozenBase, engine: ContinuousEngine) -> None:
    began, inbox = threading.Event(), Inbox()
    answered: list[object] = []

    def deliver(result: object) -> None:
        answered.append(result)
        began.set()

    with _Gate(base) as gate:
        ticket = engine.submit(GenerateJob(NO_PROMPT, (3,), Sampling(max_tokens=90, logprobs=0)), deliver)
        assert gate.reached.wait(60)
        ticket.cancel()
        engine.submit(GenerateJob(NO_PROMPT, (4,), Sampling(max_tokens=5)), inbox)
    inbox.wait()
    idle(engine)
    assert answered == []
    assert engine.status().steps < 20  # it would have taken 90
    ticket.cancel()


def test_a_cancellation_in_the_middle_of_an_answer_is_kept(
    base: FrozenBase, engine: ContinuousEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, asked = continuous._is_last, iter(range(10_000))
    tickets: list[Ticket] = []

    def meanwhile(result: Result) -> bool:
        if next(asked) == 1:  # while the first piece is answered; it was looked at before, when it was made
            tickets[0].cancel()
        return honest(result)

    monkeypatch.setattr(continuous, "_is_last", meanwhile)
    with _Gate(base) as gate:
        tickets.append(engine.submit(GenerateJob(NO_PROMPT, (3,), Sampling(max_tokens=90, logprobs=0)), lambda _: None))
        assert gate.reached.wait(60)
    idle(engine)
    assert engine.status().steps < 20  # it would have taken 90


def test_a_failed_step_ends_its_jobs_alone(base: FrozenBase, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    engine = ContinuousEngine(architecture_of(base))
    fails = iter([False, True])

    def fail(*_: Any) -> None:
        if next(fails, False):
            raise MemoryError("no room")

    handle = base.model.register_forward_pre_hook(fail)
    inbox = ask(engine, NO_PROMPT, (3,), max_tokens=5)
    with pytest.raises(EngineError, match="MemoryError: no room"):
        _ = inbox.pieces
    assert len(inbox.results) == 2  # the first token came
    handle.remove()
    idle(engine)
    assert not same_but_for_ties(base, NO_PROMPT, (3, 4), 5, ask(engine, NO_PROMPT, (3, 4), max_tokens=5).tokens)

    def fail_long(_module: Any, _arguments: Any, named: dict[str, Any]) -> None:
        if named["inputs_embeds"].shape[1] == 7:
            raise MemoryError("no room")

    handle = base.model.register_forward_pre_hook(fail_long, with_kwargs=True)
    going = ask(engine, NO_PROMPT, (3, 4), max_tokens=30)
    assert going.began.wait(PATIENCE)  # or both might come in by one pass, and fail together
    with pytest.raises(EngineError, match="no room"):
        _ = ask(engine, some_vectors(base, 3, 1), (3,) * 7, max_tokens=5).pieces
    handle.remove()
    assert not same_but_for_ties(base, NO_PROMPT, (3, 4), 30, going.tokens)
    engine.stop()


def test_a_row_that_cannot_begin_takes_no_other_along(base: FrozenBase, caplog: pytest.LogCaptureFixture) -> None:
    """What fails behind its first pass leaves nothing of it among the rows that go on."""
    caplog.set_level(logging.CRITICAL)

    class Broken:
        def begin(self) -> Any:
            raise RuntimeError("no such grammar")

    engine = ContinuousEngine(architecture_of(base))
    going = ask(engine, NO_PROMPT, (3, 4), max_tokens=30)
    assert going.began.wait(PATIENCE)
    with pytest.raises(EngineError, match="no such grammar"):
        _ = ask(engine, some_vectors(base, 3, 1), (3,) * 7, max_tokens=5, grammar=Broken()).pieces
    assert not same_but_for_ties(base, NO_PROMPT, (3, 4), 30, going.tokens)
    engine.stop()


def test_a_pass_that_memory_does_not_hold_runs_in_halves(base: FrozenBase, caplog: pytest.LogCaptureFixture) -> None:
    """Rows that enter, scores and embeddings alike; a single one that is still too large ends alone."""

    def starve(_module: Any, _arguments: Any, named: dict[str, Any]) -> None:
        if named["inputs_embeds"][..., 0].numel() > 24:
            torch.empty(1 << 60, dtype=torch.uint8)  # really fails, with the allocator's own words

    draw = random.Random(5)
    prompt = some_vectors(base, 3, 1)
    inputs = [some_ids(draw, 8) for _ in range(5)]
    jobs: list[Any] = [GenerateJob(prompt, ids, Sampling(max_tokens=4)) for ids in inputs]
    jobs += [ScoreJob(prompt, ids, ((5,), (6, 7))) for ids in inputs]
    jobs += [EmbedJob(ids) for ids in [*inputs, some_ids(draw, 30)]]
    answered: list[list[Inbox]] = []
    architecture = architecture_of(base)  # which looks at the base once, while there is memory
    for starved in (False, True):
        handle = base.model.model.register_forward_pre_hook(starve, with_kwargs=True) if starved else None
        engine = ContinuousEngine(architecture, Limits(max_rows=8))
        answered.append([Inbox() for _ in jobs])
        engine.submit_all(list(zip(jobs, answered[-1], strict=True)))
        for inbox in answered[-1]:
            inbox.wait()
        engine.stop()
        if handle is not None:
            handle.remove()
    for plain, halved in zip(answered[0][:5], answered[1][:5], strict=True):
        assert plain.text == halved.text
    for plain, halved in zip(answered[0][5:-1], answered[1][5:-1], strict=True):
        assert values_of(halved.last) == pytest.approx(values_of(plain.last), abs=1e-4)
    assert isinstance(answered[1][-1].last, EngineError)
    assert "runs in halves" in caplog.text


def values_of(result: Result) -> tuple[float, ...]:
    assert isinstance(result, Scores | Embedding)
    return result.values


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_without_numbers_ends_alone(base: FrozenBase, value: float) -> None:
    engine = ContinuousEngine(architecture_of(base), Limits(max_rows=3))
    damaged = Vectors("damaged", torch.full((4, base.width), value))
    good = some_vectors(base, 4, 2)
    for _ in range(3):  # again, so that good rows come into the places of damaged ones
        jobs = [(good, (5, 6, 7)), (damaged, (5, 6)), (NO_PROMPT, (8, 9))]
        inboxes = [ask(engine, *job, max_tokens=12) for job in jobs]
        with pytest.raises(EngineError, match="no numbers"):
            _ = inboxes[1].pieces
        for job, inbox in zip(jobs[::2], inboxes[::2], strict=True):
            assert not same_but_for_ties(base, *job, 12, inbox.tokens)
    engine.stop()


def test_a_caller_that_fails_harms_nobody(
    base: FrozenBase, engine: ContinuousEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    def refuse(_: object) -> None:
        raise ValueError("not now")

    engine.submit(GenerateJob(NO_PROMPT, (3,), Sampling(max_tokens=80, logprobs=0)), refuse)
    assert not same_but_for_ties(base, NO_PROMPT, (3, 4), 9, ask(engine, NO_PROMPT, (3, 4), max_tokens=9).tokens)
    idle(engine)


def test_stop_drains_or_ends(base: FrozenBase) -> None:
    engine = ContinuousEngine(architecture_of(base), Limits(max_rows=1))
    inboxes = [ask(engine, NO_PROMPT, (3, n), max_tokens=6) for n in range(2, 5)]
    assert engine.status().accepts
    engine.stop()
    assert not engine.status().accepts
    assert all(inbox.done.is_set() and inbox.pieces for inbox in inboxes)
    with pytest.raises(EngineError, match="stopped"):
        ask(engine, NO_PROMPT, (3,), max_tokens=1)
    engine.stop()

    engine = ContinuousEngine(architecture_of(base), Limits(max_rows=1))
    with _Gate(base) as gate:
        inboxes = [ask(engine, NO_PROMPT, (3, n), max_tokens=80, temperature=1.0) for n in range(2, 6)]
        assert gate.reached.wait(60)
        stopper = threading.Thread(target=engine.stop, kwargs={"timeout": 0.01})
        stopper.start()
        stopper.join(0.2)
    stopper.join(60)
    assert isinstance(inboxes[-1].last, EngineError)
    assert "stopped" in str(inboxes[-1].last)


def test_a_thread_that_dies_says_so(base: FrozenBase, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    engine = ContinuousEngine(architecture_of(base))
    engine._scheduler.admit = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    inbox = ask(engine, NO_PROMPT, (3,), max_tokens=5)
    assert isinstance(inbox.last, EngineError)
    assert "ZeroDivisionError" in str(inbox.last)
    assert not engine.status().accepts
    with pytest.raises(EngineError, match="stopped"):
        ask(engine, NO_PROMPT, (3,), max_tokens=5)


@pytest.mark.parametrize(
    ("ids", "sampling", "prompt", "message"),
    [
        ((), {}, NO_PROMPT, "no tokens"),
        ((3, VOCABULARY), {}, NO_PROMPT, "between 0 and"),
        ((-1,), {}, NO_PROMPT, "between 0 and"),
        ((3,), {"max_tokens": 0}, NO_PROMPT, "max_tokens"),
        ((3,), {"temperature": -1.0}, NO_PROMPT, "temperature"),
        ((3,), {"temperature": float("nan")}, NO_PROMPT, "temperature"),
        ((3,), {"top_p": 0.0}, NO_PROMPT, "top_p"),
        ((3,), {"top_k": -1}, NO_PROMPT, "top_k"),
        ((3,), {"logprobs": -1}, NO_PROMPT, "logprobs"),
        ((3,), {}, Vectors("00", torch.zeros(3, 7)), "width 32"),
    ],
)
def test_jobs_that_make_no_sense_are_refused_at_once(
    engine: ContinuousEngine, ids: tuple[int, ...], sampling: dict[str, Any], prompt: Vectors, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        engine.submit(GenerateJob(prompt, ids, replace(Sampling(max_tokens=2), **sampling)), Inbox())


def test_submit_all_takes_all_or_none(base: FrozenBase, engine: ContinuousEngine) -> None:
    inbox = Inbox()
    good, bad = GenerateJob(NO_PROMPT, (3,), Sampling(max_tokens=2)), GenerateJob(NO_PROMPT, (), Sampling(max_tokens=2))
    with pytest.raises(EngineError):
        engine.submit_all([(good, inbox), (bad, Inbox())])
    idle(engine)
    assert not inbox.results
    assert engine.status().steps == 0


def test_pieces_end_once(base: FrozenBase, engine: ContinuousEngine) -> None:
    pieces = ask(engine, some_vectors(base, 2, 3), (3, 4), max_tokens=7).pieces
    assert [bool(piece.finish) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert isinstance(pieces[-1], Piece)
    assert pieces[-1].count == 7
