"""Training: only the prompts change, each as if it were alone, and what fails leaves nothing behind."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, normalizers

from softprompt.bases.base import FrozenBase
from softprompt.errors import (
    ConfigError,
    ContextError,
    DataError,
    FingerprintMismatch,
    NotFound,
    PromptFileError,
    TrainingError,
)
from softprompt.evaluation.trials import Report
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.listing import Filters
from softprompt.rows.sources import Row, digest_rows
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.config.schedule import FEW_ROWS, rate_at, steps_per_epoch, total_steps
from softprompt.tasks.task import Task
from softprompt.training.events import Failed, Stepped
from softprompt.training.prepare import RATE, Preparer
from softprompt.training.remarks import remarks_on
from softprompt.training.session import Session
from softprompt.training.steps import loop
from softprompt.training.steps.run import Run
from softprompt.training.train import train
from tests.models import ANSWERS, make_base, steerable_base, tokenizer, weights_digest
from tests.sessions import Untrained, runs_of

ROWS: list[Row] = [
    {"text": f"{word} {n}", "label": label, "sentence": f"{label} {word}"}
    for n in range(12)
    for word, label in [("red", "yes"), ("blue", "no"), ("green", "yes"), ("the stone of a river", "no")]
]


@pytest.fixture
def base() -> FrozenBase:
    return make_base("llama")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library.open(tmp_path / "home")


def a_task(folder: Path, name: str = "t", rows: list[Row] = ROWS, **fields: Any) -> Task:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    known: dict[str, Any] = {
        "task": name, "data": {"train": file.name, "validation": 0.1}, "labels": ["yes", "no"], "num_virtual_tokens": 6,
        "per_device_train_batch_size": 8, "max_steps": 6, "learning_rate": 0.1,
    }  # fmt: skip
    return Task(folder=folder, **{**known, **fields})


def contents(library: Library) -> tuple[list[Any], set[str]]:
    """Everything that a library holds: versions, and the names of its blobs."""
    versions = [v for entry in library.registry.tasks(Filters(every=True)) for v in library.registry.versions(entry.task)]
    return versions, {file.name for file in (library.home / "blobs").rglob("*") if file.is_file()}


# What a file leaves open is chosen by the base and the rows, and told


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_default_rate_goes_by_the_spread_of_what_enters_the_layers(architecture: str, tmp_path: Path) -> None:
    base = make_base(architecture)
    with torch.no_grad():
        entering = base.model.get_input_embeddings()(torch.arange(len(base.embedding.weight)))
    assert base.spread == pytest.approx(float(entering.std()), rel=0.05)
    (default,) = runs_of(base, [a_task(tmp_path, learning_rate=None)])
    (halved,) = runs_of(base, [a_task(tmp_path, learning_rate=None, learning_rate_multiplier=0.5)])
    (said,) = runs_of(base, [a_task(tmp_path)])
    assert default.config.learning_rate == pytest.approx(RATE * base.spread, rel=0.01)
    assert halved.config.learning_rate == pytest.approx(RATE * base.spread / 2, rel=0.01)
    assert said.config.learning_rate == 0.1
    (note,) = [message for message, _ in remarks_on(base, default) if "rate" in message]
    for part in ("6 steps of 8 rows", "language_modelling", f"rate {default.config.learning_rate:g}", "start LABELS"):
        assert part in note
    with pytest.raises(ConfigError, match="leave one of them out"):
        a_task(tmp_path, learning_rate=0.1, learning_rate_multiplier=2.0)


# Few rows judge by folds


@pytest.mark.filterwarnings("ignore:t. 48 of 48 validation inputs")
def test_a_prompt_of_few_rows_is_judged_by_others_that_have_not_seen_them(base: FrozenBase, tmp_path: Path) -> None:
    """The slow twin: each fold trained alone by a file of its own, and judged on the rows that it was not given."""
    files: dict[str, list[Row]] = {}
    a_task(tmp_path, "test", rows=[{"text": "grey 1", "label": "no"}, {"text": "grey 2", "label": "yes"}])
    task = a_task(tmp_path, data={"train": "t.jsonl", "test": "test.jsonl"})
    for number, places in enumerate(task.folds):
        files[f"rest{number}"] = [row for place, row in enumerate(task.rows_of("t.jsonl")) if place not in places]
        files[f"held{number}"] = [task.rows_of("t.jsonl")[place] for place in places]
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tuned,) = train(task, base=base, publish=False)
    right = 0.0
    for number, places in enumerate(task.folds):
        data = {"train": f"rest{number}.jsonl", "validation": f"held{number}.jsonl", "test": "test.jsonl"}
        (alone,) = train(task.variant(data=data), base=base, publish=False)
        right += alone.history[-1]["value"] * len(places)
    assert tuned.history[-1]["step"] == 6
    assert tuned.history[-1]["value"] == pytest.approx(right / len(ROWS))
    assert tuned.rows == (len(ROWS), 0, 2)
    # What is kept is trained on all rows, as it would be without folds.
    (whole,) = train(
        task.variant(data={"train": "t.jsonl", "validation": "t.jsonl", "test": "test.jsonl"}), base=base, publish=False
    )
    assert len(tuned.history) == len(whole.history) == 1
    assert torch.allclose(tuned.prompt.vectors_PD, whole.prompt.vectors_PD, atol=1e-5)


# Only the prompt changes


def test_the_base_is_the_same_to_the_byte_before_and_after(tmp_path: Path, base: FrozenBase) -> None:
    before = weights_digest(base)
    config = base.model.config.to_dict()
    (tuned, generating) = train(
        [a_task(tmp_path, "a"), a_task(tmp_path, "b", labels=None, target=" {sentence}", max_new_tokens=16)], base=base
    )
    assert weights_digest(base) == before
    assert base.model.config.to_dict() == config
    assert not base.model.training
    assert all(p.grad is None and not p.requires_grad for p in base.model.parameters())
    assert tuned.moved > 0.02
    assert generating.moved > 0.02


def test_the_same_run_twice_gives_the_same_digest_and_other_seeds_another(tmp_path: Path) -> None:
    def once(**fields: Any) -> str:
        return train(a_task(tmp_path, **fields), base=make_base("llama"))[0].prompt.digest

    first = once()
    torch.manual_seed(123)
    assert once() == first
    assert len({first, once(seed=1), once(learning_rate=0.2), once(optim="adafactor")}) == 4


MANY: dict[str, dict[str, Any]] = {
    "a": {"learning_rate": 0.3, "num_virtual_tokens": 9},
    "b": {"optim": "adafactor", "per_device_train_batch_size": 5, "max_steps": 4, "weight_decay": 0.1},
    "c": {"labels": None, "target": " {sentence}", "max_new_tokens": 16, "num_virtual_tokens": 7, "warmup_steps": 3},
    "d": {"objective": "language_modelling", "lr_scheduler_type": "cosine", "max_steps": 2, "eval_per_epoch": 3},
    "e": {"encoder_reparameterization_type": "RESIDUAL", "encoder_hidden_size": 5, "num_virtual_tokens": 8},
    "f": {"encoder_reparameterization_type": "MLP", "prompt_tuning_init": "RANDOM", "seed": 7},
    "i": {"encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 6, "num_virtual_tokens": 5},
    "j": {"encoder_reparameterization_type": "LOW_RANK", "encoder_hidden_size": 3},
    "g": {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "yes or no", "warmup_steps": 0, "seed": 1},
    "h": {"prompt_tuning_init": "SAMPLE_VOCAB", "learning_rate": 0.02, "max_grad_norm": 0.1, "num_virtual_tokens": 5},
}


def test_a_task_in_a_bank_with_others_equals_that_task_alone(tmp_path: Path, base: FrozenBase) -> None:
    # Few and small steps: a random base is steep, and doubles a difference of rounding at every step.
    tasks = {
        name: a_task(tmp_path, name, **{"max_steps": 3, "learning_rate": 0.03, **fields}) for name, fields in MANY.items()
    }
    together = {one.prompt.card.task: one for one in train(list(tasks.values()), base=base)}
    for name, task in tasks.items():
        (alone,) = train(task, base=base)
        torch.testing.assert_close(together[name].prompt.vectors_PD, alone.prompt.vectors_PD, rtol=0, atol=1e-4)
        cards = [one.prompt.card for one in (together[name], alone)]
        assert cards[0].model_copy(update={"metrics": {}}) == cards[1].model_copy(update={"metrics": {}})
        assert cards[0].metrics == pytest.approx(cards[1].metrics, abs=1e-4)
        for mixed, own in zip(together[name].history, alone.history, strict=True):
            assert mixed == pytest.approx(own, abs=1e-4)
    assert len({len(one.history) for one in together.values()}) > 1


def test_every_row_is_seen_once_in_an_epoch_in_an_order_of_the_seed(tmp_path: Path, base: FrozenBase) -> None:
    task = a_task(tmp_path, per_device_train_batch_size=7)
    examples = task.encode(base, task.train, 6, split="training")

    def epochs(seed: int) -> list[list[list[int]]]:
        own, labels = a_task(tmp_path, per_device_train_batch_size=7, seed=seed), task.form.encode_labels(base)
        one = Run(own, own.config, torch.zeros(6, 32), examples, examples, labels)
        seen: list[list[list[int]]] = []
        for _ in range(2):
            seen.append([])
            for _ in range(steps_per_epoch(one.config, len(examples))):
                batch = one.batch(3)
                assert all(example.which == 3 for example in batch)
                assert len(batch) <= 7
                seen[-1] += [list(example.input) for example in batch]
                one.took_step(0.0)
        return seen

    first, second = epochs(0)
    assert sorted(first) == sorted(second) == sorted(examples.inputs)
    assert first != second
    assert epochs(0) == [first, second]
    assert epochs(1)[0] != first


# Schedules


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant", "constant_with_warmup"])
@pytest.mark.parametrize(("total", "warmup"), [(20, 0), (20, 5), (7, 1), (100, 6)])
def test_schedules_are_those_of_transformers(kind: Any, total: int, warmup: int) -> None:
    config = parse_config({"lr_scheduler_type": kind, "learning_rate": 0.3, "warmup_steps": warmup})
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = transformers.get_scheduler(kind, optimiser, num_warmup_steps=warmup, num_training_steps=total)
    theirs = []
    for _ in range(total + 1):
        theirs.append(scheduler.get_last_lr()[0])
        optimiser.step()
        scheduler.step()
    for step in range(total):
        # Theirs spends the first step of a warm-up at a rate of zero; ours is one step ahead there.
        ahead = 1 if kind != "constant" and step < warmup else 0
        assert rate_at(config, step, total) == pytest.approx(theirs[step + ahead], abs=1e-12)


def test_the_length_of_a_run_follows_from_epochs_or_steps() -> None:
    config = parse_config({"num_train_epochs": 2.5, "per_device_train_batch_size": 8})
    assert steps_per_epoch(config, 33) == 5
    assert total_steps(config, 33) == 13
    assert total_steps(parse_config({"max_steps": 4, "num_train_epochs": 9}), 33) == 4
    assert total_steps(parse_config({"num_train_epochs": 0.001}), 3) == 1
    silent = parse_config({"per_device_train_batch_size": 8})
    assert [total_steps(silent, rows) for rows in (1, FEW_ROWS, FEW_ROWS + 1, 8 * 70)] == [100, 100, 200, 210]
    ratio = parse_config({"warmup_ratio": 0.1, "learning_rate": 1.0})
    steps = parse_config({"warmup_steps": 3, "warmup_ratio": 0.9, "learning_rate": 1.0})
    assert [rate_at(ratio, step, 25) for step in range(25)] == [rate_at(steps, step, 25) for step in range(25)]


# Validation


class Scripted:
    """Validations whose values, and losses, are written beforehand, task by task; by default a loss is 1 less the value."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, values: dict[str, list[float]], losses: dict[str, list[float]] | None = None
    ) -> None:
        self.values = values
        self.losses = losses or {name: [1 - value for value in scores] for name, scores in values.items()}
        self.seen: dict[str, list[torch.Tensor]] = {name: [] for name in values}
        monkeypatch.setattr(loop, "answer", self._answer)
        monkeypatch.setattr(loop, "report_tuned", self._report_of)

    def _answer(self, engine: Any, trials: Sequence[Any]) -> Generator[int, None, list[list[Any]]]:
        yield sum(len(trial.examples) for trial in trials)
        return [[] for _ in trials]

    def _report_of(self, trial: Any, given: Sequence[Any], *, fixed: bool) -> Report:
        name = trial.form.task
        at = len(self.seen[name])
        self.seen[name].append(trial.vectors_PD.clone())
        return Report("accuracy", self.values[name][at], len(trial.examples), self.losses[name][at], [])


