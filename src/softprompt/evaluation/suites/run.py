"""Running suites on versions: their rows and changed rows answered, and what is found kept with each version."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from softprompt.bases.base import BaseLike, FrozenBase, base_of
from softprompt.bases.options import BaseOptions
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError, DataError
from softprompt.evaluation.columns import answers_in
from softprompt.evaluation.evaluate import answer_all
from softprompt.evaluation.suites.checks import Look
from softprompt.evaluation.suites.harness.find import find_judged
from softprompt.evaluation.suites.harness.run import run_judged
from softprompt.evaluation.suites.looks import find_looks
from softprompt.evaluation.suites.suite import Suite
from softprompt.evaluation.trials import Answer, Trial, placed_prompts, remarks_on_numbers, result_of
from softprompt.library.library import library_or_current
from softprompt.library.passages import Passages, Sources
from softprompt.model.architecture import architecture_of
from softprompt.progress import Progress, Silent
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.records import Outcome
from softprompt.tasks.load import TaskLike, load_tasks

if TYPE_CHECKING:
    from softprompt.library.library import Library


def run_suites(
    tasks: str | Sequence[str],
    suites: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    library: Library | None = None,
    base: BaseLike = None,
    task_file: TaskLike | None = None,
    passages: Sources = None,
    url: str | None = None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Run suites on versions and keep, row by row, what they find, which `promote` compares. An outcome takes the place of
    the one that the version has of the same suite. Those of harnesses come last, by a server that is started for them.

    Args:
        tasks: of the library, each as TASK, TASK@N or TASK@ALIAS.
        suites: files of suites (.yaml).
        library: by default the one in the current home.
        base: a base that is loaded already, or how to load one; by default as versions name it.
        task_file: the task, for a version that came without its own and a suite without rows.
        passages: what finds passages for inputs: a folder of texts or a Python function, for all tasks that look them up or
            for each by its name; by default the folder that a prompt was tuned with.
        url: for suites of harnesses, a server of this library that runs already.
        progress: where to report to.

    Raises:
        NotFound: a task has no such version.
        ConfigError: a suite is wrong, or does not fit a version's answers; or its harness is not installed.
        DataError: its rows are wrong, or its harness failed.
        BaseModelError: the base is not where it is said to be, or cannot be loaded.
        FingerprintMismatch: a version was made for another base.
    """
    shown = progress or Silent()
    with library_or_current(library) as opened:
        files = [suites] if isinstance(suites, str | os.PathLike) else suites
        (given,) = load_tasks(task_file) if task_file is not None else (None,)
        refs, loaded = [tasks] if isinstance(tasks, str) else tasks, [Suite.load(os.fspath(file)) for file in files]
        looks = find_looks(opened, refs, loaded, task=given, passages=Passages(passages, shown.warn), warn=shown.warn)
        if isinstance(base, FrozenBase) and url is None and any(one.config.harness is not None for one in loaded):
            raise ConfigError(
                "a suite of a harness asks a server, which loads the base by itself; name the base instead of giving one "
                "that is loaded, or a server that runs (`url`)"
            )
        named = BaseOptions() if isinstance(base, FrozenBase) else BaseOptions.of(base)
        judged = find_judged(opened, refs, loaded, named, url, passages is not None)
        return [*run_looks(opened, looks, base, shown), *run_judged(opened, judged, shown, url=url)]


def run_looks(library: Library, looks: Sequence[Look], base: BaseLike, progress: Progress) -> list[Outcome]:
    """Run suites on versions, those of one base together, and keep what is found as soon as it is.

    Raises:
        BaseModelError: the base is not where it is said to be, or cannot be loaded.
        FingerprintMismatch: a version was made for another base.
        DataError: the rows are wrong.
    """
    library.registry.database.check_writable()
    groups: dict[BaseOptions, list[int]] = {}
    for place, look in enumerate(looks):
        options = look.case.named if isinstance(base, FrozenBase) else look.case.options(BaseOptions.of(base))
        groups.setdefault(options, []).append(place)
    found: dict[int, Outcome] = {}
    for options, places in groups.items():
        loaded = base_of(base, options, progress)
        engine = OfflineEngine(architecture_of(loaded), warn=progress.warn)
        for place in places:
            found[place] = library.registry.outcomes.put(run_look(library, looks[place], engine, progress))
        if engine.ties.remark is not None:
            progress.note(engine.ties.remark)
    return [found[place] for place in range(len(looks))]


