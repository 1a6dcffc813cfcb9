"""The gate before a new version takes an old one's place, where a command makes the new one by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softprompt.engines.offline import OfflineEngine
from softprompt.errors import SoftPromptError
from softprompt.evaluation.trials import Trial, judge, result_of
from softprompt.lifecycle.move import Move
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.gate import weigh
from softprompt.registry.records import Version
from softprompt.rows.sources import digest_rows
from softprompt.tasks.form import Form
from softprompt.tasks.task import Task

if TYPE_CHECKING:
    from softprompt.library.library import Library

PRODUCTION = "production"


def keep_in_place(library: Library, old: Version, why: str) -> None:
    """A new version would be what the name means as soon as it is there, where no alias holds the old one."""
    if PRODUCTION not in library.registry.aliases.of(old.task):
        library.promote(old.ref, PRODUCTION, reason=why)


def card_on(task: Task, prompt: SoftPrompt, engine: OfflineEngine) -> Card:
    """A version's card with its score on the task's test rows of today: judged anew where they are others than those of
    then."""
    digest = digest_rows(task.test)
    if prompt.card.recipe.get("test_digest") in (None, digest):
        return prompt.card
    base, judged = engine.architecture.base, task.variant()
    judged.form = Form.of_card(prompt.card)
    examples = judged.encode(base, judged.test, prompt.columns, split="test")
    (report,) = result_of(judge(engine, [Trial(judged.form, prompt.rows_PD.to(base.dtype), examples)]))
    scores = {"value": report.value, "stderr": report.stderr, "rows": float(report.rows)}
    recipe = prompt.card.recipe | {"test_digest": digest}
    return prompt.card.model_copy(update={"metrics": prompt.card.metrics | scores, "recipe": recipe})


def promote_if_as_good(library: Library, move: Move) -> None:
    """Promote a new version, unless it is clearly worse than the old one on the same rows, or nobody knows."""
    assert move.new is not None
    found = weigh(move.card or move.old.card, move.new.card)
    if found.loss is None or found.refusal is not None:
        move.remarks.append(f"not promoted: {found.refusal or found.words}")
        return
    try:
        library.promote(move.new.ref, PRODUCTION, reason=f"made of {move.old.ref}: {found.words}")
    except SoftPromptError as error:
        move.remarks.append(str(error))
        return
    move.promoted = True
    move.remarks.append(found.words)
