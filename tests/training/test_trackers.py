"""Trackers hear of a training and change nothing of it; those that fail or are not there are told by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.errors import ConfigError
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.training import train as training
from softprompt.training.events import Noted, Published, Stepped
from softprompt.training.member import Member
from softprompt.training.session import Session
from softprompt.training.trackers import FAILED, FINISHED, KILLED, check_trackers
from softprompt.training.trackers.telling import report
from softprompt.training.train import train
from tests.commands import Run
from tests.models import make_base
from tests.training.test_resume import make_task


class Notebook:
    """A tracker that writes down what it hears, and may fail at something."""

    name = "notebook"

    def __init__(self, known: bool = False, fails_at: str | None = None) -> None:
        self.known, self.fails_at = known, fails_at
        self.heard: list[tuple[str, str]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []

    def _hear(self, what: str, of: str) -> None:
        if what == self.fails_at:
            raise OSError("the server is away")
        self.heard.append((what, of))

    def start(self, member: Member) -> bool:
        self._hear("start", member.task.name)
        return self.known

    def log(self, member: Member, step: int, values: Mapping[str, float]) -> None:
        self._hear("log", member.task.name)
        self.logged.append((step, dict(values)))

    def end(self, member: Member, status: str, said: Mapping[str, str]) -> None:
        self._hear(status, said.get("version", said.get("error", "")))

    def close(self) -> None:
        self._hear("close", "")


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


def session_of(base: FrozenBase, folder: Path, **recipe: object) -> Session:
    session = Session(architecture_of(base), library=Library.open(folder / "home"))
    session.add(make_task(folder, "one", **recipe))
    return session


def test_it_hears_of_baselines_validations_the_test_and_the_end(base: FrozenBase, tmp_path: Path) -> None:
    book = Notebook()
    events = list(report(session_of(base, tmp_path).run(), [book]))
    (tuned,) = [event.tuned for event in events if isinstance(event, Published)]
    assert book.heard[0] == ("start", "one")
    assert book.heard[-2:] == [(FINISHED, "one@1"), ("close", "")]
    (step, first), *validations, (last_step, last) = book.logged
    assert (step, set(first)) == (0, {f"baseline/{name}" for name in ("majority", "zero_shot", "untrained")} | set(first))
    assert [step for step, _ in validations] == [int(row["step"]) for row in tuned.history]
    assert [row["validation/value"] for _, row in validations] == [row["value"] for row in tuned.history]
    assert set(validations[0][1]) == {"train/loss", "train/learning_rate", "validation/value", "validation/loss"}
    assert (last_step, last["test/accuracy"]) == (tuned.history[-1]["step"], tuned.report.value)


def test_one_that_knows_a_run_hears_only_what_is_new(base: FrozenBase, tmp_path: Path) -> None:
    book, session = Notebook(known=True), session_of(base, tmp_path)
    for event in report(session.run(), [book]):
        if isinstance(event, Stepped):
            session.stop()
    assert book.heard == [("start", "one"), (KILLED, ""), ("close", "")]
    again = Notebook(known=True)
    list(report(session_of(base, tmp_path).run(), [again]))
    assert next(step for step, _ in again.logged) > 1
    assert again.heard[-2:] == [(FINISHED, "one@1"), ("close", "")]


@pytest.mark.parametrize("fails_at", ["start", "log", FINISHED])
def test_one_that_fails_is_told_of_once_and_the_training_goes_on(base: FrozenBase, tmp_path: Path, fails_at: str) -> None:
    book, other = Notebook(fails_at=fails_at), Notebook()
    events = list(report(session_of(base, tmp_path).run(), [book, other]))
    told = [event.message for event in events if isinstance(event, Noted) and event.warning]
    assert told.count("notebook fails, and hears no more of this training: the server is away") == 1
    assert other.heard[-2:] == [(FINISHED, "one@1"), ("close", "")]
    assert [event for event in events if isinstance(event, Published)]


def test_a_task_that_fails_ends_as_failed(base: FrozenBase, tmp_path: Path) -> None:
    book = Notebook()
    session = session_of(base, tmp_path)
    for event in report(session.run(), [book]):
        if isinstance(event, Stepped):
            event.members[0].run.fail("the loss is NaN")
    assert (FAILED, "the loss is NaN") in book.heard
    assert book.heard[-1] == ("close", "")


def test_it_changes_no_digest_and_no_key(base: FrozenBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "open_trackers", lambda names, runs: [Notebook()] if names else [])
    monkeypatch.setattr(training, "check_trackers", lambda names: names)
    tuned = [
        train(make_task(tmp_path, "one"), base=base, library=Library.open(tmp_path / name), report_to=name)[0]
        for name in ("", "notebook")
    ]
    assert tuned[0].prompt.digest == tuned[1].prompt.digest


def test_what_is_not_known_or_not_installed_is_refused_before_anything_is_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"there is no tracker 'tensorbord'; did you mean 'tensorboard'\?"):
        check_trackers("tensorbord")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("tensorboard", "mlflow"):
        with pytest.raises(ConfigError, match=rf"{name} is not installed; pip install 'softprompt\[{name}\]'"):
            train([], report_to=name)
    assert check_trackers(()) == ()
    make_task(tmp_path, "one")
    task = tmp_path / "one.yaml"
    task.write_text("base: builtin/tiny\ndata: rows.jsonl\nlabels: [good, bad]\nmax_steps: 1\n")
    assert "mlflow is not installed" in run("train", task, "--report-to", "mlflow").refused()
