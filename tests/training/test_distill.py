"""Distillation: the teacher is the base behind the whole instruction, asked once, and the prompt comes to answer so."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.compare.compare import compare
from softprompt.errors import ConfigError, ContextError, DataError
from softprompt.evaluation.evaluate import evaluate
from softprompt.library.library import Library
from softprompt.model.kinds.causal import Causal
from softprompt.progress import Mute, Silent
from softprompt.tasks.task import Task
from softprompt.training import distill as measured
from softprompt.training.distill import distill
from softprompt.training.events import Advanced, Prepared, Stopped
from softprompt.training.objectives import Taught, teacher
from softprompt.training.session import Session
from softprompt.training.train import train
from tests.commands import Run
from tests.models import make_base, make_seq2seq, save_base, steerable_base
from tests.sessions import Untrained, runs_of

INSTRUCTION = "say yes to what is red\nthe red river: yes\nthe blue stone: no"
THINGS = [f"{colour} {thing}" for colour in ("red", "blue") for thing in ("stone", "river")]
BARE = [{"text": f"the {thing} {n}"} for n in range(10) for thing in THINGS]
ROWS = [row | {"label": "yes" if "red" in row["text"] else "no"} for row in BARE]
SOME = [row | ({"label": ""} if n % 3 else {}) for n, row in enumerate(ROWS)]
LABELS = ("yes", "no")


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library.open(tmp_path / "home")


def a_task(rows: Any = BARE, **fields: Any) -> Task:
    known = {
        "num_virtual_tokens": 6, "max_steps": 3, "per_device_train_batch_size": 16, "max_new_tokens": 5,
        "objective": "distillation", "instruction": INSTRUCTION, "max_baseline_samples": 4,
    }  # fmt: skip
    return Task(**({"task": "taught", "data": rows} | known | fields))


class Noting(Silent):
    """Keeps what is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def whole_rows(base: FrozenBase, task: Task) -> list[list[int]]:
    """The training rows with the instruction in front, token by token."""
    inputs = [task.form.input.fill(row) for row in task.train]
    return base.encode([f"{INSTRUCTION}\n{text}" for text in inputs])


@torch.no_grad()
def logs_behind(base: FrozenBase, ids: Sequence[int], answer: Sequence[int] = ()) -> torch.Tensor:
    logits: torch.Tensor = base.model(input_ids=torch.tensor([[*ids, *answer]]), use_cache=False).logits[0]
    return logits[len(ids) - 1 :].log_softmax(-1)


@torch.no_grad()
def plain_answer(base: FrozenBase, ids: Sequence[int], bound: int) -> list[int]:
    answer: list[int] = []
    while len(answer) < bound:
        answer.append(int(logs_behind(base, ids, answer)[-1].argmax()))
        if answer[-1] in base.end_ids:
            break
    return answer


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral"])
def test_the_teacher_is_the_base_behind_the_whole_instruction(architecture: str) -> None:
    base = make_base(architecture)
    labelled, writes = a_task(labels=LABELS), a_task()
    scored, written = runs_of(base, [labelled, writes])
    for ids, target in list(zip(whole_rows(base, labelled), scored.targets, strict=True))[:6]:
        assert target.labels is not None
        expected = []
        for label in target.labels:
            logs = logs_behind(base, ids, label[:-1])
            expected.append(sum(float(logs[place, token]) for place, token in enumerate(label)))
        assert target.scores == pytest.approx(expected, abs=2e-3)
        assert target.said == LABELS[expected.index(max(expected))]
    for ids, target in list(zip(whole_rows(base, writes), written.targets, strict=True))[:6]:
        assert list(target.ids) == plain_answer(base, ids, 5)
        logs = logs_behind(base, ids, target.ids[:-1])
        torch.testing.assert_close(target.logs_TK, logs.topk(teacher.LIKELIEST).values, rtol=0, atol=2e-3)
        torch.testing.assert_close(logs.gather(1, target.tokens_TK), target.logs_TK, rtol=0, atol=2e-3)


