"""Serving: any mix of tasks in one call, each answered as if it were alone, and by its own base only."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import numpy
import pyarrow
import pytest
import torch

import softprompt
from softprompt.bases.base import BaseLike, FrozenBase, base_of
from softprompt.bases.options import BaseOptions
from softprompt.errors import (
    ConfigError,
    ContextError,
    DataError,
    EngineError,
    FingerprintMismatch,
    NotFound,
    StoreError,
)
from softprompt.library.library import Library
from softprompt.model.rounding import ROUNDING
from softprompt.registry.registry import Registry
from softprompt.serving import offline as service_module
from softprompt.serving.answers import choose_label
from softprompt.serving.inputs import text_of_input
from softprompt.serving.offline import Prediction, Service
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.form import Form
from tests.models import make_base, save_base, some_prompt

LABELS = ("yes", "no", "the river")
TEXTS = ["red", "red blue green", "an apple " * 5, "stone", "what is a river", "true"]
TASKS = ["kind", "tell", "other", "kind@1", "tell", "pair"]


@pytest.fixture(scope="module")
def base(base_folder: Path) -> FrozenBase:
    return FrozenBase.load(str(base_folder))


@pytest.fixture
def library(tmp_path: Path, base: FrozenBase) -> Library:
    made = Library.open(tmp_path / "home")
    prompts = [
        some_prompt(base, "kind", seed=1, rows=3, labels=LABELS),
        some_prompt(base, "kind", seed=2, rows=7, labels=LABELS),
        some_prompt(base, "tell", seed=3, rows=5, metric="exact_match", max_new_tokens=5),
        some_prompt(base, "other", seed=4, rows=11, labels=("good", "bad"), input="So: {text}\n"),
        some_prompt(base, "pair", seed=5, rows=2, labels=LABELS, input="{one} and {two}"),
    ]
    for prompt in prompts:
        made.publish(prompt.to_bytes(), base=base.address)
    return made


def texts_for(tasks: Sequence[str]) -> list[str]:
    return [
        json.dumps({"one": text, "two": "a"}) if task == "pair" else text for text, task in zip(TEXTS, tasks, strict=True)
    ]


def same(one: Prediction, other: Prediction) -> None:
    assert (one.task, one.version, one.text, one.output) == (other.task, other.version, other.text, other.output)
    assert one.truncated == other.truncated
    assert (one.scores is None) == (other.scores is None)
    if one.scores is not None:
        assert one.scores == pytest.approx(other.scores, abs=1e-4)


def test_mixed_tasks_in_one_call_equal_each_alone(library: Library) -> None:
    together = Service(library).predict(texts_for(TASKS), TASKS)
    assert [one.task for one in together] == ["kind", "tell", "other", "kind", "tell", "pair"]
    assert [one.version for one in together] == [2, 1, 1, 1, 1, 1]
    for text, task, answer in zip(texts_for(TASKS), TASKS, together, strict=True):
        (alone,) = Service(library).predict([text], task)
        same(alone, answer)
    assert together[0].scores != together[3].scores


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_batch_invariant_base_answers_to_the_last_bit(library: Library, dtype: str) -> None:
    service = Service(library, base=BaseOptions(dtype=dtype, batch_invariant=True))
    texts = texts_for(TASKS)
    for text, task, together in zip(texts, TASKS, service.predict(texts, TASKS), strict=True):
        assert service.predict([text], task) == [together]
    assert service.remarks == []


def test_near_ties_are_remarked_on(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROUNDING, torch.float32, 10.0)  # now any choice is one
    service = Service(library)
    service.predict(["red", "blue"], "kind")
    (remark,) = service.remarks
    assert remark.startswith("2 choices were near ties in float32: ")
    service.predict(["red"], "kind")
    assert service.remarks[1].startswith("1 choice was a near tie in float32: ")


def test_answers_follow_their_rows_whatever_the_order(library: Library) -> None:
    order = [4, 2, 0, 5, 3, 1]
    texts = texts_for(TASKS)
    service = Service(library)
    straight = service.predict(texts, TASKS)
    for place, answer in zip(order, service.predict([texts[i] for i in order], [TASKS[i] for i in order]), strict=True):
        same(straight[place], answer)


def test_scores_are_the_softmax_over_labels_of_summed_log_probabilities(library: Library, base: FrozenBase) -> None:
    import torch

    (answer,) = Service(library).predict(["red apple"], "other")
    vectors = some_prompt(base, "other", seed=4, rows=11).vectors_PD
    totals = []
    for label in ("good", "bad"):
        front, ids = base.encode(["So: red apple\n", f" {label}"])  # tokenised apart
        embeds = torch.cat([vectors, base.embed(torch.tensor([*front, *ids]))])[None]
        with torch.no_grad():
            logits = base.model(inputs_embeds=embeds).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
        totals.append(sum(float(row[token]) for row, token in zip(logits, ids, strict=True)))
    expected = torch.tensor(totals).softmax(0).tolist()
    assert answer.scores == pytest.approx(dict(zip(("good", "bad"), expected, strict=True)), abs=1e-4)
    assert answer.scores is not None
    assert sum(answer.scores.values()) == pytest.approx(1)
    assert answer.output == max(answer.scores, key=lambda label: (answer.scores or {})[label])


def test_generated_text_is_that_of_running_everything_again(library: Library, base: FrozenBase) -> None:
    (answer,) = Service(library).predict(["red"], "tell")
    vectors = some_prompt(base, "tell", seed=3, rows=5).vectors_PD
    import torch

    ids = base.encode(["red"])[0]
    generated: list[int] = []
    while len(generated) < 5:
        embeds = torch.cat([vectors, base.embed(torch.tensor([*ids, *generated]))])[None]
        with torch.no_grad():
            best = int(base.model(inputs_embeds=embeds).logits[0, -1].argmax())
        if best in base.end_ids:
            break
        generated.append(best)
    assert answer.output == base.decode(generated).strip()
    assert answer.scores is None


def test_two_prompts_in_one_batch_differ_row_by_row(base: FrozenBase, library: Library) -> None:
    """Where a mixed batch takes one adapter for all rows, as PEFT does with prompt tuning, equal texts get equal answers."""
    answers = Service(library).predict(["red"] * 4, ["kind@1", "kind@2", "kind@1", "kind@2"])
    scores = [answer.scores or {} for answer in answers]
    assert scores[0] == pytest.approx(scores[2], abs=1e-5)
    assert scores[1] == pytest.approx(scores[3], abs=1e-5)
    assert max(abs(scores[0][label] - scores[1][label]) for label in LABELS) > 1e-3


def test_long_inputs_are_cut_and_flagged_alone(library: Library) -> None:
    answers = Service(library).predict(["red", "red " * 300, "blue", "red " * 300], ["kind", "kind", "tell", "tell"])
    assert [answer.truncated for answer in answers] == [False, True, False, True]
    assert answers[1].text == "red " * 300


def test_several_columns_come_as_json(library: Library) -> None:
    service = Service(library)
    (answer,) = service.predict([json.dumps({"one": "red", "two": "blue", "more": 3})], "pair")
    (swapped,) = service.predict([json.dumps({"one": "blue", "two": "red"})], "pair")
    assert answer.scores != swapped.scores
    with pytest.raises(DataError, match=r"2 columns; give a JSON object such as \{.one.: "):
        service.predict(["red and blue"], "pair")
    with pytest.raises(DataError, match="no field 'two'"):
        service.predict(['{"one": "red"}'], "pair")


@pytest.mark.parametrize(
    "value",
    [7, 1e22, True, "a\u2028b", date(2024, 1, 31), datetime(2024, 1, 31, 9), Decimal("1.50"), b"text", numpy.int64(3),
     numpy.float32(0.1), numpy.bool_(True)],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("template", ["{one}", "{one} and {two}"])
def test_a_row_says_what_its_values_say_in_training(template: str, value: object) -> None:
    form = Form.of_config(parse_config({"task": "t", "input": template, "labels": ["yes", "no"]}))
    row = {"one": value, "two": "blue"}
    assert form.input.fill(form.row_of(text_of_input(form, row))) == form.input.fill(row)


def test_columns_and_tables_are_answered_in_their_order(library: Library) -> None:
    pandas = pytest.importorskip("pandas")
    service = Service(library)
    texts = ["red", "a long blue river", "green", "the sea"]
    expected = service.predict(texts, "kind")
    table = pandas.DataFrame({"text": texts}, index=[2, 0, 3, 1])  # as a shuffled table has it
    for given in (table, table["text"], pyarrow.table({"text": texts}), pyarrow.array(texts), iter(texts)):
        assert service.predict(given, "kind") == expected


def test_what_cannot_be_answered_is_told(library: Library) -> None:
    service = Service(library)
    for empty in ("", "  \n"):
        with pytest.raises(DataError, match="an input for task 'kind' is empty"):
            service.predict(["red", empty], "kind")
    for text in (None, 3, b"red"):
        with pytest.raises(DataError, match=f"is {type(text).__name__}, not text"):
            service.predict(["red", text], "kind")  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="texts is one string"):
        service.predict("red", "kind")
    for thing in (5, None, object):
        with pytest.raises(ConfigError, match="give a list of texts or of rows"):
            service.predict(thing, "kind")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="3 tasks for 2 texts; give one for each, or one for all"):
        service.predict(["red", "blue"], ["kind", "tell", "kind"])
    for ref, expected in (("none", "no task 'none'"), ("kind@9", "no version 9"), ("kind@canary", "canary")):
        with pytest.raises(NotFound, match=expected):
            service.predict(["red"], ref)
    assert service.predict([], "kind") == []


def test_another_base_is_refused_by_name_and_fingerprint(library: Library, base: FrozenBase, other_folder: Path) -> None:
    other = FrozenBase.load(str(other_folder))
    library.publish(library.read("kind@1"), base=str(other_folder))
    for service, ref in ((Service(library), "kind@3"), (Service(library, base=other), "kind@1")):
        with pytest.raises(FingerprintMismatch) as caught:
            service.predict(["red"], ref)
        for part in ("tiny-llama", base.fingerprint, "other-llama", other.fingerprint):
            assert part in str(caught.value)


def test_another_base_is_refused_also_when_the_same_bytes_were_served_before(library: Library, other_folder: Path) -> None:
    library.publish(library.read("kind@1"), base=str(other_folder))
    service = Service(library)
    service.predict(["red"], "kind@1")
    with pytest.raises(FingerprintMismatch):
        service.predict(["red"], "kind@3")
    with pytest.raises(FingerprintMismatch):
        service.predict(["red", "red"], ["kind@1", "kind@3"])


def test_a_base_that_changed_in_its_folder_is_refused(tmp_path: Path, library: Library) -> None:
    folder = save_base(tmp_path / "moving")
    prompt = some_prompt(FrozenBase.load(str(folder)), "mine", labels=LABELS)
    library.publish(prompt.to_bytes(), base=str(folder))
    assert Service(library).predict(["red"], "mine")[0].output in LABELS
    shutil.rmtree(folder)
    save_base(folder, seed=9)
    with pytest.raises(FingerprintMismatch):
        Service(library).predict(["red"], "mine")


def test_rows_of_different_bases_are_answered_in_one_call(tmp_path: Path, library: Library, other_folder: Path) -> None:
    other = FrozenBase.load(str(other_folder))
    library.publish(some_prompt(other, "far", seed=1, labels=LABELS).to_bytes(), base=other.address)
    service = Service(library)
    mixed = service.predict(["red", "red", "blue"], ["far", "kind", "far"])
    for text, task, answer in zip(["red", "red", "blue"], ["far", "kind", "far"], mixed, strict=True):
        same(service.predict([text], task)[0], answer)


def test_prompts_and_bases_are_read_once(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str | None] = []
    reads: list[str] = []
    honest_read = Library.read

    def load(base: BaseLike, named: BaseOptions) -> FrozenBase:
        loads.append(named.source)
        return base_of(base, named)

    monkeypatch.setattr(service_module, "base_of", load)
    monkeypatch.setattr(Library, "read", lambda self, version: reads.append(version.digest) or honest_read(self, version))
    service = Service(library)
    for _ in range(3):
        service.predict(["red", "blue"], ["kind", "tell"])
    assert len(loads) == 1
    assert len(reads) == 2


def test_a_promotion_is_seen_by_a_running_service(library: Library) -> None:
    service = Service(library)
    assert service.predict(["red"], "kind")[0].version == 2
    library.promote("kind@1", "production")
    assert service.predict(["red"], "kind")[0].version == 1
    assert service.predict(["red"], "kind@production")[0].version == 1


def test_an_altered_blob_is_refused(library: Library) -> None:
    digest = library.registry.resolve("kind@1").digest
    (blob,) = (file for file in (library.home / "blobs").rglob(digest))
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    with pytest.raises(StoreError, match=r"kind@1: .*altered"):
        Service(library).predict(["red"], "kind@1")


def test_a_template_that_leaves_no_room_is_told(library: Library, base: FrozenBase) -> None:
    prompt = some_prompt(base, "long", rows=80, labels=LABELS, input="red " * 30 + "{text}")
    library.publish(prompt.to_bytes(), base=base.address)
    with pytest.raises(ContextError, match="the template of task 'long' alone takes"):
        Service(library).predict(["red"], "long")


def test_each_reference_is_looked_up_once_however_many_rows_name_it(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    honest = Registry.resolve
    monkeypatch.setattr(Registry, "resolve", lambda self, ref: asked.append(ref) or honest(self, ref))
    Service(library).predict(["red"] * 20, ["kind", "kind@1"] * 10)
    assert asked == ["kind", "kind@1"]


def test_labels_are_not_chosen_by_what_is_no_number(library: Library) -> None:
    form = Form.of_card(library.registry.resolve("kind").card)
    for scores in ([math.nan] * 3, [-1.0, math.nan, -2.0], [-math.inf] * 3):
        with pytest.raises(EngineError, match="task 'kind' got no numbers"):
            choose_label(form, scores, truncated=False)
    choice = choose_label(form, [-math.inf, -1.0, -1.0], truncated=False)  # a label that can never be said is no damage
    assert (choice.label, choice.scores) == ("no", {"yes": 0.0, "no": 0.5, "the river": 0.5})


def test_predict_of_the_package_uses_the_library_in_the_home(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    (expected,) = Service(library).predict(["red"], "kind")
    same(softprompt.predict(["red"], "kind", library=library)[0], expected)
    monkeypatch.setenv("SOFTPROMPT_HOME", str(library.home))
    same(softprompt.predict(["red"], "kind", base=BaseOptions(dtype="float32"))[0], expected)


def test_a_small_token_budget_changes_nothing(library: Library) -> None:
    expected = Service(library).predict(texts_for(TASKS), TASKS)
    for one, other in zip(expected, Service(library, token_budget=1).predict(texts_for(TASKS), TASKS), strict=True):
        same(one, other)


def test_in_memory_bases_serve_what_was_tuned_on_them(tmp_path: Path) -> None:
    base = make_base("gpt2")
    library = Library.open(tmp_path / "home")
    library.publish(some_prompt(base, "mine", labels=LABELS).to_bytes(), base=base.address)
    assert Service(library, base=base).predict(["red"], "mine")[0].output in LABELS
