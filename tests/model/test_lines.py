"""Rows laid end to end in lines: the same logits and gradients as rows run by themselves, and next to no padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from softprompt.bases.base import FrozenBase
from softprompt.model.kinds.causal import Causal
from softprompt.model.lines import lay_lines, splice_lines
from softprompt.model.splice import Stack, chunk_by_prompt, common_head, extend_stack, stack_prompts
from softprompt.training.objectives import LABEL_SCORING, LANGUAGE_MODELING, LabelTarget
from softprompt.training.steps.forward import Example, losses_and_gradient
from tests.engine_jobs import score_offline
from tests.model.test_splice import ROWS, WHICH, alone, some_ids, some_prompts
from tests.models import ARCHITECTURES, VOCABULARY, make_base, make_causal, tokenizer

UNWINDOWED = [name for name in ARCHITECTURES if name not in ("mistral", "gemma2")]
each_unwindowed = pytest.mark.parametrize(
    ("architecture", "attention"), [(name, kind) for name in UNWINDOWED for kind in ("eager", "sdpa")]
)


@each_unwindowed
def test_each_row_of_a_line_equals_that_row_alone(architecture: str, attention: str) -> None:
    causal = make_causal(architecture, attention=attention)
    base = causal.base
    prompts = [*some_prompts(base), torch.zeros(0, base.width)]
    stack = stack_prompts(prompts)
    which = [*WHICH, 3, 3]
    rows = [*ROWS, some_ids(4, 90), some_ids(9, 91)]
    assert causal.lays_lines(9 + max(map(len, rows)))
    inputs, tails = [row[:1] for row in rows], [[row[1:]] for row in rows]
    logits = causal.run_lines(stack, causal.compute_prefix(stack), which, inputs, tails)
    expected = torch.cat([alone(base, prompts[prompt], row) for prompt, row in zip(which, rows, strict=True)])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


TAILS = [[some_ids(n, 60 + n) for n in lengths] for lengths in ([3, 1, 2], [], [4, 3], [0], [5, 0, 5, 1], [2])]
"""Of the rows of test_splice."""


def expected_of(base: FrozenBase, prompts: list[torch.Tensor], row: int) -> torch.Tensor:
    """The logits of a row with tails, each tail behind the row run by itself."""
    ids, prompt_PD = ROWS[row], prompts[WHICH[row]]
    parts = [alone(base, prompt_PD, ids)[-1:]]
    parts += [alone(base, prompt_PD, [*ids, *tail])[len(ids) :] for tail in TAILS[row]]
    return torch.cat(parts)


@pytest.mark.parametrize("way", ["lines", "padded", "concatenated"])
@each_unwindowed
def test_a_tail_sees_its_stem_and_no_other_tail(architecture: str, attention: str, way: str) -> None:
    causal = make_causal(architecture, attention=attention)
    prompts = some_prompts(causal.base)
    stack = stack_prompts(prompts)
    if way == "lines":
        logits = causal.run_lines(stack, causal.compute_prefix(stack), WHICH, ROWS, TAILS)
    else:
        logits = causal.run_padded(
            stack, None if way == "concatenated" else causal.compute_prefix(stack), WHICH, ROWS, TAILS
        )
    expected = torch.cat([expected_of(causal.base, prompts, row) for row in range(len(ROWS))])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_labels_of_several_tokens_score_as_each_label_does_alone(architecture: str) -> None:
    base = make_base(architecture)
    prompts = some_prompts(base)
    labels = (((4,), (5, 6), (5, 7, 8), (9, 3)), ((7,), (8,)), ((3, 3, 3), (2, 4)))
    found = score_offline(base, prompts, WHICH, ROWS, [labels[which] for which in WHICH])
    for row, which, scores in zip(ROWS, WHICH, found, strict=True):
        for label, score in zip(labels[which], scores, strict=True):
            logits = alone(base, prompts[which], [*row, *label[:-1]])[len(row) - 1 :].log_softmax(-1)
            expected = sum(float(logits[place, token]) for place, token in enumerate(label))
            assert abs(score - expected) < 1e-3


@pytest.mark.parametrize("tails", [[[]] * len(ROWS), TAILS])
@each_unwindowed
def test_gradients_through_lines_equal_those_through_padded_rows(
    architecture: str, attention: str, tails: list[list[list[int]]]
) -> None:
    causal = make_causal(architecture, attention=attention)
    gradients = []
    for run in (causal.run_lines, causal.run_padded):
        stack = stack_prompts(some_prompts(causal.base))
        leaf = Stack(stack.vectors_KPD.requires_grad_(), stack.mask_KP, stack.lengths_K)
        logits = run(leaf, causal.compute_prefix(leaf), WHICH, ROWS, tails)
        gradients += torch.autograd.grad(logits.log_softmax(-1)[..., 5].sum(), leaf.vectors_KPD)
    assert (gradients[0] - gradients[1]).norm() <= 1e-5 * gradients[1].norm()


@pytest.mark.parametrize("architecture", ["mistral", "gemma2"])
def test_rows_beyond_the_attention_window_are_never_laid_in_lines(architecture: str) -> None:
    class InLines(Causal):
        lines_agree = True  # as on a model whose window is wider than the self-check's rows

        def run_padded(self, *_: Any) -> Any:
            pytest.fail("within the window lines are what is run")

    causal = make_causal(architecture)
    base, in_lines = causal.base, InLines(causal.base)
    stack = stack_prompts(some_prompts(base, (2, 1)))
    assert base.window == 6
    assert not in_lines.lays_lines(7)
    assert in_lines.lays_lines(6)
    rows, which, tails = [[7, 8, 9], [3, 5], [6, 2, 9]], [0, 1, 0], [[[4], [2]], [], [[]]]
    logits = in_lines.logits_behind(stack, causal.compute_prefix(stack), which, rows, tails)
    plain = causal.logits_behind(stack, None, which, rows, tails)
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)


def test_a_base_whose_positions_come_from_its_mask_is_not_laid_in_lines() -> None:
    torch.manual_seed(0)
    config = transformers.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.5)
    base = FrozenBase.wrap(transformers.AutoModelForCausalLM.from_config(config), tokenizer(), name="random/bloom")
    stack, causal = stack_prompts(some_prompts(base)), Causal(base)
    assert not causal.lays_lines(20)
    logits = causal.logits_behind(stack, causal.compute_prefix(stack), WHICH, ROWS, TAILS)
    torch.testing.assert_close(logits, causal.logits_behind(stack, None, WHICH, ROWS, TAILS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", [0, 1, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_all_inputs_begin_with_is_run_once_and_changes_nothing(architecture: str, head: int) -> None:
    causal = make_causal(architecture)
    labels = tuple(tuple(some_ids(n, 30 + n)) for n in (1, 3, 2))
    common = [some_ids(head, 70), some_ids(head, 71), []]
    examples = [
        Example(which, [*common[which], *row], LABEL_SCORING, LabelTarget(labels, i % 3), 0.25)
        if i % 2
        else Example(which, [*common[which], *row], LANGUAGE_MODELING, some_ids(2, i), 0.25)
        for i, (which, row) in enumerate(zip(WHICH, ROWS, strict=True))
    ]
    stack = stack_prompts(some_prompts(causal.base))
    shared_loss, shared = losses_and_gradient(causal, stack, examples, shared=True)
    plain_loss, plain = losses_and_gradient(causal, stack, examples, shared=False)
    torch.testing.assert_close(shared_loss, plain_loss, rtol=1e-5, atol=1e-5)
    assert (shared - plain).norm() <= 1e-5 * plain.norm()


def test_equal_inputs_keep_a_token_each() -> None:
    causal = make_causal("llama")
    ids = some_ids(5, 3)
    examples = [Example(0, ids, LANGUAGE_MODELING, some_ids(1, i), 0.5) for i in range(2)]
    stack = stack_prompts(some_prompts(causal.base, (3,)))
    loss, _ = losses_and_gradient(causal, stack, examples, shared=True)
    plain, _ = losses_and_gradient(causal, stack, examples, shared=False)
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-5)


def test_an_extended_prompt_is_the_prompt_and_what_follows_it() -> None:
    prompts = [torch.randn(n, 4) for n in (3, 1, 0)]
    heads = [torch.randn(n, 4) for n in (2, 0, 1)]
    extended = extend_stack(stack_prompts(prompts), heads)
    expected = stack_prompts([torch.cat(pair) for pair in zip(prompts, heads, strict=True)])
    assert torch.equal(extended.vectors_KPD, expected.vectors_KPD)
    assert torch.equal(extended.mask_KP, expected.mask_KP)


@given(st.lists(st.lists(st.integers(0, 2), max_size=8), max_size=6))
def test_a_common_head_begins_all_rows_and_no_longer_one_does(rows: list[list[int]]) -> None:
    head = common_head(rows)
    assert all(row[: len(head)] == head for row in rows)
    assert not rows or len({tuple(row[: len(head) + 1]) for row in rows}) > 1 or any(row == head for row in rows)


rows_and_prompts = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 4)), min_size=1, max_size=60)


@given(rows_and_prompts, st.integers(1, 64))
def test_lines_hold_every_row_once_and_one_prompt_each(made: list[tuple[int, int]], width: int) -> None:
    rows = [list(range(1 + 100 * i, 1 + 100 * i + length)) for i, (length, _) in enumerate(made)]
    which = [prompt for _, prompt in made]
    lines = lay_lines(rows, [[]] * len(rows), which, width)
    for index, row in enumerate(rows):
        line, start = lines.line_B[index], lines.start_B[index]
        assert lines.ids_NW[line, start : start + len(row)].tolist() == row
        assert lines.place_NW[line, start : start + len(row)].tolist() == list(range(len(row)))
        assert lines.which_N[line] == which[index]
    assert int((lines.row_NW >= 0).sum()) == sum(map(len, rows))
    assert lines.row_NW.shape[1] <= max(width, *map(len, rows)) * 5 // 4 + 4


@given(rows_and_prompts)
def test_a_column_sees_its_prompt_and_its_own_row_up_to_itself(made: list[tuple[int, int]]) -> None:
    rows = [[1] * length for length, _ in made]
    lines = lay_lines(rows, [[]] * len(rows), [prompt for _, prompt in made], 32)
    stack = stack_prompts([torch.zeros(n, 2) for n in range(5)])
    spliced = splice_lines(stack, lines)
    for line in range(len(lines.which_N)):
        for column in range(lines.row_NW.shape[1]):
            seen = spliced.mask_BS[line, 0, column]
            row, place = int(lines.row_NW[line, column]), int(lines.place_NW[line, column])
            if row < 0:
                assert seen.any()
                continue
            length = int(lines.which_N[line])  # prompt k has k virtual tokens
            assert seen[: stack.columns].tolist() == [False] * (stack.columns - length) + [True] * length
            own = seen[stack.columns :].nonzero().flatten().tolist()
            assert own == list(range(column - place, column + 1))
            assert int(spliced.positions_BS[line, column]) == length + place


@given(rows_and_prompts, st.integers(1, 100))
def test_chunks_by_prompt_cover_every_item_within_the_budget(made: list[tuple[int, int]], budget: int) -> None:
    tokens, which = [length for length, _ in made], [prompt for _, prompt in made]
    chunks = list(chunk_by_prompt(which, tokens, budget))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(made)))
    assert all(len(chunk) == 1 or sum(tokens[i] for i in chunk) <= budget for chunk in chunks)
    order = [which[i] for chunk in chunks for i in chunk]
    assert order == sorted(order)
