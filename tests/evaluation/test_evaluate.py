"""Evaluation: metrics against plain loops, trials mixed against trials alone, versions in the form they were tuned with."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError, DataError, FingerprintMismatch, NotFound
from softprompt.evaluation.baselines import baselines_of
from softprompt.evaluation.cases import find_cases
from softprompt.evaluation.evaluate import evaluate
from softprompt.evaluation.findings import remarks_on_scores
from softprompt.evaluation.metrics import fold, measure, score
from softprompt.evaluation.trials import Report, Trial, judge, result_of
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.prompts.card import Card
from softprompt.rows.sources import Row
from softprompt.tasks.answers.kinds import join, log_softmax
from softprompt.tasks.task import Task
from tests.models import make_base, some_prompt

PAIRS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30)


@given(PAIRS)
def test_accuracy_and_f1_are_those_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    predicted, answers = [p for p, _ in pairs], [a for _, a in pairs]
    assert measure("accuracy", predicted, answers) == pytest.approx(sklearn.metrics.accuracy_score(answers, predicted))
    scores = []
    for label in sorted({*predicted, *answers}):
        hits = sum(p == a == label for p, a in pairs)
        named, right = predicted.count(label), answers.count(label)
        scores.append(2 * hits / (named + right) if named + right else 0.0)
    assert measure("f1", predicted, answers) == pytest.approx(sum(scores) / len(scores))


MARKED = st.text("aA theB.,!?\"'()«» -+5", max_size=12)


@given(MARKED | st.text(), MARKED | st.text())
def test_texts_match_when_their_folded_forms_do(one: str, other: str) -> None:
    assert measure("exact_match", [one], [other]) == float(fold(one) == fold(other))
    assert fold(fold(one)) == fold(one)
    assert bool(fold(one)) == bool(one.strip())  # nothing becomes equal to no answer
    assert measure("token_f1", [one], [one]) == 1
    assert measure("token_f1", [one], [other]) == measure("token_f1", [other], [one])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3.5", "35"), ("-4", "4"), ("C", "C++"), ("C#", "C"), ("$5", "5"), ("5%", "5"), ("a+b", "ab"), ("#1", "1"),
        ("1/2", "12"), (".5", "5"), ("3:30", "330"), ("vitamin A", "vitamin"), ("a", ""), ("?", "!"), ("it's", "its"),
        ("x_1", "x1"), ("5'", "5"),
    ],
)  # fmt: skip
def test_what_carries_meaning_is_not_folded_away(one: str, other: str) -> None:
    assert measure("exact_match", [one], [other]) == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Paris.", "paris"), ("the  Seine", "Seine"), ('"New York"', "New York"), ("(Rome)", "Rome"),
        ("yes, it is", "Yes it is."), ("«oui»", "oui"), ("¿Qué?", "qué"), ("e\u0301t\u00e9", "\u00e9te\u0301"),
        ("STRASSE", "straße"), ("35.", "35"),
    ],
)  # fmt: skip
def test_what_carries_no_meaning_is_folded_away(one: str, other: str) -> None:
    assert measure("exact_match", [one], [other]) == 1


def test_folding_forgives_case_punctuation_and_space() -> None:
    assert measure("exact_match", ["The  Answer!", "b"], [" the answer", "c"]) == 0.5
    assert measure("token_f1", ["a b c"], ["a d"]) == pytest.approx(0.4)


@given(PAIRS)
def test_standard_errors_are_those_of_plain_loops(pairs: list[tuple[str, str]]) -> None:
    predicted, answers = [p for p, _ in pairs], [a for _, a in pairs]
    n = len(pairs)
    share = score("accuracy", predicted, answers)
    assert share.stderr == pytest.approx(math.sqrt(share.value * (1 - share.value) / n), abs=1e-9)
    texts = [f"{p} {a} x" for p, a in pairs]
    each = [measure("token_f1", [text], [answer]) for text, answer in zip(texts, answers, strict=True)]
    mean = score("token_f1", texts, answers)
    assert mean.value == pytest.approx(statistics.fmean(each))
    assert mean.stderr == pytest.approx(statistics.pstdev(each) / math.sqrt(n), abs=1e-9)
    left = [
        measure("f1", predicted[:i] + predicted[i + 1 :], answers[:i] + answers[i + 1 :]) for i in range(n if n > 1 else 0)
    ]
    jackknife = math.sqrt((n - 1) * statistics.pvariance(left)) if left else 0
    assert score("f1", predicted, answers).stderr == pytest.approx(jackknife, abs=1e-9)


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8))
def test_log_softmax_is_that_of_torch(scores: list[float]) -> None:
    expected = torch.tensor(scores, dtype=torch.float64).log_softmax(0).tolist()
    assert log_softmax(scores) == pytest.approx(expected, abs=1e-9)


LABELS = ("yes", "no", "the river")


@pytest.fixture(scope="module")
def base(base_folder: Path) -> FrozenBase:
    return FrozenBase.load(str(base_folder))


def labelled(count: int = 9) -> list[Row]:
    return [{"text": "red " * (1 + n % 4) + str(n), "label": LABELS[n % 3]} for n in range(count)]


def trial(base: FrozenBase, name: str, seed: int, rows: int, **fields: Any) -> Trial:
    task = Task(task=name, input="{text} is", **fields)
    examples = task.encode(base, labelled(), rows, split="test")
    return Trial(task.form, some_prompt(base, name, rows=rows, seed=seed).vectors_PD, examples)


def some_trials(base: FrozenBase) -> list[Trial]:
    return [
        trial(base, "a", 1, 5, labels=LABELS),
        trial(base, "b", 2, 9, labels=None, max_new_tokens=6),
        trial(base, "c", 3, 2, labels=LABELS[::-1], metric="f1"),
        trial(base, "d", 4, 3, labels=None, max_new_tokens=3, metric="token_f1"),
    ]


def report_of(base: FrozenBase, one: Trial) -> Report:
    return result_of(judge(OfflineEngine(architecture_of(base)), [one]))[0]


def test_mixed_trials_equal_each_alone() -> None:
    base = make_base("llama")
    seen: list[int] = []
    trials = some_trials(base)
    engine = OfflineEngine(architecture_of(base), token_budget=64)
    together = result_of(judge(engine, trials), lambda done, text: seen.append(done))
    assert sum(seen) == sum(len(one.examples) for one in trials)
    for one, report in zip(trials, together, strict=True):
        alone = report_of(base, one)
        assert report.predictions == alone.predictions
        assert (report.metric, report.value, report.rows) == (alone.metric, alone.value, alone.rows)
        assert report.loss == pytest.approx(alone.loss, abs=1e-3, nan_ok=True)


def test_a_report_is_what_plain_loops_find() -> None:
    base = make_base("llama")
    first, *_ = some_trials(base)
    report = report_of(base, first)
    label_ids = first.form.encode_labels(base)
    predictions, losses = [], []
    for ids, choice in zip(first.examples.inputs, first.examples.choices, strict=True):
        scores = []
        for label in label_ids:
            embeds = torch.cat([first.vectors_PD, base.embed(torch.tensor([*ids, *label]))])[None]
            with torch.no_grad():
                logits = base.model(inputs_embeds=embeds).logits[0, -len(label) - 1 : -1].log_softmax(-1)
            scores.append(sum(float(row[token]) for row, token in zip(logits, label, strict=True)))
        predictions.append(LABELS[scores.index(max(scores))])
        losses.append(-torch.tensor(scores).log_softmax(0)[choice].item())
    assert report.predictions == predictions
    assert report.loss == pytest.approx(sum(losses) / len(losses), abs=1e-3)
    assert report.value == sum(p == a for p, a in zip(predictions, first.examples.answers, strict=True)) / 9
    assert report.rows == 9


def test_the_loss_of_a_task_that_generates_is_that_of_its_answers_tokens() -> None:
    base = make_base("llama")
    one = some_trials(base)[1]
    report = report_of(base, one)
    summed = 0.0
    for ids, target in zip(one.examples.inputs, one.examples.targets, strict=True):
        embeds = torch.cat([one.vectors_PD, base.embed(torch.tensor([*ids, *target]))])[None]
        with torch.no_grad():
            logits = base.model(inputs_embeds=embeds).logits[0, -len(target) - 1 : -1].log_softmax(-1)
        summed -= sum(float(row[token]) for row, token in zip(logits, target, strict=True))
    assert len({len(target) for target in one.examples.targets}) > 1
    assert report.loss == pytest.approx(summed / sum(map(len, one.examples.targets)), abs=1e-3)
    assert report.metric == "exact_match"


class Says(OfflineEngine):
    """An engine that says what it is told to."""

    def __init__(self, base: FrozenBase, texts: list[str]) -> None:
        super().__init__(architecture_of(base))
        self.texts = texts

    def generate(self, *_: Any, **__: Any) -> Generator[int, None, list[list[int]]]:
        yield len(self.texts)
        return self.architecture.base.encode(self.texts)


def spoken(base: FrozenBase, task: Task, texts: list[str]) -> Report:
    examples = task.encode(base, labelled(), 2, split="test")
    one = Trial(task.form, some_prompt(base, "t", rows=2).vectors_PD, examples)
    return result_of(judge(Says(base, texts), [one]))[0]


@pytest.mark.parametrize("metric", ["exact_match", "token_f1"])
def test_answers_are_scored_as_the_target_words_them(base: FrozenBase, metric: Any) -> None:
    task = Task(task="t", input="{text} is", target=" The city is {label}.", max_new_tokens=30, metric=metric)
    answers = [row["label"] for row in labelled()]
    right = spoken(base, task, [f" The city is {answer}." for answer in answers])
    assert (right.value, right.stderr) == (1, 0)
    assert right.predictions[0] == "The city is yes."  # what the model says stays as it is
    assert spoken(base, task, [f"the  city is {answer}" for answer in answers]).value == 1
    assert spoken(base, task, answers).value == 1
    # The words around the answer are worth nothing.
    assert spoken(base, task, [" The city is red."] * 9).value == 0
    assert spoken(base, task, [" The city is yes."] * 9).value == pytest.approx(1 / 3)


def test_baselines_are_scored_as_the_target_words_them(base: FrozenBase, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled(60)))
    task = Task(
        folder=tmp_path, task="t", data="rows.jsonl", input="{text} is", target=" The city is {label}.", metric="token_f1"
    )
    test = task.encode(base, task.test, 2, split="test")
    report = Report("token_f1", 0.5, len(test), 1.0, [], 0.25)
    found = baselines_of(task, test, [report, report])
    expected = score("token_f1", [task.majority()] * len(test), test.answers)
    assert (found["majority"], found["majority_stderr"]) == expected
    assert (found["zero_shot"], found["untrained_stderr"]) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("scores", "remarks"),
    [
        ((0.8, 0.3, 0.5, 0.6), []),
        (
            (0.8, 0.3, 0.85, 0.9),
            [
                "it has not learnt: worse than the zero-shot text (0.850) and the prompt before training (0.900); accuracy "
                "0.800 on the same rows"
            ],
        ),
        (
            (0.0, 0.0, 0.1, 0.0),
            [
                "it has not learnt: worse than the zero-shot text (0.100), no better than the most frequent answer and the "
                "prompt before training; accuracy 0.000 on the same rows",
            ],
        ),
        (
            (1.0, 0.3, 0.98, 0.97),
            [
                "the zero-shot text already solves the task (accuracy 0.980): little is left to tune for",
            ],
        ),
        (
            (0.97, 0.99, 0.5, 0.5),
            [
                "it has not learnt: worse than the most frequent answer (0.990); accuracy 0.970 on the same rows",
                "the most frequent answer already solves the task (accuracy 0.990): little is left to tune for",
            ],
        ),
    ],
)
def test_a_prompt_that_its_baselines_beat_is_called_so(scores: tuple[float, ...], remarks: list[str]) -> None:
    metrics = dict(zip(("value", "majority", "zero_shot", "untrained"), scores, strict=True))
    assert remarks_on_scores("accuracy", metrics) == remarks
    learnt = Card(task="t", base="b", fingerprint="0" * 32, num_virtual_tokens=1, token_dim=1, metrics=metrics).learnt
    assert learnt != any("has not learnt" in remark for remark in remarks)
    assert remarks_on_scores("accuracy", {"value": 0.5}) == []


WORDS = st.text("aB .$ßİ-\n", max_size=6)


@given(WORDS, WORDS.filter(str.strip), WORDS)
@example(" The city is ", "The city is Oslo.", ".")
@example("is", " island", "land ")
@example(" $", "$", "$ ")
def test_unwrapping_undoes_the_wording(before: str, answer: str, behind: str) -> None:
    task = Task(task="t", target=f"{before}{{label}}{behind}")
    form = task.form
    assert form.unwrap(form.target.fill({form.target_field: answer})) == answer.strip()


@pytest.mark.parametrize(
    ("target", "said", "answer"),
    [
        (" is {label}", "island", "island"),
        (" {label} km", "5km", "5km"),
        (" {label} km", "5 KM", "5"),
        ("${label}", "$5", "5"),
        (" {label} or {label}!", "red or red!", "red"),
        (" The city is {label}.", "I do not know.", "I do not know"),
        (" The city is {label}.", "The city is", ""),
    ],
)
def test_what_is_not_said_is_not_taken_away(target: str, said: str, answer: str) -> None:
    assert Task(task="t", target=target).form.unwrap(said) == answer


def test_answers_that_ran_into_their_bound_are_counted(base: FrozenBase) -> None:
    task = Task(task="t", input="{text} is", max_new_tokens=2)
    texts = [" red red red red", " red", ""] * 3
    cut = [base.decode(ids[:2]) for ids in base.encode(texts)]
    assert len(base.encode([" red"])[0]) == 1
    report = spoken(base, task, cut)
    assert (report.unfinished, report.rows) == (3, 9)
    assert spoken(base, Task(task="t", input="{text} is", max_new_tokens=3), cut).unfinished == 0


# Versions of a library


@pytest.fixture
def library(tmp_path: Path, base: FrozenBase) -> Library:
    made = Library.open(tmp_path / "home")
    for name, seed in (("a", 1), ("b", 2), ("a", 3)):
        prompt = some_prompt(base, name, seed=seed, input="{text} is", labels=LABELS)
        made.publish(prompt.to_bytes(), base=base.address)
    return made


def task_file(folder: Path, name: str, text: str = "") -> str:
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled()))
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled(40)))
    file = folder / f"{name}.yaml"
    data = "data: {train: train.jsonl, test: test.jsonl}\n"
    file.write_text(text or f"{data}input: '{{text}} is'\nlabels: ['yes', 'no', the river]\n")
    return str(file)


def by_hand(base: FrozenBase, seed: int) -> Any:
    one = trial(base, "a", seed, 5, labels=LABELS)
    return report_of(base, one)


def test_versions_are_judged_on_the_test_rows_of_their_files(tmp_path: Path, base: FrozenBase, library: Library) -> None:
    rows = evaluate([task_file(tmp_path, "a"), task_file(tmp_path, "b")], library=library)
    assert [(row.task, row.version) for row in rows] == [("a", 2), ("b", 1)]
    for row, seed in zip(rows, (3, 2), strict=True):
        expected = by_hand(base, seed)
        assert (row.metric, row.value, row.rows) == ("accuracy", expected.value, 9)
        assert row.loss == pytest.approx(expected.loss, abs=1e-3)
        assert row.digest == library.registry.resolve(f"{row.task}@{row.version}").digest
    library.promote("a@1", "production")
    assert [row.version for row in evaluate([task_file(tmp_path, "a")], library=library)] == [1]
    assert [row.version for row in evaluate([task_file(tmp_path, "a")], library=library, version="2")] == [2]


def test_rows_of_ones_own_are_judged_alike(tmp_path: Path, library: Library) -> None:
    file = task_file(tmp_path, "a")
    assert evaluate(["a", "b"], library=library, data=tmp_path / "test.jsonl", version="1")[0].version == 1
    with pytest.raises(ConfigError, match="'a@2' names a version, and so does '1'"):
        evaluate("a@2", library=library, data=tmp_path / "test.jsonl", version="1")
    assert evaluate(["a@2", "b"], library=library, data=tmp_path / "test.jsonl") == evaluate(
        [file, task_file(tmp_path, "b")], library=library
    )


def test_what_is_judged_on_several_bases_comes_in_the_order_that_was_asked(
    tmp_path: Path, library: Library, other_folder: Path
) -> None:
    task_file(tmp_path, "a")  # which writes the rows
    other = some_prompt(FrozenBase.load(str(other_folder)), "other", labels=LABELS)
    library.publish(other.to_bytes(), base=str(other_folder))
    found = evaluate(["a", "other", "b"], library=library, data=tmp_path / "test.jsonl")
    assert [one.task for one in found] == ["a", "other", "b"]
    assert found[1].digest == other.digest


def test_versions_judged_some_rows_at_a_time_are_judged_as_at_once(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [
        task_file(tmp_path, "a"),
        task_file(tmp_path, "b", "data: {train: train.jsonl}\ninput: '{text} is'\nlabels: ['yes', 'no', the river]\n"),
    ]
    whole = evaluate(files, library=library)
    assert whole[0].rows != whole[1].rows
    monkeypatch.setattr("softprompt.evaluation.evaluate.AT_ONCE", 2)
    for one, other in zip(evaluate(files, library=library), whole, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert replace(one, loss=0.0) == replace(other, loss=0.0)


def test_a_version_is_judged_in_the_form_it_was_tuned_with(tmp_path: Path, library: Library) -> None:
    before = evaluate([task_file(tmp_path, "a")], library=library)
    data = "data: {train: train.jsonl, test: test.jsonl}\n"
    changed = task_file(tmp_path, "a", f"{data}input: 'Now: {{text}}'\nlabels: [the river, 'no', 'yes']\nmetric: f1\n")
    with pytest.warns(UserWarning, match="a@2 is judged as it was tuned, .* has another input, labels and metric by now"):
        assert evaluate([changed], library=library) == before


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("", None),
        ("max_new_tokens: 7\nseed: 3\nlearning_rate: 0.1\n", None),
        ("metric: accuracy\n", None),
        ("base: elsewhere\n", "another base by now"),
        ("fold_labels: true\n", "another fold_labels by now"),
        ("target: ': {label}'\n", "another target by now"),
        ("id2label: {1: 'yes'}\nmetric: f1\n", "another id2label and metric by now"),
    ],
)
def test_what_a_task_file_says_by_now_is_told(tmp_path: Path, library: Library, says: str, told: str | None) -> None:
    usual = "data: {train: train.jsonl, test: test.jsonl}\ninput: '{text} is'\nlabels: ['yes', 'no', the river]\n"
    (case,) = find_cases([task_file(tmp_path, "a", usual + says)], library)
    assert [told in remark for remark in case.remarks if told] == ([] if told is None else [True])
    assert told is not None or case.remarks == ()


def test_other_columns_may_mean_other_test_rows(tmp_path: Path, library: Library) -> None:
    file = task_file(tmp_path, "a", "data: train.jsonl\ninput: '{text} {more}'\nlabels: ['yes', 'no', the river]\n")
    rows = [{**row, "more": "x"} for row in labelled(40)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (case,) = find_cases([file], library)
    assert "another input by now" in case.remarks[0]
    assert "the file reads other columns by now, so test rows may be some that it was trained on" in case.remarks[1]


def test_blank_rows_are_left_out_and_counted_as_in_training(tmp_path: Path, library: Library) -> None:
    rows, (whole,) = labelled(), evaluate(["a"], library=library, data=labelled())
    gaps: list[Row] = [{"text": "", "label": "yes"}, {"text": None, "label": "no"}]
    (tmp_path / "blank.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [gaps[0], *rows, gaps[1]]))
    with pytest.warns(UserWarning, match=r"blank\.jsonl: 2 rows of 11 left out: nothing in 'text'"):
        (found,) = evaluate(["a"], library=library, data=tmp_path / "blank.jsonl")
    assert (found.blank, found.rows) == (2, 9)
    assert (found.outputs, found.values) == ((None, *whole.outputs, None), (None, *whole.values, None))
    assert replace(found, blank=0, outputs=whole.outputs, values=whole.values) == whole
    with pytest.raises(DataError, match=r"task 'a': the rows in memory: 2 rows of 2 left out: nothing in 'text'; give rows"):
        evaluate(["a"], library=library, data=gaps)
    with pytest.raises(DataError, match=r"task 'a', row 2 of the rows in memory: the label 'x' is not among"):
        evaluate(["a"], library=library, data=[rows[0], {"text": "red", "label": "x"}])


def test_what_cannot_be_judged_is_told(tmp_path: Path, library: Library, other_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'a' is no task file \(\.yaml\); .* --data FILE"):
        evaluate(["a"], library=library)
    with pytest.raises(ConfigError, match="a dictionary is no task file; name the task"):
        evaluate({"task": "a", "data": "test.jsonl"}, library=library)  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="no version 9"):
        evaluate([task_file(tmp_path, "a")], library=library, version="9")
    with pytest.raises(NotFound, match="no task 'none'"):
        evaluate(["none"], library=library, data=tmp_path / "test.jsonl")
    (tmp_path / "wrong.jsonl").write_text('{"text": "red", "label": "perhaps"}\n')
    with pytest.raises(DataError, match=r"task 'a', \S*wrong\.jsonl, line 1: the label 'perhaps' is not among"):
        evaluate(["a"], library=library, data=tmp_path / "wrong.jsonl")
    foreign = some_prompt(FrozenBase.load(library.registry.resolve("a").base), "foreign", labels=LABELS, metric="rouge")
    library.publish(foreign.to_bytes(), base=library.registry.resolve("a").base)
    with pytest.raises(ConfigError, match="metric"):
        evaluate(["foreign"], library=library, data=tmp_path / "test.jsonl")
    with (
        pytest.warns(UserWarning, match="another input and metric by now"),
        pytest.raises(ConfigError, match="metric 'rouge' is unknown; known: accuracy, "),
    ):
        evaluate([task_file(tmp_path, "foreign")], library=library)
    library.publish(library.read("a@1"), base=str(other_folder))
    with pytest.raises(FingerprintMismatch, match="tiny-llama"):
        evaluate(["a@3"], library=library, data=tmp_path / "test.jsonl")


LABEL_SETS = st.lists(st.tuples(*[st.sets(st.sampled_from("abcd"))] * 2), min_size=1, max_size=20)


@given(LABEL_SETS)
def test_metrics_of_sets_are_scikit_learns_with_errors_of_the_jackknife(
    pairs: list[tuple[set[str], set[str]]],
) -> None:
    said, right = ([join(sorted(own)) for own in side] for side in zip(*pairs, strict=True))
    there = sorted(set().union(*(one | other for one, other in pairs)))
    if len(there) > 1:  # of one label alone scikit-learn makes two classes
        matrices = [[[label in own for label in there] for own in side] for side in zip(*pairs, strict=True)]
        for name in ("micro", "macro"):
            known = sklearn.metrics.f1_score(matrices[1], matrices[0], average=name, zero_division=0)
            assert measure(f"{name}_f1", said, right) == pytest.approx(known)
        assert measure("subset_accuracy", said, right) == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    for name in ("micro_f1", "macro_f1"):
        n = len(pairs)
        if n > 1:
            left = [measure(name, said[:at] + said[at + 1 :], right[:at] + right[at + 1 :]) for at in range(n)]
            error = math.sqrt((n - 1) / n * sum((one - statistics.fmean(left)) ** 2 for one in left))
            assert score(name, said, right).stderr == pytest.approx(error, abs=1e-9)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=30))
def test_metrics_of_numbers_are_those_of_scikit_learn_and_scipy(pairs: list[tuple[int, int]]) -> None:
    said, right = ([str(one) for one in side] for side in zip(*pairs, strict=True))
    assert measure("mae", said, right) == pytest.approx(sum(abs(a - b) for a, b in pairs) / len(pairs))
    if len(set(said)) > 1 and len(set(right)) > 1:
        known = scipy.stats.spearmanr(*zip(*pairs, strict=True)).statistic
        assert measure("spearmanr", said, right) == pytest.approx(known)
    else:
        assert measure("spearmanr", said, right) == 0
