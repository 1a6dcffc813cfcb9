"""Running a harness on versions: a server, the harness's own program as its client, and what it finds kept row by row."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from softprompt.bases.options import BaseOptions
from softprompt.bases.reading import read_tokenizer
from softprompt.errors import DataError
from softprompt.evaluation.suites.harness import inspect_ai, lm_eval
from softprompt.evaluation.suites.harness.find import Judged
from softprompt.evaluation.suites.harness.samples import Found, outcome_of
from softprompt.evaluation.suites.harness.server import KEY, check_served, end, last_line, started
from softprompt.progress import Progress
from softprompt.registry.records import Outcome

if TYPE_CHECKING:
    from softprompt.library.library import Library


def run_judged(
    library: Library,
    judged: Sequence[Judged],
    progress: Progress,
    *,
    url: str | None = None,
    registry: str | None = None,
    store: str | None = None,
) -> list[Outcome]:
    """Have harnesses judge versions, those of one base by one server, and keep what is found as soon as it is.

    Args:
        url: a server that runs already; by default one is started for each base.
        registry, store: the URLs that the library was opened with, where they were given.

    Raises:
        BaseModelError: the base is not where it is said to be, or cannot be loaded.
        ConfigError: a server or a harness cannot be asked.
        DataError: a harness failed, or what it found cannot be kept.
        FingerprintMismatch: the server answers with another prompt than the library's.
    """
    library.registry.database.check_writable()
    key = os.environ.get(KEY) or "none"
    groups: dict[BaseOptions, list[int]] = {}
    for place, one in enumerate(judged):
        groups.setdefault(one.options, []).append(place)
    found: dict[int, Outcome] = {}
    for options, places in groups.items():
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="softprompt-harness-")))
            advance = stack.enter_context(progress.stage("harness", len(places) + 1))
            at = url.rstrip("/").removesuffix("/v1") if url is not None else None
            if at is None:
                at = stack.enter_context(started(library, options, folder, registry=registry, store=store))
            if any(judged[place].config.runner == "lm-eval" for place in places):
                read_tokenizer(options).save_pretrained(folder / "tokenizer")
            advance(1, "")
            for place in places:
                check_served(at, judged[place].version, key)
                out = folder / str(place)
                out.mkdir()
                result = _ask(judged[place], at, key, folder / "tokenizer", out)
                found[place] = _kept(library, judged[place], result, progress)
                advance(1, judged[place].version.ref)
    return [found[place] for place in range(len(judged))]


def _kept(library: Library, one: Judged, found: Found, progress: Progress) -> Outcome:
    try:
        outcome, left = outcome_of(one.version, one.suite, found)
    except DataError as error:
        raise DataError(f"suite {one.suite.name!r}, {one.config.runner}'s task {one.config.task!r}: {error}") from None
    if left:
        progress.warn(f"suite {one.suite.name!r}: {', '.join(left)} of {one.config.task!r} is no mean over rows; left out")
    return library.registry.outcomes.put(outcome)


def _ask(one: Judged, url: str, key: str, tokenizer: Path, out: Path) -> Found:
    """Run the program of a harness, and read what it left."""
    config, model, beside = one.config, one.version.ref, one.beside.resolve()
    if config.runner == "lm-eval":
        words = lm_eval.arguments(config, url=url, model=model, tokenizer=tokenizer, beside=beside, out=out)
        told = {"OPENAI_API_KEY": key}
    else:
        words = inspect_ai.arguments(config, model=model, out=out)
        told = inspect_ai.environment(url, key)
    where = f"suite {one.suite.name!r}: {config.runner} on {one.version.ref}"
    log = out.with_suffix(".log")
    with log.open("wb") as said:
        # In the suite's folder, as tasks name their rows from there.
        process = subprocess.Popen(
            [one.program, *words],
            cwd=beside,
            env=os.environ | told,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            text=True,
        )
    try:
        code = process.wait()
    finally:
        end(process)
    if code:
        raise DataError(f"{where} failed with exit status {code}: {last_line(log)}; see whether its task runs by itself")
    try:
        return lm_eval.read(out) if config.runner == "lm-eval" else inspect_ai.read(out)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise DataError(
            f"{where} wrote what is not understood here ({type(error).__name__}: {error}); tell its version"
        ) from None
