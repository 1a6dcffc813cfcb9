"""Ensembles in every place and of every kind of answer: what one says at hand, judged and served is the mean of what its
members say alone."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.protocol import Sampling
from softprompt.errors import ConfigError, EngineError
from softprompt.evaluation.combination import combine
from softprompt.evaluation.evaluate import evaluate
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving.answers import Message, choose_label
from softprompt.serving.offline import Service
from softprompt.serving.service import AsyncService
from softprompt.tasks.task import Task
from tests.models import make_base, make_masked, make_seq2seq, some_prompt

BASES = {"llama": lambda: make_base("llama"), "t5": lambda: make_seq2seq("t5"), "roberta": lambda: make_masked("roberta")}
PLACES = {
    "before everything": "{text} is",
    "behind fixed text": "the thing {soft_prompt} {text} is",
    "behind a column": "{text} is {soft_prompt} the thing",
}
KINDS: dict[str, dict[str, Any]] = {
    "one label": {"labels": ("yes", "no", "red")},
    "a set": {"labels": ("red", "blue", "apple"), "metric": "micro_f1"},
    "a number": {"labels": ("1", "2", "4"), "metric": "mae", "recipe": {"problem_type": "regression"}},
}
ANSWERS = {"one label": "yes", "a set": ["red", "apple"], "a number": "2"}
SETS = {"problem_type": "multi_label_classification"}
TEXTS = ["red apple", "blue", "the green stone"]


def member(base: FrozenBase, kind: str, seed: int, **fields: Any) -> SoftPrompt:
    known = {"rows": 2 + seed, "task_type": base.task_type, **KINDS[kind]}
    if kind == "a set":
        known["recipe"] = {**SETS, "threshold": 0.2 * seed}
    return some_prompt(base, "kind", seed=seed, **{**known, **fields})


def fill(library: Library, base: FrozenBase, prompts: Sequence[SoftPrompt]) -> list[str]:
    for prompt in prompts:
        library.publish(prompt.to_bytes(), base=base.address)
    return [f"kind@{number}" for number in range(1, 1 + len(prompts))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("architecture", BASES)
def test_an_ensemble_says_the_mean_of_its_members_alone_wherever_it_is_asked(
    tmp_path: Path, architecture: str, place: str, kind: str
) -> None:
    base = BASES[architecture]()
    with Library.open(tmp_path / "home") as library:
        refs = fill(library, base, [member(base, kind, seed, input=PLACES[place]) for seed in (1, 2, 3)])
        combine(refs, "ensemble", library=library)
        alone = [Service(library, base=base).predict(TEXTS, ref) for ref in refs]
        form = Task(**_task_of(kind, place, base)).form
        at_hand = Service(library, base=base).predict(TEXTS, "kind")
        for row, said in enumerate(at_hand):
            each = [own[row].scores or {} for own in alone]
            mean = {label: sum(one[label] for one in each) / 3 for label in form.labels or ()}
            assert said.scores == pytest.approx(mean, abs=1e-5)
            if kind == "a set":
                assert said.labels == tuple(label for label, chance in mean.items() if chance >= 0.4)
            elif kind == "a number":
                assert said.value == pytest.approx(sum(own[row].value or 0 for own in alone) / 3, abs=1e-5)
            else:
                assert said.output == max(mean, key=mean.__getitem__)
        rows = [{"text": text, "label": ANSWERS[kind]} for text in TEXTS]
        (judged,) = evaluate(["kind"], library=library, data=rows, base=base)
        assert judged.outputs == tuple(said.output for said in at_hand)
        assert judged.loss == pytest.approx(_loss_of(kind, [said.scores or {} for said in at_hand]), abs=1e-4)
        engine = ContinuousEngine(architecture_of(base))
        service = AsyncService(library, base, engine)
        try:
            found = asyncio.run(service.classify("default", "kind", TEXTS))
            chat = asyncio.run(service.chat("default", "kind", [Message("user", TEXTS[0])], Sampling(max_tokens=4)))
        finally:
            service.close()
            engine.stop(drain=False, timeout=20)
        assert [row.scores for row in found.rows] == [pytest.approx(said.scores, abs=1e-4) for said in at_hand]
        assert [row.said.labels for row in found.rows] == [said.labels for said in at_hand]
        assert found.head.virtual_tokens == 3 + 4 + 5
        assert chat.text == found.rows[0].said.output


def _task_of(kind: str, place: str, base: FrozenBase) -> dict[str, Any]:
    fields = {name: value for name, value in KINDS[kind].items() if name != "recipe"}
    of_kind = {"a set": SETS, "a number": {"problem_type": "regression"}}.get(kind, {})
    return {"task": "kind", "input": PLACES[place], "task_type": base.task_type, **fields, **of_kind}


def _loss_of(kind: str, chances: Sequence[dict[str, float]]) -> float:
    right = ANSWERS[kind]
    if kind != "a set":
        return -sum(math.log(own[str(right)]) for own in chances) / len(chances)
    each = [math.log(chance if label in right else 1 - chance) for own in chances for label, chance in own.items()]
    return -sum(each) / len(each)


@given(st.lists(st.lists(st.floats(-50, 0), min_size=6, max_size=6), min_size=2, max_size=4))
def test_of_sets_each_label_has_the_mean_of_its_own_chances(scores: list[list[float]]) -> None:
    form = Task(task="t", labels=["red", "blue", "apple"], **SETS).form
    each = [form.of_scores(own).scores or {} for own in scores]
    mean = {label: sum(one[label] for one in each) / len(each) for label in each[0]}
    assert form.of_scores(form.mean(scores)).scores == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize("scores", [[-1.0, -2.0, -math.inf, -math.inf], [math.nan, -1.0, -1.0, -2.0]])
def test_a_label_of_a_set_without_numbers_is_an_error(scores: list[float]) -> None:
    form = Task(task="t", labels=["red", "blue"], **SETS).form
    for own in (scores, form.mean([scores, [-1.0] * 4])):
        with pytest.raises(EngineError, match="got no numbers from the base"):
            choose_label(form, own, truncated=False)


def test_thresholds_become_their_mean_and_ranges_hold_all_of_them(tmp_path: Path) -> None:
    base = make_base("llama")
    prices = {"labels": None, "metric": "mae", "max_new_tokens": 4}
    with Library.open(tmp_path / "home") as library:
        refs = fill(library, base, [member(base, "a set", seed, rows=4) for seed in (1, 2)])
        combine(refs, library=library)
        combine(refs, "interpolate", weights=[3, 1], library=library)
        for number, (low, high) in enumerate([(1, 5), (2, 9)]):
            recipe = {"problem_type": "regression", "answer_range": [low, high], "class_weights": "balanced", "sweep": [{}]}
            library.publish(some_prompt(base, "price", seed=number, recipe=recipe, **prices).to_bytes(), base=base.address)
        combine(["price@1", "price@2"], library=library)
        cards = [library.registry.resolve(ref).card for ref in ("kind@3", "kind@4", "price@3")]
    assert [card.recipe.get("threshold") for card in cards] == [0.3, 0.25, None]
    assert cards[2].recipe == {"combined": "average", "problem_type": "regression", "answer_range": [1, 9]}


def test_prompts_that_are_asked_for_other_kinds_of_answers_are_combined_where_it_is_said_as_what(tmp_path: Path) -> None:
    base, labels = make_base("llama"), ("1", "2", "4")
    of_kind = {"problem_type": "regression"}
    with Library.open(tmp_path / "home") as library:
        refs = fill(
            library,
            base,
            [
                member(base, "a number", 1, rows=4),
                some_prompt(base, "kind", rows=4, labels=labels),
                some_prompt(base, "kind", rows=4, labels=labels, metric="f1"),
                member(base, "a number", 1, rows=4, labels=("a", "b"), recipe={**of_kind, "id2label": {"1": "a", "2": "b"}}),
                member(base, "a number", 1, rows=4, labels=("a", "b"), recipe={**of_kind, "id2label": {"1": "a", "9": "b"}}),
                member(base, "a set", 1, rows=4, labels=labels),
            ],
        )
        with pytest.raises(ConfigError, match="kind@2 and kind@3 are asked otherwise: metric 'accuracy' and 'f1'"):
            combine(refs[1:3], library=library)
        with pytest.raises(
            ConfigError, match="kind@1 and kind@2 are asked otherwise: metric 'mae' and 'accuracy'; say with"
        ):
            combine(refs[:2], library=library)
        with pytest.raises(ConfigError, match=r"kind@4 and kind@5 are asked otherwise: values .*2\.0.* and .*9\.0"):
            combine(refs[3:5], library=library)
        combine(refs[1:3], "ensemble", like="kind@6", library=library)
        card = library.registry.resolve("kind").card
        assert (card.recipe["problem_type"], card.recipe["threshold"]) == ("multi_label_classification", 0.2)
        (said,) = Service(library, base=base).predict(["red"], "kind")
        assert said.labels is not None
        masked = make_masked("bert")
        other = some_prompt(masked, "inside", rows=4, labels=("yes", "no"), input="{mask} {text}", task_type="MASKED_LM")
        library.publish(other.to_bytes(), base=masked.address)
        with pytest.raises(ConfigError, match="inside@1 is of task type MASKED_LM, and kind@2 of CAUSAL_LM; give as `like`"):
            combine(refs[1:3], like="inside", library=library)