def test_the_instruction_is_run_once_and_what_was_said_is_not_asked_again(
    base: FrozenBase, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = len(base.encode([INSTRUCTION])[0])
    runs: list[int] = []
    honest = Causal.compute_prefix
    monkeypatch.setattr(teacher, "COLUMNS", 4 * length)  # several chunks
    monkeypatch.setattr(Causal, "compute_prefix", lambda self, stack: (runs.append(stack.columns), honest(self, stack))[1])

    def long_runs(task: Task) -> int:
        runs.clear()
        session = Session(Causal(base), library=library)
        session.add(task)
        for event in session.run():
            if isinstance(event, Prepared):
                break
        return sum(columns >= length for columns in runs)

    for fields, baseline in (({"labels": LABELS}, 1), ({}, 2)):  # which scores the answers, and writes its own
        assert long_runs(a_task(ROWS, **fields)) == 1 + baseline
        assert long_runs(a_task(ROWS, **fields)) == baseline
        assert long_runs(a_task(ROWS, **fields, seed=3, num_virtual_tokens=7)) == baseline
        assert long_runs(a_task(ROWS, **fields, instruction=INSTRUCTION + " ")) == 1 + baseline
        assert long_runs(a_task([*ROWS, {"text": "a new river", "label": "no"}], **fields)) == 1 + baseline
    kept = sorted(path.suffix for path in (library.runs / "teachers").iterdir())
    assert kept == [".pt"] * 4
    assert not list((library.home / "blobs").glob("*")), "blobs are for prompts"


def test_a_damaged_memory_is_told_and_asked_anew(base: FrozenBase, library: Library) -> None:
    (first,) = train(a_task(ROWS), base=base, library=library)
    (file,) = (library.runs / "teachers").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match="cannot be read .*; the instructed base is asked anew"):
        (again,) = train(a_task(ROWS), base=base, library=library)
    assert torch.equal(first.prompt.vectors_PD, again.prompt.vectors_PD)


def test_a_training_that_is_stopped_while_it_asks_goes_on_from_what_was_said(
    base: FrozenBase, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "COLUMNS", 300)
    session = Session(Causal(base), library=library)
    session.add(a_task())
    asked = []
    for event in session.run():
        if isinstance(event, Advanced) and event.stage == "ask":
            asked.append((event.done, event.total))
            if len(asked) == 2:
                session.stop()
    assert isinstance(event, Stopped)
    done, total = asked[-1]
    assert 0 < done < total == len(BARE)
    again = Session(Causal(base), library=library)
    again.add(a_task())
    events = [event for event in again.run() if isinstance(event, Advanced) and event.stage == "ask"]
    assert events[-1].done == events[-1].total == total - done


def test_rows_need_no_answer_and_the_agreement_is_that_of_the_answers(base: FrozenBase, library: Library) -> None:
    for name, fields in (("labels", {"labels": LABELS}), ("text", {})):
        task = a_task(SOME, task=name, **fields)
        with warnings.catch_warnings(action="ignore"):
            (tuned,) = train(task, base=base, library=library)
        (run,) = runs_of(base, [task])
        taught = {tuple(ids): one.said for ids, one in zip(whole_rows(base, task), run.targets, strict=True)}
        assert len(taught) == len(run.train)
        row = tuned.row()
        test = [base.encode([f"{INSTRUCTION}\n{entry['text']}"])[0] for entry in task.test]
        behind = [plain_answer(base, ids, 5) for ids in test]
        if fields:
            said, leads = [], []
            for ids in test:
                scores = [sum(float(logs_behind(base, ids, label[:-1])[p, t]) for p, t in enumerate(label)) for label in
                          task.form.encode_labels(base)]  # fmt: skip
                said.append(LABELS[scores.index(max(scores))])
                chances = sorted(math.exp(one) / sum(map(math.exp, scores)) for one in scores)
                leads.append(chances[-1] - chances[-2])
        else:
            said = [base.decode([token for token in ids if token not in base.end_ids]).strip() for ids in behind]
        same = [one == other for one, other in zip(tuned.report.predictions, said, strict=True)]
        assert row["agreement"] == sum(same) / len(same)
        if fields:
            decided = [one for one, lead in zip(same, leads, strict=True) if lead >= 0.2]
            assert row["decided"] == len(decided) / len(same)
            assert row.get("agreement_decided") == (sum(decided) / len(decided) if decided else None)
        else:
            assert "decided" not in row
        gold = [entry["label"] or other for entry, other in zip(task.test, said, strict=True)]
        right = [one == other for one, other in zip(said, gold, strict=True)]
        assert row["teacher"] == pytest.approx(sum(right) / len(right))
        assert 0 < sum(not entry["label"] for entry in task.test) < len(task.test)


