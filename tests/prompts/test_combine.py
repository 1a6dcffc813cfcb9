"""Prompts made of prompts: each operation against a plain loop, and what cannot be combined."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from softprompt.errors import ConfigError, PromptFileError
from softprompt.prompts.card import FORMAT, Card
from softprompt.prompts.combine import combine_vectors
from softprompt.prompts.file import Stored, write_file
from softprompt.prompts.prompt import SoftPrompt


def matrices(lengths: list[int], width: int = 4, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, width, generator=generator) for length in lengths]


NAMES = ["a@1", "b@2", "c@3", "d@4"]


@given(st.lists(st.floats(0, 100), min_size=2, max_size=4).filter(sum))
def test_a_mean_is_that_of_a_plain_loop(weights: list[float]) -> None:
    given_, names = matrices([3] * len(weights)), NAMES[: len(weights)]
    made = combine_vectors(given_, names, "interpolate", weights)
    for row in range(3):
        for column in range(4):
            numbers = [Fraction(float(matrix[row, column])) for matrix in given_]
            parts = [Fraction(weight) for weight in weights]
            expected = float(sum(w * n for w, n in zip(parts, numbers, strict=True)) / sum(parts))
            assert float(made[row, column]) == pytest.approx(expected, abs=1e-6)
    even = combine_vectors(given_, names, "average")
    assert torch.equal(even, combine_vectors(given_, names, "interpolate", [7.0] * len(weights)))
    assert torch.equal(combine_vectors(given_[:2], names[:2], "interpolate", [0, 5]), given_[1])


def test_prompts_of_any_lengths_stand_behind_each_other() -> None:
    given_ = matrices([1, 3, 2])
    made = combine_vectors(given_, NAMES[:3], "concatenate")
    assert made.tolist() == [row for matrix in given_ for row in matrix.tolist()]
    assert torch.equal(combine_vectors(given_, NAMES[:3], "ensemble"), made)


@pytest.mark.parametrize(
    ("lengths", "widths", "operation", "weights", "message"),
    [
        (
            [2, 2],
            [4, 4],
            "blend",
            None,
            "'blend' is no way to combine prompts; known: average, interpolate, con",
        ),
        ([2], [4], "average", None, "1 prompt cannot be combined; name two or more"),
        ([2, 2], [4, 4], "average", [1, 2], "weights are of interpolate, and average takes none"),
        ([2, 2], [4, 4], "ensemble", [1, 2], "weights are of interpolate, and ensemble takes none"),
        ([2, 2], [4, 4], "interpolate", None, "interpolate takes a weight for each of 2 prompts, and got none"),
        ([2, 2], [4, 4], "interpolate", [1.0], "a weight for each of 2 prompts, and got 1; give one for each"),
        ([2, 2], [4, 4], "interpolate", [1.5, -0.5], "weights are 0 or more, and not all of them 0; these are 1.5, -0.5"),
        ([2, 2], [4, 4], "interpolate", [0, 0], "not all of them 0; these are 0, 0"),
        ([2, 2], [4, 4], "interpolate", [float("nan"), 1], "these are nan, 1"),
        (
            [2, 3],
            [4, 4],
            "average",
            None,
            "a@1 is 2 virtual tokens long and b@2 3; average takes one length; con",
        ),
        ([2, 3], [4, 4], "interpolate", [1, 1], "a@1 is 2 virtual tokens long and b@2 3; interpolate takes one length"),
        ([2, 2], [4, 8], "concatenate", None, "a@1 is 4 numbers wide and b@2 8; give prompts of one base"),
    ],
)
def test_what_cannot_be_combined_is_refused(
    lengths: list[int], widths: list[int], operation: str, weights: list[float] | None, message: str
) -> None:
    given_ = [torch.zeros(length, width) for length, width in zip(lengths, widths, strict=True)]
    with pytest.raises(ConfigError, match=re.escape(message)):
        combine_vectors(given_, NAMES[: len(given_)], operation, weights)  # type: ignore[arg-type]


def ensemble(members: tuple[int, ...] = (1, 2), **fields: object) -> dict[str, object]:
    known = {"task": "t", "base": "b", "fingerprint": "f", "labels": ("x", "y"), "format": 2}
    return {**known, "num_virtual_tokens": sum(members), "token_dim": 4, "members": members, **fields}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_an_ensemble_comes_back_from_its_bytes_with_its_members(dtype: str) -> None:
    prompt = SoftPrompt(torch.cat(matrices([1, 2])), Card.model_validate(ensemble())).as_dtype(dtype)  # type: ignore[arg-type]
    again = SoftPrompt.from_bytes(prompt.to_bytes(), digest=prompt.digest)
    assert [len(member) for member in again.members] == [1, 2]
    assert again.columns == 2
    assert torch.equal(torch.cat(again.members), prompt.vectors_PD)
    with pytest.raises(ConfigError, match="task 't' is an ensemble of 2, which PEFT has no file for; name one of those"):
        again.check_single("PEFT has no file for")


def test_a_lone_prompt_is_its_only_member_and_its_card_says_nothing_new() -> None:
    card = Card(task="t", base="b", fingerprint="f", num_virtual_tokens=2, token_dim=4)
    prompt = SoftPrompt(matrices([2])[0], card)
    assert [member.tolist() for member in prompt.members] == [prompt.vectors_PD.tolist()]
    assert prompt.columns == 2
    assert "members" not in card.canonical()
    assert '"format":1' in card.canonical()  # so that equal runs keep the digests of before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": None}, "an ensemble answers with the mean over labels, and this one has none"),
        ({"members": (3,)}, "two or more, of 3 virtual tokens together, and this has [3]"),
        ({"members": (1, 1), "num_virtual_tokens": 3}, "of 3 virtual tokens together, and this has [1, 1]"),
        ({"members": (3, 0)}, "this has [3, 0]"),
        ({"format": 1}, "an ensemble has format 2 at least, and this says 1"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Card.model_validate(ensemble(**fields))  # type: ignore[arg-type]


def test_a_reader_of_before_refuses_an_ensemble_as_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    data = SoftPrompt(torch.cat(matrices([1, 2])), Card.model_validate(ensemble())).to_bytes()
    monkeypatch.setattr("softprompt.prompts.card.FORMAT", FORMAT - 1)
    with pytest.raises(PromptFileError, match="has format 2, and this softprompt reads up to 1; upgrade softprompt"):
        SoftPrompt.from_bytes(data)


def test_an_ensemble_keeps_labels_whatever_its_card_takes_over() -> None:
    card = Card.model_validate(ensemble())
    assert card.changed({"labels": ("y", "x")}).members == (1, 2)
    with pytest.raises(ConfigError, match="task 't' is an ensemble, which chooses a label; it cannot be one that generates"):
        card.changed({"labels": None, "metric": "exact_match"})


def test_a_file_that_does_not_hold_its_members_is_refused() -> None:
    card = Card.model_validate(ensemble((2, 2)))
    data = write_file(card, {"prompt_embeddings": Stored("F32", (3, 4), bytes(48))})
    with pytest.raises(PromptFileError, match="the card says 4 x 4 and the tensor is 3 x 4"):
        SoftPrompt.from_bytes(data)
