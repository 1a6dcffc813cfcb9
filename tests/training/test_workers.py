"""Banks over workers: each prompt as on one machine, once, in the order of tasks, whatever becomes of workers. The workers
are in this process, and everything that goes to them or comes from them is pickled; `tests/ray` has real ones."""

from __future__ import annotations

import os
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.bases.options import BaseOptions
from softprompt.errors import BaseModelError, ConfigError, DataError, NotFound, SoftPromptError, StoreError, TrainingError
from softprompt.library.library import Library
from softprompt.tasks.task import Task
from softprompt.training.events import Advanced, Noted
from softprompt.training.train import train
from softprompt.training.workers.driver import Driver, NoRoom, WorkerLost
from softprompt.training.workers.train import train_on_ray
from softprompt.training.workers.work import Loaded, Made, Saved, Told, Work, cut
from softprompt.training.workers.worker import Worker, sendable
from tests.training.test_resume import make_task

pytestmark = pytest.mark.slow

LoseAfter = Callable[[int, Told], bool]


class Here:
    """A worker in this process."""

    def __init__(self, loaded: Loaded, worker: Worker, loses: LoseAfter) -> None:
        self.loaded, self._worker, self._loses = loaded, worker, loses
        self.closed = False

    def train(self, work: Work) -> Iterator[Told]:
        for number, told in enumerate(self._worker.train(pickle.loads(pickle.dumps(work)))):
            yield pickle.loads(pickle.dumps(told))
            if self._loses(number, told):
                raise WorkerLost("killed")

    def stop(self) -> None:
        self._worker.stop()

    def close(self) -> None:
        self.closed = True


class Launcher:
    """Starts them; each in turn is lost when its function says so."""

    def __init__(self, base: BaseOptions, *loses: LoseAfter, change: Callable[[int, Loaded], Loaded] | None = None) -> None:
        self._base, self._loses, self._change = base, list(loses), change
        self.started: list[Here] = []
        self._lock = threading.Lock()

    def start(self) -> Here:
        worker = Worker()
        with self._lock:  # transformers loads one at a time in a process
            loaded = worker.load(self._base, os.getcwd())
            if isinstance(loaded, SoftPromptError):
                raise loaded
            loses = self._loses.pop(0) if self._loses else lambda *_: False
            if self._change is not None:
                loaded = self._change(len(self.started), loaded)
            self.started.append(Here(loaded, worker, loses))
            return self.started[-1]


@pytest.fixture(scope="module")
def invariant(base_folder: Path) -> BaseOptions:
    return BaseOptions(source=str(base_folder), batch_invariant=True)


@pytest.fixture(scope="module")
def plain(base_folder: Path) -> BaseOptions:
    """Quicker, where no digest is compared with that of another bank."""
    return BaseOptions(source=str(base_folder))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    """Of several lengths, so that later ones end before earlier ones."""
    folder = tmp_path_factory.mktemp("rows")
    return [make_task(folder, f"task{n}", seed=n, num_virtual_tokens=5 + n % 3, max_steps=8 - n) for n in range(6)]


