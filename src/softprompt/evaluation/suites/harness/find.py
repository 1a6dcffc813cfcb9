"""Which suites of harnesses judge which versions, and whether they can. No torch."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError
from softprompt.evaluation.cases import named_base
from softprompt.evaluation.suites.harness import inspect_ai, lm_eval
from softprompt.evaluation.suites.harness.server import KEY
from softprompt.evaluation.suites.harness_task import HarnessConfig, Runner
from softprompt.evaluation.suites.suite import Suite
from softprompt.library.binding import options_for
from softprompt.registry.records import Version
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.task import Task

if TYPE_CHECKING:
    from softprompt.library.library import Library

_RUNNERS = {"lm-eval": (lm_eval.PROGRAM, lm_eval.INSTALL), "inspect": (inspect_ai.PROGRAM, inspect_ai.INSTALL)}


@dataclass(frozen=True)
class Judged:
    """A suite of a harness, and a version that it judges."""

    suite: Suite
    version: Version
    program: str
    """Where the harness is."""
    options: BaseOptions
    """How the version's base is loaded."""

    @property
    def config(self) -> HarnessConfig:
        """What the suite says of the harness."""
        assert self.suite.config.harness is not None
        return self.suite.config.harness

    @property
    def beside(self) -> Path:
        """The suite's folder."""
        return Path(self.suite.file or ".").parent


def find_judged(
    library: Library,
    refs: Sequence[str],
    given: Sequence[Suite],
    base: BaseOptions,
    url: str | None,
    passages: bool = False,
) -> list[Judged]:
    """Each suite of a harness on each version, other suites left out, checked as far as that goes without a server.

    Args:
        passages: whether others are named than those that prompts were tuned with.

    Raises:
        NotFound: a task has no such version.
        ConfigError: a harness is not installed, the server would ask for a key and there is none, or nothing asks for one.
        BaseModelError: the base is not where it is said to be.
    """
    suites = [suite for suite in given if suite.config.harness is not None]
    if url is not None and not suites:
        raise ConfigError("a server's URL is for suites of a harness, and there is none; leave it out (--url)")
    if not suites:
        return []
    if passages:
        raise ConfigError(
            "a suite of a harness asks a server, which finds passages by itself; start one with `softprompt serve "
            "--passages`, and name it with --url"
        )
    if url is None and library.registry.keys.any_live() and not os.environ.get(KEY):
        raise ConfigError(f"the library has API keys, so that its server asks for one; set {KEY} to one that may predict")
    versions = list({found.ref: found for found in map(library.registry.resolve, refs)}.values())
    programs = {suite.name: program_of(suite) for suite in suites}
    options = {version.ref: _options(library, version, base) for version in versions}
    return [Judged(suite, version, programs[suite.name], options[version.ref]) for version in versions for suite in suites]


def _options(library: Library, version: Version, base: BaseOptions) -> BaseOptions:
    origin = library.registry.origin(version.ref)
    named = None if origin is None else named_base(version, Task(parse_config(origin.task_file)).base_options)
    return options_for(version, base, named)


def program_of(suite: Suite) -> str:
    """Where the harness of a suite is: on the path, or beside this Python.

    Raises:
        ConfigError: in neither place.
    """
    assert suite.config.harness is not None
    runner: Runner = suite.config.harness.runner
    program, install = _RUNNERS[runner]
    found = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    if found is None:
        raise ConfigError(
            f"suite {suite.name!r} is of {runner}, and there is no program {program!r} on the path; install it, in an "
            f"environment of its own if need be ({install}), and put that environment's bin folder on the path"
        )
    return found
