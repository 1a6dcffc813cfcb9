"""Masked language models behind prompts: what is read off masks is what the plain model says there, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from softprompt.bases.architectures import MaskedLabels
from softprompt.bases.base import FrozenBase
from softprompt.model.kinds.encoder import MaskedEncoder
from softprompt.model.kinds.unshared import Laid
from softprompt.model.label_scores import label_contexts, score_labels
from softprompt.model.splice import stack_prompts
from softprompt.training.objectives import LABEL_SCORING, LANGUAGE_MODELING, LabelTarget
from softprompt.training.steps.forward import Example, losses_and_gradient
from tests.models import MASKED, make_masked

ROWS = [[5, 9, 31], [20], [7, 8, 12, 44, 15]]
LABELS = MaskedLabels(((6,), (7, 8), (9,), (10, 11, 12), (13, 8)))


def encoder(architecture: str) -> MaskedEncoder:
    return MaskedEncoder(make_masked(architecture, dtype=torch.float64))


def prompts_of(base: FrozenBase) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(count, base.width, generator=generator).to(base.dtype) for count in (4, 0, 7)]


def plain_scores(base: FrozenBase, prompt_PD: torch.Tensor, row: Sequence[int], labels: MaskedLabels) -> torch.Tensor:
    """By the plain model, a pass for each label: prompt, the frame, the row with a mask for each token, the frame."""
    mask, (before, behind) = base.tokenizer.mask_token_id, base.frame
    scores = []
    for label in labels:
        at = row.index(mask) if mask in row else len(row)
        ids = [*before, *row[:at], *[mask] * len(label), *row[at + 1 :], *behind]
        embeds = torch.cat([prompt_PD, base.embed(torch.tensor(ids))])[None]
        logits = base.model(inputs_embeds=embeds).logits[0, len(prompt_PD) + len(before) + at :][: len(label)]
        scores.append(logits.log_softmax(-1).gather(1, torch.tensor(label)[:, None]).sum())
    return torch.stack(scores)


@pytest.mark.parametrize("architecture", list(MASKED))
@pytest.mark.parametrize("place", [None, 0, 2])
def test_labels_of_any_length_are_scored_as_each_row_alone(architecture: str, place: int | None) -> None:
    each = encoder(architecture)
    base, which = each.base, [2, 0, 1]
    mask = base.tokenizer.mask_token_id
    rows = [[*ids[:place], mask, *ids[place:]] if place is not None else ids for ids in ROWS]
    prompts = prompts_of(base)
    for labels in (LABELS, MaskedLabels(((7, 8), (9, 10))), MaskedLabels(((5,), (6,)))):
        tails = [label_contexts(labels)] * 3
        logits = each.logits_behind(stack_prompts(prompts), None, which, rows, tails)
        for scores, k, row in zip(score_labels(logits, [labels] * 3), which, rows, strict=True):
            expected = plain_scores(base, prompts[k], row, labels)
            torch.testing.assert_close(scores, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", list(MASKED))
def test_vectors_of_real_tokens_are_those_tokens(architecture: str) -> None:
    each = encoder(architecture)
    base, head = each.base, [33, 50, 14]
    mask, (before, behind) = base.tokenizer.mask_token_id, base.frame
    assert len(before) == len(behind) == 1
    spliced = each.logits_behind(stack_prompts([base.embed(torch.tensor(head))]), None, [0] * 3, ROWS, [[()]] * 3)
    for found, row in zip(spliced, ROWS, strict=True):
        told = base.model(input_ids=torch.tensor([[*head, *before, *row, mask, *behind]])).logits[0, -2]
        torch.testing.assert_close(found, told, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("architecture", list(MASKED))
def test_the_head_sees_chosen_states_alone(architecture: str) -> None:
    each = encoder(architecture)
    assert each._slices
    whole, mask_BS = torch.randn(2, 5, each.base.width, dtype=torch.float64), torch.ones(2, 5, dtype=torch.long)
    keep_BL = torch.tensor([[0, 4], [3, 3]])
    laid = Laid({"inputs_embeds": whole, "attention_mask": mask_BS}, mask_BS, torch.zeros(2, dtype=torch.long))
    sliced = each._logits_at(laid, keep_BL)
    torch.testing.assert_close(sliced, each._logits_at(laid, keep_BL, sliced=False))
    assert not each.base.model.base_model._forward_hooks


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_a_mixed_step_is_each_prompt_alone(architecture: str) -> None:
    each = encoder(architecture)
    prompts = [prompt_PD for prompt_PD in prompts_of(each.base) if len(prompt_PD)]
    examples = [
        Example(row % 2, ids, LABEL_SCORING, LabelTarget(LABELS, row), 0.5) if row else
        Example(row % 2, ids, LANGUAGE_MODELING, [4, 9], 0.25)
        for row, ids in enumerate(ROWS)
    ]  # fmt: skip
    losses_K, gradient_KPD = losses_and_gradient(each, stack_prompts(prompts), examples, token_budget=20)
    recomputed = losses_and_gradient(each, stack_prompts(prompts), examples, recompute=True)[1]
    torch.testing.assert_close(recomputed, gradient_KPD, rtol=1e-4, atol=1e-6)
    for number, prompt_PD in enumerate(prompts):
        leaf, loss = prompt_PD.clone().requires_grad_(), torch.zeros(())
        for example in (e for e in examples if e.which == number):
            if isinstance(example.target, LabelTarget):
                scores = plain_scores(each.base, leaf, example.input, LABELS)
                loss = loss - example.weight * scores.log_softmax(0)[example.target.choice]
            else:
                (score,) = plain_scores(each.base, leaf, example.input, MaskedLabels((tuple(example.target),)))
                loss = loss - example.weight * score
        (expected,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(losses_K[number], loss.detach().float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient_KPD[number, -len(leaf) :], expected.float(), rtol=1e-4, atol=1e-6)


def test_a_batch_invariant_one_answers_to_the_last_bit() -> None:
    each = MaskedEncoder(make_masked("bert", batch_invariant=True))
    prompts, tails = prompts_of(each.base), [label_contexts(LABELS)] * 3
    mixed = each.logits_behind(stack_prompts(prompts), None, [2, 0, 1], ROWS, tails)
    alone = each.logits_behind(stack_prompts([prompts[0]]), None, [0], ROWS[1:2], tails[:1])
    assert torch.equal(mixed[len(alone) : 2 * len(alone)], alone)
    assert torch.equal(each.embed(ROWS)[1:2], each.embed(ROWS[1:2]))


def test_an_embedding_is_the_mean_over_the_framed_input() -> None:
    each = encoder("electra")
    base = each.base
    for row, found in zip(ROWS, each.embed(ROWS), strict=True):
        ids = [*base.frame[0], *row, *base.frame[1]]
        states = base.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(found, states.mean(0).float().detach(), rtol=1e-5, atol=1e-6)


def test_masked_labels_are_no_others() -> None:
    plain = tuple(LABELS)
    assert plain != LABELS
    assert hash(LABELS) != hash(plain)
    assert label_contexts(LABELS) != label_contexts(plain)
    assert MaskedLabels(plain) == LABELS