@pytest.mark.parametrize(
    ("values", "losses", "kept"),
    [
        ([0.1, 0.7, 0.9, 0.2, 0.3, 0.3], [0.9, 0.3, 0.1, 0.8, 0.01, 0.01], 3),  # the metric first
        ([0.0] * 6, [0.9, 0.8, 0.7, 0.5, 0.6, 0.7], 4),  # of equal values the lower loss
        ([0.0] * 6, [0.9, 0.5, 0.7, 0.5, 0.6, 0.7], 4),  # of equal losses the later
        ([0.0] * 6, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], 6),
        ([0.1, 0.9, 0.9, 0.9, 0.9, 0.2], [0.9, 0.4, 0.5, 0.6, 0.5, 0.1], 2),
    ],
)
def test_the_best_vectors_by_validation_are_kept(
    tmp_path: Path, base: FrozenBase, monkeypatch: pytest.MonkeyPatch, values: list[float], losses: list[float], kept: int
) -> None:
    scripted = Scripted(monkeypatch, {"t": values}, {"t": losses})
    (tuned,) = train(a_task(tmp_path, max_steps=6, per_device_train_batch_size=64), base=base)
    assert [row["value"] for row in tuned.history] == values
    assert [row["validation_loss"] for row in tuned.history] == losses
    assert torch.equal(tuned.prompt.vectors_PD, scripted.seen["t"][kept - 1])
    assert len({tuple(seen.flatten().tolist()) for seen in scripted.seen["t"]}) == 6
    recipe, row = tuned.prompt.card.recipe, tuned.row()
    assert (recipe["steps"], recipe["best_step"]) == (row["steps"], row["best_step"]) == (6, kept)
    assert tuned.prompt.card.metrics["validation"] == max(values)


