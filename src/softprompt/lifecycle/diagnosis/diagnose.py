"""Why a prompt does not do what it should: known failure modes, each with its evidence and what mends it. From what the
library keeps of a version or a run, and from rows; a base is loaded where that is asked for, and not before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from softprompt.bases.files.locate import is_local
from softprompt.bases.folder import check_options
from softprompt.bases.options import BaseOptions
from softprompt.errors import BaseModelError, NameRefused, NotFound, SoftPromptError
from softprompt.evaluation.findings import Finding, of_card
from softprompt.library.binding import prove
from softprompt.library.library import library_or_current
from softprompt.lifecycle.diagnosis.rows import of_rows
from softprompt.lifecycle.diagnosis.runs import find_run, history_of, of_run
from softprompt.lifecycle.remake import named_base, remake
from softprompt.progress import Progress, Silent, loading_torch
from softprompt.tasks.load import load_tasks
from softprompt.tasks.task import Task

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.registry.records import Version

Look = Callable[..., Iterator[Finding]]
"""What shows of a task with its base, and of a version of a library."""


def diagnose(
    ref: str, *, library: Library | None = None, probe: bool = False, progress: Progress | None = None
) -> list[Finding]:
    """The failure modes that show; none where all is well.

    Args:
        ref: TASK, TASK@N or TASK@ALIAS of the library; a run, by its id, or one that has not ended, by its checkpoint; or a
            task file (.yaml), whose rows are looked at.
        library: by default the one in the current home.
        probe: load the base too: rows are tokenised, and answers beside others held against answers alone.
        progress: where to report to.

    Raises:
        NotFound: there is no such version, and no such run.
        ConfigError, DataError: the task file is wrong.
        BaseModelError: the base is to be loaded and cannot be.
    """
    look = partial(_probed, progress or Silent()) if probe else None
    if ref.endswith((".yaml", ".yml")):
        (task,) = load_tasks(ref)
        return [*of_rows(task), *(look(task, task.base_options) if look is not None else ())]
    with library_or_current(library) as opened:
        try:
            version = opened.registry.resolve(ref)
        except (NotFound, NameRefused):
            run = find_run(opened, ref)
            if run is None:
                raise
            if not isinstance(run, str):
                return list(of_run(run))
            version = opened.registry.resolve(run)
        found = [*_of_base(opened, version), *of_card(version.card, history_of(opened, version.ref))]
        known = opened.registry.origin(version.ref) is not None
        if known:
            return [*found, *_of_data(opened, version, look)]
        return [*found, *(_of_vectors(opened, version, look) if look is not None else ())]


def _of_base(library: Library, version: Version) -> Iterator[Finding]:
    """Whether the base that it names is still the one that it was made for."""
    if not is_local(version.base):
        return
    try:
        proof = prove(named_base(library, version) or BaseOptions(source=version.base))
    except BaseModelError as error:
        yield Finding("base_gone", _what(error), "put it back, or name its place: softprompt library rebind PLACE --yes")
        return
    if version.fingerprint not in proof.names:
        yield Finding(
            "base_drift",
            f"it was made for a base with fingerprint {version.fingerprint}, and {version.base} has {proof.fingerprint} now",
            f"put the old base back, or carry the task over: softprompt upgrade {version.task} --to {version.base}",
        )


def _what(error: SoftPromptError) -> str:
    """What was wrong, without the advice, which is for whoever named the base or the file just now."""
    return str(error).partition("; ")[0]


def _of_data(library: Library, version: Version, look: Look | None) -> Iterator[Finding]:
    """What its rows show today, where they are still there."""
    try:
        task, told = remake(library, version)
        rows = list(of_rows(task))
    except SoftPromptError as error:
        mend = f"put them back, or train it on others: softprompt retrain {version.task} --data FILE"
        yield Finding("rows_gone", _what(error), mend)
        if look is not None:
            yield from _of_vectors(library, version, look)
        return
    for line in told:
        yield Finding("data_changed", line, f"train it on them: softprompt retrain {version.task}")
    yield from rows
    if look is not None:
        seen = {one.mode for one in rows}
        for one in look(task, named_base(library, version) or BaseOptions(source=version.base), library, version):
            if one.mode not in seen:
                yield one


def _of_vectors(library: Library, version: Version, look: Look) -> Iterator[Finding]:
    """What its base shows of a version whose rows nobody knows."""
    yield from look(None, BaseOptions(source=version.base), library, version)


def _probed(
    progress: Progress,
    task: Task | None,
    options: BaseOptions,
    library: Library | None = None,
    version: Version | None = None,
) -> Iterator[Finding]:
    """What shows with the base, which is looked for before torch is loaded."""
    check_options(options)
    with loading_torch(progress):
        from softprompt.lifecycle.diagnosis.probe import probe

    yield from probe(task, options, library, version, progress)
