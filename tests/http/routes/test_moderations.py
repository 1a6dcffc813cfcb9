"""`/v1/moderations` by OpenAI's own client: a task's labels as its categories, and none that it does not judge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.moderation import Categories

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library
from softprompt.serving.offline import Service
from softprompt.tasks.answers.kinds import SET
from tests.http_server import EngineOn, Running, fill, serving
from tests.models import some_prompt

TEXTS = ["red green blue", "a stone", "the stone is a river and so what", "yes", "no and no"]
SOME = ("hate", "harassment/threatening", "spam mail")
EVERY = tuple(field.alias or name for name, field in Categories.model_fields.items())
"""All categories that OpenAI's client knows."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, base_folder: Path, engine_on: EngineOn) -> Iterator[Running]:
    base = FrozenBase.load(str(base_folder))
    with Library.open(tmp_path_factory.mktemp("home")) as library:
        fill(library, base)
        for task, labels, threshold in (
            ("moderation", SOME, 0.5),
            ("strict", SOME, 0.05),
            ("lax", SOME, 0.95),
            ("omni-moderation-latest", EVERY, 0.5),
        ):
            recipe = {"problem_type": SET, "threshold": threshold}
            prompt = some_prompt(base, task, seed=3, labels=labels, metric="micro_f1", recipe=recipe)
            library.publish(prompt.to_bytes(), base=base.address)
        with serving(library, base, engine=engine_on(base)) as found:
            yield found


@pytest.mark.parametrize("task", ["moderation", "strict", "lax", "omni-moderation-latest"])
def test_it_says_what_the_task_predicts(client: OpenAI, running: Running, task: str) -> None:
    predicted = Service(running.library, base=running.base).predict(TEXTS, task)
    answer = client.moderations.create(input=TEXTS, model=task)
    assert answer.model == f"{task}@1"
    assert answer.id.startswith("modr-")
    assert len(answer.results) == len(TEXTS)
    for own, row in zip(predicted, answer.results, strict=True):
        assert own.labels is not None
        assert own.scores is not None
        told: dict[str, Any] = row.to_dict()
        assert told["categories"] == {label: label in own.labels for label in own.scores}
        assert told["category_scores"] == pytest.approx(own.scores, abs=1e-4)
        assert told["category_applied_input_types"] == {label: ["text"] for label in own.scores}
        assert row.flagged == bool(own.labels)
    flagged = {row.flagged for row in answer.results}
    assert flagged == {"strict": {True}, "moderation": {True, False}}.get(task, flagged)


def test_a_client_that_names_no_model_asks_the_task_of_that_name(client: OpenAI) -> None:
    answer = client.moderations.create(input=TEXTS[0])
    assert answer.model == "moderation@1"
    assert answer.results == client.moderations.create(input=TEXTS[0], model="moderation").results
    parts: Any = [{"type": "text", "text": TEXTS[0]}]
    assert client.moderations.create(input=parts).results == answer.results


def test_what_is_not_judged_is_not_told_as_false(client: OpenAI) -> None:
    row = client.moderations.create(input=TEXTS[0]).results[0]
    assert isinstance(row.categories.hate, bool)
    assert isinstance(row.categories.harassment_threatening, bool)
    assert isinstance(row.category_scores.harassment_threatening, float)
    assert row.categories.violence is None
    assert row.category_scores.violence is None
    assert (row.categories.model_extra or {}).keys() == {"harassment/threatening", "spam mail"}


def test_all_of_openais_categories_are_a_whole_answer_to_its_client(running: Running) -> None:
    """Their types are checked, which the client does not do by default."""
    with running.client(_strict_response_validation=True) as strict:
        row = strict.moderations.create(input=TEXTS[0], model="omni-moderation-latest").results[0]
        assert isinstance(row.categories.self_harm_intent, bool)
        with pytest.raises(openai.APIResponseValidationError):
            strict.moderations.create(input=TEXTS[0], model="moderation")


@pytest.mark.parametrize(
    ("more", "param", "why"),
    [
        ({"model": "kind"}, "model", "does not answer with sets of labels"),
        ({"model": "tell"}, "model", "has no labels"),
        ({"model": "tiny-llama"}, "model", "is the base"),
        ({"input": ""}, "input", "none of them empty"),
        ({"input": []}, "input", "none of them empty"),
        ({"input": [{"type": "image_url", "image_url": {"url": "https://a.example/x.png"}}]}, "input", "images are not"),
        ({"input": [{"type": "text", "text": "red"}, {"type": "text", "text": "blue"}]}, "input", "or one part"),
        ({"extra_body": {"threshold": 0.1}}, "threshold", "unknown field"),
    ],
)
def test_what_is_wrong_is_refused_by_name(client: OpenAI, more: dict[str, Any], param: str | None, why: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.moderations.create(**{"input": "red", **more})
    assert why in str(caught.value)
    assert caught.value.param == param


def test_a_task_that_is_not_there_is_told(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.moderations.create(input="red", model="text-moderation-latest")
    assert caught.value.param == "model"