@pytest.fixture(scope="module")
def there(tasks: list[Task], invariant: BaseOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of one training on one machine."""
    home = tmp_path_factory.mktemp("local") / "home"
    local(tasks, invariant, home)
    return home


@pytest.fixture(scope="module")
def whole(tasks: list[Task], there: Path) -> list[str]:
    """Its digests."""
    with Library.open(there) as library:
        return [library.registry.resolve(task.name).digest for task in tasks]


def local(tasks: list[Task], base: BaseOptions, home: Path) -> list[str]:
    """The digests of one training on one machine."""
    with Library.open(home) as library:
        return [one.prompt.digest for one in train(tasks, base=base, library=library)]


def digests(library: Library, tasks: list[Task]) -> list[list[str]]:
    """Of all versions of each task."""
    there = {entry.task for entry in library.registry.tasks()}
    names = [task.name for task in tasks]
    return [[version.digest for version in library.registry.versions(name)] if name in there else [] for name in names]


def driven(
    launcher: Launcher, tasks: list[Task], base: BaseOptions, library: Library, size: int = 2, every: float = 0.0, **how: Any
) -> tuple[Driver, list[Any]]:
    works = cut(tasks, 2, size, base=base, library=library, every=every)
    driver = Driver(launcher, works, library, workers=2, **how)
    return driver, list(driver.run())


def test_workers_give_the_digests_of_one_machine_in_the_order_of_tasks(
    invariant: BaseOptions, tasks: list[Task], whole: list[str], there: Path, tmp_path: Path
) -> None:
    with Library.open(tmp_path / "home") as library:
        driver, events = driven(Launcher(invariant), tasks, invariant, library)
        assert digests(library, tasks) == [[digest] for digest in whole]
        versions = [library.registry.resolve(task.name) for task in tasks]
        assert [version.created_at for version in versions] == sorted(version.created_at for version in versions)
        assert not list(library.runs.glob("*.checkpoint"))
        assert len(list(library.histories.glob("*.jsonl"))) == 6
        with Library.open(there) as other:
            for task in tasks:
                known, here = (one.registry.origin(f"{task.name}@1") for one in (other, library))
                assert known is not None
                assert here is not None
                assert (here.task_file, here.data) == (known.task_file, known.data)
                assert len(here.run or "") == 32
    trained = [event for event in events if isinstance(event, Advanced) and event.stage == "train"]
    assert [event.done for event in trained] == sorted(event.done for event in trained)
    assert trained[-1].done == trained[-1].total
    assert [outcome.tuned.row()["digest"] for outcome in driver.outcomes if outcome.tuned] == whole


def test_a_bank_is_bit_for_bit_that_of_a_training_of_its_tasks_alone(
    base_folder: Path, tasks: list[Task], tmp_path: Path
) -> None:
    """Without batch invariance, and beside all tasks in one bank nothing but rounding."""
    base = BaseOptions(source=str(base_folder))
    apart = [digest for n in (0, 3) for digest in local(tasks[n : n + 3], base, tmp_path / f"whole{n}")]
    with Library.open(tmp_path / "home") as library:
        driver, _ = driven(Launcher(base), tasks, base, library, size=3)
        assert digests(library, tasks) == [[digest] for digest in apart]
    together = train(tasks, base=base, publish=False)
    for one, other in zip(driver.outcomes, together, strict=True):
        assert one.tuned is not None
        torch.testing.assert_close(one.tuned.prompt.vectors_PD, other.prompt.vectors_PD, rtol=0, atol=0.05)


def test_lost_workers_cost_no_prompt_and_make_none_twice(
    invariant: BaseOptions, tasks: list[Task], whole: list[str], tmp_path: Path
) -> None:
    """One is lost in the middle of its steps, one right behind its first prompt, one before its first checkpoint."""
    saved = 0

    def behind_saves(number: int, told: Told) -> bool:
        nonlocal saved
        saved += isinstance(told, Saved)
        return saved == 6

    losses: list[LoseAfter] = [behind_saves, lambda _, told: isinstance(told, Made), lambda number, _: number == 0]
    launcher = Launcher(invariant, *losses)
    with Library.open(tmp_path / "home") as library:
        _, events = driven(launcher, tasks, invariant, library)
        assert digests(library, tasks) == [[digest] for digest in whole]
        assert not list(library.runs.glob("*.checkpoint"))
    said = [event.message for event in events if isinstance(event, Noted)]
    assert sum("a worker was lost (killed); its bank of 2 tasks" in message for message in said) == 3
    assert any(re.fullmatch(r"going on from step [1-9]\d* of a training that was stopped", message) for message in said)
    assert len(launcher.started) >= 4
    assert all(one.closed for one in launcher.started)


def test_a_bank_that_loses_every_worker_fails_alone(plain: BaseOptions, tasks: list[Task], tmp_path: Path) -> None:
    def poison(_: int, told: Told) -> bool:
        return False

    class Poisoned(Here):
        def train(self, work: Work) -> Iterator[Told]:
            if work.tasks[0].name == "task2":
                raise WorkerLost("killed")
            yield from super().train(work)

    launcher = Launcher(plain)
    start = launcher.start
    launcher.start = lambda: Poisoned((one := start()).loaded, one._worker, poison)  # type: ignore[method-assign]
    with Library.open(tmp_path / "home") as library:
        driver, _ = driven(launcher, tasks, plain, library)
        assert [len(found) for found in digests(library, tasks)] == [1, 1, 0, 0, 1, 1]
    (error, _) = (outcome.wrong.error for outcome in driver.outcomes if outcome.wrong is not None)
    assert "3 workers with its bank were lost, one after the other (killed)" in str(error)


def test_a_task_that_is_wrong_leaves_the_others_alone(plain: BaseOptions, tasks: list[Task], tmp_path: Path) -> None:
    long = " ".join(["word"] * 40)
    rows = [{"text": f"{n}", "label": long} for n in range(40)]
    wrong = Task(task="wrong", data=rows, labels=None, target="{label}", num_virtual_tokens=90, max_steps=3)
    with Library.open(tmp_path / "home") as library:
        driver, _ = driven(Launcher(plain), [wrong, *tasks[:2]], plain, library)
        assert [len(found) for found in digests(library, tasks[:2])] == [1, 1]
        assert not list(library.runs.glob("*.checkpoint"))
    assert isinstance(driver.outcomes[0].wrong and driver.outcomes[0].wrong.error, SoftPromptError)


def test_a_driver_that_is_told_to_stop_goes_on_where_it_was(
    invariant: BaseOptions, tasks: list[Task], whole: list[str], tmp_path: Path
) -> None:
    stop, seen = threading.Event(), 0

    def stops(_: int, told: Told) -> bool:
        nonlocal seen
        seen += isinstance(told, Saved)
        if seen == 4:
            stop.set()
        return False

    with Library.open(tmp_path / "home") as library:
        driver, _ = driven(Launcher(invariant, stops, stops), tasks, invariant, library, stop=stop)
        assert driver.stopped
        assert not all(digests(library, tasks))
        assert list(library.runs.glob("*.checkpoint"))
        _, events = driven(Launcher(invariant), tasks, invariant, library)
        assert digests(library, tasks) == [[digest] for digest in whole]
        assert not list(library.runs.glob("*.checkpoint"))
    assert any("going on from step" in event.message for event in events if isinstance(event, Noted))
    first = next(event for event in events if isinstance(event, Advanced) and event.stage == "train")
    assert first.done > 0, "the first line of a resumed training is where it goes on"


def test_a_prompt_that_could_not_be_published_is_not_trained_again(
    invariant: BaseOptions, tasks: list[Task], whole: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise StoreError("the disk is full")

    with Library.open(tmp_path / "home") as library:
        with monkeypatch.context() as patched:
            patched.setattr(Library, "publish_all", full)
            driver, _ = driven(Launcher(invariant), tasks[:2], invariant, library)
        assert [str(outcome.wrong and outcome.wrong.error) for outcome in driver.outcomes] == ["the disk is full"] * 2
        driver, events = driven(Launcher(invariant), tasks[:2], invariant, library)
        assert digests(library, tasks[:2]) == [[digest] for digest in whole[:2]]
    assert any("going on from step" in event.message for event in events if isinstance(event, Noted))


def test_prompts_start_from_those_of_the_library_which_workers_do_not_see(
    invariant: BaseOptions, tasks: list[Task], tmp_path: Path
) -> None:
    child = make_task(tmp_path, "child", prompt_tuning_init="PROMPT", prompt_tuning_init_prompt="task0", max_steps=3)
    found = []
    for name in ("whole", "home"):
        with Library.open(tmp_path / name) as library:
            train(tasks[:1], base=invariant, library=library)
            if name == "whole":
                train(child, base=invariant, library=library)
            else:
                driven(Launcher(invariant), [child], invariant, library)
            found.append(digests(library, [child]))
    assert found[0] == found[1]
    other = child.variant(prompt_tuning_init_prompt="nothing")
    with Library.open(tmp_path / "home") as library, pytest.raises(NotFound, match="nothing"):
        driven(Launcher(invariant), [other], invariant, library)


def test_the_table_counts_seconds_here_and_has_what_was_live(plain: BaseOptions, tasks: list[Task], tmp_path: Path) -> None:
    with Library.open(tmp_path / "home") as library:
        driven(Launcher(plain), tasks[:1], plain, library)
        driver, _ = driven(Launcher(plain), tasks[:1], plain, library)
        assert driver.outcomes[0].tuned is not None
        row = driver.outcomes[0].tuned.row()
    assert (row["version"], row["live"]["version"]) == (2, 1)


def test_a_base_that_is_another_on_a_worker_ends_it_by_name(plain: BaseOptions, tasks: list[Task], tmp_path: Path) -> None:
    def other(number: int, loaded: Loaded) -> Loaded:
        return replace(loaded, fingerprint="0" * 64, machine="second") if number else loaded

    launcher = Launcher(plain, lambda _, told: isinstance(told, Saved), change=other)
    with Library.open(tmp_path / "home") as library:
        works = cut(tasks, 1, 2, base=plain, library=library, every=0.0)
        driver = Driver(launcher, works, library, workers=1)
        with pytest.raises(BaseModelError, match=r"is another base on second \(fingerprint 0{12}\) than on .*same files"):
            list(driver.run())
        assert digests(library, tasks) == [[]] * 6
        assert list(library.runs.glob("*.checkpoint")), "the same command goes on from there"


def test_a_worker_of_another_version_ends_it_by_name(plain: BaseOptions, tasks: list[Task], tmp_path: Path) -> None:
    def other(number: int, loaded: Loaded) -> Loaded:
        return replace(loaded, package="99") if number else loaded

    with Library.open(tmp_path / "home") as library, pytest.raises(TrainingError, match=r"softprompt 99.*one version"):
        driven(Launcher(plain, change=other), tasks, plain, library)


def test_a_base_that_cannot_be_loaded_ends_it_with_the_reason(tasks: list[Task], tmp_path: Path) -> None:
    base = BaseOptions(source=str(tmp_path / "nowhere"))
    with Library.open(tmp_path / "home") as library, pytest.raises(BaseModelError, match="nowhere"):
        driven(Launcher(base), tasks, base, library)


def test_workers_for_which_there_is_no_room_are_done_without_while_there_is_one(
    plain: BaseOptions, tasks: list[Task], tmp_path: Path
) -> None:
    launcher = Launcher(plain)
    start, asked = launcher.start, 0

    def crowded() -> Here:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise NoRoom("it did not begin within 1 s")
        return start()

    launcher.start = crowded  # type: ignore[method-assign]
    with Library.open(tmp_path / "home") as library:
        _, events = driven(launcher, tasks, plain, library)
        assert all(digests(library, tasks))
        assert any("training goes on with 1 worker" in event.message for event in events if isinstance(event, Noted))

        def full() -> Here:
            raise NoRoom("it did not begin within 1 s")

        launcher.start = full  # type: ignore[method-assign]
        with pytest.raises(TrainingError, match="no worker could be started: it did not begin"):
            driven(launcher, tasks, plain, library)


def test_banks_are_equal_parts_in_the_order_of_tasks(plain: BaseOptions, tasks: list[Task], tmp_path: Path) -> None:
    with Library.open(tmp_path / "home") as library:

        def sizes(workers: int, size: int | None) -> list[list[str]]:
            works = cut(tasks, workers, size, base=plain, library=library)
            assert len({work.name for work in works}) == len(works)
            return [[task.name.removeprefix("task") for task in work.tasks] for work in works]

        assert sizes(2, None) == [["0", "1", "2"], ["3", "4", "5"]]
        assert sizes(4, None) == [["0", "1"], ["2", "3"], ["4", "5"]]
        assert sizes(2, 4) == [["0", "1", "2", "3"], ["4", "5"]]


def test_what_cannot_be_done_on_workers_is_refused_by_name(invariant: BaseOptions, tasks: list[Task]) -> None:
    data = {**tasks[0].config.model_dump(exclude_unset=True)["data"], "subsets": 2}
    with pytest.raises(ConfigError, match="subsets are combined"):
        train_on_ray(tasks[0].variant(data=data), base=invariant)
    with pytest.raises(ConfigError, match=r"2 processes add up.*--batch-invariant"):
        train_on_ray(tasks, base=invariant, processes=2)
    with pytest.raises(ConfigError, match="bank_size is 0"):
        train_on_ray(tasks, base=invariant, bank_size=0)


def test_an_error_that_cannot_be_sent_is_sent_as_what_it_says() -> None:
    class Strange(DataError):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    class Foreign(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    assert isinstance(sendable(ConfigError("plain")), ConfigError)
    sent = sendable(Strange(1, 2))
    assert (type(sent), str(sent)) == (DataError, "1 and 2")
    sent = sendable(Foreign(1, 2))
    assert (type(sent), str(sent)) == (
        TrainingError, "a worker failed (Foreign: 1 and 2); see what `ray logs` has of it"
    )  # fmt: skip
