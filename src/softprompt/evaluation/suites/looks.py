"""Which suites are run on which versions, and on which rows. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from softprompt.errors import ConfigError
from softprompt.evaluation.cases import Case, case_of, case_on
from softprompt.evaluation.suites.checks import Look
from softprompt.evaluation.suites.suite import Suite
from softprompt.library.passages import Passages
from softprompt.rows.sources import find_file, read_rows
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.task import Task

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.registry.records import Version


def find_looks(
    library: Library,
    refs: Sequence[str],
    suites: Sequence[Suite],
    *,
    task: Task | None = None,
    passages: Passages | None = None,
    warn: Callable[[str], object] = lambda remark: None,
) -> list[Look]:
    """Each suite on each version, those of harnesses left out, checked as far as that goes without a base.

    Args:
        task: for versions that came without a task file, whose test rows a suite without rows of its own is run on.

    Raises:
        NotFound: a task has no such version.
        ConfigError: a suite is named twice, does not fit a version's answers, or has no rows.
        DataError: the rows are wrong.
    """
    suites = own_suites(suites)
    versions = list({found.ref: found for found in map(library.registry.resolve, refs)}.values())
    known = passages or Passages(tell=warn)
    looks = [Look(suite, case_for(library, version, suite, task, known), warn) for version in versions for suite in suites]
    for look in looks:
        look.check()
        for remark in look.case.source.remarks_on_inputs(look.form):
            warn(remark)
    given = [version for version in versions if known.source_of(version.task) is not None]
    idle = {look.case.version.ref for look in looks if look.form.retriever is None}
    for version in given:
        if version.ref in idle:
            warn(f"passages are named, and {version.ref} looks none up: it is judged without")
    return looks


def own_suites(suites: Sequence[Suite]) -> list[Suite]:
    """Those that are no harness's.

    Raises:
        ConfigError: two have one name.
    """
    names = [suite.name for suite in suites]
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise ConfigError(f"two suites are called {twice!r}, and a version has one outcome of each; give one another `name`")
    return [suite for suite in suites if suite.config.harness is None]


def case_for(library: Library, version: Version, suite: Suite, task: Task | None, passages: Passages) -> Case:
    """A version on the rows of a suite: its own, or the test rows of the version's task file.

    Raises:
        ConfigError: there is no task file, or the rows are a harness's.
        DataError: the rows cannot be read, or are wrong.
    """
    if suite.config.harness is not None:
        raise ConfigError(
            f"it is of {suite.config.harness.runner}, which asks a server; `softprompt suite run {version.ref} --suite "
            f"{suite.file or suite.name}` runs it"
        )
    if suite.address is not None:
        rows = read_rows(find_file(suite.address, Path.cwd()), PurePath(suite.address).name)
        return case_on(library, version, rows, PurePath(suite.address).name, passages)
    if task is not None:
        if task.name != version.task:
            raise ConfigError(
                f"the task file is of {task.name!r}, and {version.ref} is of another task; give that one's, or leave it out"
            )
        return case_of(library, version, task.variant(), "the test rows", passages)
    origin = library.registry.origin(version.ref)
    if origin is None:
        raise ConfigError(
            f"suite {suite.name!r} has no `data`, and {version.ref} came without the task file whose test rows it would be "
            "run on; give the suite rows of its own, or the task file with --task-file FILE"
        )
    return case_of(library, version, Task(parse_config(origin.task_file)), "the test rows", passages)
