"""How likely the tokens of an input are: by the base's own forward over prompt and input, whatever runs beside it."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.protocol import GenerateJob, ReadJob, Sampling, TokensRead, Vectors
from softprompt.engines.reading import read_jobs, with_texts
from softprompt.engines.scheduler import Limits
from softprompt.errors import ConfigError, ContextError
from softprompt.model.architecture import architecture_of
from softprompt.model.kinds.causal import Causal
from tests.engine_jobs import Inbox, idle, some_vectors
from tests.models import ARCHITECTURES, UNEVEN, VOCABULARY, make_base, make_seq2seq, some_prefix, tokenizer


@torch.no_grad()
def alone(base: FrozenBase, prompt: Vectors, ids: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities L-1 x V by the model's own forward over vectors and embeddings, without anything of ours."""
    embeds_LD = base.embed(torch.tensor(ids))
    if prompt.vectors_PD is not None:
        embeds_LD = torch.cat([prompt.vectors_PD.to(base.dtype), embeds_LD])
    logits_LV = base.model(inputs_embeds=embeds_LD[None]).logits[0].float()
    logs_LV: torch.Tensor = logits_LV.log_softmax(-1)[len(prompt) : -1]
    return logs_LV


def check(base: FrozenBase, job: ReadJob, result: Any) -> None:
    assert isinstance(result, TokensRead)
    logs_LV = alone(base, job.prompt, job.input)
    assert [token.id for token in result.tokens] == list(job.input[1:])
    for own, token in zip(logs_LV, result.tokens, strict=True):
        assert token.logprob == pytest.approx(float(own[token.id]), abs=2e-4)
        values, _ = own.topk(job.top) if job.top else (torch.zeros(0), None)
        assert [value for _, _, value in token.top] == pytest.approx(values.tolist(), abs=2e-4)
        assert all(value == pytest.approx(float(own[other]), abs=2e-4) for other, _, value in token.top)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, UNEVEN])
def test_each_token_is_as_likely_as_alone(architecture: str) -> None:
    base, draw = make_base(architecture), random.Random(architecture)
    engine = ContinuousEngine(architecture_of(base), Limits(max_rows=3, token_budget=40))
    prompts = [some_vectors(base, rows, seed) for seed, rows in enumerate([0, 3, 9])]
    asked = []
    for number in range(9):
        ids = tuple(draw.randrange(2, VOCABULARY) for _ in range(1 if number == 4 else draw.randrange(2, 20)))
        job, inbox = ReadJob(draw.choice(prompts), ids, draw.randrange(3)), Inbox()
        engine.submit(job, inbox)
        engine.submit(GenerateJob(job.prompt, ids, Sampling(max_tokens=3)), Inbox())
        asked.append((job, inbox))
    for job, inbox in asked:
        check(base, job, inbox.last)
    idle(engine)
    engine.stop()


def test_behind_a_prefix() -> None:
    """A trained prefix and a soft prompt in one pass, each as its own."""
    base = make_base("llama")
    prefix = some_prefix(base, "x", rows=4, seed=2)
    of_prefix = Vectors("p", prefix.vectors_PD)
    ids = (5, 9, 33, 7)
    architecture = Causal(base)
    engine = ContinuousEngine(architecture)
    inboxes = [Inbox(), Inbox()]
    for prompt, inbox in zip((of_prefix, some_vectors(base, 3, 1)), inboxes, strict=True):
        engine.submit(ReadJob(prompt, ids), inbox)
    check(base, ReadJob(some_vectors(base, 3, 1), ids), inboxes[1].last)
    # The sum over the tokens behind the first is what scoring them as a label gives.
    from softprompt.engines.protocol import ScoreJob, Scores

    scored = Inbox()
    engine.submit(ScoreJob(of_prefix, ids[:1], (ids[1:],)), scored)
    assert isinstance(inboxes[0].last, TokensRead)
    assert isinstance(scored.last, Scores)
    assert sum(token.logprob for token in inboxes[0].last.tokens) == pytest.approx(scored.last.values[0], abs=1e-4)
    engine.stop()


def test_nothing_beside_a_row_has_a_say_on_an_invariant_base() -> None:
    base = FrozenBase.wrap(make_base("llama").model, tokenizer(), name="x", batch_invariant=True)
    architecture = architecture_of(base)
    engine = ContinuousEngine(architecture)
    jobs = [ReadJob(some_vectors(base, rows, rows), tuple(range(5, 9 + rows)), 2) for rows in (0, 3, 5)]
    together = read_jobs(architecture, engine._prefixes, jobs)
    assert together == [read_jobs(architecture, engine._prefixes, [job])[0] for job in jobs]
    engine.stop()


def test_texts_make_up_the_input() -> None:
    base = make_base("llama")
    for text in ("red stone", "ä ö 标题 x", "a"):
        ids = base.encode([text])[0]
        told = with_texts(base.spelling, ids, read_one(base, tuple(ids)))
        assert "".join(token.text for token in told) == text
        assert [token.id for token in told] == ids
    ids = [*base.encode(["red"])[0], base.end_id, *base.encode([" stone"])[0]]
    told = with_texts(base.spelling, ids, read_one(base, tuple(ids)))
    assert "".join(token.text for token in told) == "red stone"
    assert len(told) == len(ids)


def read_one(base: FrozenBase, ids: tuple[int, ...]) -> Any:
    engine, inbox = ContinuousEngine(architecture_of(base)), Inbox()
    engine.submit(ReadJob(some_vectors(base, 0, 0), ids, 1), inbox)
    assert isinstance(inbox.last, TokensRead)
    engine.stop()
    return inbox.last.tokens


def test_what_cannot_be_read_is_refused() -> None:
    for base, error, why in (
        (make_seq2seq("bart"), ConfigError, "encoder-decoder"),
        (make_base("llama"), ContextError, "do not fit"),
    ):
        engine = ContinuousEngine(architecture_of(base))
        with pytest.raises(error, match=why):
            engine.submit(ReadJob(some_vectors(base, 0, 0), (3,) * 97), Inbox())
        engine.stop()
