"""Encoders behind prompts with heads: the logits are those of the plain model, pooled and multiplied row by row."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from softprompt.bases.architectures import HeadLabels
from softprompt.bases.head import Head, pack
from softprompt.errors import BaseModelError
from softprompt.model.kinds.headed_encoder import HeadedEncoder
from softprompt.model.label_scores import label_contexts, score_labels
from softprompt.model.lines import row_size
from softprompt.model.splice import stack_prompts
from softprompt.training.objectives import LABEL_SCORING, LabelTarget
from softprompt.training.steps.forward import Example, losses_and_gradient
from tests.models import HEADED, make_headed

ROWS = [[5, 9, 31], [20], [7, 8, 12, 44, 15]]
COUNTS = (3, 20, 3)
"""Labels of three tasks; the prompt of the second has no vectors at all."""


def encoder(kind: str) -> HeadedEncoder:
    return HeadedEncoder(make_headed(kind, dtype=torch.float64))


def prompts_of(each: HeadedEncoder) -> list[torch.Tensor]:
    """Vectors with a head behind them, for the labels of each task."""
    generator, width = torch.Generator().manual_seed(3), each.base.width
    made = []
    for length, count in zip((4, 0, 7), COUNTS, strict=True):
        weight = torch.randn(count, each.head.features, generator=generator)
        rows = [
            torch.randn(length, width, generator=generator),
            pack(weight, torch.randn(count, generator=generator), width),
        ]
        made.append(torch.cat(rows).to(each.base.dtype))
    return made


def plain_logits(each: HeadedEncoder, prompt_PD: torch.Tensor, count: int, row: Sequence[int]) -> torch.Tensor:
    """By the plain model alone: its states of prompt, frame and row; the mean over all but the prompt, or what its own
    layers make of them, with the numbers of the head in the place of those of its last one."""
    base, features = each.base, each.head.features
    held = -(-count * (features + 1) // base.width)
    vectors_PD, flat = prompt_PD[: len(prompt_PD) - held], prompt_PD[len(prompt_PD) - held :].flatten().float()
    weight, bias = flat[: count * features].view(count, features), flat[count * features :][:count]
    ids = [*base.frame[0], *row, *base.frame[1]]
    embeds = torch.cat([vectors_PD, base.embed(torch.tensor(ids))])[None]
    if each.head.pooling == "mean":
        pooled = base.model(inputs_embeds=embeds).last_hidden_state[0, len(vectors_PD) :].mean(0)
        return weight @ pooled.float() + bias
    *path, last = each.head.pooling.split(".")
    parent = base.model
    for part in path:
        parent = getattr(parent, part)
    own = getattr(parent, last)
    ours = torch.nn.Linear(features, count).double()
    ours.load_state_dict({"weight": weight, "bias": bias})
    setattr(parent, last, ours.requires_grad_(False))
    labels, base.model.num_labels = base.model.num_labels, count
    try:
        logits: torch.Tensor = base.model(inputs_embeds=embeds).logits[0].float()
    finally:
        setattr(parent, last, own)
        base.model.num_labels = labels
    return logits


@pytest.mark.parametrize("kind", list(HEADED))
def test_tasks_of_any_number_of_labels_are_scored_in_one_pass_as_each_row_alone(kind: str) -> None:
    each, which = encoder(kind), [2, 0, 1, 2]
    rows, prompts = [*ROWS, [31, 7]], prompts_of(each)
    labels = [HeadLabels.of(COUNTS[k]) for k in which]
    logits = each.logits_behind(stack_prompts(prompts), None, which, rows, [label_contexts(own) for own in labels])
    assert logits.shape == (4, 20)
    for scores, k, row in zip(score_labels(logits, labels), which, rows, strict=True):
        expected = plain_logits(each, prompts[k], COUNTS[k], row).log_softmax(0)
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "electra", "roberta classifier"])
def test_a_mixed_step_is_each_prompt_alone(kind: str) -> None:
    each = encoder(kind)
    prompts = prompts_of(each)
    examples = [
        Example(place % 3, ids, LABEL_SCORING, LabelTarget(HeadLabels.of(COUNTS[place % 3]), place % 3), 0.5)
        for place, ids in enumerate([*ROWS, *ROWS[::-1]])
    ]
    losses_K, gradient_KPD = losses_and_gradient(each, stack_prompts(prompts), examples, token_budget=20)
    for number, prompt_PD in enumerate(prompts):
        leaf, loss = prompt_PD.clone().requires_grad_(), torch.zeros(())
        for example in (e for e in examples if e.which == number):
            scores = plain_logits_with_grad(each, leaf, COUNTS[number], example.input)
            loss = loss - example.weight * scores.log_softmax(0)[example.target.choice]
        (expected,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(losses_K[number], loss.detach().float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient_KPD[number, -len(leaf) :], expected.float(), rtol=1e-4, atol=1e-6)


def plain_logits_with_grad(each: HeadedEncoder, leaf: torch.Tensor, count: int, row: Sequence[int]) -> torch.Tensor:
    """As :func:`plain_logits`, where the numbers of the head are no parameters."""
    if each.head.pooling == "mean":
        return plain_logits(each, leaf, count, row)
    kept: list[torch.Tensor] = []
    base, held = each.base, each.head.rows(count)
    hook = base.model.get_submodule(each.head.pooling).register_forward_pre_hook(lambda _, args: kept.append(args[0][0]))
    embeds = torch.cat([leaf[: len(leaf) - held], base.embed(torch.tensor([*base.frame[0], *row, *base.frame[1]]))])[None]
    base.model(inputs_embeds=embeds)
    hook.remove()
    weight, bias = each.head.unpack(leaf, count)
    return weight.float() @ kept[0].float() + bias.float()


def test_a_batch_invariant_one_answers_to_the_last_bit() -> None:
    each = HeadedEncoder(make_headed("bert", batch_invariant=True))
    prompts, which = prompts_of(each), [2, 0, 1]
    tails = [label_contexts(HeadLabels.of(COUNTS[k])) for k in which]
    stack = stack_prompts(prompts)
    together = each.logits_behind(stack, None, which[:2], ROWS[:2], tails[:2])
    alone = [each.logits_behind(stack, None, [k], [ids], [own]) for k, ids, own in zip(which[:2], ROWS, tails, strict=False)]
    assert torch.equal(together, torch.cat(alone))


def test_a_prompt_without_rows_for_its_head_is_refused() -> None:
    each = encoder("bert")
    tails = [label_contexts(HeadLabels.of(20))]
    with pytest.raises(BaseModelError, match=r"a prompt of 5 rows has no head for 20 labels on random/bert, which takes 21"):
        each.logits_behind(stack_prompts([torch.zeros(5, 32).double()]), None, [0], ROWS[:1], tails)


def test_the_numbers_of_a_head_lie_in_rows_and_come_back() -> None:
    for labels, features, width in ((3, 32, 32), (40, 32, 32), (3, 32, 16), (1, 5, 64)):
        weight, bias = torch.randn(labels, features), torch.randn(labels)
        head, rows = Head(features, width, "mean"), pack(weight, bias, width)
        assert len(rows) == head.rows(labels)
        found = head.unpack(torch.cat([torch.randn(4, width), rows]), labels)
        assert torch.equal(found[0], weight)
        assert torch.equal(found[1], bias)


def test_labels_of_a_head_take_no_rows_of_a_pass() -> None:
    assert row_size(7, label_contexts(HeadLabels.of(20)), False) == (7, 1)
    assert row_size(7, [(), (4,)], False) == (8, 2)
    assert HeadLabels.of(2) != ((0,), (1,))


def test_bases_tell_where_their_features_come_from() -> None:
    found = {kind: HeadedEncoder(make_headed(kind)).head.pooling for kind in HEADED}
    assert found == {
        **dict.fromkeys(("bert", "roberta", "distilbert", "electra", "mpnet"), "mean"),
        "bert classifier": "classifier",
        "roberta classifier": "classifier.out_proj",
        "distilbert classifier": "classifier",
        "electra classifier": "classifier.out_proj",
    }