def test_patience_stops_one_prompt_and_leaves_the_others(
    tmp_path: Path, base: FrozenBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted(monkeypatch, {"a": [0.5, 0.8, 0.7, 0.7, 0.9], "b": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]})
    fields: dict[str, Any] = {"max_steps": 6, "per_device_train_batch_size": 64}
    one, other = train(
        [a_task(tmp_path, "a", early_stopping_patience=2, **fields), a_task(tmp_path, "b", **fields)], base=base
    )
    assert (len(one.history), len(other.history)) == (4, 6)
    assert torch.equal(one.prompt.vectors_PD, scripted.seen["a"][1])
    # What is recorded is what was done, not what was planned.
    assert (one.prompt.card.recipe["steps"], other.prompt.card.recipe["steps"]) == (4, 6)
    assert (one.row()["steps"], one.row()["best_step"]) == (4, 2)


@pytest.mark.parametrize(
    ("values", "losses", "steps"),
    [
        ([0.0] * 6, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], 6),
        ([0.0] * 6, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0], 6),  # a tie in the metric is no step back
        ([0.5, 0.4, 0.5, 0.4, 0.5, 0.5], [0.5, 0.6, 0.7, 0.8, 0.9, 1.0], 4),  # nor does it give patience back
        ([0.5, 0.4, 0.5, 0.4, 0.5, 0.5], [0.5, 0.6, 0.4, 0.8, 0.9, 1.0], 6),  # but where its loss is lower
        ([1.0] * 6, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0], 3),  # at the top nothing can be better
        ([1.0] * 6, [0.9, 0.8, 0.9, 0.7, 0.6, 0.5], 6),
    ],
)
def test_ties_use_up_no_patience(
    tmp_path: Path, base: FrozenBase, monkeypatch: pytest.MonkeyPatch, values: list[float], losses: list[float], steps: int
) -> None:
    Scripted(monkeypatch, {"t": values}, {"t": losses})
    fields: dict[str, Any] = {"max_steps": 6, "per_device_train_batch_size": 64, "early_stopping_patience": 2}
    (tuned,) = train(a_task(tmp_path, **fields), base=base)
    assert (len(tuned.history), tuned.prompt.card.recipe["steps"]) == (steps, steps)