def run_look(library: Library, look: Look, engine: OfflineEngine, progress: Progress) -> Outcome:
    """What a suite finds of a version on the base of an engine; nothing is kept.

    Raises:
        FingerprintMismatch: the version was made for another base.
        DataError: the rows are wrong.
    """
    base, case = engine.architecture.base, look.case
    prompt = SoftPrompt.from_bytes(library.read(case.version), digest=case.version.digest)
    prompt.check_base(base)

    whose = f"suite {look.suite.name!r} on {case.version.ref}"

    def trial(rows: Sequence[dict[str, object]], what: str = "") -> Trial:
        examples = case.task.encode(base, rows, prompt.columns, split="suite")
        for remark in examples.remarks(f"{whose}{what}"):
            progress.warn(remark)
        vectors_PD = prompt.rows_PD.to(base.dtype)
        return Trial(look.form, vectors_PD, examples, prompt.card.members, keeps_chances=look.tells_chances)

    whole = trial(case.rows)
    (answers,) = answer_all(engine, [whole], progress)  # alone, as `evaluate` does
    variants = list(look.variants())
    trials = [trial(variant.rows, f", {variant.name}") for variant in variants]
    changed = (
        answer_all(engine, trials, progress) if any(map(len, (one.examples for one in trials))) else [[] for _ in trials]
    )
    named = [(whose, answers), *((f"{whose}, {one.name}", own) for one, own in zip(variants, changed, strict=True))]
    for said_of, own in named:
        for remark in remarks_on_numbers(said_of, len(own), *look.form.count_astray([one.said for one in own])):
            progress.warn(remark)
    tokens = [1 if look.form.labels else len(ids) for ids in whole.examples.targets or [[]] * len(whole.examples)]
    preferred = _preferred(look, whole, answers, engine) if "preference" in look.metrics else [None] * len(answers)
    return look.outcome(answers, tokens, list(zip(variants, changed, strict=True)), preferred)


def _preferred(look: Look, trial: Trial, answers: Sequence[Answer], engine: OfflineEngine) -> list[bool | None]:
    """Whether the right answer of each row is likelier than the rejected one; None where it has none."""
    column, case, base = look.suite.config.rejected, look.case, engine.architecture.base
    others = answers_in(base, case.task, case.rows, column)
    places = [place for place, other in enumerate(others) if other is not None]
    if not places:
        raise DataError(
            f"suite {look.suite.name!r}: no row has anything in the column {column!r}, and `preference` compares the right "
            "answer with it; name another with `rejected`, or mend the rows"
        )
    for place in places:
        if trial.examples.targets[place] == others[place].ids:  # type: ignore[union-attr]
            raise DataError(
                f"suite {look.suite.name!r}, {case.rows.where(place)}: the right answer itself stands in the column "
                f"{column!r}, as far as `max_new_tokens` lets it be told, and `preference` compares the two; mend the row, "
                "or leave that cell empty"
            )
    found: list[bool | None] = [None] * len(others)
    labels = look.form.labels
    if labels is not None:
        for place in places:
            chances, other = answers[place].chances, others[place]
            assert other is not None
            found[place] = chances[trial.examples.choices[place]] > chances[labels.index(other.text)]
        return found
    members, (owner,) = placed_prompts(base, [trial])
    pairs = [(tuple(trial.examples.targets[place]), tuple(others[place].ids)) for place in places]  # type: ignore[union-attr]
    scores = result_of(
        engine.score(
            [own[0] for own in members],
            [owner[place] for place in places],
            [trial.examples.inputs[place] for place in places],
            pairs,
        )
    )
    for place, (right, wrong) in zip(places, scores, strict=True):
        found[place] = right > wrong
    return found
