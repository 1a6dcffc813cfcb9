"""Encoder-decoders behind prompts: a mixed batch is each row alone, vectors of tokens are those tokens, and what is kept of
a decoder is what it would compute anew."""

from __future__ import annotations

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.engines.batch import SplicedRows, rows_of
from softprompt.engines.decoded import DecodedRows
from softprompt.engines.protocol import GenerateJob, Sampling, Vectors
from softprompt.model.kinds.encoder_decoder import EncoderDecoder
from softprompt.model.splice import stack_prompts
from tests.models import SEQ_2_SEQ, make_seq2seq, tokenizer

ROWS = [[5, 9, 31], [200], [7, 8, 120, 44, 60]]
TAILS = [[[3, 4], [6]], [[]], [[10, 11, 12]]]


def prompts_of(base: FrozenBase) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(count, base.width, generator=generator).to(base.dtype) for count in (4, 0, 7)]


@pytest.mark.parametrize("architecture", list(SEQ_2_SEQ))
def test_a_mixed_batch_is_each_row_alone(architecture: str) -> None:
    each = EncoderDecoder(make_seq2seq(architecture, dtype=torch.float64))
    prompts, which = prompts_of(each.base), [2, 0, 1]
    mixed = each.logits_behind(stack_prompts(prompts), None, which, ROWS, TAILS)
    alone = [
        each.logits_behind(stack_prompts([prompts[k]]), None, [0], [ids], [ends])
        for k, ids, ends in zip(which, ROWS, TAILS, strict=True)
    ]
    torch.testing.assert_close(mixed, torch.cat(alone), rtol=1e-8, atol=1e-8)
    assert len(mixed) == 4 + 1 + 4


@pytest.mark.parametrize("architecture", list(SEQ_2_SEQ))
def test_vectors_of_real_tokens_are_those_tokens(architecture: str) -> None:
    each = EncoderDecoder(make_seq2seq(architecture, dtype=torch.float64))
    base, head = each.base, [33, 250, 4]
    vectors_PD = base.embed(torch.tensor(head))
    spliced = each.logits_behind(stack_prompts([vectors_PD]), None, [0, 0, 0], ROWS, TAILS)
    for row, ids in enumerate(ROWS):
        told = base.model(input_ids=torch.tensor([[*head, *ids]]), decoder_input_ids=torch.tensor([list(base.answer_start)]))
        torch.testing.assert_close(spliced[[0, 4, 5][row]], told.logits[0, -1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("architecture", list(SEQ_2_SEQ))
def test_kept_answers_are_answers_run_anew(architecture: str) -> None:
    each = EncoderDecoder(make_seq2seq(architecture, dtype=torch.float64))
    assert each.keeps_answers
    vectors = [Vectors(str(k), prompt_PD) for k, prompt_PD in enumerate(prompts_of(each.base))]
    jobs = [GenerateJob(vectors[k], tuple(ids), Sampling(max_tokens=9)) for k, ids in zip([2, 0, 1], ROWS, strict=True)]
    kept, anew = rows_of(each, None), SplicedRows(each)
    assert isinstance(kept, DecodedRows)
    with torch.no_grad():
        for some in (jobs[:2], jobs[2:]):  # two groups
            torch.testing.assert_close(kept.enter(some), anew.enter(some), rtol=1e-8, atol=1e-8)
            tokens = list(range(20, 20 + len(kept)))
            torch.testing.assert_close(kept.step(tokens), anew.step(tokens), rtol=1e-8, atol=1e-8)
        assert kept.leave([1]) == anew.leave([1]) == [0, 2]
        for tokens in ([5, 6], [300, 2]):
            torch.testing.assert_close(kept.step(tokens), anew.step(tokens), rtol=1e-8, atol=1e-8)
        assert kept.leave([0]) == anew.leave([0]) == [1]
        torch.testing.assert_close(kept.step([9]), anew.step([9]), rtol=1e-8, atol=1e-8)
        kept.clear()
        assert len(kept) == 0


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_a_batch_invariant_one_answers_to_the_last_bit(architecture: str) -> None:
    base = make_seq2seq(architecture)
    each = EncoderDecoder(FrozenBase.wrap(base.model, tokenizer(), batch_invariant=True))
    prompts, which = prompts_of(base), [2, 0, 1]
    mixed = each.logits_behind(stack_prompts(prompts), None, which, ROWS, TAILS)
    alone = each.logits_behind(stack_prompts([prompts[0]]), None, [0], [ROWS[1]], [TAILS[1]])
    assert torch.equal(mixed[4:5], alone)
    vectors = [Vectors(str(k), prompt_PD) for k, prompt_PD in enumerate(prompts)]
    jobs = [GenerateJob(vectors[k], tuple(ids), Sampling(max_tokens=9)) for k, ids in zip(which, ROWS, strict=True)]
    together, single = DecodedRows(each), DecodedRows(each)
    with torch.no_grad():
        assert torch.equal(together.enter(jobs)[1:2], single.enter(jobs[1:2]))
        assert torch.equal(together.step([3, 4, 5])[1:2], single.step([4]))
        assert torch.equal(each.embed(ROWS)[1:2], each.embed(ROWS[1:2]))
