"""Tasks whose answers are JSON of a schema, from their rows through training, judging and predicting to HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.errors import ConfigError, DataError
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.tasks.form import Form
from softprompt.tasks.task import Task
from tests.commands import Run
from tests.http_server import serving

SCHEMA = {
    "type": "object",
    "properties": {"thing": {"enum": ["red", "blue", "apple"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["thing", "count"],
    "additionalProperties": False,
}


def rows(**answer: Any) -> list[dict[str, str]]:
    things = ("red", "blue", "apple")
    return [
        {
            "text": f"{things[number % 3]} {number % 7}",
            "answer": json.dumps({"thing": things[number % 3], "count": number % 7} | answer),
        }
        for number in range(60)
    ]


def task_file(folder: Path, base: Path | str, given: list[dict[str, str]] | None = None, **fields: Any) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given or rows()))
    known = {
        "task": "extract", "base": str(base), "data": "rows.jsonl", "target": " {answer}", "num_virtual_tokens": 4,
        "max_steps": 2, "max_new_tokens": 40, "output_schema": SCHEMA,
    }  # fmt: skip
    file = folder / "extract.yaml"
    file.write_text(yaml.safe_dump(known | fields, sort_keys=False))
    return file


def test_from_rows_to_http(run: Run, tmp_path: Path, base_folder: Path, home: Path) -> None:
    """A prompt that has learnt nothing answers valid JSON all the same, and by each way the same."""
    (trained,) = run("train", str(task_file(tmp_path, base_folder)), "--json").rows
    texts = [row["text"] for row in rows()[:6]]
    predicted = run("predict", "extract", *texts, "--json").rows
    for row in predicted:
        jsonschema.validate(json.loads(row["output"]), SCHEMA)
        assert list(json.loads(row["output"])) == ["thing", "count"]
    assert trained["metric"] == "exact_match"
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()[:6]))
    file = tmp_path / "said.jsonl"
    (judged,) = run("evaluate", "extract", "--data", tmp_path / "more.jsonl", "--output", file, "--json").rows
    assert judged["rows"] == 6
    assert [json.loads(line)["output"] for line in file.read_text().splitlines()] == [row["output"] for row in predicted]
    with Library.open(home) as library:
        version = library.registry.resolve("extract")
        assert json.loads(version.card.recipe["output_schema"]) == SCHEMA
        assert Form.of_card(version.card).output_schema == Task.load(tmp_path / "extract.yaml").form.output_schema
        base = FrozenBase.load(str(base_folder))
        engine = ContinuousEngine(architecture_of(base))
        with serving(library, base, engine=engine) as running, running.client() as client:
            for text, row in zip(texts, predicted, strict=True):
                asked = [{"role": "user", "content": text}]
                answer = client.chat.completions.create(model="extract", messages=asked).choices[0]
                assert (answer.message.content, answer.finish_reason) == (row["output"], "stop")
            # What a request asks for stands before what the task does.
            own = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": {"mine": True}}}}
            answer = client.chat.completions.create(model="extract", messages=asked, response_format=own).choices[0]
            assert json.loads(answer.message.content) == {"mine": True}
            raw: dict[str, Any] = {"model": "extract", "prompt": texts[0]}
            assert client.completions.create(**raw, max_tokens=4).choices[0].text.strip().startswith("{")
            free = client.completions.create(**raw, max_tokens=4, extra_body={"response_format": {"type": "text"}})
            assert not free.choices[0].text.strip().startswith("{")


def test_an_answer_that_is_cut_is_told(run: Run, tmp_path: Path, base_folder: Path) -> None:
    run("train", str(task_file(tmp_path, base_folder, max_new_tokens=3)), "--json")
    assert "1 answer ran into max_new_tokens before the JSON was whole" in run("predict", "extract", "red 3", "--json").err


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"count": 100}, "it fits up to"),
        ({"thing": "stone"}, 'fits up to \'{"thing": "\''),
        ({"more": 1}, "mend the row or the schema"),
    ],
)
def test_a_row_with_another_answer_is_refused(base_folder: Path, answer: Any, why: str, tmp_path: Path) -> None:
    given = rows()
    given[7] = rows(**answer)[7]
    task = Task.load(task_file(tmp_path, base_folder, given))
    base = FrozenBase.load(str(base_folder))
    with pytest.raises(DataError, match="is not what `output_schema` allows") as caught:
        _ = [task.encode(base, found, 4, split=split) for split, found in task.splits.items()]
    assert "line 8" in str(caught.value)
    assert why in str(caught.value)


def test_keys_in_another_order_are_refused(base_folder: Path, tmp_path: Path) -> None:
    turned = [row | {"answer": json.dumps(dict(reversed(json.loads(row["answer"]).items())))} for row in rows()]
    task = Task.load(task_file(tmp_path, base_folder, turned))
    with pytest.raises(DataError, match="keys come in the schema's order"):
        task.encode(FrozenBase.load(str(base_folder)), task.train, 4, split="training")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"output_schema": {"type": "objec"}}, "output_schema cannot be compiled: Invalid type: objec"),
        ({"output_schema": "{"}, "output_schema is no JSON"),
        ({"labels": ["a", "b"]}, "`labels` is given too"),
        ({"problem_type": "regression"}, "`problem_type` is given too"),
        ({"no_answer": "unknown"}, "`no_answer` is given too"),
        ({"objective": "distillation", "instruction": "x"}, "distillation learns what the base writes"),
        ({"target": " So: {answer}"}, "puts text around the answer"),
        ({"target": " {answer}."}, "puts text around the answer"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Task.load(task_file(tmp_path, "builtin/tiny", **fields))
    assert why in str(caught.value)
    assert "Value error" not in str(caught.value)
