"""Where prompts start: shapes, seeds, and what each vector is."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from softprompt.bases.spelling import Spelling
from softprompt.errors import ConfigError
from softprompt.prompts import initialize
from tests.models import UNEVEN, VOCABULARY, make_base

BASE = make_base("llama")
TABLE = BASE.embedding.weight.detach()
LABELS = ((10,), (20, 21, 22), (30, 31))

STARTS: dict[str, Callable[[int, int], Tensor]] = {
    "RANDOM": lambda length, seed: initialize.random_vectors(BASE, length, seed),
    "SAMPLE_VOCAB": lambda length, seed: initialize.sample_vocabulary(BASE, length, seed),
    "TEXT": lambda length, _: initialize.from_text(BASE, length, "red apple"),
    "LABELS": lambda length, seed: initialize.from_labels(BASE, length, LABELS, seed),
    "PROMPT": lambda length, _: initialize.from_prompts([TABLE[:4], TABLE[5:12]], length),
}


@pytest.mark.parametrize("name", list(STARTS))
@pytest.mark.parametrize("length", [1, 2, 3, 7, 100])
def test_every_start_has_its_shape_and_follows_from_its_seed(name: str, length: int) -> None:
    start = STARTS[name]
    vectors = start(length, 3)
    assert vectors.shape == (length, BASE.width)
    assert vectors.dtype == torch.float32
    assert not vectors.requires_grad
    torch.manual_seed(99)
    assert torch.equal(start(length, 3), vectors)


@pytest.mark.parametrize("name", ["RANDOM", "SAMPLE_VOCAB", "LABELS"])
def test_another_seed_gives_another_start(name: str) -> None:
    assert not torch.equal(STARTS[name](7, 3), STARTS[name](7, 4))


@pytest.mark.parametrize("name", list(STARTS))
def test_a_start_shares_no_memory_with_the_base(name: str) -> None:
    before = TABLE.clone()
    STARTS[name](5, 0).add_(1.0)
    assert torch.equal(TABLE, before)


def test_random_vectors_spread_as_the_embeddings_do() -> None:
    vectors = initialize.random_vectors(BASE, 400, 0)
    assert float(vectors.std()) == pytest.approx(float(TABLE.std()), rel=0.02)
    assert float(vectors.mean()) == pytest.approx(0, abs=0.02)
    assert float(vectors.abs().max()) <= float(TABLE.std()) * 3**0.5


def ids_of(vectors: Tensor) -> list[int]:
    """The tokens whose embeddings these are, exactly."""
    found = []
    for vector in vectors:
        (matches,) = torch.where((vector == TABLE).all(1))
        assert len(matches) == 1
        found.append(int(matches))
    return found


def test_sampled_vectors_are_embeddings_of_common_tokens() -> None:
    special = set(BASE.tokenizer.all_special_ids)
    assert special
    ids = ids_of(initialize.sample_vocabulary(BASE, 2000, 0))
    assert set(ids) == set(range(VOCABULARY)) - special
    table = torch.nn.Embedding.from_pretrained(torch.arange(9000.0)[:, None])  # each token's vector is its number
    spelling = Spelling(BASE.tokenizer, "large", table)
    large: Any = SimpleNamespace(
        tokenizer=BASE.tokenizer, embedding=table, embed=table, device=BASE.device, spelling=spelling
    )
    drawn = set(initialize.sample_vocabulary(large, 90_000, 0)[:, 0].int().tolist())
    assert drawn == set(range(initialize.COMMON + len(special))) - special


def test_a_text_is_repeated_or_cut_to_the_length() -> None:
    (ids,) = BASE.encode(["red apple of"])
    for length in (1, len(ids), 2 * len(ids), 3 * len(ids) + 1):
        assert ids_of(initialize.from_text(BASE, length, "red apple of")) == (ids * 10)[:length]
    with pytest.raises(ConfigError, match="prompt_tuning_init_text '' has no tokens"):
        initialize.from_text(BASE, 3, "")


def test_labels_stand_nearest_to_the_input_as_their_mean_embeddings() -> None:
    means = torch.stack([TABLE[list(ids)].mean(0) for ids in LABELS])
    vectors = initialize.from_labels(BASE, 8, LABELS, 0)
    torch.testing.assert_close(vectors[-3:], means)
    ids_of(vectors[:5])
    torch.testing.assert_close(initialize.from_labels(BASE, 3, LABELS, 0), means)
    torch.testing.assert_close(initialize.from_labels(BASE, 2, LABELS, 0), means[:2])


@pytest.mark.parametrize("architecture", ["llama", UNEVEN])
def test_vectors_are_what_the_base_makes_of_tokens_also_where_it_scales_them(architecture: str) -> None:
    base = make_base(architecture)
    (ids,) = base.encode(["red apple of"])
    embedded_TD = base.embed(torch.tensor(ids)).detach()
    assert torch.equal(initialize.from_text(base, len(ids), "red apple of"), embedded_TD)
    torch.testing.assert_close(initialize.from_labels(base, 1, [ids], 0)[0], embedded_TD.mean(0))
    everything_VD = base.embed(torch.arange(VOCABULARY)).detach()
    (drawn_D,) = initialize.sample_vocabulary(base, 1, 0)
    assert (drawn_D == everything_VD).all(1).any()
    assert float(initialize.random_vectors(base, 400, 0).std()) == pytest.approx(float(everything_VD.std()), rel=0.02)


def test_prompts_are_fitted_at_their_front_and_averaged() -> None:
    long, short = TABLE[:7], TABLE[20:23]
    assert torch.equal(initialize.from_prompts([long], 7), long)
    assert torch.equal(initialize.from_prompts([long], 3), long[-3:])
    assert torch.equal(initialize.from_prompts([short], 8), torch.cat([short] * 3)[-8:])
    expected = (long[-5:] + torch.cat([short] * 2)[-5:]) / 2
    torch.testing.assert_close(initialize.from_prompts([long, short], 5), expected)
    with pytest.raises(ConfigError, match=r"unequal width cannot be averaged \(\[16, 32\]\); give"):
        initialize.from_prompts([long, torch.zeros(3, 16)], 5)
