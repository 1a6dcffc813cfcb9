"""What finds passages for the inputs of versions: what is named for their tasks, else the folder of texts that they were
tuned with. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.errors import ConfigError, NotFound
from softprompt.tasks.form import Form
from softprompt.tasks.retrieve import Find, Retriever, is_function

if TYPE_CHECKING:
    from softprompt.library.library import Library
    from softprompt.registry.records import Version

Source = str | os.PathLike[str] | Find
"""A folder of texts; a Python function, or FILE.py:NAME of one: from a question and k to a list of texts."""

Sources = Source | Mapping[str, Source] | None
"""One for all tasks, or for each by its name."""


class Passages:
    """What finds passages for versions of a library; each folder is read once."""

    def __init__(self, given: Sources = None, tell: Callable[[str], object] = lambda remark: None) -> None:
        """Take what is named for all tasks that look passages up, or for each by its name. A function that a version was
        tuned with is not run unless it is named here: whoever made a prompt does not choose what is run.

        Args:
            tell: told once of each version whose passages come from elsewhere, or from other texts, than in training.
        """
        self._given, self._tell = given, tell
        self._over: dict[tuple[str, str], Retriever] = {}
        self._told: set[str] = set()

    def source_of(self, task: str) -> Source | None:
        """What is named for a task."""
        return self._given.get(task) if isinstance(self._given, Mapping) else self._given

    def form_of(self, library: Library, version: Version, of_file: Retriever | None = None) -> Form:
        """The form of a version, with what finds its passages where it looks some up.

        Args:
            of_file: that of a task file, whose folder or function is taken where none is named.

        Raises:
            ConfigError: what is named for its task is no folder of texts, or no function.
            RegistryError: the registry fails.
        """
        form = Form.of_card(version.card)
        if form.retriever is None:
            return form
        source = self.source_of(version.task)
        if source is None and of_file is not None:
            source = of_file.address or of_file.given
        if source is not None:
            found = self._made(form.retriever, Path(source) if isinstance(source, str | os.PathLike) else source)
        else:
            found = self._of_origin(form.retriever, library, version)
        then, now = _called(form.retriever.settings), _called(found.settings)
        if found.find is not None and then != now and version.ref not in self._told:
            self._told.add(version.ref)
            where = f" in {found.address}" if found.address is not None else ""
            self._tell(f"{version.ref}: its passages come from {now}{where}, and it was tuned with {then}")
        return replace(form, retriever=found)

    def _of_origin(self, retriever: Retriever, library: Library, version: Version) -> Retriever:
        """Over the folder that a version was trained with, where that is there; a user's own over that of its task."""
        name = retriever.settings.get("function")
        if name is not None:
            return replace(
                retriever, missing=f"the function {name!r} that finds them is not named (--passages FILE.py:NAME)"
            )
        try:
            origin = library.registry.origin(version.ref if version.user is None else version.task)
        except NotFound:  # deleted meanwhile
            origin = None
        folder = (origin.task_file.get("retrieve") or {}).get("folder") if origin is not None else None
        if folder is None:
            return replace(retriever, missing="the folder of texts that has them is not named (--passages FOLDER)")
        try:
            return self._made(retriever, Path(folder))
        except ConfigError as error:
            # In brackets, which clients are not told: they learn no folder of this machine.
            why = str(error).removeprefix("retrieve: ").partition(";")[0].translate({ord("("): "[", ord(")"): "]"})
            return replace(
                retriever,
                missing=f"the folder of texts that has them cannot be read ({why}; --passages FOLDER names another)",
            )

    def _made(self, retriever: Retriever, source: Path | Find) -> Retriever:
        if not isinstance(source, Path):
            return retriever.over(source)
        key = (str(source.absolute()), repr(retriever.settings))
        if key not in self._over:
            self._over[key] = retriever.over(source)
        return self._over[key]


def _called(settings: Mapping[str, Any]) -> str:
    """What passages come from, by what a card keeps of it."""
    if "function" in settings:
        return f"the function {str(settings['function']).rpartition(':')[2]}"
    return f"the texts of digest {str(settings.get('digest'))[:12]}"


def read_sources(given: Sequence[str]) -> Sources:
    """What `--passages` says: one source for all tasks, or TASK=SOURCE for each.

    Raises:
        ConfigError: one is neither, or there are several without their tasks.
    """
    named: dict[str, Source] = {}
    for one in given:
        task, equals, source = one.partition("=")
        if not equals or Path(one).exists():
            if len(given) > 1:
                raise ConfigError(f"--passages {one!r} names no task, and there are several; write TASK=FOLDER for each")
            _check(one)
            return one
        if task in named:
            raise ConfigError(f"--passages names {task!r} twice; leave one out")
        _check(source)
        named[task] = source
    return named or None


def _check(source: str) -> None:
    """What is wrong with a source, told before torch is loaded."""
    if not is_function(Path(source)) and not Path(source).is_dir():
        raise ConfigError(f"--passages {source!r} is no folder of texts, and no function such as find.py:find; mend it")