def test_the_prompt_comes_to_answer_as_the_instructed_base_does(library: Library) -> None:
    base = steerable_base()
    rows = [{"text": f" {word}"} for word in ("red", "green", "blue", "apple")] * 3
    task = a_task(rows, input="{text} =", labels=LABELS, instruction=" bad", max_steps=40, learning_rate=0.05)
    data = {"train": rows, "validation": rows[:4], "test": rows[:4]}
    told = Noting()
    with warnings.catch_warnings(action="ignore"):
        distilled = distill(task.variant(data=data), base=base, library=library, progress=told)
    row = distilled.row()
    assert told.notes  # none of which, nor a warning of the row, takes the text for one to be better than
    assert [said for said in told.notes + row["warnings"] if "zero-shot" in said] == []
    assert distilled.agreement == row["agreement"] == 1.0
    assert row["value"] == row["teacher"] == 1.0  # nothing else counts as right
    assert row["untrained"] < 1.0
    assert row["version"] == 1
    assert row["instruction_tokens"] - row["columns"] == row["tokens_saved"]


def test_what_a_request_costs_is_told(base: FrozenBase, library: Library) -> None:
    for fields in ({"labels": LABELS}, {}):
        row = distill(a_task(ROWS, **fields), base=base, library=library).row()
        length = len(base.encode([INSTRUCTION + "\n"])[0])
        assert (row["columns"], row["teacher_columns"], row["tokens_saved"]) == (6, length, length - 6)
        a_column = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, width of a head, bytes
        assert row["kept_bytes"] == 6 * a_column
        assert row["teacher_kept_bytes"] >= length * a_column
        assert min(row["latency_ms"], row["cached_latency_ms"], row["teacher_cached_latency_ms"]) > 0
        assert row["cheaper"] == pytest.approx(row["teacher_latency_ms"] / row["latency_ms"], rel=0.05)


