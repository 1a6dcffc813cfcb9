"""The one pipeline: what a session yields, and what its caller may do meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.errors import DataError, StoreError, TrainingError
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.progress import Silent
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.records import Origin
from softprompt.tasks.config.config import TaskConfig
from softprompt.tasks.task import Task
from softprompt.training import member as member_module
from softprompt.training.events import (
    Advanced,
    Event,
    Failed,
    Judged,
    Noted,
    Prepared,
    Published,
    Resumed,
    Stepped,
    Stopped,
    Trained,
    draw,
)
from softprompt.training.prepare import Preparer
from softprompt.training.session import Session
from softprompt.training.train import train
from tests.models import make_base
from tests.sessions import up_to
from tests.training.test_resume import make_task


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library.open(tmp_path / "home")


def open_session(base: FrozenBase, library: Library | None, *tasks: Task, **options: Any) -> Session:
    session = Session(architecture_of(base), library=library, **options)
    for task in tasks:
        session.add(task)
    return session


def kinds(events: list[Event], *leaving_out: type) -> list[str]:
    """The kinds of events in order, each run of one kind once."""
    names = [type(event).__name__ for event in events if not isinstance(event, leaving_out)]
    return [name for place, name in enumerate(names) if place == 0 or names[place - 1] != name]


def versions(library: Library, task: str) -> list[str]:
    return [version.digest for version in library.registry.versions(task)]


def test_a_session_goes_through_its_stages_in_order(base: FrozenBase, library: Library, tmp_path: Path) -> None:
    session = open_session(base, library, make_task(tmp_path, "one"))
    events = list(session.run())
    assert kinds(events, Noted, Advanced) == ["Prepared", "Stepped", "Judged", "Published", "Trained"]
    stages = [event.stage for event in events if isinstance(event, Advanced)]
    assert sorted(set(stages), key=stages.index) == ["read", "baselines", "train", "test"]
    for stage in set(stages):
        of_stage = [event for event in events if isinstance(event, Advanced) and event.stage == stage]
        assert [event.done for event in of_stage] == sorted(event.done for event in of_stage)
        assert of_stage[-1].done == of_stage[-1].total
        assert of_stage[0].done == 0 or stage == "read"  # shown before its first piece, which may take long
    (published,) = [event for event in events if isinstance(event, Published)]
    assert published.tuned.version == 1
    assert versions(library, "one") == [published.tuned.prompt.digest]
    (judged,) = [event for event in events if isinstance(event, Judged)]
    assert judged.report is published.tuned.report


def test_a_prompt_is_published_when_its_run_ends_whatever_the_others_still_do(
    base: FrozenBase, library: Library, tmp_path: Path
) -> None:
    session = open_session(base, library, make_task(tmp_path, "long"), make_task(tmp_path, "short", max_steps=3))
    steps = 0
    for event in session.run():
        steps += isinstance(event, Stepped)
        if isinstance(event, Published) and event.member.task.name == "short":
            assert steps == 3
            assert versions(library, "short") == [event.tuned.prompt.digest]
            assert [entry.task for entry in library.registry.tasks()] == ["short"]
    assert steps == 14
    assert len(versions(library, "long")) == 1


def test_a_task_that_joins_a_live_session_ends_as_it_would_alone(base: FrozenBase, library: Library, tmp_path: Path) -> None:
    (alone,) = train(make_task(tmp_path, "late", num_virtual_tokens=9, max_steps=3), base=base)
    session = open_session(base, library, make_task(tmp_path, "one"))
    late = None
    for event in session.run():
        if isinstance(event, Stepped) and late is None and event.members[0].run.step == 4:
            late = session.add(make_task(tmp_path, "late", num_virtual_tokens=9, max_steps=3))
    assert late is not None
    assert late.tuned is not None
    assert late.tuned.version == 1
    torch.testing.assert_close(late.tuned.prompt.vectors_PD, alone.prompt.vectors_PD, rtol=0, atol=2e-4)
    assert len(versions(library, "one")) == 1


def test_a_task_may_come_when_all_others_have_ended(base: FrozenBase, library: Library, tmp_path: Path) -> None:
    session = open_session(base, library, make_task(tmp_path, "one", max_steps=2))
    ends = 0
    for event in session.run():
        if isinstance(event, Trained):
            ends += 1
            if ends == 1:
                session.add(make_task(tmp_path, "clone", max_steps=2, learning_rate=0.3))
    assert ends == 2
    assert len(versions(library, "clone")) == 1


def test_a_member_that_is_dropped_takes_no_more_steps_and_is_not_published(
    base: FrozenBase, library: Library, tmp_path: Path
) -> None:
    session = open_session(base, library, make_task(tmp_path, "kept"), make_task(tmp_path, "gone"))
    kept, gone = session.members
    for event in session.run():
        if isinstance(event, Stepped) and kept.run.step == 5:
            session.drop(gone)
    assert (kept.run.step, gone.run.step) == (14, 5)
    assert gone.tuned is None
    assert gone.error is None
    assert [entry.task for entry in library.registry.tasks()] == ["kept"]
    assert not list(library.runs.glob("*.checkpoint"))
    session.drop(kept)  # harmless
    waiting = session.add(make_task(tmp_path, "waiting"))
    session.drop(waiting)
    assert waiting.ended


def test_who_is_released_gives_back_its_place_and_changes_nobody(base: FrozenBase, library: Library, tmp_path: Path) -> None:
    tasks = {name: make_task(tmp_path, name, seed=len(name), max_steps=steps) for name, steps in LENGTHS.items()}
    alone = {name: train(task, base=base)[0].prompt for name, task in tasks.items()}
    session = open_session(base, library, tasks["prefixed"], tasks["long"])
    came, most = list(tasks)[2:], 0
    for event in session.run():
        if isinstance(event, Published):
            session.release(event.member)
        if isinstance(event, Stepped) and came and len(event.members) < 2:
            session.add(tasks[came.pop(0)])
        most = max(most, len(session.members))
    assert not came
    assert most == 3, "the long one, the last one that ended, and the one that comes for it"
    for name, prompt in alone.items():
        (version,) = library.registry.versions(name)
        found = SoftPrompt.from_bytes(library.read(version.ref))
        torch.testing.assert_close(found.vectors_PD, prompt.vectors_PD, rtol=0, atol=1e-3)
    assert not list(library.runs.glob("*.checkpoint"))


LENGTHS = {"prefixed": 2, "long": 14, "third": 2, "fourth-one": 3}


def test_one_that_is_paused_goes_on_in_the_same_session(base: FrozenBase, library: Library, tmp_path: Path) -> None:
    whole = train(make_task(tmp_path, "paused"), base=base)[0].prompt
    session = open_session(base, library, make_task(tmp_path, "other", max_steps=30), make_task(tmp_path, "paused"))
    other, paused = session.members
    resumed = []
    for event in session.run():
        if isinstance(event, Stepped) and paused.run.step == 5 and not paused.paused:
            session.pause(paused)
            session.release(paused)
        elif isinstance(event, Stepped) and other.run.step == 9:
            again = session.add(make_task(tmp_path, "paused"))
        elif isinstance(event, Noted) and event.message.startswith("going on from step"):
            resumed.append((event.message, event.member))
    assert resumed == [("going on from step 5, where it was stopped", again)]
    assert again.tuned is not None
    torch.testing.assert_close(again.tuned.prompt.vectors_PD, whole.vectors_PD, rtol=0, atol=1e-3)
    assert paused.tuned is None
    assert len(library.registry.versions("paused")) == 1
    assert not list(library.runs.glob("*.checkpoint"))


@pytest.mark.parametrize("verb", ["drop", "pause"])
def test_one_that_is_given_up_while_it_is_prepared_never_enters(
    base: FrozenBase, library: Library, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Preparer.preparing

    def preparing(self: Preparer, task: Task, *rest: Any, **more: Any) -> Any:
        if task.name == "gone":
            yield Advanced("ask", 0, 1, task.name)
        return (yield from honest(self, task, *rest, **more))

    monkeypatch.setattr(Preparer, "preparing", preparing)
    tasks = [make_task(tmp_path, name, max_steps=2) for name in ("gone", "kept", "gone-later")]
    session = open_session(base, library, *tasks)
    gone, _, later = session.members
    for event in session.run():
        if isinstance(event, Advanced) and event.stage == "ask" and not gone.ended:
            for member in (gone, later):
                getattr(session, verb)(member)
        assert not isinstance(event, Failed)
    assert (gone.ended, later.ended) == (True, True)
    assert [entry.task for entry in library.registry.tasks()] == ["kept"]


def test_a_session_that_nobody_asks_stands_still_and_goes_on_when_asked(
    base: FrozenBase, library: Library, tmp_path: Path
) -> None:
    whole = train(make_task(tmp_path, "one"), base=base)[0].prompt.digest
    session = open_session(base, library, make_task(tmp_path, "one"))
    events = session.run()
    while not isinstance(next(events), Stepped):
        pass
    assert session.members[0].run.step == 1
    assert any(isinstance(event, Published) for event in events)
    assert versions(library, "one") == [whole]


def test_a_session_that_is_stopped_leaves_its_last_step_and_another_goes_on_from_there(
    base: FrozenBase, library: Library, tmp_path: Path
) -> None:
    whole = train(make_task(tmp_path, "one"), base=base)[0].prompt.digest
    session = open_session(base, library, make_task(tmp_path, "one"))
    events = []
    for event in session.run():
        events.append(event)
        if isinstance(event, Stepped) and event.members[0].run.step == 5:
            session.stop()
    assert isinstance(events[-1], Stopped)
    assert session.members[0].run.step == 5
    again = open_session(base, library, make_task(tmp_path, "one"))
    (resumed,) = [event for event in again.run() if isinstance(event, Resumed)]
    assert resumed.step == 5
    assert versions(library, "one") == [whole]


def test_a_session_that_is_stopped_before_its_first_step_goes_on_too(
    base: FrozenBase, library: Library, tmp_path: Path
) -> None:
    session = open_session(base, library, make_task(tmp_path, "one"))
    session.stop()
    assert kinds(list(session.run()), Noted, Advanced) == ["Stopped"]
    train(make_task(tmp_path, "one"), base=base, library=library)
    assert len(versions(library, "one")) == 1


def test_a_stop_behind_the_last_step_changes_nothing(base: FrozenBase, library: Library, tmp_path: Path) -> None:
    session = open_session(base, library, make_task(tmp_path, "one", max_steps=2))
    events = []
    for event in session.run():
        events.append(event)
        if isinstance(event, Published):
            session.stop()
    assert not any(isinstance(event, Stopped) for event in events)
    assert not list(library.runs.glob("*.checkpoint"))


def test_baselines_are_measured_once_also_by_those_who_go_on(base: FrozenBase, library: Library, tmp_path: Path) -> None:
    tasks = [make_task(tmp_path, "one"), make_task(tmp_path, "two", seed=1)]
    first = open_session(base, library, *tasks, every=0.0)
    stages = [event.stage for event in up_to(first, 3) if isinstance(event, Advanced)]
    assert "baselines" in stages
    second = open_session(base, library, *tasks)
    events = list(second.run())
    assert "baselines" not in [event.stage for event in events if isinstance(event, Advanced)]
    assert [member.baselines for member in second.members] == [member.baselines for member in first.members]
    assert all(member.tuned is not None for member in second.members)


def test_baselines_of_other_test_rows_are_measured_anew(base: FrozenBase, library: Library, tmp_path: Path) -> None:
    """Test rows that changed while a training lay still: what is judged on them is compared on them."""

    def task(label: str) -> Task:
        (tmp_path / "test.jsonl").write_text(json.dumps({"text": "the red stone", "label": label}) + "\n")
        made = make_task(tmp_path, "one")
        data = {"train": str(tmp_path / "rows.jsonl"), "test": str(tmp_path / "test.jsonl")}
        return made.variant(data=data)

    first = open_session(base, library, task("good"), every=0.0)
    for _ in up_to(first, 3):
        pass
    second, alone = open_session(base, library, task("bad")), open_session(base, None, task("bad"))
    events = [*second.run(), *alone.run()]
    assert any(isinstance(event, Resumed) for event in events)
    (kept,), (resumed,), (fresh,) = (one.members for one in (first, second, alone))
    assert resumed.baselines == fresh.baselines != kept.baselines


def test_a_baseline_that_solves_the_task_is_told_before_it_trains(
    base: FrozenBase, library: Library, tmp_path: Path
) -> None:
    task = make_task(tmp_path, "easy", max_steps=2)
    for row in task.train + task.test:
        row["label"] = "good"
    events = list(open_session(base, library, task).run())
    told = [place for place, event in enumerate(events) if isinstance(event, Noted) and "already solves" in event.message]
    first = next(place for place, event in enumerate(events) if isinstance(event, Stepped))
    assert told[0] < first
    noted = events[told[0]]
    assert isinstance(noted, Noted)
    words = "the most frequent answer already solves the task (accuracy 1.000): little is left to tune for"
    assert (noted.message, noted.warning) == (f"easy: {words}", False)
    (tuned,) = [event.tuned for event in events if isinstance(event, Published)]
    assert words in tuned.row()["warnings"]


def test_what_cannot_be_prepared_is_told_and_its_neighbours_train(
    base: FrozenBase, library: Library, tmp_path: Path
) -> None:
    wrong = make_task(tmp_path, "wrong", input="{nothing}")
    session = open_session(base, library, wrong, make_task(tmp_path, "right", max_steps=2))
    failed = [event for event in session.run() if isinstance(event, Failed)]
    assert [(event.member.task.name, event.trained) for event in failed] == [("wrong", False)]
    assert isinstance(failed[0].error, DataError)
    assert [entry.task for entry in library.registry.tasks()] == ["right"]


def test_a_task_whose_baselines_fail_takes_no_step(
    base: FrozenBase, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = member_module.baselines_of

    def refuse(task: Task, *given: Any) -> dict[str, float]:
        if task.name == "wrong":
            raise DataError("no answer is there")
        return measured(task, *given)

    monkeypatch.setattr(member_module, "baselines_of", refuse)
    session = open_session(base, library, make_task(tmp_path, "wrong"), make_task(tmp_path, "right", max_steps=2))
    events = list(session.run())
    assert [str(event.error) for event in events if isinstance(event, Failed)] == ["no answer is there"]
    assert all(len(event.members) == 1 for event in events if isinstance(event, Stepped))
    assert [entry.task for entry in library.registry.tasks()] == ["right"]


def test_what_cannot_be_published_fails_alone_and_is_kept_for_the_next_session(
    base: FrozenBase, library: Library, tmp_path: Path
) -> None:
    blocked = Session(architecture_of(base), library=library)
    other = blocked.add(make_task(tmp_path, "blocked", max_steps=3), also=refuse)
    good = blocked.add(make_task(tmp_path, "good", max_steps=3))
    events = list(blocked.run())
    assert [event.member for event in events if isinstance(event, Failed)] == [other]
    assert [event.member for event in events if isinstance(event, Published)] == [good]
    assert [entry.task for entry in library.registry.tasks()] == ["good"]
    again = Session(architecture_of(base), library=library)
    again.add(make_task(tmp_path, "blocked", max_steps=3))
    again.add(make_task(tmp_path, "good", max_steps=3))
    events = list(again.run())
    assert not any(isinstance(event, Stepped) and any(m.task.name == "blocked" for m in event.members) for event in events)
    assert len(versions(library, "blocked")) == 1


def refuse(*_: object) -> None:
    raise StoreError("the disk is full")


def test_publishing_is_tried_again_where_the_store_fails_for_a_moment(
    base: FrozenBase, library: Library, tmp_path: Path
) -> None:
    tries = []

    def at_last(*_: object) -> None:
        tries.append(1)
        if len(tries) < 2:
            raise StoreError("away")

    session = Session(architecture_of(base), library=library, tries=2)
    member = session.add(make_task(tmp_path, "one", max_steps=2), also=at_last)
    events = list(session.run())
    assert member.tuned is not None
    assert len(tries) == 2
    assert sum(isinstance(event, Noted) and "cannot be published" in event.message for event in events) == 1


def test_each_member_may_have_a_library_of_its_own(base: FrozenBase, library: Library, tmp_path: Path) -> None:
    theirs = library.for_tenant("theirs")
    session = Session(architecture_of(base), checkpoints=tmp_path / "checkpoints")
    session.add(make_task(tmp_path, "one", max_steps=2), library=library)
    session.add(make_task(tmp_path, "one", max_steps=2, seed=1), library=theirs)
    session.add(make_task(tmp_path, "nowhere", max_steps=2))
    published = [event.tuned.version for event in session.run() if isinstance(event, Published)]
    assert published == [1, 1, None]
    assert versions(library, "one") != versions(theirs, "one")


def test_a_version_remembers_what_it_was_made_from(base: FrozenBase, library: Library, tmp_path: Path) -> None:
    (tuned,) = train(make_task(tmp_path, "one", max_steps=2, seed=7), base=base, library=library)
    origin = library.registry.origin("one")
    assert isinstance(origin, Origin)
    assert origin.task_file["seed"] == 7
    assert origin.task_file["base"] == base.address
    assert origin.task_file["weight_decay"] == TaskConfig().weight_decay  # what this version took by itself is said too
    assert origin.task_file["prompt_tuning_init"] == "LABELS"
    assert origin.task_file["objective"] == "language_modelling"
    assert [(one["split"], one["rows"]) for one in origin.data] == list(
        zip(("train", "validation", "test"), tuned.rows, strict=True)
    )
    assert {one["address"] for one in origin.data} == {str(tmp_path / "rows.jsonl")}
    assert len({one["digest"] for one in origin.data}) == 3
    again = Task(**json.loads(json.dumps(origin.task_file)))
    (retrained,) = train(again, base=base)
    assert retrained.prompt.digest == tuned.prompt.digest


@pytest.mark.filterwarnings("ignore:one. faulty")
def test_a_version_remembers_what_was_wrong_with_its_rows(base: FrozenBase, library: Library, tmp_path: Path) -> None:
    rows = [{"text": f"red {n % 20}", "label": ["yes", "no"][n % 2]} for n in range(40)]
    rows += [{"text": "", "label": "yes"}, {"text": "red 1", "label": "yes"}]
    (tmp_path / "faulty.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = make_task(tmp_path, "one", max_steps=2).variant(labels=["yes", "no"], data=str(tmp_path / "faulty.jsonl"))
    train(task, base=base, library=library)
    origin = library.registry.origin("one")
    assert isinstance(origin, Origin)
    for part in origin.data:
        assert (part["blank"], part["repeated"], part["contradictory"]) == (1, 20, 3)


def test_what_is_to_be_said_of_several_is_shown_once() -> None:
    shown: list[str] = []

    class Watching(Silent):
        def warn(self, message: str) -> None:
            shown.append(message)

    events = [Noted("rows repeat", warning=True), Noted("rows repeat", warning=True), Noted("another", warning=True)]
    assert list(draw(events, Watching())) == events
    assert shown == ["rows repeat", "another"]


def test_drawing_shows_each_stage_once_and_passes_everything_on(base: FrozenBase, tmp_path: Path) -> None:
    shown: list[str] = []

    class Watching(Silent):
        def note(self, message: str) -> None:
            shown.append(message)

        def stage(self, name: str, total: int) -> Any:
            shown.append(name)
            return super().stage(name, total)

    session = open_session(base, None, make_task(tmp_path, "one", max_steps=2))
    events = list(draw(session.run(), Watching()))
    assert any(isinstance(event, Prepared) for event in events)
    assert [name for name in shown if name in ("read", "baselines", "train", "test")] == [
        "read", "baselines", "train", "test",
    ]  # fmt: skip
    assert any("training rows; context:" in message for message in shown)


def test_train_says_what_went_well_when_something_did_not(base: FrozenBase, library: Library, tmp_path: Path) -> None:
    # Such a decay throws a vector past all numbers in a few steps.
    decays = {"bad": 1e38, "good": 0.0, "worse": 1e38}
    tasks = [make_task(tmp_path, name, max_steps=5, weight_decay=decay) for name, decay in decays.items()]
    with pytest.raises(TrainingError, match=r"'bad': .*; task 'worse': .*lower learning_rate.*; good went well$"):
        train(tasks, base=base, library=library)
