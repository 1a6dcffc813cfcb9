"""Decision questions in task files, and which questions are the same."""

from __future__ import annotations

import re
from typing import Any

import pytest

from softprompt.errors import ConfigError
from softprompt.prompts.card import Card
from softprompt.tasks.answers.decision import Option, Question
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.task import Task

PREDICATE = {"type": "predicate", "instructions": "It asks for a person."}
CHOICE = {"type": "choice", "instructions": "Which?", "choices": ["red", {"value": "blue", "description": "As the sky."}]}
SCORE = {"type": "score", "instructions": "How warm?", "levels": ["cold", "warm", {"label": "hot", "description": "Steam."}]}


def config_of(decision: Any, **keys: Any) -> Any:
    return parse_config({"task": "kind", "data": "rows.csv", "decision": decision, **keys})


@pytest.mark.parametrize(
    ("decision", "labels", "ends"),
    [
        (PREDICATE, ("yes", "no"), "Is this true? Answer with yes or no."),
        (CHOICE, ("red", "blue"), "- red\n- blue: As the sky."),
        (SCORE, ("cold", "warm", "hot"), "- cold\n- warm\n- hot: Steam."),
        ({**CHOICE, "choices": [True, False]}, ("true", "false"), "- true\n- false"),
        ({**SCORE, "levels": [1, 2]}, ("1", "2"), "- 1\n- 2"),
    ],
)
def test_a_question_says_what_the_labels_are_and_what_is_asked_zero_shot(
    decision: dict[str, Any], labels: tuple[str, ...], ends: str
) -> None:
    config = config_of(decision)
    assert config.labels == labels
    assert config.instruction.startswith(decision["instructions"])
    assert config.instruction.endswith(ends)
    assert config_of(decision, instruction="Say it.", labels=list(labels)).instruction == "Say it."
    # What is kept of it is read as the same question, from a card and from the resolved task file.
    card = Card(
        task="kind", base="b", fingerprint="f", num_virtual_tokens=1, token_dim=1, labels=labels, recipe=config.recipe()
    )
    assert Question.of_card(card) == config.decision.question
    assert Question.of_card(card.changed({"labels": ("other", "labels")})) is None
    kept = config.model_dump(
        mode="json", exclude_none=True, exclude={"unwanted_every", "unwanted_rows", "unwanted_temperature"}
    )
    assert parse_config(kept) == config


def test_rows_say_the_truth_of_a_predicate_in_several_ways() -> None:
    told = ["yes", True, 1, "true", "no", False, 0, "false"] * 5
    rows = [{"text": f"a text {number}", "label": label} for number, label in enumerate(told)]
    task = Task(task="kind", data=rows, decision=PREDICATE)
    assert [task.form.answer(row, "a row") for row in rows] == (["yes"] * 4 + ["no"] * 4) * 5


@pytest.mark.parametrize(
    ("decision", "keys", "said"),
    [
        ({"type": "score", "instructions": "x"}, {}, "decision: levels: a score needs them; list them"),
        ({**PREDICATE, "choices": ["a", "b"]}, {}, "choices: a predicate has none; take them"),
        ({**CHOICE, "choices": ["a"]}, {}, "a choice is among 2 to 255, and there are 1"),
        ({**CHOICE, "choices": ["a", "a"]}, {}, '"a" is listed more than once'),
        ({**CHOICE, "choices": ["a", " "]}, {}, "one of them is blank"),
        ({**CHOICE, "choices": [True, "true"]}, {}, "a text and a truth value are written alike in rows"),
        ({**CHOICE, "question": 1}, {}, "unknown key 'decision.question'"),
        ({**PREDICATE, "type": "predicat"}, {}, "decision.type"),
        (CHOICE, {"labels": ["red", "green"]}, "the decision is answered with 'red', 'blue'"),
        (CHOICE, {"problem_type": "multi_label_classification"}, "a choice has one answer"),
        ("which?", {}, "decision: input should be a valid dictionary"),
    ],
)
def test_a_question_that_is_none_is_refused(decision: Any, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        config_of(decision, **keys)


def test_values_are_typed() -> None:
    texts = Question("choice", "Which?", (Option("true"), Option("false")))
    truths = Question("choice", "Which?", (Option(True), Option(False)))
    both = Question("choice", "Which?", (Option("true"), Option(True)))
    assert texts.labels == truths.labels == ("true", "false")
    assert both.labels == ('"true"', "true")
    assert "true" in str(texts.differs(truths))
    assert texts.differs(Question("choice", " Which? ", (Option("false"), Option("true", "so")), "named")) is None


def test_another_question_is_told_apart() -> None:
    score = Question("score", "How warm?", (Option("cold"), Option("hot")))
    for other, why in (
        (Question.of_predicate("How warm?"), "its question is a score, and this is a predicate"),
        (
            Question("score", "How warm?", (Option("hot"), Option("cold"))),
            'among "cold", "hot", and this among "hot", "cold"',
        ),
        (Question("score", "How cold?", (Option("cold"), Option("hot"))), "word for word"),
    ):
        assert why in str(score.differs(other))
