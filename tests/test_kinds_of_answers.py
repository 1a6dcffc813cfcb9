"""Kinds of answers beside one label and free text, each from its rows through training, judging and predicting to HTTP: sets
of labels, numbers over ordered labels, numbers that are generated; and class weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from softprompt.engines.continuous import ContinuousEngine
from softprompt.errors import ConfigError
from softprompt.evaluation.trials import Answer, Report, Trial, report_tuned
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.model.splice import stack_prompts
from softprompt.progress import Mute
from softprompt.registry.gate import weigh
from softprompt.tasks.task import Task
from softprompt.training.objectives.label_sets import SET_MODELING, SET_SCORING
from softprompt.training.steps.forward import losses_and_gradient
from softprompt.training.sweep import _rank
from softprompt.training.train import train
from tests.commands import Run
from tests.http_server import serving
from tests.models import make_base, some_prompt
from tests.sessions import runs_of

BASE = make_base("llama")
SETS = {"problem_type": "multi_label_classification", "labels": ["red", "blue", "apple"]}
STARS = {"problem_type": "regression", "labels": [1, 2, 3]}
PRICES = {"problem_type": "regression", "max_new_tokens": 4}


def rows_of(kind: str) -> list[dict[str, Any]]:
    words = ("red", "blue", "apple", "stone")
    rows = []
    for number in range(80):
        held = [word for place, word in enumerate(words[:3]) if (number >> place) & 1]
        answers = {"sets": held, "stars": 1 + number % 3, "prices": number % 7 + 0.5}
        rows.append({"text": f"{' '.join(held)} {words[number % 4]} {number}", "label": answers[kind]})
    return rows


def task_file(folder: Path, base: Path | str, kind: str, **fields: Any) -> Path:
    (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind)))
    of_kind = {"sets": SETS, "stars": STARS, "prices": PRICES}[kind]
    known = {"base": str(base), "data": f"{kind}.jsonl", "num_virtual_tokens": 6, "max_steps": 3, "learning_rate": 0.1}
    file = folder / f"{kind}.yaml"
    file.write_text(yaml.safe_dump(known | of_kind | fields))
    return file


@pytest.mark.parametrize("objective", ["language_modelling", "label_scoring"])
def test_sets_of_labels_from_rows_to_http(run: Run, tmp_path: Path, base_folder: Path, home: Path, objective: str) -> None:
    file = task_file(tmp_path, base_folder, "sets", objective=objective, class_weights="balanced")
    (row,) = run("train", file, "--json").rows
    assert (row["metric"], row["version"]) == ("micro_f1", 1)
    assert 0 < row["threshold"] < 1
    assert {"macro_f1", "subset_accuracy"} <= row.keys()
    (judged,) = run("evaluate", file, "--json").rows
    assert judged["value"] == pytest.approx(row["value"])
    assert judged["macro_f1"] == pytest.approx(row["macro_f1"])
    (again,) = run("evaluate", "sets", "--data", tmp_path / "sets.jsonl", "--json").rows
    assert again["rows"] == 80
    (shown,) = run("show", "sets", "--json").rows
    recipe = shown["versions"][0]["recipe"]
    assert (recipe["threshold"], recipe["class_weights"]) == (row["threshold"], "balanced")
    (said,) = run("predict", "sets", "red apple 5", "--json").rows
    assert set(said["scores"]) == {"red", "blue", "apple"}
    assert said["labels"] == [label for label, chance in said["scores"].items() if chance >= row["threshold"]]
    assert said["output"] == "; ".join(said["labels"])
    answered = http(home, base_folder, "sets", ["red apple 5", "blue"])
    assert answered[0] == {
        "index": 0,
        "label": said["output"],
        "scores": pytest.approx(said["scores"], abs=1e-4),
        "labels": said["labels"],
    }


def http(home: Path, base_folder: Path, task: str, texts: list[str]) -> list[dict[str, Any]]:
    from softprompt.bases.base import FrozenBase

    base = FrozenBase.load(str(base_folder))
    with Library.open(home) as library, serving(library, base, engine=ContinuousEngine(architecture_of(base))) as server:
        found = server.http.post(f"{server.url}/v1/classify", json={"model": task, "input": texts})
        assert found.status_code == 200, found.text
        rows: list[dict[str, Any]] = found.json()["data"]
        chat = {"model": task, "messages": [{"role": "user", "content": texts[0]}]}
        said = server.http.post(f"{server.url}/v1/chat/completions", json=chat)
        assert said.status_code == 200, said.text
        return rows


def test_ordered_labels_are_answered_by_their_expectation(run: Run, tmp_path: Path, base_folder: Path, home: Path) -> None:
    file = task_file(tmp_path, base_folder, "stars", class_weights={3: 2.5})
    (row,) = run("train", file, "--json").rows
    assert row["metric"] == "mae"
    assert -1 <= row["spearmanr"] <= 1
    assert (row["unparsable"], row["out_of_range"]) == (0, 0)
    assert row["learnt"] is (row["value"] < min(row["majority"], row["zero_shot"], row["untrained"]))
    (said,) = run("predict", "stars", "red 5", "--json").rows
    assert said["value"] == pytest.approx(sum(int(label) * chance for label, chance in said["scores"].items()))
    assert said["output"] == f"{said['value']:.6g}"
    (answered,) = http(home, base_folder, "stars", ["red 5"])
    assert answered["value"] == pytest.approx(said["value"], abs=1e-3)
    assert answered["label"] == str(round(said["value"]))
    assert (run("evaluate", file, "--json").rows)[0]["value"] == pytest.approx(row["value"])


@pytest.mark.parametrize("fields", [STARS, PRICES])
def test_what_a_prompt_of_numbers_is_compared_with_is_the_median_and_not_the_most_frequent(fields: dict[str, Any]) -> None:
    stars = [1] * 12 + [2] * 9 + [3] * 9
    rows = [{"text": f"red {number}", "label": star} for number, star in enumerate(stars)]
    others = [{"text": f"blue {number}", "label": 3} for number in range(8)]
    data = {"train": rows, "validation": others[:4], "test": others[4:]}
    task = Task(task="t", data=data, num_virtual_tokens=4, max_steps=1, **fields)
    (tuned,) = train(task, base=BASE, publish=False, progress=Mute())
    assert tuned.row()["majority"] == 1  # of 2 from 3; the most frequent one is 2 away


def test_generated_numbers_are_read_from_what_is_said_and_told_where_there_are_none(
    run: Run, tmp_path: Path, base_folder: Path, home: Path
) -> None:
    file = task_file(tmp_path, base_folder, "prices")
    done = run("train", file, "--json")
    (row,) = done.rows
    assert "answers lie between 0.5 and 6.5" in done.err
    assert row["metric"] == "mae"
    assert row["unparsable"] > 0  # a random base says no numbers
    assert any("no numbers" in warning for warning in row["warnings"])
    assert row["value"] <= 6
    done = run("predict", "prices", "red 5", "--json")
    (said,) = done.rows
    assert said["scores"] is None
    assert said["value"] is None or 0.5 <= said["value"] <= 6.5
    assert ("no numbers" in done.err) is (said["value"] is None)
    (answered,) = http(home, base_folder, "prices", ["red 5"])
    assert answered == {"index": 0, "label": said["output"], "scores": {}, "value": said["value"]}


@pytest.mark.parametrize(
    ("kind", "answer", "told"),
    [
        ("sets", ["red", "green"], "the label 'green' is not among `labels`"),
        ("sets", None, "it is missing; give a list of labels"),
        ("sets", [["red"]], "it is a list; give a list of labels"),
        ("sets", "red, blue", "(red, blue, apple); `label_separator: ','` divides it into labels"),
        ("stars", "four", "the label 'four' is not among `labels`"),
        ("prices", "cheap", "the answer 'cheap' is no number"),
        ("prices", "1,5", "the answer '1,5' is no number"),
        ("prices", "nan", "the answer 'nan' is no number"),
    ],
)
def test_a_row_that_is_not_of_its_kind_is_told_with_its_line(
    run: Run, tmp_path: Path, base_folder: Path, kind: str, answer: Any, told: str
) -> None:
    file = task_file(tmp_path, base_folder, kind)
    rows = [*rows_of(kind)[:6], {"text": "a stone", "label": answer}]
    (tmp_path / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    error = run("train", file, "--json").refused()
    assert f"{kind}.jsonl, line 7" in error
    assert told in error


def test_rows_without_any_label_are_told_and_rare_labels_too(tmp_path: Path) -> None:
    task = Task.load(task_file(tmp_path, "builtin/tiny", "sets", labels=["red", "blue", "apple", "stone"]))
    assert any("have no label, read as none of them" in remark for remark in task.remarks)
    assert any("no row has the label 'stone'" in remark for remark in task.remarks)


def sets_task(**fields: Any) -> Task:
    rows = [{"text": row["text"], "label": row["label"]} for row in rows_of("sets")]
    return Task(task="sets", data=rows, **SETS, **fields)


@pytest.mark.parametrize("objective", [SET_SCORING, SET_MODELING])
@pytest.mark.parametrize("weights", [None, "balanced", {"red": 3.0}])
def test_the_loss_and_gradient_of_sets_are_those_of_each_statement_run_alone(objective: Any, weights: Any) -> None:
    names = {SET_SCORING: "label_scoring", SET_MODELING: "language_modelling"}
    task = sets_task(objective=names[objective], class_weights=weights, per_device_train_batch_size=5, num_virtual_tokens=4)
    (run,) = runs_of(BASE, [task])
    vectors_PD = run.start_PD.clone()
    architecture = architecture_of(BASE)
    loss_K, gradient_KPD = losses_and_gradient(architecture, stack_prompts([vectors_PD]), run.batch(0))

    leaf_PD = vectors_PD.clone().requires_grad_()
    statements = task.form.encode_labels(BASE)
    total: Any = 0.0
    for example in run.batch(0):
        row = run.train.inputs.index(list(example.input))
        for place, label in enumerate(SETS["labels"]):
            pair = statements[2 * place : 2 * place + 2]
            head = next(at for at, (one, other) in enumerate(zip(*pair, strict=False)) if one != other)
            scores = []
            for ids in pair:
                tokens = torch.tensor([*example.input, *ids])
                embeds = torch.cat([leaf_PD, BASE.embed(tokens)])[None]
                chosen = BASE.model(inputs_embeds=embeds).logits[0].log_softmax(-1)[-len(ids) - 1 : -1]
                scores.append(chosen[torch.arange(len(ids)), torch.tensor(ids)][head:].sum())
            holds = label in run.train.answers[row].split("; ")
            right = scores[not holds] if objective is SET_MODELING else torch.stack(scores).log_softmax(0)[int(not holds)]
            weight = run.class_weights[place][not holds] if run.class_weights else 1.0
            total = total - weight * right / 3 / len(run.batch(0))
    total.backward()
    assert leaf_PD.grad is not None
    assert loss_K.item() == pytest.approx(total.item(), rel=1e-4)
    assert torch.allclose(gradient_KPD[0], leaf_PD.grad, atol=1e-5, rtol=1e-3)


def test_balanced_weights_count_classes_alike_and_a_mapping_counts_as_it_says() -> None:
    rows = [{"text": f"red {n}", "label": "yes" if n % 10 else "no"} for n in range(200)]
    common: dict[str, Any] = {"data": rows, "labels": ["yes", "no"], "num_virtual_tokens": 4}
    (run,) = runs_of(BASE, [Task(task="t", class_weights="balanced", **common)])
    sums = {choice: sum(w for w, c in zip(run.weights, run.train.choices, strict=True) if c == choice) for choice in (0, 1)}
    assert sums[0] == pytest.approx(sums[1])
    assert sum(run.weights) == pytest.approx(len(run.train))
    batch = run.batch(0)
    assert sum(one.weight * len(one.target) for one in batch) == pytest.approx(1)
    (run,) = runs_of(BASE, [Task(task="t", class_weights={"no": 7}, objective="label_scoring", **common)])
    weights = {one.target.choice: one.weight for one in run.batch(0)}
    assert weights[1] == pytest.approx(7 * weights[0])


def test_the_threshold_is_the_best_on_the_validation_rows_and_a_given_one_is_kept() -> None:
    task = sets_task()
    (run,) = runs_of(BASE, [task])
    examples = run.train.pick(range(8))
    # Each label that holds has 0.3, each other 0.1: any threshold between tells them apart.
    chances = [tuple(0.3 if place in examples.right(row) else 0.1 for place in range(3)) for row in range(8)]
    given = [Answer("", 0.0, False, own) for own in chances]
    trial = Trial(task.form, run.start_PD, examples)
    report = report_tuned(trial, given, fixed=False)
    assert report.value == 1
    assert report.threshold == pytest.approx(0.3)  # the nearest to a half
    assert report_tuned(trial, given, fixed=True).threshold is None


def report(value: float, loss: float = 1.0) -> Report:
    return Report("mae", value, 10, loss, [])


def test_less_error_is_better_wherever_it_is_asked() -> None:
    rows = [{"text": f"red {n}", "label": n % 5} for n in range(80)]
    task = Task(
        task="t", data=rows, problem_type="regression", num_virtual_tokens=4, early_stopping_patience=2, max_steps=50
    )
    run, other = runs_of(BASE, [task, task])
    assert report(0.5).better_than(report(0.7))
    assert not report(0.7).better_than(report(0.5))
    for value, best, running in ((0.9, 0.9, True), (0.4, 0.4, True), (0.6, 0.4, True), (0.5, 0.4, False)):
        run.took_validation(report(value), run.start_PD)
        assert run.best is not None
        assert (run.best.value, run.running) == (best, running)
    other.took_validation(report(0.3), other.start_PD)
    assert _rank(other) > _rank(run)
    other.took_validation(report(0.0), other.start_PD)
    other.took_validation(report(0.0, loss=2.0), other.start_PD)
    other.took_validation(report(0.0, loss=2.0), other.start_PD)
    assert not other.running  # nothing is better than no error

    def card(value: float, **metrics: float) -> Any:
        return some_prompt(BASE, "t", metric="mae", metrics={"value": value, "rows": 50, "stderr": 0.01, **metrics}).card

    assert weigh(card(0.5), card(0.9)).refusal is not None
    assert weigh(card(0.9), card(0.5)).refusal is None
    assert card(0.5, majority=1.2, untrained=0.8).learnt is True
    assert card(1.0, majority=1.2, untrained=0.8).learnt is False
    assert card(0.0, majority=0.0).learnt is True


def test_an_export_says_how_answers_of_each_kind_are_found(run: Run, tmp_path: Path, base_folder: Path) -> None:
    told = {
        "sets": "where 1 / (1 + exp(no - yes)) is",
        "stars": "weighed by the softmax",
        "prices": "between 0.5 and 6.5",
    }
    for kind, words in told.items():
        assert run("train", task_file(tmp_path, base_folder, kind, max_steps=1), "--json").code == 0
        assert run("export", kind, tmp_path / f"peft-{kind}", "--format", "peft").code == 0
        text = (tmp_path / f"peft-{kind}" / "README.md").read_text()
        assert words in text
        assert ('"red: yes"' in text) is (kind == "sets")
        (row,) = run("import", tmp_path / f"peft-{kind}", "--task", f"again-{kind}", "--json").rows
        assert row["task"] == f"again-{kind}"
        said, again = (run("predict", task, "red 5", "--json").rows[0] for task in (kind, f"again-{kind}"))
        assert {**said, "task": None} == {**again, "task": None}
    error = run("import", tmp_path / "peft-prices", "--task", "other", "--like", "sets").refused()
    assert "problem_type multi_label_classification, which an import cannot take over" in error
    assert "has sets of labels as answers" in run("compare", tmp_path / "sets.yaml", "--methods", "ours").refused()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({**SETS, "labels": None}, "needs `labels`"),
        ({**SETS, "metric": "accuracy"}, "metric: accuracy is not of sets of labels"),
        ({**STARS, "metric": "f1"}, "metric: f1 is not of numbers"),
        ({"labels": ["a", "b"], "metric": "micro_f1"}, "metric: micro_f1 is of sets of labels"),
        ({"labels": ["a", "b"], "metric": "mae"}, "metric: mae is of numbers"),
        ({**SETS, "labels": ["a;b", "c"]}, "'a;b' has a ';' in it"),
        ({"labels": ["a", "b"], "threshold": 0.5}, "threshold: only sets of labels have one"),
        ({**SETS, "threshold": 1.5}, "threshold"),
        ({**SETS, "label_separator": " "}, "label_separator: it is blank"),
        ({**STARS, "answer_range": [1, 3]}, "answer_range: only generated numbers have one"),
        ({**STARS, "labels": ["1", "1.0", "2"]}, "labels: '1' and '1.0' are both the number 1"),
        ({**STARS, "labels": ["a", "b"], "id2label": {"1": "a", "01": "b"}}, "labels: 'a' and 'b' are both the number 1"),
        ({**PRICES, "answer_range": [3, 1]}, "answer_range: [3.0, 1.0] is none"),
        ({"labels": ["a", "b"], "class_weights": {"c": 2}}, "class_weights: 'c' is not among `labels` ('a', 'b')"),
        ({"labels": ["a", "b"], "class_weights": {"a": 0}}, "class_weights: 'a' weighs 0"),
        ({"labels": ["a", "b"], "class_weights": "equal"}, "class_weights"),
        ({"class_weights": "balanced"}, "class_weights: there are no `labels` to weigh"),
        ({"problem_type": "multi_label"}, "problem_type"),
    ],
)
def test_keys_that_are_not_of_a_kind_of_answers_are_told(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        Task(task="t", data=[{"text": "a", "label": "a"}], **{key: value for key, value in fields.items() if value})
