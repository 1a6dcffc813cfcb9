"""What clients were answered, beside what the library's versions say offline, and what names meant at the time."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library
from softprompt.serving.catalogue import system_fingerprint
from softprompt.serving.offline import Service
from tests.story.people import Answer

BEFORE_S, AFTER_S = 3.0, 1.0
"""A name's meaning may be a second old, the audit knows whole seconds, and the machine may be busy."""
ROUNDING = 1e-3


@dataclass
class Meaning:
    """A version that a task's name meant, for a while."""

    number: int
    since: float
    until: float = float("inf")

    def held(self, answer: Answer) -> bool:
        return self.since <= answer.got + AFTER_S and answer.sent - BEFORE_S <= self.until + 1


def check(library: Library, answers: Sequence[Answer], base: FrozenBase, rounding: float = ROUNDING) -> int:
    """Each answer is what its version says offline, and of a version that was asked for. Returns how many different ones
    there are.

    Args:
        library: of the tenant who was answered.
    """
    checked = _check_outputs(library, answers, base, rounding)
    for task in {answer.asked.partition("@")[0] for answer in answers}:
        _check_names(library, task, [answer for answer in answers if answer.asked.partition("@")[0] == task])
    return checked


def _check_outputs(library: Library, answers: Iterable[Answer], base: FrozenBase, rounding: float) -> int:
    said: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        said.setdefault((answer.model, answer.text), []).append(answer)
    right = Service(library, base=base).predict([text for _, text in said], [model for model, _ in said])
    for prediction, ((model, _), same) in zip(right, said.items(), strict=True):
        version = library.registry.resolve(model)
        for answer in same:
            told = f"{answer} and {prediction}"
            assert answer.system_fingerprint == system_fingerprint(base.fingerprint, version.digest), told
            if prediction.scores is None or answer.scores is None:
                assert answer.output.strip() == prediction.output.strip(), told
                continue
            assert answer.scores == {
                label: pytest.approx(score, abs=rounding) for label, score in prediction.scores.items()
            }, told
            best = max(prediction.scores.values())
            assert prediction.scores[answer.output] >= best - rounding, told
    return len(said)


def meanings(library: Library, task: str) -> list[Meaning]:
    """What a task's name has meant: by its audit, arms of experiments too."""
    found, newest, production, arms = list[Meaning](), 0, None, list[Meaning]()
    for line in library.registry.audit(task):
        at, after = float(calendar.timegm(time.strptime(line.at, "%Y-%m-%dT%H:%M:%SZ"))), line.after or {}
        if line.action == "publish":
            newest = max(newest, after["version"])
        elif after.get("alias") == "production":
            production = after["version"]
        elif line.action == "experiment-start":
            arms = [Meaning(after[arm], at) for arm in ("control", "candidate")]
            found += arms
        elif line.action == "experiment-stop":
            for arm in arms:
                arm.until = at
        now = production or newest
        known = [one for one in found if one not in arms]
        if not known or known[-1].number != now:
            if known:
                known[-1].until = at
            found.append(Meaning(now, at))
    return found


def _check_names(library: Library, task: str, answers: Sequence[Answer]) -> None:
    known = meanings(library, task)
    for answer in answers:
        name, number = answer.model.split("@")
        assert name == task, answer
        asked = answer.asked.partition("@")[2]
        if asked.isdigit():
            assert number == asked, answer
        else:
            assert any(one.number == int(number) and one.held(answer) for one in known), (answer, known)
