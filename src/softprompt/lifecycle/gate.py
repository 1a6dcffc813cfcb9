"""The gate before a new version takes an old one's place, where a command makes the new one by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from softprompt.engines.offline import OfflineEngine
from softprompt.errors import SoftPromptError
from softprompt.evaluation.suites.checks import Look
from softprompt.evaluation.suites.looks import case_for
from softprompt.evaluation.suites.run import run_look
from softprompt.evaluation.suites.suite import Suite
from softprompt.evaluation.trials import Trial, judge, result_of
from softprompt.library.passages import Passages
from softprompt.lifecycle.move import Move
from softprompt.progress import Progress
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.gate import weigh
from softprompt.registry.records import Outcome, Version
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
    then, or where it does not say which those were."""
    digest = digest_rows(task.test)
    if prompt.card.recipe.get("test_digest") == digest:
        return prompt.card
    base, judged = engine.architecture.base, task.variant()
    judged.form = Form.of_card(prompt.card)
    examples = judged.encode(base, judged.test, prompt.columns, split="test")
    (report,) = result_of(judge(engine, [Trial(judged.form, prompt.rows_PD.to(base.dtype), examples)]))
    scores = {"value": report.value, "stderr": report.stderr, "rows": float(report.rows)}
    recipe = prompt.card.recipe | {"test_digest": digest}
    return prompt.card.model_copy(update={"metrics": prompt.card.metrics | scores, "recipe": recipe})


def refresh_suites(
    library: Library, version: Version, engine: OfflineEngine, progress: Progress, task: Task | None = None
) -> list[str]:
    """Run the suites again that were run on a version and whose rows are others today, on its base; and what there is to say
    of them."""
    said = []
    for old in library.registry.outcomes.of(version.ref):
        if old.definition.get("harness") is not None:  # its rows are not ours to read
            continue
        try:
            look = _look(library, version, old, progress, task)
            if look.digest != old.digest:
                library.registry.outcomes.put(run_look(library, look, engine, progress))
                said.append(f"suite {old.suite!r}: its rows have changed, and {version.ref} was run on those of today")
        except SoftPromptError as error:
            said.append(f"suite {old.suite!r} cannot be run: {error}")
    return said


def promote_if_as_good(library: Library, move: Move, engine: OfflineEngine, progress: Progress) -> None:
    """Promote a new version, unless it is clearly worse than the one in place: by the suites that were run on that one,
    which are run on the new one first, on its base; and where there are none by the score of the old one on the same rows,
    which somebody must know."""
    assert move.new is not None
    reason = f"made of {move.old.ref}"
    placed = PRODUCTION in library.registry.aliases.of(move.new.task)
    asked = library.registry.outcomes.of(f"{move.new.task}@{PRODUCTION}") if placed else []
    if asked:
        move.remarks += _run_suites(library, move.new, asked, engine, progress, move.task)
    else:
        found = weigh(move.card or move.old.card, move.new.card)
        if found.loss is None or found.refusal is not None:
            move.remarks.append(f"not promoted: {found.refusal or found.words}")
            return
        reason += f": {found.words}"
    try:
        moved = library.promote(move.new.ref, PRODUCTION, reason=reason)
    except SoftPromptError as error:
        move.remarks.append(str(error))
        return
    move.promoted = True
    move.remarks.append(found.words if not asked else str(moved.decision).removeprefix("promoted: "))


def _run_suites(
    library: Library,
    version: Version,
    asked: Sequence[Outcome],
    engine: OfflineEngine,
    progress: Progress,
    task: Task | None,
) -> list[str]:
    """Run suites on a version as they were run on another; what cannot be run is said, and the gate refuses it."""
    said = []
    for one in asked:
        try:
            look = _look(library, version, one, progress, task)
            library.registry.outcomes.put(run_look(library, look, engine, progress))
        except SoftPromptError as error:
            said.append(f"suite {one.suite!r} cannot be run: {error}")
    return said


def _look(library: Library, version: Version, outcome: Outcome, progress: Progress, task: Task | None) -> Look:
    suite = Suite.of_definition(outcome.definition)
    look = Look(suite, case_for(library, version, suite, task, Passages(tell=progress.warn)), progress.warn)
    look.check()
    return look
