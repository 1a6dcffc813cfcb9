"""Attention to vectors, against the model run by hand; likeness of prompts, the map and the page."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softprompt import inspect
from softprompt.bases.base import FrozenBase
from softprompt.errors import ConfigError
from softprompt.evaluation.inside.attention import attention_paid
from softprompt.evaluation.inside.likeness import Drawn, likenesses, positions, read_prompts
from softprompt.evaluation.inside.page import write_map
from softprompt.evaluation.trials import Trial
from softprompt.library.library import Library
from softprompt.progress import Mute
from softprompt.prompts.prompt import SoftPrompt
from tests.commands import Run
from tests.compare.test_methods import ROWS, a_task
from tests.models import make_base, make_headed, make_masked, make_seq2seq, some_prefix, some_prompt, steerable_base


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library.open(tmp_path / "home")


def a_trial(base: FrozenBase, count: int, **fields: Any) -> Trial:
    task = a_task(**fields)
    vectors_PD = torch.randn(count, base.width, generator=torch.Generator().manual_seed(0))
    return Trial(task.form, vectors_PD, task.encode(base, task.test, count, split="test"))


@pytest.mark.parametrize(
    ("kind", "attention"), [("llama", "eager"), ("llama", "sdpa"), ("gpt2", "sdpa"), ("gemma2", "eager"), ("opt", "eager")]
)
@pytest.mark.parametrize("form", ["{text} =", "so {text} {soft_prompt} is"])
def test_attention_is_that_of_each_row_alone(kind: str, attention: str, form: str) -> None:
    base, count = make_base(kind, attention=attention), 3
    trial = a_trial(base, count, input=form)
    slow = make_base(kind)  # the same weights
    expected = torch.zeros(count)
    for row in range(len(trial.examples)):
        front, ids = trial.examples.front(row), trial.examples.inputs[row]
        embeds = torch.cat(
            [slow.embed(torch.tensor(front, dtype=torch.long)), trial.vectors_PD, slow.embed(torch.tensor(ids))]
        )
        with torch.no_grad():
            layers = slow.model(inputs_embeds=embeds[None], output_attentions=True).attentions
        last = torch.stack([layer[0, :, -1].mean(0) for layer in layers]).mean(0)
        assert float(last.sum()) == pytest.approx(1, abs=1e-4)
        expected += last[len(front) : len(front) + count] / len(trial.examples)
    found = attention_paid(base, trial, count, Mute())
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    assert base.model.config._attn_implementation == attention


@pytest.mark.parametrize("base", [make_seq2seq("t5"), make_masked("bert"), make_headed("bert")], ids=lambda base: base.name)
def test_other_bases_tell_none(base: FrozenBase) -> None:
    assert attention_paid(base, a_trial(make_base("llama"), 2), 2, Mute()) is None


def test_what_rows_say_is_told_with_their_number(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    from softprompt.evaluation.inside import look_inside

    base = steerable_base()
    ids = [*base.encode([" good"])[0], *base.encode([" river"])[0]]
    vectors_PD = base.embed(torch.tensor(ids)).detach().float()
    card = some_prompt(base, "kind", rows=len(ids), input=" {text} =", target=" {label}", labels=("yes", "no")).card
    library.publish(SoftPrompt(vectors_PD, card).to_bytes(), base="in-memory")
    found = inspect("kind", data=ROWS, library=library, base=base)
    assert {one.rows for one in found} == {len(ROWS)}
    assert all(one.attention is not None and 0 < one.attention < 1 for one in found)
    for one in found:
        assert one.lost is not None
        assert one.lost_stderr is not None
        assert one.lost_stderr <= 1 / len(ROWS) ** 0.5
        assert (one.lost_stderr == 0) == (one.lost in (-1, 0, 1)) or one.lost == 0
    monkeypatch.setattr(look_inside, "JUDGED", 6)
    assert {one.rows for one in inspect("kind", data=ROWS, library=library, base=base)} == {6}
    assert {(one.rows, one.attention, one.lost_stderr) for one in inspect("kind", library=library, base=base)} == {
        (None, None, None)
    }


# Likeness


def publish(library: Library, base: FrozenBase, task: str, vectors_PD: torch.Tensor) -> None:
    card = some_prompt(base, task, rows=len(vectors_PD)).card
    library.publish(SoftPrompt(vectors_PD, card).to_bytes(), base=base.name)


def test_likeness_is_what_its_formulas_say(library: Library) -> None:
    base, other = make_base("llama"), make_base("gpt2")
    generator = torch.Generator().manual_seed(3)
    vectors = {name: torch.randn(rows, base.width, generator=generator) for name, rows in (("a", 3), ("b", 5), ("c", 2))}
    for name, vectors_PD in vectors.items():
        publish(library, base, name, vectors_PD)
    publish(library, base, "twice", vectors["a"] * 2)
    publish(library, other, "far", torch.randn(2, other.width))
    library.publish(some_prefix(base, "deep").to_bytes(), base="in-memory")
    found = {(one.task, one.other): one for one in likenesses(library=library)}
    assert set(found) == {("a", "b"), ("a", "c"), ("a", "twice"), ("b", "c"), ("b", "twice"), ("c", "twice")}
    for (one, two), row in found.items():
        if "twice" in (one, two):
            continue
        cosines = [torch.cosine_similarity(x, y, dim=0) for x in vectors[one] for y in vectors[two]]
        assert row.per_token == pytest.approx(float(sum(cosines)) / len(cosines), abs=1e-4)
        means = [vectors[name].mean(0) for name in (one, two)]
        assert row.cosine == pytest.approx(float(torch.cosine_similarity(*means, dim=0)), abs=1e-4)
    assert found["a", "twice"].cosine == 1
    values = [one.per_token for one in likenesses(library=library)]
    assert values == sorted(values, reverse=True)
    assert {(one.task, one.other) for one in likenesses("b@1", library=library)} == {("b", "a"), ("b", "c"), ("b", "twice")}
    with pytest.raises(ConfigError, match="deep@1 is no single soft prompt"):
        likenesses("deep", library=library)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=1, max_size=3))
def test_up_to_three_points_keep_their_distances_in_the_plane(points: list[list[float]]) -> None:
    vectors = [torch.tensor(point, dtype=torch.float64) for point in points]
    placed_N2, shares = positions(vectors)
    assert placed_N2.shape == (len(points), 2)
    torch.testing.assert_close(
        torch.cdist(placed_N2, placed_N2), torch.cdist(torch.stack(vectors), torch.stack(vectors)), atol=1e-5, rtol=1e-5
    )
    spread = float((torch.stack(vectors) - torch.stack(vectors).mean(0)).norm())
    assert sum(shares) == pytest.approx(1 if spread > 1e-6 else sum(shares), abs=1e-6)


def test_the_plane_keeps_what_it_says(library: Library) -> None:
    vectors_ND = torch.randn(9, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    placed_N2, shares = positions(list(vectors_ND))
    whole = float(((vectors_ND - vectors_ND.mean(0)) ** 2).sum())
    assert sum(shares) == pytest.approx(float((placed_N2**2).sum()) / whole)
    assert 0.3 < sum(shares) < 1
    again_N2, _ = positions(list(-vectors_ND))
    torch.testing.assert_close(again_N2, placed_N2)  # a component has no sign of its own


def test_the_page_has_the_map_and_the_vectors_and_asks_for_nothing(library: Library, tmp_path: Path) -> None:
    base = make_base("llama")
    for number in range(3):
        publish(library, base, f"t{number}", torch.randn(2, base.width, generator=torch.Generator().manual_seed(number)))
    prompts, vectors = read_prompts(library, "t1", Mute()), inspect("t1", library=library, base=base)
    assert [one.version.ref for one in prompts] == ["t1@1", "t0@1", "t2@1"]
    vectors = [dataclasses.replace(vectors[0], nearest="<script>x"), *vectors[1:]]
    text = write_map(tmp_path / "new" / "map.html", prompts, vectors).read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=", text)
    assert "<script>x" not in text
    assert all(f"t{number}@1" in text for number in range(3))
    assert "3 prompts on random/llama" in text
    assert "length over the usual one" in text
    assert "lost without it" not in text
    assert "Inside t1@1" in text
    assert "Inside" not in write_map(tmp_path / "map.html", prompts).read_text(encoding="utf-8").partition("<h2>")[0]
    with pytest.raises(ConfigError, match="the library has 1 soft prompt on 1 base; train more"):
        write_map(tmp_path / "none.html", prompts[:1])
    assert not (tmp_path / "none.html").exists()


def test_without_a_task_the_command_compares_all(run: Run, library: Library, tmp_path: Path) -> None:
    base = make_base("llama")
    for name in ("a", "b", "c"):
        publish(library, base, name, torch.randn(2, base.width))
    rows = run("inspect", "--home", library.home, "--plot", tmp_path / "map.html", "--json").rows
    assert {(row["task"], row["other"]) for row in rows} == {("a", "b"), ("a", "c"), ("b", "c")}
    assert (tmp_path / "map.html").exists()
    refused = run("inspect", "--home", library.home, "--data", tmp_path / "x.jsonl").refused()
    assert "--data judges the vectors of one prompt; name its TASK" in refused


def test_a_prompt_of_the_library_is_named_with_those_most_like_it(
    run: Run, library: Library, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    base = FrozenBase.load(str(base_folder))
    for name in ("a", "b"):
        library.publish(some_prompt(base, name, rows=2).to_bytes(), base=str(base_folder))
    done = run("inspect", "a", "--home", library.home)
    assert "most like it, of 1: b@1" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_drawn_prompts_have_means(library: Library) -> None:
    base = make_base("llama")
    publish(library, base, "a", torch.stack([torch.ones(base.width), 3 * torch.ones(base.width)]))
    (drawn,) = read_prompts(library, None, Mute())
    assert isinstance(drawn, Drawn)
    assert drawn.mean_D.tolist() == [2.0] * base.width
    assert float(drawn.directions_D.norm()) == pytest.approx(1)