def test_equal_values_are_told_apart_by_the_loss() -> None:
    report = Report("accuracy", 0.5, 10, 1.0, [])
    assert report.better_than(None)
    assert Report("accuracy", 0.5, 10, 0.9, []).better_than(report)
    assert Report("accuracy", 0.5, 10, 1.0, []).better_than(report)
    assert not Report("accuracy", 0.5, 10, 1.1, []).better_than(report)
    lost = Report("accuracy", 0.5, 10, math.nan, [])
    assert not lost.better_than(report)
    assert report.better_than(lost)
    assert Report("accuracy", 0.6, 10, 2.0, []).better_than(report)
    assert not Report("accuracy", 0.4, 10, 0.1, []).better_than(report)
    unknown = Report("exact_match", 0.5, 10, math.nan, [])  # as a checkpoint from before may have it
    assert Report("exact_match", 0.5, 10, 9.0, []).better_than(unknown)


# What fails


def poison(base: FrozenBase, word: str) -> None:
    """From now on every row with this word has a loss that is no number."""
    (ids,) = base.encode([word])
    with torch.no_grad():
        base.embedding.weight[ids] = math.nan


def test_a_loss_that_is_no_number_stops_its_prompt_alone(tmp_path: Path, library: Library) -> None:
    bad = [{**row, "text": f"{row['text']} ~"} for row in ROWS]
    tasks = [a_task(tmp_path, "a"), a_task(tmp_path, "bad", bad), a_task(tmp_path, "c", learning_rate=0.2)]
    # The table is tied, so the poison would also reach all logits: the output gets a table of its own.
    base = make_base("gpt_neox")
    poison(base, "~")
    with pytest.raises(TrainingError) as caught:
        train(tasks, base=base, library=library)
    for part in ("task 'bad'", "no number at step 1", "learning rate 0.1", "lower learning_rate", "a, c went well"):
        assert part in str(caught.value)
    versions, blobs = contents(library)
    assert [version.task for version in versions] == ["a", "c"]
    assert len(blobs) == 2
    vectors = [SoftPrompt.from_bytes(library.read(version)).vectors_PD for version in versions]
    assert all(one.isfinite().all() for one in vectors)
    assert not [file for file in library.home.rglob("*") if "bad" in file.name]