@pytest.mark.parametrize(("input", "kept"), [("so: {soft_prompt}{text}", True), ("{text}{soft_prompt} so", False)])
def test_a_request_with_a_placed_prompt_is_measured_with_what_stands_before_it(
    input: str, kept: bool, base: FrozenBase, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = set[int]()
    anew = measured._Requests.anew

    def noted(self: Any, vectors_PD: torch.Tensor, ids: Sequence[int]) -> object:
        lengths.add(len(vectors_PD))
        return anew(self, vectors_PD, ids)

    monkeypatch.setattr(measured._Requests, "anew", noted)
    row = distill(a_task(ROWS, labels=LABELS, input=input), base=base, library=library, progress=Mute()).row()
    assert 0 in lengths  # the instruction's
    assert min(lengths - {0}) > 6
    a_column = 2 * 2 * 2 * 8 * 4
    assert row["kept_bytes"] == (len(base.encode(["so: "])[0]) + 6) * a_column * kept
    assert row["teacher_kept_bytes"] > 0


def test_rows_without_an_answer_are_refused_everywhere_else(base: FrozenBase, library: Library, tmp_path: Path) -> None:
    for fields in ({"labels": LABELS}, {}):
        bare = a_task(**fields, objective=None, instruction=None)
        with pytest.raises(DataError, match="has no field 'label'"):
            train(bare, base=base, library=library, progress=Untrained())
        with pytest.raises(DataError, match=r"the label '' is not among|the field 'label' is empty"):
            train(a_task(SOME, **fields, objective=None), base=base, library=library, progress=Untrained())
        with pytest.raises(DataError, match="has no field 'label'"):
            a_task(**fields).variant(objective="language_modelling").train  # noqa: B018
        for method in ("zero_shot", "few_shot"):
            with pytest.raises(DataError, match="has no field 'label'"):
                compare(a_task(**fields), methods=[method], base=base)
    train(a_task(ROWS, labels=LABELS), base=base, library=library)
    with pytest.raises(DataError, match="has no field 'label'"):
        evaluate("taught", library=library, data=BARE, base=base)


def test_an_instruction_longer_than_the_context_is_refused_before_training(base: FrozenBase) -> None:
    long = a_task(instruction="the red river " * 60)
    with pytest.raises(ContextError, match=r"the instruction takes \d+ tokens, and .* has a context of 96, .* shorten"):
        train(long, base=base, publish=False, progress=Untrained())
    with pytest.raises(ContextError, match="the instruction takes"):
        distill(long, base=base, publish=False, progress=Untrained())


def test_inputs_that_are_cut_behind_the_instruction_alone_are_told(base: FrozenBase) -> None:
    long = next(text for count in range(99) if 70 < len(base.encode([text := "red" + " red" * count])[0]) < 80)
    rows = ROWS + [{"text": f"{n} {long}", "label": "yes"} for n in range(9)]
    with pytest.warns(UserWarning, match="behind the instruction .* inputs were cut to fit the context, the first"):
        train(a_task(rows), base=base, publish=False)


def test_an_instruction_comes_from_a_file_beside_the_task_or_a_text(base: FrozenBase, tmp_path: Path) -> None:
    (tmp_path / "i.txt").write_text(INSTRUCTION + "\n")
    task = Task(**{**a_task().config.model_dump(exclude_unset=True), "data": BARE, "instruction": None,
                   "instruction_file": "i.txt"}, folder=tmp_path)  # fmt: skip
    assert task.config.instruction == task.form.instruction == INSTRUCTION
    (tmp_path / "other.txt").write_text("other")
    assert task.variant(instruction_file="other.txt").config.instruction == "other"
    assert task.variant(instruction="mine").config.instruction == "mine"
    assert task.variant(seed=3).config.instruction == INSTRUCTION
    (tmp_path / "i.txt").write_bytes(b"\xff")
    for name, message in (("none.txt", "there is no instruction file 'none.txt'"), ("i.txt", "is not UTF-8 text")):
        with pytest.raises(ConfigError, match=message):
            task.variant(instruction_file=name)
    with pytest.raises(ConfigError, match=r"data\.subsets is of `softprompt train` alone"):
        distill(a_task(data={"train": BARE, "subsets": 2}), base=base)
    with pytest.raises(ConfigError, match="there is no instruction to distill"):
        distill({"task": "t", "data": BARE}, base=base)


def test_the_start_is_tokens_of_the_instruction_from_end_to_end(base: FrozenBase) -> None:
    (ids,) = base.encode([INSTRUCTION])
    (run,) = runs_of(base, [a_task(num_virtual_tokens=4)])
    places = [(2 * place + 1) * len(ids) // 8 for place in range(4)]
    expected = base.embed(torch.tensor([ids[place] for place in places]))
    torch.testing.assert_close(run.start_PD, expected.detach().float())
    (long,) = runs_of(base, [a_task(num_virtual_tokens=2 * len(ids))])
    torch.testing.assert_close(long.start_PD[::2], long.start_PD[1::2])


def test_a_base_that_shares_no_prefix_is_asked_row_by_row(monkeypatch: pytest.MonkeyPatch, base: FrozenBase) -> None:
    expected = [target for run in runs_of(base, [a_task(labels=LABELS), a_task()]) for target in run.targets]
    monkeypatch.setattr(Causal, "shares_prefix", False)
    found = [target for run in runs_of(base, [a_task(labels=LABELS), a_task()]) for target in run.targets]
    for one, other in zip(expected, found, strict=True):
        assert isinstance(one, Taught)
        assert one.ids == other.ids
        assert one.scores == pytest.approx(other.scores, abs=2e-3)


def test_the_command(run: Run, home: Path, tmp_path: Path) -> None:
    folder = save_base(tmp_path / "a-base")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in BARE))
    (tmp_path / "i.txt").write_text(INSTRUCTION)
    task = tmp_path / "taught.yaml"
    task.write_text(
        f"base: {folder}\ndata: rows.jsonl\nlabels: [yes, no]\nnum_virtual_tokens: 6\nmax_steps: 2\n"
        "per_device_train_batch_size: 8\n".replace("[yes, no]", '["yes", "no"]')
    )
    done = run("distill", task, "--json")
    assert done.code == 1
    assert "objective: distillation needs the text to distill" in done.err
    done = run("distill", task, "--instruction", tmp_path / "none.txt", "--json")
    assert done.code == 1
    assert "none.txt" in done.err
    assert "cannot be read" in done.err
    assert not home.exists()
    done = run("distill", task, "--instruction", tmp_path / "i.txt", "--json")
    assert done.code == 0, done.err
    (row,) = map(json.loads, done.out.splitlines())
    for key in (
        "task",
        "version",
        "digest",
        "metric",
        "value",
        "majority",
        "zero_shot",
        "untrained",
        "seconds",
        "agreement",
    ):
        assert key in row
    assert row["version"] == 1
    assert "ask: 100%" in done.err
    shown = run("distill", task, "--instruction", tmp_path / "i.txt", "--set", "max_steps=1")
    assert shown.code == 0
    assert "agreement" in shown.out
    assert "times as long" in shown.out
    assert "Behind keys and values" in " ".join(shown.out.split())


def test_of_an_encoder_nothing_is_said_to_be_kept(run: Run, tmp_path: Path) -> None:
    base, folder, task = make_seq2seq("t5"), tmp_path / "t5", tmp_path / "task.json"
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    task.write_text(json.dumps({
        "task": "taught", "data": "rows.jsonl", "labels": LABELS, "base": str(folder), "instruction": INSTRUCTION,
        "max_steps": 1, "num_virtual_tokens": 6,
    }))  # fmt: skip
    shown = run("distill", task)
    assert shown.code == 0
    assert "times as long" in shown.out
    assert "keys and values" not in " ".join(shown.out.split())
