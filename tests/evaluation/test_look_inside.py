"""What a prompt's vectors lie near, against a search by hand; and what is lost without them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from softprompt import evaluate, inspect
from softprompt.errors import ConfigError, DataError, FingerprintMismatch, NotFound
from softprompt.library.library import Library
from softprompt.prompts.prompt import SoftPrompt
from tests.commands import Run
from tests.models import VOCABULARY, make_base, some_prefix, some_prompt, steerable_base

ROWS = [
    {"text": word, "label": label} for word, label in (("red", "yes"), ("green", "no"), ("blue", "yes"), ("apple", "no"))
]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library.open(tmp_path / "home")


def test_a_prompt_of_tokens_lies_on_them(library: Library) -> None:
    base = make_base("llama")
    prompt = some_prompt(base, "kind", rows=4, seed=2)
    ids = torch.randint(2, VOCABULARY, (4,), generator=torch.Generator().manual_seed(2)).tolist()
    library.publish(prompt.to_bytes(), base="in-memory")
    found = inspect("kind", library=library, base=base)
    assert [one.position for one in found] == [0, 1, 2, 3]
    told = [base.decode([token]) for token in ids]
    names = base.tokenizer.convert_ids_to_tokens(ids)
    assert [one.nearest for one in found] == [
        name if "\ufffd" in text else text for name, text in zip(names, told, strict=True)
    ]
    assert all(one.distance < 1e-3 and one.cosine > 0.999 and one.similar == one.nearest for one in found)
    assert [one.norm for one in found] == pytest.approx(prompt.vectors_PD.norm(dim=1).tolist(), abs=1e-3)
    assert {one.lost for one in found} == {None}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_the_nearest_are_those_of_a_search_by_hand(library: Library, architecture: str) -> None:
    base = make_base(architecture)
    drawn_PD = torch.randn(3, base.width, generator=torch.Generator().manual_seed(1)) * 2
    card = some_prompt(base, "kind", rows=3).card
    library.publish(SoftPrompt(drawn_PD, card).to_bytes(), base="in-memory")
    found = inspect("kind@1", library=library, base=base)
    usable = [token for token in range(len(base.embedding.weight)) if token not in base.spelling.unusable]
    tokens_VD = base.embed(torch.tensor(usable)).detach()
    for one, vector_D in zip(found, drawn_PD, strict=True):
        away_V = (tokens_VD - vector_D).norm(dim=1)
        alike_V = torch.nn.functional.cosine_similarity(tokens_VD, vector_D[None])
        assert one.distance == pytest.approx(float(away_V.min()), abs=1e-3)
        assert one.cosine == pytest.approx(float(alike_V.max()), abs=1e-3)
        assert one.relative_norm == pytest.approx(float(vector_D.norm() / tokens_VD.norm(dim=1).median()), abs=1e-3)


def test_what_is_lost_without_a_vector_is_what_the_prompt_without_it_scores_less(library: Library) -> None:
    base = steerable_base()
    ids = [*base.encode([" good"])[0], *base.encode([" good"])[0]]
    vectors_PD = base.embed(torch.tensor(ids)).detach().float()
    card = some_prompt(base, "kind", rows=len(ids), input=" {text} =", target=" {label}", labels=("yes", "no")).card
    library.publish(SoftPrompt(vectors_PD, card).to_bytes(), base="in-memory")
    found = inspect("kind", data=ROWS, library=library, base=base)
    whole = evaluate("kind", data=ROWS, library=library, base=base)[0].value
    for place, one in enumerate(found):
        left = torch.cat([vectors_PD[:place], vectors_PD[place + 1 :]])
        own = card.model_copy(update={"task": f"without-{place}", "num_virtual_tokens": len(left)})
        library.publish(SoftPrompt(left, own).to_bytes(), base="in-memory")
        (report,) = evaluate(f"without-{place}", data=ROWS, library=library, base=base)
        assert one.lost == pytest.approx(whole - report.value)


def test_what_cannot_be_looked_into_is_told(library: Library) -> None:
    base = make_base("llama")
    library.publish(some_prefix(base, "deep").to_bytes(), base="in-memory")
    library.publish(some_prompt(base, "kind", labels=("yes", "no")).to_bytes(), base="in-memory")
    with pytest.raises(ConfigError, match="deep@1 is a prefix: keys and values at every layer"):
        inspect("deep", library=library, base=base)
    with pytest.raises(NotFound, match="no task 'kin'"):
        inspect("kin", library=library, base=base)
    with pytest.raises(FingerprintMismatch):
        inspect("kind", library=library, base=steerable_base())
    with pytest.raises(DataError):
        inspect("kind", data=[{"other": "x"}], library=library, base=base)


def test_the_command(run: Run, library: Library, base_folder: Path) -> None:
    from softprompt.bases.base import FrozenBase

    library.publish(some_prompt(FrozenBase.load(str(base_folder)), "kind", rows=2).to_bytes(), base=str(base_folder))
    rows = run("inspect", "kind", "--home", library.home, "--json").rows
    assert [row["position"] for row in rows] == [0, 1]
    assert {"nearest", "distance", "norm"} <= rows[0].keys()
