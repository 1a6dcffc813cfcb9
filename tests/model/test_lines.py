"""Rows laid end to end in lines: the same logits and gradients as rows run by themselves, and next to no padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.model import prefix as prefixes
from softprompt.model.prefix import compute_prefix, lays_lines, logits_at, run_lines, run_padded
from softprompt.model.splice import Stack, chunk_by_prompt, common_head, extend_stack, lay_lines, splice_lines, stack_prompts
from softprompt.training.forward import Example, losses_and_gradient
from tests.model.test_splice import ROWS, WHICH, alone, some_ids, some_prompts
from tests.models import ARCHITECTURES, VOCABULARY, make_base, tokenizer

UNWINDOWED = [name for name in ARCHITECTURES if name not in ("mistral", "gemma2")]
each_unwindowed = pytest.mark.parametrize(
    ("architecture", "attention"), [(name, kind) for name in UNWINDOWED for kind in ("eager", "sdpa")]
)


@each_unwindowed
def test_each_row_of_a_line_equals_that_row_alone(architecture: str, attention: str) -> None:
    base = make_base(architecture, attention=attention)
    prompts = [*some_prompts(base), torch.zeros(0, base.width)]
    stack = stack_prompts(prompts)
    which = [*WHICH, 3, 3]
    rows = [*ROWS, some_ids(4, 90), some_ids(9, 91)]
    keep = [list(range(len(row))) for row in rows]
    assert lays_lines(base, 9 + max(map(len, rows)))
    logits = run_lines(base, stack, compute_prefix(base, stack), which, rows, keep)
    expected = torch.cat([alone(base, prompts[prompt], row) for prompt, row in zip(which, rows, strict=True)])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


TAILS: list[list[int]] = [[3, 1, 2], [], [4, 3], [], [5, 5, 1], [2]]
"""Of the rows of test_splice: lengths of the tails that each ends in."""


def by_tail(row: int) -> list[tuple[list[int], list[int]]]:
    """Each tail of a row behind its stem, a row by itself, and where its tokens stand in the row with all tails."""
    ids, ends = ROWS[row], TAILS[row] or [0]
    stem = len(ids) - sum(ends)
    starts = [stem + sum(ends[:tail]) for tail in range(len(ends))]
    places = [[*range(stem), *range(start, start + length)] for start, length in zip(starts, ends, strict=True)]
    return [([ids[place] for place in own], own) for own in places]


@pytest.mark.parametrize("way", ["lines", "padded", "concatenated"])
@each_unwindowed
def test_a_tail_sees_its_stem_and_no_other_tail(architecture: str, attention: str, way: str) -> None:
    base = make_base(architecture, attention=attention)
    prompts = some_prompts(base)
    stack = stack_prompts(prompts)
    keep = [list(range(len(row))) for row in ROWS]
    prefix = None if way == "concatenated" else compute_prefix(base, stack)
    run = run_lines if way == "lines" else run_padded
    logits = run(base, stack, prefix, WHICH, ROWS, keep, TAILS).split([len(row) for row in ROWS])
    for row, found in enumerate(logits):
        for ids, places in by_tail(row):
            expected = alone(base, prompts[WHICH[row]], ids)
            torch.testing.assert_close(found[places], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_labels_of_several_tokens_score_as_each_label_does_alone(architecture: str) -> None:
    base = make_base(architecture)
    prompts = some_prompts(base)
    labels = (((4,), (5, 6), (5, 7, 8), (9, 3)), ((7,), (8,)), ((3, 3, 3), (2, 4)))
    told = OfflineEngine(base).score(prompts, WHICH, ROWS, [labels[which] for which in WHICH])
    for row, which, scores in zip(ROWS, WHICH, told, strict=True):
        for label, score in zip(labels[which], scores, strict=True):
            logits = alone(base, prompts[which], [*row, *label[:-1]])[len(row) - 1 :].log_softmax(-1)
            expected = sum(float(logits[place, token]) for place, token in enumerate(label))
            assert abs(score - expected) < 1e-3


@pytest.mark.parametrize("tails", [None, TAILS])
@each_unwindowed
def test_gradients_through_lines_equal_those_through_padded_rows(
    architecture: str, attention: str, tails: list[list[int]] | None
) -> None:
    base = make_base(architecture, attention=attention)
    keep = [[0, len(row) - 1] for row in ROWS]
    gradients = []
    for run in (run_lines, run_padded):
        stack = stack_prompts(some_prompts(base))
        leaf = Stack(stack.vectors_KPD.requires_grad_(), stack.mask_KP, stack.lengths_K)
        logits = run(base, leaf, compute_prefix(base, leaf), WHICH, ROWS, keep, tails)
        gradients += torch.autograd.grad(logits.log_softmax(-1)[..., 5].sum(), leaf.vectors_KPD)
    assert (gradients[0] - gradients[1]).norm() <= 1e-5 * gradients[1].norm()


@pytest.mark.parametrize("architecture", ["mistral", "gemma2"])
def test_rows_beyond_the_attention_window_are_never_laid_in_lines(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(architecture)
    stack = stack_prompts(some_prompts(base, (2, 1)))
    assert base.window == 6
    base = replace(base, _lines=True)  # as on a model whose window is wider than the self-check's rows
    assert not lays_lines(base, 7)
    assert lays_lines(base, 6)
    rows, which, keep = [[7, 8, 9, 4], [3, 5], [6, 2, 9]], [0, 1, 0], [[3], [1], [2]]
    with monkeypatch.context() as patch:
        patch.setattr(prefixes, "run_padded", None)  # within the window lines are what is run
        logits = logits_at(base, stack, compute_prefix(base, stack), which, rows, keep)
    plain = logits_at(base, stack, None, which, rows, keep)
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)


def test_a_base_whose_positions_come_from_its_mask_is_not_laid_in_lines() -> None:
    torch.manual_seed(0)
    config = transformers.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.5)
    base = FrozenBase.wrap(transformers.AutoModelForCausalLM.from_config(config), tokenizer(), name="random/bloom")
    stack = stack_prompts(some_prompts(base))
    assert not lays_lines(base, 20)
    keep = [[len(row) - 1] for row in ROWS]
    logits = logits_at(base, stack, compute_prefix(base, stack), WHICH, ROWS, keep)
    torch.testing.assert_close(logits, logits_at(base, stack, None, WHICH, ROWS, keep), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", [0, 1, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_all_inputs_begin_with_is_run_once_and_changes_nothing(architecture: str, head: int) -> None:
    base = make_base(architecture)
    labels = tuple(tuple(some_ids(n, 30 + n)) for n in (1, 3, 2))
    common = [some_ids(head, 70), some_ids(head, 71), []]
    examples = [
        Example(which, [*common[which], *row], some_ids(2, i), labels if i % 2 else None, i % 3, 0.25)
        for i, (which, row) in enumerate(zip(WHICH, ROWS, strict=True))
    ]
    stack = stack_prompts(some_prompts(base))
    shared_loss, shared = losses_and_gradient(base, stack, examples, shared=True)
    plain_loss, plain = losses_and_gradient(base, stack, examples, shared=False)
    torch.testing.assert_close(shared_loss, plain_loss, rtol=1e-5, atol=1e-5)
    assert (shared - plain).norm() <= 1e-5 * plain.norm()


def test_equal_inputs_keep_a_token_each() -> None:
    base = make_base("llama")
    ids = some_ids(5, 3)
    examples = [Example(0, ids, some_ids(1, i), None, 0, 0.5) for i in range(2)]
    stack = stack_prompts(some_prompts(base, (3,)))
    loss, _ = losses_and_gradient(base, stack, examples, shared=True)
    plain, _ = losses_and_gradient(base, stack, examples, shared=False)
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
    lines = lay_lines(rows, which, width)
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
    lines = lay_lines(rows, [prompt for _, prompt in made], 32)
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