@pytest.mark.parametrize(
    ("fields", "validated"),
    [
        ({}, list(range(15, 301, 15))),  # an epoch is one step
        ({"per_device_train_batch_size": 2}, [*range(18, 300, 18), 300]),  # and here 18
        ({"eval_per_epoch": 1}, list(range(1, 301))),
        ({"max_steps": 6}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_short_epochs_are_not_each_validated(
    fields: dict[str, Any], validated: list[int], base: FrozenBase, tmp_path: Path
) -> None:
    (run,) = runs_of(base, [a_task(tmp_path, **{"max_steps": 300, "per_device_train_batch_size": 64} | fields)])
    found = []
    for step in range(1, run.total + 1):
        run.step = step
        found += [step] if run.validates else []
    assert found == validated
    assert run.validations == len(validated)


def test_a_loss_that_fails_late_is_told_with_its_step_and_rate(tmp_path: Path, base: FrozenBase, library: Library) -> None:
    session = Session(architecture_of(base), library=library)
    member = session.add(a_task(tmp_path, max_steps=10, warmup_steps=0, lr_scheduler_type="linear", eval_per_epoch=5))
    steps = 0
    for event in session.run():
        steps += isinstance(event, Stepped)
        if steps == 3:
            poison(base, "red")
    assert steps == 4
    assert str(member.error) == "the loss is no number at step 4 with learning rate 0.07"
    assert contents(library) == ([], set())


def test_a_file_that_cannot_be_made_costs_its_own_version_alone(tmp_path: Path, base: FrozenBase, library: Library) -> None:
    def refuse(*_: object) -> None:
        raise PromptFileError("not to be made")

    session = Session(architecture_of(base), library=library)
    session.add(a_task(tmp_path, "a"))
    member = session.add(a_task(tmp_path, "b"), also=refuse)
    assert any(isinstance(event, Failed) for event in session.run())
    assert isinstance(member.error, PromptFileError)
    assert [version.task for version in contents(library)[0]] == ["a"]
    assert len(list(library.runs.glob("*.checkpoint"))) == 1, "what was trained and not published is kept for the next call"


@pytest.mark.parametrize(
    ("fields", "error", "expected"),
    [
        ({"num_virtual_tokens": 95}, ContextError, "95 virtual tokens and 1 output token leave no room"),
        ({"labels": ["yes", "nein"]}, DataError, "the label 'no' is not among `labels`"),
        ({"input": "{txt}"}, DataError, "no field 'txt'"),
        ({"data": "none.csv"}, DataError, "no data file"),
        ({"prompt_tuning_init": "PROMPT", "prompt_tuning_init_prompt": "other@3"}, NotFound, "no task 'other'"),
    ],
)
def test_a_wrong_task_is_told_before_anything_is_trained(
    tmp_path: Path, base: FrozenBase, library: Library, fields: dict[str, Any], error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        train([a_task(tmp_path, "a"), a_task(tmp_path, "b", **fields)], base=base, library=library, progress=Untrained())
    assert contents(library) == ([], set())


def test_tasks_that_cannot_be_trained_together_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no task was given"):
        train([])
    with pytest.raises(ConfigError, match="the task name 't' is used twice"):
        train([a_task(tmp_path), a_task(tmp_path)])
    with pytest.raises(ConfigError, match="a on here, b on there; train them apart"):
        train([a_task(tmp_path, "a", base="here"), a_task(tmp_path, "b", base="there")])
    with pytest.raises(ConfigError, match="a on here with the adapter lora, b on here; train them apart"):
        train([a_task(tmp_path, "a", base="here", base_adapter="lora"), a_task(tmp_path, "b", base="here")])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_virtual_tokens": 4}, "t: a prompt of 4 virtual tokens has little capacity"),
        ({"learning_rate": 1e-6}, r"t: the prompt has barely moved .* raise learning_rate from 1e-06"),
        ({"input": "{text}" + " red" * 86}, r"t: \d+ of \d+ inputs were cut to fit the context"),
        (
            {"labels": None, "max_new_tokens": 1},
            r"t: \d+ of \d+ answers are cut to max_new_tokens \(1\), so that .*: raise max_new_tokens",
        ),
        (
            {"warmup_steps": 8, "learning_rate": 0.4},
            "t: warmup_steps, 8, are more than the run's 2 steps, .* beyond 0.1; lower",
        ),
        ({"preference_beta": 0.5}, "t: preference_beta has no effect here: only `objective: preference` gives it one"),
        (
            {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "red " * 40, "num_virtual_tokens": 6},
            r"t: \d+ tokens of prompt_tuning_init_text are more than num_virtual_tokens, 6: .* from the first 6 alone",
        ),
        ({"instruction": "red " * 99}, "t: the text prompt of the zero-shot baseline does not fit the context"),
    ],
)
def test_what_deserves_a_warning_gets_one(tmp_path: Path, base: FrozenBase, fields: dict[str, Any], expected: str) -> None:
    with pytest.warns(UserWarning, match=expected):
        train(a_task(tmp_path, max_steps=2, **{"instruction": "", **fields}), base=base)


def test_a_prompt_that_drowns_the_input_gets_a_warning(tmp_path: Path) -> None:
    base = make_base("gpt_neox")
    base.__dict__["context"] = None  # its positions are rotary: nothing but this number bounds them
    with pytest.warns(UserWarning, match="t: a prompt of 151 virtual tokens can drown the input"):
        train(a_task(tmp_path, num_virtual_tokens=151, max_steps=1), base=base)


@pytest.mark.parametrize(("length", "told"), [(1, 1), (2, 0)])
def test_labels_that_are_more_than_the_vectors_are_told(base: FrozenBase, length: int, told: int) -> None:
    rows = [{"text": f"{('red', 'blue')[n % 2]} {n}", "label": ("yes", "no")[n % 2]} for n in range(80)]
    task = Task(task="t", data=rows, labels=["yes", "no"], num_virtual_tokens=length)
    (run,) = runs_of(base, [task])
    expected = f"t: 2 labels are more than num_virtual_tokens, {length}: the prompt starts from the first {length} alone"
    assert [(expected, True)] * told == [one for one in remarks_on(base, run) if "are more than" in one[0]]


def test_few_rows_are_told_to_be_few(base: FrozenBase) -> None:
    def told(count: int) -> list[str]:
        rows = [{"text": f"{('red', 'blue')[n % 2]} {n}", "label": ("yes", "no")[n % 2]} for n in range(count + 2)]
        data = {"train": rows[:count], "validation": rows[-2:], "test": rows[-2:]}
        (run,) = runs_of(base, [Task(task="t", data=data, labels=["yes", "no"], num_virtual_tokens=6)])
        return [message for message, _ in remarks_on(base, run) if "a text prompt may be as good" in message]

    assert told(FEW_ROWS)[0].startswith(
        f"t: {FEW_ROWS} training rows; with {FEW_ROWS} or fewer a text prompt may be as good"
    )
    assert told(FEW_ROWS + 1) == []


# What is kept


def test_every_training_publishes_a_new_version_with_its_card(tmp_path: Path, base: FrozenBase, library: Library) -> None:
    task = a_task(tmp_path, instruction="Say yes or no.")
    (first,) = train(task, base=base, library=library)
    (again,) = train(task, base=base, library=library)
    assert (first.version, again.version) == (1, 2)
    assert first.prompt.digest == again.prompt.digest
    assert contents(library)[1] == {first.prompt.digest}
    data = library.read("t@1")
    assert data == first.prompt.to_bytes()
    card = Card.parse(library.registry.resolve("t").card_text)
    assert (card.task, card.base, card.fingerprint) == ("t", base.name, base.fingerprint)
    assert card.data_digest == task.data_digest
    assert card.parents == ()
    assert card.recipe["learning_rate"] == 0.1
    assert card.recipe["prompt_tuning_init"] == "LABELS"
    scores = {"validation", "majority", "zero_shot", "untrained"}
    assert {"value", "stderr", "rows", "moved", *scores, *(f"{name}_stderr" for name in scores)} == set(card.metrics)
    assert card.recipe["test_digest"] == digest_rows(task.test)
    assert card.metrics["rows"] == len(task.test)
    kept = [json.loads(line) for line in (library.runs / "t@1.jsonl").read_text().splitlines()]
    assert kept == first.history
    assert not [file for file in library.home.rglob("*") if "partial" in file.name]


def test_a_reparameterised_prompt_is_kept_as_plain_vectors(tmp_path: Path, base: FrozenBase, library: Library) -> None:
    recipe = {"encoder_reparameterization_type": "RESIDUAL", "encoder_hidden_size": 7}
    (tuned,) = train(a_task(tmp_path, **recipe), base=base, library=library)
    kept = SoftPrompt.from_bytes(library.read("t"))
    assert kept.vectors_PD.shape == (6, base.width)
    assert torch.equal(kept.vectors_PD, tuned.prompt.vectors_PD)
    assert {key: kept.card.recipe[key] for key in recipe} == recipe
    (plain,) = train(a_task(tmp_path), base=base)
    assert not {key for key in plain.prompt.card.recipe if key.startswith("encoder")}
    assert len(plain.prompt.to_bytes()) < len(tuned.prompt.to_bytes()) < len(plain.prompt.to_bytes()) + 200
    assert not torch.allclose(plain.prompt.vectors_PD, tuned.prompt.vectors_PD, atol=1e-2)


def test_how_many_numbers_a_network_adds_while_it_is_trained_is_told(tmp_path: Path, base: FrozenBase) -> None:
    recipe = {"encoder_reparameterization_type": "RESIDUAL", "encoder_hidden_size": 7}
    preparer = Preparer(base)
    runs = [preparer.prepare(one, None)[0] for one in (a_task(tmp_path, "a", **recipe), a_task(tmp_path, "b"))]
    remarks = [message for one in runs for message, _ in remarks_on(base, one)]
    trained = 6 * 32 + 2 * 7 * 32 + 2 * 32  # the vectors, two matrices, the gain and the bias of a norm
    assert [note for note in remarks if "trained" in note] == [
        f"a: {trained} numbers are trained, and the 192 of the vectors that they make are kept"
    ]
    low, _ = preparer.prepare(a_task(tmp_path, "c", encoder_reparameterization_type="LOW_RANK"), None)
    assert low.config.encoder_hidden_size == 3  # half of six vectors
    told = [message for message, _ in remarks_on(base, low) if "trained" in message]
    assert told == [f"c: {3 * (6 + 32)} numbers are trained, and the 192 of the vectors that they make are kept"]


def test_answers_that_the_base_cannot_write_are_told(tmp_path: Path, base: FrozenBase) -> None:
    backend = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
    backend.normalizer = normalizers.Replace("\u2603", "snow")
    losing = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<pad>")
    other = FrozenBase.wrap(base.model, losing, name="random/losing")
    rows = [{"text": f"red {n}", "answer": f"a \u2603 {n}" if n % 2 else f"a stone {n}"} for n in range(80)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = Task(task="a", data="rows.jsonl", target=" {answer}", folder=tmp_path)
    odd = [row for row in task.validation if "\u2603" in row["answer"]]
    for one, expected in ((base, []), (other, odd)):
        run, _ = Preparer(one).prepare(task, None)
        told = [message for message, warning in remarks_on(one, run) if warning and "cannot write" in message]
        if not expected:
            assert not told
            continue
        answer = expected[0]["answer"]
        count = f"{len(expected)} of {len(task.validation)}"
        shown, line = answer.replace("\u2603", "snow"), rows.index(expected[0]) + 1
        assert told == [
            f"a: random/losing cannot write {count} validation answers, which no prediction can equal: {answer!r} "
            f"(rows.jsonl, line {line}) would come as {shown!r}; word them otherwise"
        ]


def test_a_row_for_people_and_machines_says_what_the_card_says(tmp_path: Path, base: FrozenBase) -> None:
    (tuned,) = train(a_task(tmp_path), base=base, publish=False)
    row = tuned.row()
    assert row["version"] is None
    assert row["trainable"] == 6 * 32
    assert (row["frozen"], row["total"]) == (base.params, base.params + 6 * 32)
    assert row["train_rows"] + row["validation_rows"] + row["test_rows"] == len(ROWS)
    assert row["prompt_bytes"] == len(tuned.prompt.to_bytes())
    assert {name: row[name] for name in ("value", "majority", "zero_shot", "untrained", "validation")} == {
        name: tuned.prompt.card.metrics[name] for name in ("value", "majority", "zero_shot", "untrained", "validation")
    }


def test_a_prompt_started_from_others_names_them_as_parents(tmp_path: Path, base: FrozenBase, library: Library) -> None:
    (one, other) = train([a_task(tmp_path, "one"), a_task(tmp_path, "other", seed=3)], base=base, library=library)
    fields = {"prompt_tuning_init_prompt": ["one@1", "other"], "max_steps": 1, "learning_rate": 1e-9}
    (child,) = train(a_task(tmp_path, "child", **fields), base=base, library=library)
    assert any("was better on validation rows than where it started" in one for one in child.warnings)
    assert child.prompt.card.parents == (one.prompt.digest, other.prompt.digest)
    mean = (one.prompt.vectors_PD + other.prompt.vectors_PD) / 2
    torch.testing.assert_close(child.prompt.vectors_PD, mean, rtol=0, atol=1e-6)


def test_parents_are_those_it_started_from_also_when_newer_ones_come_meanwhile(
    tmp_path: Path, base: FrozenBase, library: Library
) -> None:
    (parent,) = train(a_task(tmp_path, "one"), base=base, library=library)
    again = a_task(tmp_path, "one", seed=5)
    child = a_task(tmp_path, "child", prompt_tuning_init_prompt="one")
    newer, tuned = train([again, child], base=base, library=library)
    assert newer.version == 2
    assert newer.prompt.digest != parent.prompt.digest
    assert tuned.prompt.card.parents == (parent.prompt.digest,)


def test_a_start_from_another_bases_prompt_or_without_a_library_is_refused(
    tmp_path: Path, base: FrozenBase, library: Library
) -> None:
    train(a_task(tmp_path, "one"), base=make_base("llama", seed=1), library=library)
    child = a_task(tmp_path, "child", prompt_tuning_init_prompt="one")
    with pytest.raises(FingerprintMismatch):
        train(child, base=base, library=library)
    with pytest.raises(ConfigError, match="takes prompts from a library"):
        train(child, base=base, publish=False)
    with pytest.raises(ConfigError, match="publish is False"):
        train(child, base=base, library=library, publish=False)


# It learns


of_few_rows = pytest.mark.filterwarnings("ignore:.* repeat the input", "ignore:.* inputs too, such as")
"""There is little to learn, and all of it is in every split."""


def steered(folder: Path, way: str, **fields: Any) -> Task:
    rows: list[Row] = [{"text": word, "label": answer} for _ in range(25) for word, answer in ANSWERS[way].items()]
    file = f"{way}.jsonl"
    fields = {"data": {"train": file, "validation": file, "test": file}} | fields
    known = {"input": " {text} =", "num_virtual_tokens": 5, "max_steps": 60, "per_device_train_batch_size": 16}
    return a_task(folder, way, rows, **(known | fields))


RECIPES: list[dict[str, Any]] = [
    {},
    {"optim": "adafactor"},
    {"encoder_reparameterization_type": "RESIDUAL"},
    {"encoder_reparameterization_type": "MLP"},
    {"encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 16},
    {"encoder_reparameterization_type": "LOW_RANK"},
    {"prompt_type": "prefix", "learning_rate": 0.05},
]


@of_few_rows
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_prompts_steer_one_base_in_opposite_ways(tmp_path: Path, recipe: dict[str, Any]) -> None:
    tuned = train([steered(tmp_path, way, prompt_tuning_init="RANDOM", **recipe) for way in ANSWERS], base=steerable_base())
    assert all(one.report.value >= 0.95 for one in tuned)
    # What has not been trained answers alike for both, so it cannot be right for both.
    for baseline in ("majority", "zero_shot", "untrained"):
        assert min(one.prompt.card.metrics[baseline] for one in tuned) <= 0.6


def test_a_label_that_begins_another_is_told_from_it(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"text": f"please {what} number {n}", "label": label}
        for n in range(60)
        for what, label in (("look at", "account limit"), ("raise the limit of", "account limit change"))
    ]
    fields = {"labels": ["account limit", "account limit change"], "max_steps": 90, "num_virtual_tokens": 10}
    (tuned,) = train(a_task(tmp_path, "limit", rows, base="builtin/tiny", learning_rate=0.1, **fields))
    assert tuned.report.value >= 0.9
    assert set(tuned.report.predictions) == {"account limit", "account limit change"}


@of_few_rows
def test_two_prompts_make_one_base_write_opposite_answers(tmp_path: Path) -> None:
    fields = {"labels": None, "max_new_tokens": 3, "prompt_tuning_init": "RANDOM"}
    tuned = train([steered(tmp_path, way, **fields) for way in ANSWERS], base=steerable_base())
    assert all(one.prompt.card.metric == "exact_match" for one in tuned)
    assert all(one.report.value >= 0.95 for one in tuned)
    assert min(one.prompt.card.metrics["untrained"] for one in tuned) <= 0.6
