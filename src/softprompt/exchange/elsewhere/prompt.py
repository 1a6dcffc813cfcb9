"""A prompt of another tool as ours, on the base that it is said to be of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from softprompt.bases.base import FrozenBase
from softprompt.errors import PromptFileError
from softprompt.exchange.card_file import name_of
from softprompt.exchange.elsewhere.taken import Taken
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.form import text_rules


def prompt_of(taken: Taken, task: str, base: FrozenBase, source: Path) -> SoftPrompt:
    """The prompt, with a card that says where it is from.

    Raises:
        PromptFileError: it is for another kind of base, or of another width.
    """
    if taken.task_type not in (None, base.task_type):
        raise PromptFileError(
            f"{str(source)!r} is a prompt for {taken.task_type}, and {base.name} is {base.task_type}; give the base that it "
            "was tuned on"
        )
    length, width = taken.vectors_PD.shape
    if width != base.width:
        raise PromptFileError(
            f"{str(source)!r} is {width} wide and {base.name} is {base.width}; give the one that it was tuned on with --base"
        )
    recipe: dict[str, Any] = {"imported": taken.tool, **taken.told, **base.provenance(), **text_rules(base)}
    if taken.base is not None and taken.base != base.source:
        recipe["named_base"] = name_of(taken.base)
    card = Card.model_validate(
        {
            "task": task, "base": base.name, "fingerprint": base.fingerprint, "num_virtual_tokens": length,
            "token_dim": width, "task_type": base.task_type, "recipe": recipe, **taken.fields,
        }
    )  # fmt: skip
    return SoftPrompt(taken.vectors_PD, card)
