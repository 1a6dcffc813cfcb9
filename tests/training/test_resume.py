"""A training that is killed and started again ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library, Version
from softprompt.model.architecture import architecture_of
from softprompt.progress import Silent
from softprompt.tasks.task import Task
from softprompt.training import checkpoint
from softprompt.training.events import Noted, Stepped
from softprompt.training.session import Session
from softprompt.training.sweep import Halving, make_grid, rungs_for, salt_of, sweep
from softprompt.training.train import train
from tests.models import make_base
from tests.sessions import cut, runs_of, up_to

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


def make_task(folder: Path, name: str, **more: Any) -> Task:
    rows = [
        {"text": f"the {colour} {thing} {number}", "label": "good" if colour == "red" else "bad"}
        for number in range(8)
        for colour in ("red", "blue")
        for thing in ("apple", "stone")
    ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {"num_virtual_tokens": 6, "max_steps": 14, "per_device_train_batch_size": 4, "learning_rate": 0.1}
    return Task(task=name, **({"data": str(file), "labels": ["good", "bad"]} | recipe | more))


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.filterwarnings("ignore:never. the input holds 'text', which is the answer")
@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"optim": "adafactor"},
        *({"encoder_reparameterization_type": kind, "encoder_hidden_size": 3} for kind in ("RESIDUAL", "LSTM", "LOW_RANK")),
    ],
)
def test_a_resumed_bank_publishes_the_digests_of_an_uninterrupted_one(
    base: FrozenBase, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    tasks = [
        make_task(tmp_path, "one", **recipe),
        make_task(tmp_path, "two", max_steps=9, num_virtual_tokens=8, early_stopping_patience=2, **recipe),
        # No answer is ever right, so that the loss alone says which prompt is the best.
        make_task(tmp_path, "never", labels=None, target=" {text}", max_new_tokens=24, **recipe),
    ]
    whole = [t.prompt.digest for t in train(tasks, base=base, library=Library.open(tmp_path / "whole"))]
    library = Library.open(tmp_path / "cut")
    for steps in (1, 4, 3):
        cut(tasks, base, library, steps)
        assert not list(library.store.list())
    resumed = train(tasks, base=base, library=library)
    assert [t.prompt.digest for t in resumed] == whole
    assert not list(library.runs.glob("*.checkpoint"))


def test_what_was_published_before_a_kill_is_not_published_again(base: FrozenBase, tmp_path: Path) -> None:
    tasks = [make_task(tmp_path, "short", max_steps=4), make_task(tmp_path, "long")]
    whole = [t.prompt.digest for t in train(tasks, base=base, library=Library.open(tmp_path / "whole"))]
    library = Library.open(tmp_path / "cut")
    cut(tasks, base, library, 7)
    assert [version.digest for version in library.registry.versions("short")] == whole[:1]
    assert [entry.task for entry in library.registry.tasks()] == ["short"]
    resumed = train(tasks, base=base, library=library)
    assert [(t.prompt.digest, t.version) for t in resumed] == [(digest, 1) for digest in whole]
    assert [len(library.registry.versions(task.name)) for task in tasks] == [1, 1]
    again = train(tasks, base=base, library=library)
    assert [t.version for t in again] == [2, 2], "another training is another version"


def test_a_kill_before_a_version_is_committed_leaves_none_and_training_goes_on(base: FrozenBase, tmp_path: Path) -> None:
    tasks = [make_task(tmp_path, name, seed=seed) for seed, name in enumerate("abc")]
    whole = [t.prompt.digest for t in train(tasks, base=base, library=Library.open(tmp_path / "whole"))]
    library = Library.open(tmp_path / "cut")

    def killed(*_: object) -> None:
        raise Killed

    session = Session(architecture_of(base), library=library, every=0.0)
    for task in tasks:
        session.add(task, also=killed if task.name == "b" else None)
    with pytest.raises(Killed):
        list(session.run())
    assert [entry.task for entry in library.registry.tasks()] == ["a"]
    assert [file.name for file in library.runs.glob("*.jsonl")] == ["a@1.jsonl"]
    session = Session(architecture_of(base), library=library)
    members = [session.add(task) for task in tasks]
    assert not any(isinstance(event, Stepped) for event in session.run()), "it was trained to its end already"
    again = [(member.tuned.prompt.digest, member.tuned.version) for member in members if member.tuned]
    assert again == [(digest, 1) for digest in whole]
    assert sorted(file.name for file in library.runs.iterdir()) == ["a@1.jsonl", "b@1.jsonl", "c@1.jsonl"]


class Killing(Library):
    """A library behind whose publishing there is a kill."""

    def publish_all(self, *args: Any, **how: Any) -> list[Version]:
        super().publish_all(*args, **how)
        raise Killed


def test_a_kill_behind_the_publishing_leaves_each_version_its_history(base: FrozenBase, tmp_path: Path) -> None:
    library = Killing.open(tmp_path / "home")
    with pytest.raises(Killed):
        train([make_task(tmp_path, "one"), make_task(tmp_path, "two")], base=base, library=library)
    assert len(library.registry.versions("one")) == 1
    assert (library.runs / "one@1.jsonl").read_text().count("\n") == 2


def test_a_history_that_cannot_be_written_costs_no_version(base: FrozenBase, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    (library.runs / "one@1.jsonl").mkdir(parents=True)

    class Telling(Silent):
        def warn(self, message: str) -> None:
            library.registry.tag(
                "one@1", add=["late"]
            )  # as the one does who tells a job's events: the registry must be free
            assert message.startswith("the history of one@1 cannot be written")

    (tuned,) = train(make_task(tmp_path, "one"), base=base, library=library, progress=Telling())
    assert library.registry.resolve("one@1").digest == tuned.prompt.digest
    assert library.registry.resolve("one@1").tags == ("late",)
    assert [file.name for file in library.runs.iterdir()] == ["one@1.jsonl"]


def test_tenants_of_one_home_keep_a_history_each(base: FrozenBase, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    (own,) = train(make_task(tmp_path, "one"), base=base, library=library)
    (theirs,) = train(make_task(tmp_path, "one", seed=1), base=base, library=library.for_tenant("other"))
    kept = [json.loads(line) for line in (library.runs / "one@1.jsonl").read_text().splitlines()]
    assert kept == own.history != theirs.history


@pytest.mark.parametrize("validations", [1, 2])
def test_a_resumed_sweep_has_the_same_survivor_and_candidates(base: FrozenBase, tmp_path: Path, validations: int) -> None:
    # With one validation in an epoch, both rungs are passed at once.
    task = make_task(tmp_path, "swept", eval_per_epoch=validations)
    choices = {"learning_rate": [0.01, 0.1], "seed": [0, 1]}
    whole = sweep(task, choices, base=base, library=Library.open(tmp_path / "whole"))
    library = Library.open(tmp_path / "cut")
    for steps in (2, 5, 3):
        cut_sweep(task, choices, base, library, steps)
    resumed = sweep(task, choices, base=base, library=library)
    assert resumed.candidates == whole.candidates
    assert resumed.tuned.prompt.digest == whole.tuned.prompt.digest
    assert len(library.registry.versions("swept")) == 1


def cut_sweep(task: Task, choices: dict[str, Any], base: FrozenBase, library: Library, steps: int) -> None:
    """A sweep that is killed behind so many more steps."""
    grid = make_grid(choices)
    rungs = rungs_for(len(grid))
    session = Session(architecture_of(base), library=library, salt=salt_of(rungs), every=0.0)
    candidates = [session.add(task.variant(**changes), publishes=False) for changes in grid]
    halving = Halving(session, candidates, rungs)
    for event in up_to(session, steps):
        halving.heed(event)


def test_another_recipe_or_other_rows_never_take_the_checkpoint(base: FrozenBase, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    cut([make_task(tmp_path, "one")], base, library, 3)
    noted: list[str] = []

    class Noting(Silent):
        def note(self, message: str) -> None:
            noted.append(message)

    train(make_task(tmp_path, "one", learning_rate=0.2), base=base, library=library, progress=Noting())
    assert not any("going on" in message for message in noted)
    train(make_task(tmp_path, "one"), base=base, library=library, progress=Noting())
    assert any("going on from step 3" in message for message in noted)


def test_other_rows_to_validate_on_never_take_the_checkpoint(base: FrozenBase, tmp_path: Path) -> None:
    make_task(tmp_path, "one")
    files = {"train": str(tmp_path / "rows.jsonl"), "validation": str(tmp_path / "some.jsonl")}

    def key(label: str) -> str:
        (tmp_path / "some.jsonl").write_text(json.dumps({"text": "the red stone", "label": label}) + "\n")
        task = Task(task="one", data=files, labels=["good", "bad"], num_virtual_tokens=6)
        return checkpoint.key_of(base, runs_of(base, [task])[0])

    assert key("good") == key("good") != key("bad")


def test_a_sweep_that_keeps_all_never_takes_the_checkpoint_of_one_that_drops(base: FrozenBase, tmp_path: Path) -> None:
    task, choices = make_task(tmp_path, "swept"), {"seed": [0, 1]}
    library = Library.open(tmp_path / "home")
    cut_sweep(task, choices, base, library, 12)
    assert not any(row["dropped"] for row in sweep(task, choices, rungs=(), base=base, library=library).candidates)


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(
    base: FrozenBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library.open(tmp_path / "home")
    saves = 0
    honest = torch.save

    def full(state: Any, handle: Any) -> None:
        nonlocal saves
        saves += 1
        if saves > 3:  # the first is of the start
            handle.write(b"half a checkpoint")
            raise OSError(28, "No space left on device")
        honest(state, handle)

    monkeypatch.setattr(torch, "save", full)
    session = Session(architecture_of(base), library=library, every=0.0)
    session.add(make_task(tmp_path, "one"))
    events = list(up_to(session, 13))
    assert any(isinstance(event, Noted) and "No space left" in event.message for event in events)
    (left,) = library.runs.glob("*.checkpoint")
    (state,) = torch.load(left, weights_only=True)["runs"].values()
    assert state["runs"][0]["step"] == 2
    assert not list(library.runs.glob("*.partial"))


def test_a_damaged_checkpoint_is_told_and_training_starts_anew(base: FrozenBase, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    whole = train(make_task(tmp_path, "one"), base=base, library=Library.open(tmp_path / "whole"))[0].prompt.digest
    cut([make_task(tmp_path, "one")], base, library, 3)
    (file,) = library.runs.glob("*.checkpoint")
    damaged = file.read_bytes()[:-100]
    torch.save([1, 2], other := tmp_path / "other")
    for content in (damaged, other.read_bytes()):
        file.write_bytes(content)
        with pytest.warns(UserWarning, match="starts anew"):
            assert train(make_task(tmp_path, "one"), base=base, library=library)[0].prompt.digest == whole


def test_runs_that_a_session_does_not_have_keep_their_state_in_its_checkpoint(tmp_path: Path) -> None:
    first = checkpoint.Checkpoint(tmp_path, "shared", pytest.fail)
    assert first.load() == {}
    assert first.save({"a": {"step": 1}, "b": {"step": 2}})
    second = checkpoint.Checkpoint(tmp_path, "shared", pytest.fail)
    assert second.load().keys() == {"a", "b"}
    second.save({"a": {"step": 5}})
    assert checkpoint.Checkpoint(tmp_path, "shared", pytest.fail).load() == {"a": {"step": 5}, "b": {"step": 2}}
    second.discard(["a"], {})
    third = checkpoint.Checkpoint(tmp_path, "shared", pytest.fail)
    assert third.load() == {"b": {"step": 2}}
    third.discard(["b"], {})
    assert not list(tmp_path.iterdir())


DRIVER = """
import sys
from pathlib import Path
import torch, transformers.models.llama.modeling_llama
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.training.session import Session
from tests.kills import kill_now_and_then
from tests.models import make_base
from tests.training.test_resume import make_task, newest

folder = Path(sys.argv[1])

def go_on():
    session = Session(architecture_of(make_base("llama")), library=Library.open(folder / "home"), every=0.0)
    session.add(make_task(folder, "one", max_steps=120))
    for event in session.run():
        pass

print(kill_now_and_then(go_on, lambda: newest(folder), 10))
"""


def newest(folder: Path) -> int:
    """When the last checkpoint was written."""
    return max((file.stat().st_mtime_ns for file in (folder / "home" / "runs").glob("*.checkpoint")), default=0)


def test_ten_kills_at_random_moments_end_in_the_same_digest(base: FrozenBase, tmp_path: Path) -> None:
    task = make_task(tmp_path, "one", max_steps=120)
    whole = train(task, base=base, library=Library.open(tmp_path / "whole"))[0].prompt.digest
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        cwd=Path(__file__).parent.parent.parent,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert done.stdout.strip() == "10"
    library = Library.open(tmp_path / "home")
    assert library.registry.resolve("one").digest == whole
    assert len(library.registry.versions("one")) == 1
