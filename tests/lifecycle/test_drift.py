"""Whether rows still look like those that a version was tuned for: of files, of servers, of versions without a reference."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from softprompt import drift
from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError, DataError, FingerprintMismatch
from softprompt.evaluation.reference import Reference, Seen
from softprompt.evaluation.trials import Report
from softprompt.library import personal
from softprompt.library.library import Library
from softprompt.lifecycle.drift.drift import Drifted
from softprompt.progress import Mute
from softprompt.prompts.card import REFERENCE
from softprompt.prompts.file import read_card
from softprompt.registry.records import now
from softprompt.registry.traffic.windows import MOST_SERVERS, Window, key_of
from softprompt.training.train import train
from tests.bases.files.test_adapter import make_adapter
from tests.commands import Run
from tests.lifecycle.rows import a_task
from tests.models import make_base, some_prompt
from tests.training.test_resume import make_task


class _Told(Mute):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, message: str) -> None:
        self.lines.append(message)


HERE = ("red", "green", "blue", "apple", "stone")
ELSEWHERE = ("true", "false", "good", "bad", "what is the", "of a")
LABELS = ("yes", "no")


def words(kinds: tuple[str, ...], count: int, *, seed: int, longest: int = 4) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(kinds, k=draw.randint(1, longest))) for _ in range(count)]


def rows_file(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


@pytest.fixture
def bare(tmp_path: Path, base: FrozenBase) -> Iterator[Library]:
    """Versions that came without a reference: `kind` with labels, `tell` that writes."""
    with Library.open(tmp_path / "home") as made:
        for prompt in (
            some_prompt(base, "kind", labels=LABELS, input="{text} ="),
            some_prompt(base, "tell", metric="exact_match", max_new_tokens=4),
        ):
            made.publish(prompt.to_bytes(), base=base.address)
        yield made


_kept: list[Any] = []


@pytest.fixture
def library(bare: Library, base: FrozenBase, tmp_path: Path) -> Library:
    """The same with a reference, which is made once."""
    from softprompt.lifecycle.drift.drift import keep_reference

    if _kept:
        bare.registry.windows.set_reference(bare.registry.resolve("kind"), _kept[0], "then.jsonl")
    else:
        file = rows_file(tmp_path / "then.jsonl", words(HERE, 200, seed=1))
        _kept.append(keep_reference("kind", file, library=bare, base=base).told())
    return bare


def test_rows_of_a_file(library: Library, base: FrozenBase, tmp_path: Path) -> None:
    alike = rows_file(tmp_path / "alike.jsonl", words(HERE, 150, seed=2))
    found = drift("kind", data=alike, library=library, base=base)
    assert [one.what for one in found] == ["inputs", "length", "outputs", "confidence"]
    assert not any(one.drifted for one in found)
    other = rows_file(tmp_path / "other.jsonl", words(ELSEWHERE, 150, seed=3))
    found = drift("kind", data=other, library=library, base=base)
    assert found[0].drifted
    assert all(one.drifted == (one.threshold is not None and one.value > one.threshold) for one in found)
    assert {(one.task, one.version, one.rows, one.reference_rows, one.source) for one in found} == {
        ("kind", 1, 150, 200, str(other))
    }
    long = rows_file(tmp_path / "long.jsonl", words(HERE, 150, seed=4, longest=9))
    assert "length" in [one.what for one in drift("kind", data=long, library=library, base=base) if one.drifted]


def test_inputs_that_are_cut_are_told(bare: Library, base: FrozenBase, tmp_path: Path) -> None:
    from softprompt.lifecycle.drift.drift import AT_ONCE, keep_reference

    texts = words(HERE, AT_ONCE + 9, seed=1)
    texts[1], texts[AT_ONCE], texts[AT_ONCE + 4] = "", "red river " * base.context, "blue " * base.context
    file = rows_file(tmp_path / "long.jsonl", texts)
    told = _Told()
    keep_reference("kind", file, library=bare, base=base, progress=told)
    first = f"the first of them {file}, line {AT_ONCE + 1}"
    cut = f"kind@1: 2 of {len(texts) - 1} inputs were cut to fit the context, {first}"  # but the blank one
    assert told.lines == [cut]
    drift("kind", data=file, library=bare, base=base, progress=told)
    assert told.lines == [cut] * 2
    drift("kind", data=rows_file(tmp_path / "short.jsonl", words(HERE, 40, seed=1)), library=bare, base=base, progress=told)
    assert told.lines == [cut] * 2


def test_what_is_written_is_judged_by_its_length(bare: Library, base: FrozenBase, tmp_path: Path) -> None:
    from softprompt.lifecycle.drift.drift import keep_reference

    file = rows_file(tmp_path / "then.jsonl", words(HERE, 40, seed=1))
    keep_reference("tell", file, library=bare, base=base)
    found = drift("tell", data=file, library=bare, base=base)
    assert [one.what for one in found] == ["inputs", "length", "outputs"]
    assert not any(one.drifted for one in found)


def test_a_version_without_a_reference_says_how_to_get_one(
    bare: Library, base: FrozenBase, tmp_path: Path, run: Run
) -> None:
    file = rows_file(tmp_path / "rows.jsonl", words(HERE, 40, seed=1))
    with pytest.raises(ConfigError, match="softprompt drift kind@1 --reference FILE"):
        drift("kind", data=file, library=bare, base=base)
    done = run("drift", "kind", "--json", "--home", bare.home)
    assert (done.code, done.out) == (0, "")
    assert "kind@1 has no reference" in done.err
    few = rows_file(tmp_path / "few.jsonl", words(HERE, 29, seed=1))
    from softprompt.lifecycle.drift.drift import keep_reference

    with pytest.raises(DataError, match="29 rows make no reference; give 30 or more"):
        keep_reference("kind", few, library=bare, base=base)
    with pytest.raises(FingerprintMismatch):
        keep_reference("kind", file, library=bare, base=make_base("llama", seed=1))
    assert bare.registry.audit("kind")[-1].action == "publish"


def test_no_traffic_is_said_and_is_no_error(library: Library, run: Run) -> None:
    for more in ([], ["--json"]):
        done = run("drift", "kind", "--home", library.home, *more)
        assert (done.code, done.out) == (0, "")
        assert "kind@1 had no traffic in 24 hours: nothing is judged" in done.err
    said = run("drift", "kind", "--home", library.home, "--data", "rows.csv", "--hours", "24").refused()
    assert "--hours is of what servers saw, and the rows of a file are judged" in said


def window_of(library: Library, base: FrozenBase, texts: list[str], server: str = "s", at: str | None = None) -> Window:
    told = library.registry.windows.reference(library.registry.resolve("kind"))
    reference = Reference.read(told)
    assert reference is not None
    rows = [Seen(ids, ("yes",), 0.9) for ids in base.encode([f"{text} =" for text in texts])]
    tally = reference.count(base, rows)
    return Window(server, tally.rows, tally.told() | {"reference": key_of(told)}, at or now(), at or now())


def test_windows_of_several_servers_are_one(library: Library, base: FrozenBase, run: Run, tmp_path: Path) -> None:
    windows = library.registry.windows
    for server, seed in (("one", 5), ("two", 6)):
        windows.store(server, {("kind", 1): window_of(library, base, words(HERE, 60, seed=seed), server)})
    rows = run("drift", "kind", "--home", library.home, "--json").rows
    assert {row["rows"] for row in rows} == {120}
    assert not rows[0]["drifted"]
    assert {row["source"] for row in rows} == {"2 servers"}
    names = ("task", "version", "what", "statistic", "value", "threshold", "drifted", "rows", "p_value", "false_alarm_rate")
    assert all(set(names) <= row.keys() for row in rows)
    windows.store("two", {("kind", 1): window_of(library, base, words(ELSEWHERE, 60, seed=7), "two")})
    page = tmp_path / "charts" / "page.html"
    done = run("drift", "kind", "--home", library.home, "--html", page)
    assert "drifted: inputs" in done.out
    text = page.read_text()
    assert "kind@1: 120 rows of 2 servers" in text
    assert "<script src=" not in text  # no request leaves
    (row, *_) = run("drift", "kind", "--home", library.home, "--json", "--level", "0.01").rows
    assert (row["drifted"], row["false_alarm_rate"]) == (True, 0.01)


def test_old_windows_count_no_more_and_go(library: Library, base: FrozenBase, run: Run) -> None:
    windows, version = library.registry.windows, library.registry.resolve("kind")
    texts = words(HERE, 40, seed=5)
    windows.store("old", {("kind", 1): window_of(library, base, texts, "old", "2001-01-01T00:00:00Z")})
    assert [one.server for one in windows.of(version)] == ["old"]
    assert "had no traffic" in run("drift", "kind", "--home", library.home).err
    many = window_of(library, base, texts)
    for number in range(MOST_SERVERS + 3):
        windows.store(f"s{number:03}", {("kind", 1): many})
    kept = windows.of(version)
    assert len(kept) == MOST_SERVERS
    assert "old" not in {one.server for one in kept}
    windows.store("s", {("kind", 7): many, ("none", 1): many})  # deleted meanwhile
    assert library.for_tenant("other").registry.windows.of(version) == []


def test_another_reference_makes_old_windows_void(library: Library, base: FrozenBase, tmp_path: Path, run: Run) -> None:
    from softprompt.lifecycle.drift.drift import keep_reference

    windows = library.registry.windows
    stale = window_of(library, base, words(HERE, 60, seed=5))
    windows.store("one", {("kind", 1): stale})
    keep_reference("kind", rows_file(tmp_path / "n.jsonl", words(ELSEWHERE, 99, seed=9)), library=library, base=base)
    assert windows.of(library.registry.resolve("kind")) == []
    windows.store("one", {("kind", 1): stale})  # by a server that has not read it yet
    assert "had no traffic" in run("drift", "kind", "--home", library.home).err
    entry = library.registry.audit("kind")[-1]
    assert (entry.action, entry.after) == ("reference", {"version": 1, "source": "n.jsonl"})


def test_rows_of_users_own_prompts_are_left_out_by_name(library: Library, run: Run) -> None:
    assert "of their own" not in run("drift", "kind").err
    own = [(user, library.read("kind")) for user in ("ann", "bob")]
    personal.publish(library, "kind", own, base=library.registry.resolve("kind").base)
    told = run("drift", "kind").err
    assert "2 users with a prompt of their own of 'kind': what those answered is not among these rows" in told
    assert "of their own" not in run("drift", "tell").err


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning", "ignore::UserWarning:peft.*")
def test_rows_of_a_file_are_answered_through_the_adapter_that_the_task_file_names(
    base_folder: Path, tmp_path: Path, run: Run, home: Path
) -> None:
    adapter = make_adapter(tmp_path / "lora")
    named = BaseOptions(source=str(base_folder), adapter=str(adapter), dtype="float32", device="cpu")
    plain = replace(named, adapter=None)
    with Library.open(home) as library:
        task = make_task(tmp_path, "kind", base=str(base_folder), base_adapter=str(adapter), max_steps=2)
        train(task, base=replace(named, source=None, adapter=None), library=library)
        rows = rows_file(tmp_path / "new.jsonl", words(HERE, 60, seed=1))
        found = values(drift("kind", data=rows, library=library))
        assert set(found) == {"inputs", "length", "outputs", "confidence"}
        assert found == values(drift("kind", data=rows, library=library, base=FrozenBase.load(named)))
        assert found == {row["what"]: row["value"] for row in run("drift", "kind", "--data", str(rows), "--json").rows}
        with pytest.raises(FingerprintMismatch, match="with the adapter 'lora' merged into it"):
            drift("kind", data=rows, library=library, base=FrozenBase.load(plain))
        adapter.rename(tmp_path / "moved")
        assert str(adapter) in run("drift", "kind", "--data", str(rows)).refused()
        moved = run("drift", "kind", "--data", str(rows), "--base-adapter", str(tmp_path / "moved"), "--json").rows
        assert found == {row["what"]: row["value"] for row in moved}


def values(rows: list[Drifted]) -> dict[str, float]:
    return {row.what: row.value for row in rows}


def test_few_rows_are_told(library: Library, base: FrozenBase, run: Run) -> None:
    windows = library.registry.windows
    windows.store("one", {("kind", 1): window_of(library, base, words(HERE, 12, seed=5))})
    done = run("drift", "kind", "--home", library.home, "--json")
    assert (done.code, done.out) == (0, "")
    assert "kind@1: 12 rows of 1 server, and 30 are needed" in done.err


def test_refusals(library: Library, run: Run, tmp_path: Path) -> None:
    blank = rows_file(tmp_path / "blank.jsonl", ["", " "])
    assert "no row has anything in text" in run("drift", "kind", "--data", blank, "--home", library.home).refused()
    assert "no task 'kin'" in run("drift", "kin", "--home", library.home).refused()
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"txt": "red"}\n')
    assert "'text'" in run("drift", "kind", "--data", wrong, "--home", library.home).refused()


# Trainings


def test_training_leaves_a_reference_that_older_readers_take(tmp_path: Path, old_folder: Path) -> None:
    library = Library.open(tmp_path / "home")
    (tuned,) = train(a_task(tmp_path, base=str(old_folder), max_steps=2), library=library, progress=Mute())
    card = library.registry.resolve("kind").card
    reference = Reference.read(card.recipe[REFERENCE])
    assert reference is not None
    assert [one.name for one in reference.samples] == ["tuned", "judged"]
    tuned_on, judged_on = (one.tally for one in reference.samples)
    assert (tuned_on.rows, tuned_on.answered, judged_on.rows, judged_on.answered) == (8, 4, 4, 4)
    assert set(judged_on.answers) <= set(LABELS)
    assert judged_on.confidence.total() == 4
    bare = some_prompt(make_base("llama"), "kind").card
    assert json.loads(card.canonical()).keys() == json.loads(bare.canonical()).keys()  # no field that older readers refuse
    assert len(json.dumps(card.recipe[REFERENCE])) < 6000
    again = card.changed({"input": "Other: {text}"})
    assert REFERENCE not in again.recipe
    assert read_card(tuned.prompt.to_bytes()) == card
    library.close()


def test_a_run_goes_on_with_its_best_answers() -> None:
    """From a checkpoint of today, and from one of before, which has no answers."""
    from softprompt.training.steps.run import Run

    kept: dict[str, Any] = {"metric": "accuracy", "value": 1.0, "rows": 1, "loss": 0.1}
    for state, said in ((kept, []), (kept | {"predictions": ["a"], "confidences": (0.5,)}, ["a"])):
        run = Run.__new__(Run)
        run.config = type("Config", (), {"unwanted_patterns": None})()
        fields = ("step", "loss", "best_step", "failure", "dropped", "compiled", "history", "_losses", "_worse")
        run.load_state(dict.fromkeys(fields) | {"best": state, "best_PD": None})
        assert isinstance(run.best, Report)
        assert run.best.predictions == said


def test_show_leaves_the_numbers_out_for_people(tmp_path: Path, old_folder: Path, run: Run) -> None:
    library = Library.open(tmp_path / "home")
    train(a_task(tmp_path, base=str(old_folder), max_steps=1), library=library, progress=Mute())
    assert "covariance" not in run("show", "kind@1").out
    (row,) = run("show", "kind@1", "--json").rows
    assert "covariance" in json.dumps(row)
    library.close()
