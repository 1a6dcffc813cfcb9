"""Scoring labels: few rows, and exactly the contract's numbers."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from softprompt.model.label_scores import Labels, label_contexts, score_labels
from softprompt.model.lines import unfold_rows
from softprompt.tasks.answers.kinds import softmax
from tests.models import VOCABULARY

LABELS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple), min_size=1, max_size=8, unique=True).map(
    tuple
)


def covers(context: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    return context[: len(needed)] == needed


@given(LABELS)
def test_contexts_suffice_and_none_can_be_spared(labels: Labels) -> None:
    contexts = label_contexts(labels)
    needed = {label[:-1] for label in labels}
    assert all(any(covers(context, prefix) for context in contexts) for prefix in needed)
    for spared in contexts:
        rest = [context for context in contexts if context != spared]
        assert not all(any(covers(context, prefix) for context in rest) for prefix in needed)
    assert set(contexts) <= needed


def test_labels_of_one_token_need_the_row_of_the_input_alone() -> None:
    assert label_contexts(((1,), (2,), (3,))) == ((),)
    assert label_contexts(((1,), (2, 3), (2, 4, 5))) == ((2, 4),)


@given(st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=4), LABELS), min_size=1, max_size=4))
def test_scores_add_up_the_log_probabilities_of_each_label(batch: list[tuple[list[int], Labels]]) -> None:
    # The logits are any function of the tokens so far: here random numbers drawn from them.
    def logits_behind(tokens: list[int]) -> torch.Tensor:
        seed = sum((token + 1) * 5**place for place, token in enumerate(tokens)) % 2**31
        return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3

    unfolded = unfold_rows([ids for ids, _ in batch], [label_contexts(labels) for _, labels in batch])
    assert sorted(set(unfolded.owner)) == list(range(len(batch)))
    rows = zip(unfolded.rows, unfolded.keep, strict=True)
    logits = [logits_behind(row[: place + 1]) for row, kept in rows for place in kept]
    scores = score_labels(torch.stack(logits), [labels for _, labels in batch])
    assert len(scores) == len(batch)
    for (ids, labels), found in zip(batch, scores, strict=True):
        assert len(found) == len(labels)
        for label, score in zip(labels, found.tolist(), strict=True):
            expected, so_far = 0.0, list(ids)
            for token in label:
                expected += float(logits_behind(so_far).log_softmax(-1)[token])
                so_far.append(token)
            assert abs(score - expected) < 1e-4


@given(st.lists(st.floats(-500, 500), min_size=1, max_size=9))
def test_softmax_is_that_of_torch_in_double_precision(scores: list[float]) -> None:
    expected = torch.tensor(scores, dtype=torch.float64).softmax(0).tolist()
    assert all(abs(a - b) < 1e-12 for a, b in zip(softmax(scores), expected, strict=True))
