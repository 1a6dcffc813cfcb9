"""A sentence encoder of 22 million weights, with prompts and heads: tasks of 3 labels and of 20, trained together."""

from __future__ import annotations

import random
from typing import Any

import pytest

import softprompt
from softprompt.library.library import Library
from softprompt.serving.offline import Service
from tests.real_models.conftest import find

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore::UserWarning")]

THINGS = {
    "animals": "horse cow dog rabbit", "fruit": "apple pear plum cherry", "colours": "red green blue yellow",
    "weather": "rain snow wind fog", "tools": "hammer saw drill wrench", "vehicles": "car truck bus tram",
    "music": "violin drum piano flute", "body": "arm leg nose ear", "clothes": "shirt coat hat sock",
    "furniture": "table chair sofa shelf", "numbers": "three seven twelve nine", "family": "aunt uncle cousin mother",
    "metals": "iron copper tin silver", "seas": "wave tide beach reef", "school": "lesson pupil exam teacher",
    "money": "coin loan bank tax", "illness": "fever cough flu rash", "sports": "football tennis hockey rowing",
    "plants": "oak fern moss rose", "time": "hour month decade week",
}  # fmt: skip
SAID = ["We spoke about the {} for a while.", "Nobody had seen such a {} before.", "Is the {} what you meant?"]


def rows_of(labels: list[str]) -> dict[str, Any]:
    """Sentences about things of each kind; those that judge are about other things than those that teach."""
    made = [
        {"text": said.format(thing), "label": label, "place": place}
        for label in labels
        for place, thing in enumerate(THINGS[label].split())
        for said in SAID
    ]
    random.Random(0).shuffle(made)
    held = [row for row in made if row["place"] == 3]
    return {"train": [row for row in made if row["place"] < 3], "validation": held, "test": held}


def test_three_labels_and_twenty_are_learnt_in_one_bank_and_told_apart_in_one_pass(library: Library) -> None:
    base, kinds = str(find("minilm")), list(THINGS)
    recipe: dict[str, Any] = {"base": base, "num_virtual_tokens": 8, "per_device_train_batch_size": 16, "max_steps": 15}
    tasks = [
        softprompt.Task(task="three", data=rows_of(kinds[:3]), labels=kinds[:3], **recipe),
        softprompt.Task(task="twenty", data=rows_of(kinds), labels=kinds, **recipe),
    ]
    three, twenty = softprompt.train(tasks, library=library)
    assert three.report.value > 0.8  # a third by chance
    assert twenty.report.value > 0.5  # a twentieth by chance
    service, texts = Service(library), ["The dog slept.", "A cherry fell from it.", "They bought a trumpet."]
    mixed = service.predict(texts, ["three", "three", "twenty"])
    assert [answer.output for answer in mixed] == ["animals", "fruit", "music"]
    for answer, text in zip(mixed, texts, strict=True):
        (alone,) = service.predict([text], answer.task)
        assert alone.scores == pytest.approx(answer.scores, abs=1e-4)
