"""Suites of harnesses, with programs that stand for theirs: what they leave is read as they mean it, and compared row by row
as other outcomes are. `tests/harness` runs the real ones."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.engines.continuous import ContinuousEngine
from softprompt.errors import BaseModelError, ConfigError, DataError, FingerprintMismatch, PromotionRefused
from softprompt.evaluation.suites.harness import inspect_ai, lm_eval
from softprompt.evaluation.suites.harness.find import find_judged
from softprompt.evaluation.suites.harness.samples import Found, Sample, checks_of
from softprompt.evaluation.suites.harness.server import KEY, check_served, started
from softprompt.evaluation.suites.report import report
from softprompt.evaluation.suites.run import run_suites
from softprompt.evaluation.suites.suite import Suite, parse_suite
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.progress import Mute
from softprompt.serving.offline import Service
from tests.commands import Run
from tests.http_server import serving
from tests.models import some_prompt

pytestmark = pytest.mark.slow

LABELS = ("animal", "colour", "place")
TEXTS = ["The horse runs", "It is a deep red", "They went to Paris", "A dog barks", "Blue as the sky", "In the old town"]
PROGRAM = '''#!{python}
"""Stands for lm-eval: asks the server that it is told of, and writes what lm-eval writes."""

import hashlib, json, os, sys
from pathlib import Path
from urllib.request import Request, urlopen

given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
how = json.loads(given["--model_args"])
assert given["--model"] == "local-completions" and (Path(how["tokenizer"]) / "tokenizer.json").is_file()
url = how["base_url"].removesuffix("/completions") + "/classify"
rows = [json.loads(line) for line in open("rows.jsonl")][: int(given.get("--limit", 1000))]
if given["--tasks"] == "broken":
    sys.exit("no task of that name")
out = Path(given["--output_path"]) / "m"
out.mkdir(parents=True)
samples = []
for place, row in enumerate(rows):
    body = json.dumps({{"model": how["model"], "input": row["text"]}}).encode()
    headers = {{"content-type": "application/json", "authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}}
    (said,) = json.loads(urlopen(Request(url, body, headers)).read())["data"]
    scores = list(said["scores"].items())
    asked = {{f"gen_args_{{n}}": {{"arg_0": row["text"], "arg_1": " " + label}} for n, (label, _) in enumerate(scores)}}
    samples.append({{
        "doc_id": place, "doc": row, "target": row["label"], "filter": "none", "metrics": ["acc", "pair"],
        "arguments": asked,
        "filtered_resps": [[str(score), "False"] for _, score in scores], "pair": [1, 2],
        "doc_hash": hashlib.sha256(json.dumps(row).encode()).hexdigest(), "prompt_hash": "p", "target_hash": row["label"],
        "acc": float(said["label"] == row["label"]),
    }})
(out / "samples_kind_x_2026.jsonl").write_text("".join(json.dumps(one) + "\\n" for one in samples[::-1]))
mean = sum(one["acc"] for one in samples) / len(samples)
(out / "results_2026.json").write_text(json.dumps({{
    "results": {{"kind_x": {{"alias": "kind_x", "acc,none": mean, "acc_stderr,none": 0.1, "pair,none": 0.5}}}},
    "versions": {{"kind_x": 1}}, "higher_is_better": {{"kind_x": {{"acc": True}}}}, "lm_eval_version": "0.0.1",
}}))
'''


@pytest.fixture
def place(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with rows, a suite, a program that is called as lm-eval's is, and three versions of `kind`."""
    monkeypatch.chdir(tmp_path)
    rows = [{"text": text, "label": LABELS[at % 3]} for at, text in enumerate(TEXTS)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("served.yaml").write_text("harness: {runner: lm-eval, task: kind_x}\n", encoding="utf-8")
    program = tmp_path / "bin" / "lm_eval"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv(KEY, raising=False)
    base = FrozenBase.load("builtin/tiny")
    with Library.open(home) as library:
        for seed in (6, 8, 0):
            prompt = some_prompt(base, "kind", seed=seed, rows=8, labels=LABELS, input="{text}\nKind:")
            library.publish(prompt.to_bytes(), base="builtin/tiny")
    return tmp_path


def test_a_harness_judges_versions_by_a_server_of_its_own(run: Run, place: Path, home: Path) -> None:
    done = run("suite", "run", "kind@1", "kind@2", "kind@3", "--suite", "served.yaml", "--json")
    assert "pair of 'kind_x' is no mean over rows; left out" in done.err
    assert [(row["version"], row["suite"], row["check"], row["rows"]) for row in done.rows] == [
        (number, "served", "acc", len(TEXTS)) for number in (1, 2, 3)
    ]
    assert run("suite", "show", "kind@2", "--json").rows == [row for row in done.rows if row["version"] == 2]
    with Library.open(home) as library:
        predicted = [[one.output for one in Service(library).predict(TEXTS, f"kind@{number}")] for number in (1, 2, 3)]
        outcomes = [library.registry.outcomes.one(f"kind@{number}", "served") for number in (1, 2, 3)]
        rights = [sum(one == LABELS[at % 3] for at, one in enumerate(said)) for said in predicted]
        for said, right, outcome, row in zip(predicted, rights, outcomes, done.rows, strict=True):
            assert outcome.answers == tuple(said)  # in the order of the rows, though it wrote them in another
            assert outcome.right == tuple(LABELS[at % 3] for at in range(len(TEXTS)))
            (check,) = outcome.checks
            assert check.values == tuple(float(one == LABELS[at % 3]) for at, one in enumerate(said))
            assert row["value"] == check.value == right / len(TEXTS)
        assert len({outcome.digest for outcome in outcomes}) == 1
        assert Suite.of_definition(outcomes[0].definition).config == Suite.load("served.yaml").config
        # The gate compares them, row by row.
        best, worst = rights.index(max(rights)) + 1, rights.index(min(rights)) + 1
        assert max(rights) - min(rights) >= 2
        library.promote(f"kind@{best}")
        Path("served.yaml").write_text("harness: {runner: lm-eval, task: kind_x}\nconfidence: 0.5\n", encoding="utf-8")
    base = FrozenBase.load("builtin/tiny")
    with Library.open(home) as library, serving(library, base, engine=ContinuousEngine(architecture_of(base))) as server:
        run("suite", "run", f"kind@{best}", f"kind@{worst}", "--suite", "served.yaml", "--url", server.url)
        assert library.registry.outcomes.one(f"kind@{worst}", "served").answers == tuple(predicted[worst - 1])
        with pytest.raises(PromotionRefused, match=f"suite 'served': acc {min(rights) / 6:.4f} against"):
            library.promote(f"kind@{worst}")
        card = report(f"kind@{worst}", f"kind@{best}", library=library)
        (told,) = card.suites
        assert told["changed"] == sum(a != b for a, b in zip(predicted[best - 1], predicted[worst - 1], strict=True))
        assert {example["input"] for example in told["examples"]} == {None}
        assert {example["right"] for example in told["examples"]} <= set(LABELS)
        assert any("only digests are shown" in note for note in card.notes)
        # Another suite of it has another digest, and is asked for again.
        Path("served.yaml").write_text("harness: {runner: lm-eval, task: kind_x, limit: 4}\n", encoding="utf-8")
        run("suite", "run", f"kind@{worst}", "--suite", "served.yaml", "--url", server.url)
    assert "is of other rows or checks" in run("promote", f"kind@{worst}").refused()


def test_a_server_that_runs_is_asked_where_it_is_named(run: Run, place: Path, home: Path) -> None:
    base = FrozenBase.load("builtin/tiny")
    with Library.open(home) as library, serving(library, base) as server:
        # Its engine is none of a model: what it says is told.
        (found,) = run_suites("kind@1", "served.yaml", library=library, url=f"{server.url}/v1/", progress=Mute())
        said = [server.http.post(f"{server.url}/v1/classify", json={"model": "kind@1", "input": text}) for text in TEXTS]
        assert found.answers == tuple(answer.json()["data"][0]["label"] for answer in said)
        version = library.registry.resolve("kind@1")
        with Library.open(place / "other") as other:
            for seed in (7, 8):
                other.publish(some_prompt(base, "kind", seed=seed, labels=LABELS).to_bytes(), base="builtin/tiny")
            with pytest.raises(FingerprintMismatch, match="calls kind@1 what is"):
                check_served(server.url, other.registry.resolve("kind@1"), "none")
        check_served(server.url, version, "none")
        for address, told in ((f"{server.url}/elsewhere", "no route GET"), (f"{server.url}/console", "Not Found")):
            with pytest.raises(ConfigError, match=f"does not serve kind@1 .*{told}"):
                check_served(address, version, "none")
        library.registry.keys.create("me", ["predict", "read"])
        with pytest.raises(ConfigError, match="API key"):
            find_judged(library, ["kind@1"], [Suite.load("served.yaml")], BaseOptions(), None)
    with pytest.raises(ConfigError, match=r"no server of softprompt answers at http://127\.0\.0\.1:9 "):
        check_served("http://127.0.0.1:9", version, "none")


def test_what_is_wrong_is_refused_before_a_server_starts(
    run: Run, place: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("own.yaml").write_text("data: rows.jsonl\n", encoding="utf-8")
    assert "--url" in run("suite", "run", "kind", "--suite", "own.yaml", "--url", "http://x").refused()
    for text, told in (
        ("{runner: lm-eval, task: kind_x, folder: none}", "there is no folder"),
        ("{runner: inspect, task: none.py}", "there is no file"),
        ("{runner: inspect, task: a.py, folder: x}", "only lm-eval reads tasks from a folder"),
        ("{runner: lm_eval, task: kind_x}", "harness.runner"),
        ("{runner: lm-eval}", "harness.task is missing"),
        ("{runner: lm-eval, task: 'a,b'}", "not the name of one task"),
        ("{runner: lm-eval, task: a, limit: 0}", "harness.limit"),
        ("{runner: lm-eval, task: a, tasks: b}", "unknown key 'harness.tasks'"),
        ("{runner: lm-eval, task: a}\ndata: rows.jsonl", "data: the harness has its own rows and metrics"),
        ("{runner: lm-eval, task: a}\nmust: x", "must: the harness has its own rows and metrics"),
        ("{runner: inspect, task: a/b}", "there is no program 'inspect' on the path"),
    ):
        Path("wrong.yaml").write_text(f"harness: {text}\n", encoding="utf-8")
        monkeypatch.setenv("PATH", str(place / "bin"))
        monkeypatch.setattr(sys, "executable", sys.executable if "inspect" not in text else str(place / "python"))
        assert told in run("suite", "run", "kind", "--suite", "wrong.yaml").refused(), text
    monkeypatch.undo()
    with Library.open(home) as library, pytest.raises(ConfigError, match="loads the base by itself"):
        run_suites("kind", place / "served.yaml", library=library, base=FrozenBase.load("builtin/tiny"), progress=Mute())


def test_a_harness_that_fails_leaves_nothing(run: Run, place: Path, home: Path) -> None:
    Path("broken.yaml").write_text("harness: {runner: lm-eval, task: broken}\n", encoding="utf-8")
    Path("asked.yaml").write_text("harness: {runner: lm-eval, task: kind_x, metrics: f1}\n", encoding="utf-8")
    with Library.open(home) as library, serving(library, FrozenBase.load("builtin/tiny")) as server:
        for suite, told in (
            ("broken.yaml", "lm-eval on kind@1 failed with exit status 1: no task of that name"),
            ("asked.yaml", "no metric 'f1' is a mean over its rows; those that are: acc"),
        ):
            assert told in run("suite", "run", "kind@1", "--suite", suite, "--url", server.url).refused()
    assert run("suite", "list", "kind", "--json").rows == []


def test_a_server_that_does_not_start_says_why(place: Path, home: Path) -> None:
    (place / "empty").mkdir()
    options = BaseOptions(source=str(place / "empty"))
    with (
        Library.open(home) as library,
        pytest.raises(BaseModelError, match=r"did not start: .*empty"),
        started(library, options, place),
    ):
        raise AssertionError


def sample(values: dict[str, float], digest: str = "d") -> Sample:
    return Sample(digest, "", None, values)


@pytest.mark.parametrize(
    ("totals", "kept"),
    [({}, ["a", "b"]), ({"a": 0.5, "b": 0.5}, ["a"]), ({"a": 0.5000001}, ["a", "b"]), ({"c": 1.0}, ["a", "b"])],
)
def test_what_is_no_mean_over_rows_is_left_out(totals: dict[str, float], kept: list[str]) -> None:
    found = Found("v", [sample({"a": 1.0, "b": 2.0}), sample({"a": 0.0})], totals, frozenset({"b"}))
    checks, left = checks_of(found, ())
    assert [check.name for check in checks] == kept
    assert set(left) == {*totals, "a", "b"} - set(kept) - {"a"}
    for check in checks:
        assert (check.places, check.lower_is_better) == ((None, False) if check.name == "a" else ((0,), True))


def written(folder: Path, samples: Sequence[dict[str, Any]], results: dict[str, Any]) -> Path:
    (folder / "samples_t_1.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples), encoding="utf-8")
    (folder / "results_1.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def test_filters_of_one_answer_are_metrics_of_their_own(tmp_path: Path) -> None:
    usual = {"doc_id": 0, "target": "4", "arguments": {"gen_args_0": {"arg_0": "q", "arg_1": {"until": []}}},
             "metrics": ["exact_match"], "doc_hash": "d", "prompt_hash": "p", "target_hash": "t"}  # fmt: skip
    rows = [
        {**usual, "filter": "strict", "filtered_resps": ["so 4"], "exact_match": 0.0},
        {**usual, "filter": "loose", "filtered_resps": ["4"], "exact_match": 1.0},
    ]
    results = {"results": {"t": {"exact_match,strict": 0.0, "exact_match,loose": 1.0, "exact_match_stderr,loose": "N/A"}}}
    found = lm_eval.read(written(tmp_path, rows, results))
    assert found.samples[0].values == {"exact_match,strict": 0.0, "exact_match,loose": 1.0}
    assert (found.samples[0].answer, found.samples[0].right) == ("so 4", None)
    assert found.totals == {"exact_match,strict": 0.0, "exact_match,loose": 1.0}
    (tmp_path / "samples_u_1.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"a group of 2 \(t, u\)"):
        lm_eval.read(tmp_path)


def test_a_choice_is_the_likeliest_and_its_number_is_its_text(tmp_path: Path) -> None:
    row = {"doc_id": 0, "target": "1", "filter": "none", "metrics": ["acc", "ppl"], "acc": 1, "ppl": 3.5,
           "arguments": {f"gen_args_{n}": {"arg_0": "q", "arg_1": f" {word}"} for n, word in enumerate("ab")},
           "filtered_resps": [["-2.5", "False"], ["-0.5", "False"]],
           "doc_hash": "d", "prompt_hash": "p", "target_hash": "t"}  # fmt: skip
    results = {"results": {"t": {"acc,none": 1.0}}, "higher_is_better": {"t": {"acc": True, "ppl": False}}}
    found = lm_eval.read(written(tmp_path, [row], results))
    assert (found.samples[0].answer, found.samples[0].right) == ("b", "b")
    assert found.lower == {"ppl"}
    assert (
        found.samples[0].digest != lm_eval.read(written(tmp_path, [{**row, "target_hash": "u"}], results)).samples[0].digest
    )


def test_what_inspect_leaves(tmp_path: Path) -> None:
    def row(number: int, value: Any) -> dict[str, Any]:
        return {"id": number, "epoch": 1, "input": "x", "target": "y", "output": {"completion": f"said {number}"},
                "scores": {"match": {"value": value}}}  # fmt: skip

    log: dict[str, Any] = {
        "status": "success", "eval": {"task": "t", "task_version": 0, "packages": {"inspect_ai": "1"}},
        "results": {"scores": [{"name": "match", "metrics": {"accuracy": {"value": 0.5}, "stderr": {"value": 0.1}}}]},
        "samples": [row(1, "C"), row(2, "I"), row(3, "P"), row(4, {"a": 1, "b": "I"}), row(5, [1])],
    }  # fmt: skip
    file = tmp_path / "log.json"
    file.write_text(json.dumps(log), encoding="utf-8")
    found = inspect_ai.read(tmp_path)
    assert [one.values for one in found.samples] == [
        {"match": 1.0}, {"match": 0.0}, {"match": 0.5}, {"match/a": 1.0, "match/b": 0.0}, {}
    ]  # fmt: skip
    assert (found.samples[1].answer, found.totals) == ("said 2", {"match": 0.5})
    assert len({one.digest for one in found.samples}) == 5
    file.write_text(json.dumps(log | {"status": "error", "error": {"message": "no key"}}), encoding="utf-8")
    with pytest.raises(DataError, match=r"did not come to its end \(error\): no key"):
        inspect_ai.read(tmp_path)


def test_a_suite_without_a_harness_has_the_digest_that_it_had() -> None:
    """Outcomes that are kept already go on being compared."""
    suite = Suite(parse_suite({"name": "s", "must": ["x"]}, where="s"), None, None)
    assert suite.digest(["accuracy"], ["r"]) == "76f485026f3907f83dc3b9b940009a95f6cdfea6e8261ed63040f7b68542534f"
