"""Answers from passages, from rows through training, judging and predicting to HTTP: passages that are looked up in a folder
or by a function, or that rows bring; and rows whose answer does not stand in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from softprompt import personalize
from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.errors import ConfigError, DataError
from softprompt.evaluation.evaluate import evaluate
from softprompt.evaluation.metrics import abstaining, groundedness
from softprompt.library.library import Library
from softprompt.library.passages import read_sources
from softprompt.model.architecture import architecture_of
from softprompt.progress import Mute
from softprompt.registry.records import Origin
from softprompt.serving.offline import Service, predict
from softprompt.serving.residents.resident import Resident
from softprompt.serving.residents.residents import Residents
from softprompt.tasks.form import Form
from softprompt.tasks.task import Task
from softprompt.training.train import train
from tests.commands import Run
from tests.http_server import serving
from tests.models import make_base, some_prompt

HOMES = {"Rex": "red", "Mia": "blue", "Bob": "red", "Eve": "blue"}
ROWS = [
    {"question": f"where does {name} live {turn}", "answer": HOMES.get(name, "")}
    for turn in range(8)
    for name in (*HOMES, "Zed")
]
FIELDS: dict[str, Any] = {
    "input": "{passages}\n{question}:",
    "target": " {answer}",
    "no_answer": "unknown",
    "num_virtual_tokens": 4,
    "max_steps": 2,
    "max_new_tokens": 3,
}
CHOOSES = {"labels": ["red", "blue", "unknown"]}
ASKED = "where does Rex live 3"


def make_task(folder: Path, base: Path, **fields: Any) -> Path:
    (folder / "texts").mkdir()
    for name, colour in HOMES.items():
        (folder / "texts" / f"{name}.txt").write_text(f"{name} lives in the {colour} house.")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    known = {"base": str(base), "data": "rows.jsonl", "retrieve": {"folder": "texts", "k": 1}}
    (folder / "where.yaml").write_text(yaml.safe_dump(known | FIELDS | fields))
    return folder / "where.yaml"


def asked_over_http(home: Path, base_folder: Path, inputs: list[str]) -> tuple[list[Any], list[Any]]:
    """What /v1/classify says to them, and chat."""
    base = FrozenBase.load(str(base_folder))
    with Library.open(home) as library, serving(library, base, engine=ContinuousEngine(architecture_of(base))) as server:

        def chat(text: str) -> Any:
            body = {"model": "where", "messages": [{"role": "user", "content": text}], "max_tokens": 3, "temperature": 0}
            return server.http.post(f"{server.url}/v1/chat/completions", json=body)

        return (
            [server.http.post(f"{server.url}/v1/classify", json={"model": "where", "input": text}) for text in inputs],
            list(map(chat, inputs)),
        )


def test_labels_by_passages_from_rows_to_http(run: Run, tmp_path: Path, base_folder: Path, home: Path) -> None:
    file = make_task(tmp_path, base_folder, **CHOOSES)
    (row,) = run("train", file, "--json").rows
    assert 0 <= row["no_answer_recall"] <= 1
    assert "groundedness" not in row  # labels are given, and not taken from a text
    (shown,) = run("show", "where", "--json").rows
    kept = shown["versions"][0]["recipe"]["retrieve"]
    assert (kept["query"], kept["k"], len(kept["digest"])) == ("{question}", 1, 64)
    (judged,) = run("evaluate", file, "--json").rows
    assert judged["value"] == pytest.approx(row["value"])
    brought = json.dumps({"question": ASKED, "passages": ["Rex lives in the red house."]})
    other = json.dumps({"question": ASKED, "passages": "a stone"})
    found, own, others = run("predict", "where", ASKED, brought, other, "--json").rows
    assert found["text"] == ASKED
    assert found["scores"] == pytest.approx(own["scores"], rel=1e-4)
    assert found["scores"] != pytest.approx(others["scores"], rel=1e-2)  # what is found is what the base reads
    answers, _ = asked_over_http(home, base_folder, [ASKED, brought, other])
    for answer, said in zip(answers, (found, own, others), strict=True):
        (data,) = answer.json()["data"]
        assert data["scores"] == pytest.approx(said["scores"], abs=1e-4)


def test_generated_answers_are_told_by_their_grounds(run: Run, tmp_path: Path, base_folder: Path, home: Path) -> None:
    file = make_task(tmp_path, base_folder)
    (row,) = run("train", file, "--json").rows
    assert 0 <= row["groundedness"] <= 1
    (judged,) = run("evaluate", file, "--json").rows
    names = {"no_answer_recall", "no_answer_f1", "groundedness"}
    assert {name: judged[name] for name in names} == {name: row[name] for name in names}
    table = run("evaluate", file).out
    assert "groundedness" in table
    assert "no_answer_recall" in table
    brought = json.dumps({"question": ASKED, "passages": "Rex lives in the red house."})
    found, own = run("predict", "where", ASKED, brought, "--json").rows
    assert found["output"] == own["output"]
    _, chats = asked_over_http(home, base_folder, [ASKED])
    assert chats[0].json()["choices"][0]["message"]["content"] == found["output"]


def test_a_folder_that_changed_is_told_and_one_that_is_gone_refused(
    run: Run, tmp_path: Path, base_folder: Path, home: Path
) -> None:
    file = make_task(tmp_path, base_folder, **CHOOSES)
    run("train", file, "--json")
    folder = tmp_path / "texts"
    assert "its passages" not in run("predict", "where", ASKED, "--json").err
    (before,) = run("predict", "where", ASKED, "--json").rows
    (folder / "Rex.txt").write_text("Rex lives in the blue house.")
    changed = run("predict", "where", ASKED, "--json")
    assert "it was tuned with the texts of digest" in changed.err
    assert changed.rows[0]["scores"] != before["scores"]
    for command in (("evaluate", "where", "--data", tmp_path / "rows.jsonl"), ("evaluate", file)):
        assert "it was tuned with the texts of digest" in run(*command, "--json").err
    folder.rename(tmp_path / "moved")
    gone = run("predict", "where", ASKED).refused()
    assert "has no 'passages'" in gone
    assert f"there is no folder {str(folder)!r}" in gone
    assert run("evaluate", "where", "--data", tmp_path / "rows.jsonl").refused().count("there is no folder") == 1
    there = run("predict", "where", ASKED, "--passages", tmp_path / "moved", "--json").rows
    assert there[0]["scores"] == changed.rows[0]["scores"]
    own = json.dumps({"question": ASKED, "passages": "Rex lives in the red house."})
    (brought,) = run("predict", "where", own, "--json").rows
    assert brought["scores"] == before["scores"]
    answers, chats = asked_over_http(home, base_folder, [ASKED, own])
    assert [answer.status_code for answer in (*answers, *chats)] == [400, 200, 400, 200]
    told = answers[0].json()["error"]["message"]
    assert "the folder of texts that has them cannot be read; give" in told  # and not which: it is the server's


def test_a_function_is_run_where_it_is_named_alone(run: Run, tmp_path: Path, base_folder: Path, home: Path) -> None:
    make_task(tmp_path, base_folder)
    finder = tmp_path / "find.py"
    finder.write_text("def find(question, k):\n    return ['red house'] * (k + 1)\n")
    file = make_file(tmp_path, retrieve={"function": "find.py:find", "k": 2}, **CHOOSES)
    run("train", file, "--json")
    (judged,) = run("evaluate", file, "--json").rows  # the task file names it
    refused = run("predict", "where", ASKED).refused()
    assert "'find.py:find'" in refused
    assert "--passages FILE.py:NAME" in refused
    (found,) = run("predict", "where", ASKED, "--passages", f"where={finder}:find", "--json").rows
    own = json.dumps({"question": ASKED, "passages": "red house\nred house"})
    assert run("predict", "where", own, "--json").rows[0]["scores"] == found["scores"]
    with Library.open(home) as library:
        (said,) = predict([ASKED], "where", library=library, passages=lambda question, k: ["red house"] * k)
        assert said.scores == found["scores"]
        (again,) = evaluate(["where"], data=ROWS, library=library, passages={"where": f"{finder}:find"})
        assert again.rows == len(ROWS)
        service = Service(library, passages=lambda question, k: [][0])
        with pytest.raises(DataError, match="<lambda> fails at"):
            service.predict([ASKED], "where")
        assert "it was tuned with the function find" in service.remarks[0]
    assert judged["rows"] > 0
    assert "none of the tasks" in run("predict", "where", ASKED, "--passages", f"other={finder}:find").refused()


def make_file(folder: Path, **fields: Any) -> Path:
    file = folder / "where.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | fields))
    return file


def test_a_version_is_judged_with_the_passages_it_was_tuned_with(run: Run, tmp_path: Path, base_folder: Path) -> None:
    file = make_task(tmp_path, base_folder, **CHOOSES)
    run("train", file, "--json")
    (before,) = run("evaluate", file, "--json").rows
    make_file(tmp_path, retrieve={"folder": "texts", "k": 4})
    assert run("evaluate", file, "--json").rows == [before]


def test_rows_bring_their_passages_as_a_text_or_a_list(tmp_path: Path) -> None:
    fields = FIELDS | {"task": "own", "no_answer": "unknown", "labels": ["red", "blue", "unknown"]}
    base = make_base("llama")
    for passages in ("Rex:\nred house", ["Rex:", "red  house"]):
        task = Task(**fields, data=[row | {"passages": passages} for row in ROWS])
        with Library.open(tmp_path / "home") as library:
            train(task, base=base, library=library, progress=Mute())
            service = Service(library, base=base)
            (said,) = service.predict([{"question": ASKED, "passages": passages}], "own")
            assert said.output in task.form.labels
            with pytest.raises(DataError, match="no field 'passages'"):
                service.predict([{"question": ASKED}], "own")
            with pytest.raises(DataError, match="inputs of 2 columns"):
                service.predict([ASKED], "own")


def test_passages_lose_their_end_before_the_question_loses_any() -> None:
    base = make_base("llama")
    form = Task(**FIELDS, task="t", data=ROWS, retriever=lambda question, k: []).form
    row = {"question": "red " * 40, "passages": "blue stone " * 300}
    found = form.encode_inputs(base, [row], 4)
    text = base.decode(found.ids[0])
    assert found.truncated == 1
    assert text.count("red") == 40
    assert 0 < text.count("blue") < 300


texts = st.lists(st.sampled_from(["unknown", "Unknown.", "red", "the red house", "blue", ""]), min_size=1, max_size=8)


@given(texts, st.data())
def test_abstaining_is_as_counted_by_hand(said: list[str], data: st.DataObject) -> None:
    right = data.draw(st.lists(st.sampled_from(["unknown", "red"]), min_size=len(said), max_size=len(said)))
    none = ("unknown", "Unknown.")
    hits = len([1 for one, other in zip(said, right, strict=True) if one in none and other in none])
    says, needs = len([one for one in said if one in none]), right.count("unknown")
    expected = {}
    if says:
        expected["no_answer_precision"] = hits / says
    if needs:
        expected["no_answer_recall"] = hits / needs
    if says or needs:
        expected["no_answer_f1"] = 2 * hits / (says + needs)
    assert abstaining(said, right, "unknown") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("said", "passages", "share"),
    [
        (["red"], ["The Red, house."], 1.0),
        (["red house", "red stone", "unknown"], ["the house is red"] * 3, 0.5),
        (["unknown", ""], ["a", "b"], None),
        (["redder"], ["red"], 0.0),
    ],
)
def test_answers_are_grounded_whose_words_stand_in_their_passages(
    said: list[str], passages: list[str], share: float | None
) -> None:
    assert groundedness(said, passages, "unknown").get("groundedness") == share


def test_what_passages_names_is_one_source_or_one_for_each_task(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    one = str(tmp_path)
    assert read_sources([]) is None
    assert read_sources([one]) == one
    assert read_sources([f"{one}/a=b"]) == f"{one}/a=b"  # a folder, whatever its name
    assert read_sources([f"x={one}", "y=find.py:find"]) == {"x": one, "y": "find.py:find"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["nowhere"], "no folder of texts"),
        ([".", "x=."], "names no task"),
        (["x=.", "x=."], "twice"),
        (["x=no"], "no folder"),
    ],
)
def test_what_it_cannot_name_is_told(run: Run, given: list[str], told: str) -> None:
    assert told in run("serve", *(word for one in given for word in ("--passages", one)), "--port", "0").refused()


def test_answers_that_passages_lack_are_counted_before_training(tmp_path: Path, base_folder: Path) -> None:
    task = Task.load(make_task(tmp_path, base_folder))
    assert not [remark for remark in task.remarks if "passages lack" in remark]  # that of Zed is empty
    (tmp_path / "texts" / "Rex.txt").write_text("Rex lives in some house.")
    changed = Task.load(tmp_path / "where.yaml")
    lacking = sum("Rex" in row["question"] for row in changed.train)
    answered = sum(bool(row["answer"]) for row in changed.train)
    (told,) = [remark for remark in changed.remarks if "passages lack" in remark]
    assert told.startswith(f"{lacking} of {answered} rows")


@pytest.mark.parametrize("retrieve", ["x", 3, {"k": 2}, {"query": "{question}", "k": "x"}, {"query": "{", "k": 2}])
def test_a_card_from_elsewhere_that_finds_nothing_is_told(tmp_path: Path, retrieve: Any) -> None:
    card = some_prompt(make_base("llama"), "t").card
    with pytest.raises(ConfigError, match="finds no passages"):
        Form.of_card(card.model_copy(update={"recipe": card.recipe | {"retrieve": retrieve}}))


def test_a_combination_looks_passages_up_as_its_parents_do(run: Run, tmp_path: Path, base_folder: Path) -> None:
    file = make_task(tmp_path, base_folder, **CHOOSES)
    for seed in (1, 2):
        run("train", file, "--set", f"seed={seed}", "--json")
    run("combine", "where@1", "where@2", "--json")
    (said,) = run("predict", "where@3", ASKED, "--json").rows
    own = json.dumps({"question": ASKED, "passages": "Rex lives in the red house."})
    assert run("predict", "where@3", own, "--json").rows[0]["scores"] == said["scores"]
    assert "no_answer_recall" in run("evaluate", "where@3", "--data", tmp_path / "rows.jsonl", "--json").rows[0]


def test_a_users_own_prompt_looks_passages_up_too(run: Run, tmp_path: Path, base_folder: Path, home: Path) -> None:
    run("train", make_task(tmp_path, base_folder, **CHOOSES), "--json")
    brought = [{**row, "passages": f"{row['question'].split()[2]} lives in the red house."} for row in ROWS]
    base = FrozenBase.load(str(base_folder))
    with Library.open(home) as library:
        found, own = (
            personalize("where", rows, user=user, steps=2, library=library, base=base)[0]
            for user, rows in (("ann", ROWS), ("bob", brought))
        )
        assert found.digest != own.digest  # those of the folder are what it learns from
        with serving(library, base, engine=ContinuousEngine(architecture_of(base))) as server:
            asked = [ASKED, json.dumps({"question": ASKED, "passages": "Rex lives in the red house."}), "a stone"]
            body = {"model": "where", "input": asked, "user": "ann"}
            answer = server.http.post(f"{server.url}/v1/classify", json=body)
            assert (answer.status_code, answer.json()["model"]) == (200, "where~ann@1"), answer.text
            scores = [one["scores"] for one in answer.json()["data"]]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert scores[0] != pytest.approx(scores[2], rel=1e-2)


def test_versions_with_equal_bytes_have_passages_of_their_own(tmp_path: Path) -> None:
    base = make_base("llama")
    settings = {"query": "{question}", "k": 1, "words": 100, "overlap": 0}
    form = {"input": "{passages}\n{question}:", "labels": ("red", "blue"), "recipe": {"retrieve": settings}}
    data = some_prompt(base, "where", **form).to_bytes()
    origins: list[Origin | None] = [None]
    for name, text in (("one", "Rex lives in the red house."), ("other", "Rex sees a blue stone, and no river.")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "it.txt").write_text(text)
        origins.append(Origin(None, {"retrieve": {"folder": str(tmp_path / name)}}, []))

    def passages(resident: Resident) -> str:
        return str(resident.form.with_passages({"question": "where does Rex live"})["passages"])

    with Library.open(tmp_path / "home") as library:
        for origin in (origins[1], origins[2], origins[0]):
            library.publish_all([data], base="llama", origins=[origin])
        library.for_tenant("b").publish_all([data], base="llama", origins=[None])
        residents = Residents(library, base, max_bytes=1 << 20, max_prompts=9)
        try:
            found = [passages(residents.get(f"where@{number}")) for number in (1, 2)]
            assert [text.split()[-2:] for text in found] == [["red", "house."], ["no", "river."]]
            for ref, tenant in (("where@3", "default"), ("where", "b")):
                with pytest.raises(DataError, match="is not named"):
                    passages(residents.get(ref, tenant))
            assert residents.status().prompts == 1
        finally:
            residents.close()
        service = Service(library, base=base)
        said = [service.predict(["where does Rex live"], f"where@{number}")[0].scores for number in (1, 2, 1)]
        assert said[0] == said[2] != said[1]
        with pytest.raises(DataError, match="is not named"):
            service.predict(["where does Rex live"], "where@3")
