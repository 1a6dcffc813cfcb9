"""What the card of a prompt that is taken in is to say in the place of what it does: fields that are named, and those of a
version that it is to be like. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softprompt.errors import ConfigError, NotFound
from softprompt.prompts.card import DECISION
from softprompt.rows.openai_files import MESSAGES
from softprompt.tasks.answers.kinds import NUMBER, number_text
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.form import HOW_ASKED, IN_TEMPLATE, Form
from softprompt.tasks.wording.template import PASSAGES, PLACE, Template

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.prompts.card import Card


@dataclass(frozen=True)
class Changes:
    """What cards are to say in the place of what they do."""

    given: Mapping[str, Any]
    """Fields that were named, as a task file has them."""
    like: Card | None = None
    """The card whose form is taken over, where one is named; what is given goes over it."""

    @classmethod
    def of(cls, library: Library | None, like: str | None, **given: Any) -> Changes:
        """Those that are asked for in a library, or before there is one. Raises as `import_prompt` does."""
        labels = given.pop("labels")
        form = {name: value for name, value in given.items() if value is not None} | (
            {"labels": tuple(labels)} if labels else {}
        )
        if form:  # refused where a task file would be: a prompt with a broken template could never answer
            Form.of_config(parse_config(form, where="import"))
        if like is None:
            return cls(form)
        if library is None:
            raise NotFound(f"like: there is no library yet, and so no {like!r} in it; leave it out, or name its home")
        card = library.registry.resolve(like).card
        if (kind := card.recipe.get("problem_type")) is not None:
            raise ConfigError(
                f"like: the answers of {like!r} are of problem_type {kind}, which an import cannot take over; leave it out"
            )
        return cls(form, card)

    def made(self, card: Card, task: str | None) -> Card:
        """A card changed so, of a task of choice; its scores go where they were those of what is asked otherwise.

        Raises:
            ConfigError: its labels stand for numbers, and those that are given for others; it is a prefix, and would have a
                place in its input; or as `Card.changed`.
        """
        fields = (self.like.form() if self.like is not None else {}) | dict(self.given) | ({"task": task} if task else {})
        new, keys = card.changed(fields), (*HOW_ASKED, "retrieve", MESSAGES)
        source = card if self.like is None else self.like
        asked = {key: source.recipe[key] for key in keys if key in source.recipe}
        if "input" in self.given:
            columns = Template(new.input, card.task_type == "MASKED_LM").fields
            asked = _without(asked, MESSAGES, *(() if PASSAGES in columns else ("retrieve",)))
            asked |= {MESSAGES: IN_TEMPLATE} if MESSAGES in columns else {}
        if new.labels != source.labels:
            strangers = {*(asked.get("id2label") or {}).values()} - {*(new.labels or ())}
            lost = ["id2label"] * bool(strangers) + ["no_answer"] * (
                asked.get("no_answer") not in (None, *(new.labels or ()))
            )
            asked = _without(asked, DECISION, *lost, *(("output_schema",) if new.labels else ()))
        before = {key: card.recipe[key] for key in keys if key in card.recipe}
        recipe = {key: value for key, value in new.recipe.items() if key not in keys} | asked
        made = new.model_copy(update={"recipe": recipe})
        if made.prompt_type == "prefix" and Form.of_card(made).is_placed:
            raise ConfigError(
                f"input: the prompt of task {card.task!r} is a prefix, which stands before everything on each layer, and "
                f"{made.input[:80]!r} has {{{PLACE}}}; take that out of it"
            )
        if asked != before:
            made = made.model_copy(update={"metrics": {}})
        numbers = card.recipe.get("problem_type") == NUMBER
        old, now = ([*Form.of_card(one).values.values()] if numbers else [] for one in (card, made))
        if old != now:
            raise _other_numbers(card, "labels" if "labels" in self.given else "like", made.labels, old, now)
        return made


def _other_numbers(
    card: Card, key: str, labels: Sequence[str] | None, old: Sequence[float], now: Sequence[float]
) -> ConfigError:
    """That a prompt whose answers are numbers would say others, with these labels."""
    if old and now:
        said, numbers = ", ".join(map(repr, labels or ())), [", ".join(map(number_text, one)) for one in (old, now)]
        return ConfigError(
            f"{key}: the labels of task {card.task!r} stand for the numbers {numbers[0]}, in this order, and {said[:100]} "
            f"would for {numbers[1]}; give labels that stand for the same numbers, or leave {key} out"
        )
    does, would = "says the number itself", "chooses among labels"
    does, would = (would, does) if old else (does, would)
    return ConfigError(
        f"{key}: a prompt of task {card.task!r} {does}, and would be one that {would} (problem_type: regression has both); "
        f"leave {key} out"
    )


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in keys}
