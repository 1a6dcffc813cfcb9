"""One word in a request means one thing: a task can hide no base and no router, and neither can hide it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from softprompt.bases.base import FrozenBase
from softprompt.engines.protocol import Sampling
from softprompt.errors import FieldError, NameRefused
from softprompt.exchange.exporting import Format, export_prompt
from softprompt.exchange.importing import import_prompt
from softprompt.jobs.jobs import Jobs
from softprompt.jobs.request import JobRequest
from softprompt.jobs.uploads import Uploads
from softprompt.library.library import Library
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry import tables
from softprompt.serving.answers import Message
from softprompt.serving.service import AsyncService
from softprompt.tasks.draft.draft import draft_task
from softprompt.tasks.load import load_tasks
from softprompt.tasks.task import Task
from softprompt.training.prepare import Preparer
from tests.fake_engine import FakeEngine
from tests.jobs_data import lines
from tests.models import make_base, some_prompt

NAMES = ("auto", "reviews")
GREEDY = Sampling(max_tokens=2)


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return replace(make_base("llama"), source="reviews")


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "home") as made:
        yield made


def named(library: Library, base: FrozenBase, name: str) -> None:
    """A task of this name, as libraries of before may have it."""
    library.publish(some_prompt(base, "old").to_bytes(), base=base.address)
    with library.registry.database.write() as connection:
        connection.execute(sa.update(tables.tasks).where(tables.tasks.c.name == "old").values(name=name))


def task_of(name: str, base: str, folder: Path) -> dict[str, Any]:
    rows = folder / "rows.jsonl"
    rows.write_bytes(lines())
    return {"task": name, "base": base, "data": str(rows), "labels": ["good", "bad"]}


@pytest.mark.parametrize("name", NAMES)
def test_no_door_lets_such_a_task_in(
    library: Library, base: FrozenBase, base_folder: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "reviews"
    shutil.copytree(base_folder, folder)
    mine = FrozenBase.load(str(folder))
    good = some_prompt(mine, "good")
    library.publish(good.to_bytes(), base=mine.address)
    file = tmp_path / "prompt"
    export_prompt(library, "good", file, Format.SOFTPROMPT)
    peft = tmp_path / "peft"
    export_prompt(library, "good", peft)
    (single,) = file.iterdir()
    bad = SoftPrompt(good.vectors_PD, good.card.changed({"task": name}))
    table = tmp_path / f"{name}.jsonl"
    table.write_bytes(lines())
    upload = Uploads(library).add(lines(), f"{name}.jsonl").name
    request = JobRequest(model="reviews", training_file=upload)

    doors: list[Callable[[], Any]] = [
        lambda: library.publish(bad.to_bytes(), base=mine.address),
        lambda: library.publish_all([good.to_bytes(), bad.to_bytes()], base=mine.address),
        lambda: import_prompt(library, single, task=name),
        lambda: import_prompt(library, peft, task=name, base=str(folder)),
        lambda: Preparer(mine).prepare(Task(**task_of(name, "elsewhere", tmp_path)), library),
        lambda: load_tasks(task_of(name, str(folder), tmp_path)),
        lambda: Jobs(library).create(request, {"reviews": str(folder)}),
        lambda: Jobs(library).create(request.model_copy(update={"suffix": name}), {"reviews": str(folder)}),
    ]
    for door in doors:
        with pytest.raises((NameRefused, FieldError), match=f"task '{name}' is refused"):
            door()
    if name == "auto":
        with pytest.raises(NameRefused, match="task 'auto' is refused"):
            draft_task(table)
    assert [entry.task for entry in library.registry.tasks()] == ["good"]
    assert len(library.registry.versions("good")) == 1
    assert not Jobs(library).page().rows


def test_a_new_base_hides_no_task_and_a_known_one_no_new_task(library: Library) -> None:
    one, other = (replace(make_base("llama", seed=seed), source=name) for seed, name in ((1, "gpt2"), (2, "other")))
    library.publish(some_prompt(one, "mood").to_bytes(), base="gpt2@main")
    with pytest.raises(NameRefused, match="task 'gpt2' is refused: a base has that name"):
        library.publish(some_prompt(other, "gpt2").to_bytes(), base="other")
    library.publish(some_prompt(one, "other").to_bytes(), base="gpt2@main")
    with pytest.raises(NameRefused, match="base 'other' is refused: a task has that name"):
        library.publish(some_prompt(other, "new").to_bytes(), base="/models/other")
    library.registry.delete("other@1")  # there is nothing to hide
    library.publish(some_prompt(other, "new").to_bytes(), base="/models/other")
    with pytest.raises(NameRefused, match="task 'other' is refused: a base has that name"):  # it was free to be taken
        library.publish(some_prompt(one, "other").to_bytes(), base="gpt2@main")
    library.for_tenant("acme").publish(some_prompt(one, "mood").to_bytes(), base="gpt2@main")
    with pytest.raises(NameRefused, match="a base has that name"):  # whosever base: a server has one for all
        library.for_tenant("acme").publish(some_prompt(one, "other").to_bytes(), base="gpt2@main")


def test_a_library_of_before_that_has_one_is_served_without_guessing(library: Library, base: FrozenBase) -> None:
    for name in NAMES:
        named(library.for_tenant("acme"), base, name)
    library.publish(some_prompt(base, "mood").to_bytes(), base=base.address)
    engine = FakeEngine()
    live = AsyncService(library, base, engine, fresh_s=0.0)

    async def work() -> None:
        assert live.targets.hidden.find() == {("acme", "auto"), ("acme", "reviews")}
        for name in NAMES:
            for call in (
                live.complete("acme", name, "red", GREEDY),
                live.chat("acme", name, [Message("user", "red")], GREEDY),
                live.classify("acme", name, ["red"]),
                live.model("acme", name),
            ):
                with pytest.raises(FieldError, match=f"{name}@N, with the number of a version") as caught:
                    await call
                assert caught.value.field == "model"
            assert (await live.complete("acme", f"{name}@1", "red", GREEDY)).head.model == f"{name}@1"
        assert [row.id for row in await live.models("acme")] == ["reviews", "auto@1", "reviews@1"]
        assert (await live.complete("default", "reviews", "red", GREEDY)).head.task is None  # others are not concerned
        library.for_tenant("acme").registry.delete_task("reviews")
        assert (await live.complete("acme", "reviews", "red", GREEDY)).head.task is None

    try:
        asyncio.run(work())
        assert engine.tickets
    finally:
        engine.stop(drain=False, timeout=20)
        live.close()
