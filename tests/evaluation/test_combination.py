"""Versions combined into a new one: what it says is what its vectors, or its members alone, say; and what is refused."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.offline import OfflineEngine
from softprompt.engines.protocol import Sampling
from softprompt.engines.scheduler import Limits
from softprompt.errors import ConfigError, FingerprintMismatch, NotFound
from softprompt.evaluation.combination import Combined, combine
from softprompt.evaluation.ensembles import score_members
from softprompt.evaluation.evaluate import evaluate
from softprompt.exchange.exporting import Format, export_prompt
from softprompt.exchange.importing import import_prompt
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.progress import Mute
from softprompt.prompts.card import DECISION
from softprompt.prompts.prompt import SoftPrompt
from softprompt.rows.sources import Row
from softprompt.serving.answers import Message
from softprompt.serving.offline import Service
from softprompt.serving.service import AsyncService
from softprompt.tasks.answers.decision import Question
from softprompt.tasks.answers.kinds import NUMBER, SET, mean_scores, softmax
from softprompt.tasks.form import _OF_KIND, HOW_ASKED, Form
from softprompt.tasks.task import Task
from softprompt.training.prepare import Preparer
from tests.commands import Run
from tests.models import make_base, some_prompt

LABELS = ("yes", "no", "the river")
TEXTS = ["red apple", "blue", "the green stone is a thing", "7"]
ROWS: list[Row] = [{"text": f"{text} {n}", "label": LABELS[n % 3]} for n, text in enumerate(TEXTS * 3)]


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


@pytest.fixture
def library(tmp_path: Path, base: FrozenBase) -> Iterator[Library]:
    with Library.open(tmp_path / "home") as made:
        fill(made, base)
        yield made


def fill(library: Library, base: FrozenBase) -> None:
    """`kind@1` and `kind@2` of five vectors, `kind@3` of two; `other@1` of another template, `tell@1` that generates."""
    scores = {"value": 0.9, "stderr": 0.01, "rows": 50, "majority": 0.2}
    for prompt in (
        some_prompt(base, "kind", seed=1, labels=LABELS, metrics=scores, recipe={"seed": 1, "dtype": "float32"}),
        some_prompt(base, "kind", seed=2, labels=LABELS, metrics=scores, recipe={"seed": 2}),
        some_prompt(base, "kind", seed=3, rows=2, labels=LABELS),
        some_prompt(base, "other", seed=4, labels=LABELS, input="So: {text}\n"),
        some_prompt(base, "tell", seed=5, metric="exact_match", max_new_tokens=4),
    ):  # fmt: skip
        library.publish(prompt.to_bytes(), base=base.address)


def read(library: Library, ref: str) -> SoftPrompt:
    return SoftPrompt.from_bytes(library.read(ref))


def scores_of(library: Library, base: FrozenBase, ref: str) -> list[dict[str, float]]:
    return [one.scores or {} for one in Service(library, base=base).predict(TEXTS, ref)]


def test_a_mean_is_a_version_of_its_own_without_the_scores_of_its_parents(library: Library, base: FrozenBase) -> None:
    made = combine(["kind@1", "kind@2"], library=library)
    parents = [read(library, ref) for ref in ("kind@1", "kind@2")]
    prompt = read(library, "kind@4")
    assert made == Combined(
        "kind", 4, prompt.digest, "average", ("kind@1", "kind@2"), 5, len(prompt.to_bytes()), "accuracy", None, None, None
    )
    assert torch.equal(prompt.vectors_PD, (parents[0].vectors_PD.double() + parents[1].vectors_PD.double()).float() / 2)
    assert prompt.card.parents == tuple(parent.digest for parent in parents)
    assert prompt.card.metrics == {}
    assert prompt.card.recipe == {"combined": "average", "dtype": "float32"}  # nothing of one parent's training
    assert prompt.card.learnt is None
    weighted = combine(["kind@1", "kind@2"], "interpolate", weights=[3, 1], library=library, tags=["tried"])
    card = read(library, f"kind@{weighted.version}").card
    assert card.recipe == {"combined": "interpolate", "weights": [0.75, 0.25], "dtype": "float32"}
    assert library.registry.resolve(f"kind@{weighted.version}").tags == ("tried",)
    again = combine(["kind@1", "kind@2"], "interpolate", weights=[0.3, 0.1], library=library)
    assert again.digest == weighted.digest


def test_a_concatenation_stands_before_the_input_as_its_parents_one_behind_the_other(
    library: Library, base: FrozenBase
) -> None:
    made = combine(["kind@3", "kind@1"], "concatenate", library=library)
    assert made.num_virtual_tokens == 7
    expected = torch.cat([read(library, "kind@3").vectors_PD, read(library, "kind@1").vectors_PD])
    assert torch.equal(read(library, "kind@4").vectors_PD, expected)


@pytest.mark.parametrize("operation", ["average", "interpolate", "ensemble"])
def test_a_prompt_is_not_combined_with_itself_however_it_is_named(library: Library, operation: Any) -> None:
    def weights(count: int) -> list[float] | None:
        return [1.0] * count if operation == "interpolate" else None

    library.promote("kind@1", "mine")
    for refs, said in (
        (["kind@1", "kind@1"], "kind@1 is named twice"),
        (["kind@1", "kind@2", "kind@mine"], "kind@1 is named twice"),
    ):
        with pytest.raises(ConfigError, match=f"{said}, and {operation} of a prompt with itself is that prompt; name each"):
            combine(refs, operation, weights=weights(len(refs)), library=library)
    library.publish(library.read("kind@1"), base="x/y")
    with pytest.raises(ConfigError, match="kind@1 and kind@4 are the same prompt"):
        combine(["kind@1", "kind@4"], operation, weights=weights(2), library=library)
    assert len(library.registry.versions("kind")) == 4


def test_a_prompt_stands_behind_itself_where_that_is_said(library: Library) -> None:
    vectors_PD = read(library, "kind@3").vectors_PD
    made = combine(["kind@3", "kind@3"], "concatenate", library=library)
    assert torch.equal(read(library, f"kind@{made.version}").vectors_PD, torch.cat([vectors_PD, vectors_PD]))


def mean_alone(library: Library, base: FrozenBase, refs: list[str]) -> list[dict[str, float]]:
    """The slow twin of an ensemble: each member asked alone, and the mean of what they say."""
    each = [scores_of(library, base, ref) for ref in refs]
    return [{label: sum(own[row][label] for own in each) / len(refs) for label in LABELS} for row in range(len(TEXTS))]


def test_an_ensemble_answers_with_the_mean_of_its_members_asked_alone(library: Library, base: FrozenBase) -> None:
    refs = ["kind@1", "kind@3", "kind@2"]
    made = combine(refs, "ensemble", library=library)
    prompt = read(library, "kind@4")
    assert (made.num_virtual_tokens, prompt.card.members, prompt.card.format) == (12, (5, 2, 5), 2)
    assert [path.name for path in (library.home / "blobs").rglob(prompt.digest)] == [prompt.digest]  # one blob
    expected = mean_alone(library, base, refs)
    for found, mean in zip(scores_of(library, base, "kind@4"), expected, strict=True):
        assert found == pytest.approx(mean, abs=1e-5)
    mixed = [(text, ref) for text in TEXTS for ref in ("kind@4", "kind@3", "other", "tell")]
    together = Service(library, base=base).predict([text for text, _ in mixed], [ref for _, ref in mixed])
    assert [one.scores for one in together[::4]] == [pytest.approx(mean, abs=1e-5) for mean in expected]
    assert [one.scores for one in together[1::4]] == [pytest.approx(s, abs=1e-5) for s in scores_of(library, base, "kind@3")]
    assert [one.output for one in together[::4]] == [max(mean, key=mean.__getitem__) for mean in expected]
    assert [one.output for one in together[3::4]] == [
        one.output for one in Service(library, base=base).predict(TEXTS, "tell")
    ]
    assert library.verify().problems == []


@pytest.mark.parametrize("max_waiting", [1024, 4])
def test_a_server_answers_as_an_ensemble_does_at_hand(library: Library, base: FrozenBase, max_waiting: int) -> None:
    refs = ["kind@1", "kind@3", "kind@2"]
    combine(refs, "ensemble", library=library)
    expected = mean_alone(library, base, refs)
    engine = ContinuousEngine(architecture_of(base), Limits(max_waiting=max_waiting))
    service = AsyncService(library, base, engine)
    try:
        found = asyncio.run(service.classify("default", "kind", TEXTS))  # more jobs than may wait at once
        assert [row.scores for row in found.rows] == [pytest.approx(mean, abs=1e-5) for mean in expected]
        assert found.head.virtual_tokens == 12
        chat = asyncio.run(service.chat("default", "kind", [Message("user", TEXTS[0])], Sampling(max_tokens=4)))
        assert chat.text == max(LABELS, key=lambda label: expected[0][label])
        with pytest.raises(ConfigError, match="kind@4 is an ensemble of 3 prompts, which chooses a label and cont"):
            asyncio.run(service.complete("default", "kind", "red", Sampling(max_tokens=4)))
    finally:
        service.close()
        engine.stop(drain=False, timeout=20)


def test_an_ensemble_has_the_room_of_its_longest_member(library: Library, base: FrozenBase) -> None:
    combine(["kind@1", "kind@2", "kind@3"], "ensemble", library=library)
    long = "red " * 200
    fitted = Service(library, base=base).predict([long], "kind@1")
    (found,) = Service(library, base=base).predict([long], "kind@4")
    assert found.truncated
    short = [Service(library, base=base).predict([long], ref)[0].scores for ref in ("kind@1", "kind@2")]
    assert fitted[0].scores == short[0]
    assert sum((found.scores or {}).values()) == pytest.approx(1)


def test_a_combination_is_judged_with_its_parents_on_the_rows_given(
    library: Library, base: FrozenBase, tmp_path: Path
) -> None:
    alone = [evaluate([ref], library=library, data=ROWS, base=base)[0] for ref in ("kind@1", "kind@2")]
    made = combine(["kind@1", "kind@2"], "ensemble", library=library, data=ROWS, base=base)
    (judged,) = evaluate(["kind@4"], library=library, data=ROWS, base=base)
    assert (made.value, made.rows, made.stderr) == (judged.value, 12, judged.stderr)
    assert made.parent_values == tuple(one.value for one in alone)
    engine = OfflineEngine(architecture_of(base))
    task = Task(task="kind", labels=LABELS)
    examples = task.encode(base, ROWS, 5, split="test")
    losses, right = [], 0
    members = [read(library, ref).vectors_PD for ref in ("kind@1", "kind@2")]
    for ids, choice in zip(examples.inputs, examples.choices, strict=True):
        given_ = engine.score(members, [0, 1], [ids, ids], [task.form.encode_labels(base)] * 2)
        while True:
            try:
                next(given_)
            except StopIteration as end:
                each = [softmax(scores) for scores in end.value]
                break
        mean = [sum(column) / 2 for column in zip(*each, strict=True)]
        losses.append(-math.log(mean[choice]))
        right += mean.index(max(mean)) == choice
    assert judged.loss == pytest.approx(sum(losses) / 12, abs=1e-5)
    assert judged.value == right / 12
    card = read(library, "kind@4").card
    assert card.metrics == {"value": made.value, "stderr": made.stderr, "rows": 12}
    # A task file's test rows are the same as those rows.
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "kind.yaml").write_text("labels: ['yes', 'no', the river]\ndata: {train: rows.jsonl, test: rows.jsonl}\n")
    by_file = combine(["kind@1", "kind@2"], "ensemble", library=library, data=tmp_path / "kind.yaml", base=base)
    assert (by_file.value, by_file.digest) == (made.value, made.digest)


def test_parents_are_judged_by_the_thresholds_and_ranges_of_their_own(library: Library, base: FrozenBase) -> None:
    several = {"labels": LABELS, "metric": "micro_f1", "input": "{text} ="}
    number = {"metric": "mae", "target": " {label}", "max_new_tokens": 3, "input": "{text} ="}
    for seed, threshold, limits in ((1, 0.05, [0.0, 11.0]), (2, 0.95, [-500.0, 500.0])):
        found = {"problem_type": SET, "threshold": threshold, "seed": seed}
        library.publish(some_prompt(base, "several", seed=seed, **several, recipe=found).to_bytes(), base="x")
        found = {"problem_type": NUMBER, "answer_range": limits, "seed": seed}
        library.publish(some_prompt(base, "number", seed=seed, **number, recipe=found).to_bytes(), base="x")
    sets = [row | {"label": [LABELS[n % 3], LABELS[0]][: 1 + n % 2]} for n, row in enumerate(ROWS)]
    for task, rows in (("several", sets), ("number", [row | {"label": n} for n, row in enumerate(ROWS)])):
        refs = [f"{task}@1", f"{task}@2"]
        alone = [evaluate([ref], library=library, data=rows, base=base, progress=Mute())[0].value for ref in refs]
        made = combine(refs, library=library, data=rows, base=base, progress=Mute())
        assert made.parent_values == tuple(alone)
        assert alone[0] != alone[1]
        assert made.value == evaluate([f"{task}@3"], library=library, data=rows, base=base, progress=Mute())[0].value
        twice = combine(refs[:1] * 2, "concatenate", library=library, data=rows, base=base, progress=Mute())
        assert twice.parent_values == (alone[0],) * 2


@given(st.lists(st.lists(st.floats(-1e3, 0), min_size=3, max_size=3), min_size=1, max_size=5))
def test_mean_scores_are_the_logarithm_of_the_mean_distribution(scores: list[list[float]]) -> None:
    each = torch.tensor(scores, dtype=torch.float64).softmax(1).mean(0)
    assert softmax(mean_scores(scores)) == pytest.approx(each.tolist(), abs=1e-12)


def test_a_member_without_numbers_leaves_the_ensemble_without() -> None:
    for bad in ([math.nan, 0.0], [-math.inf, -math.inf]):
        assert all(map(math.isnan, mean_scores([[0.0, -1.0], bad])))
    assert mean_scores([[0.0, -math.inf], [-1.0, -math.inf]])[1] == -math.inf


def test_rows_are_counted_once_however_many_members_they_are_asked(base: FrozenBase) -> None:
    prompts = [[some_prompt(base, "a", seed=n).vectors_PD for n in range(3)], [some_prompt(base, "b", seed=9).vectors_PD]]
    engine = OfflineEngine(architecture_of(base), token_budget=24)
    form = Task(task="a", labels=LABELS).form
    scoring = score_members(engine, prompts, [0, 1, 0, 1, 0], [[2, 3]] * 5, [form.encode_labels(base)] * 5, [form] * 5)
    seen = list(scoring)
    assert sum(seen) == 5
    assert len(seen) > 1


def test_a_new_form_and_task_are_those_that_are_named(library: Library, base: FrozenBase) -> None:
    with pytest.raises(ConfigError, match="the prompts are of the tasks kind, other; name the task of what they make"):
        combine(["kind@1", "other"], library=library)
    with pytest.raises(ConfigError, match=r"kind@1 and other@1 are asked otherwise: input '\{text\}' and 'So: .* say with"):
        combine(["kind@1", "other"], task="both", library=library)
    made = combine(["kind@1", "other"], task="both", like="other", library=library, data=ROWS, base=base)
    card = read(library, "both").card
    assert (made.task, made.version, card.input, card.task) == ("both", 1, "So: {text}\n", "both")
    (judged,) = evaluate(["both"], library=library, data=ROWS, base=base)
    assert judged.value == made.value


def test_what_is_combined_is_asked_as_its_parents_are(library: Library, base: FrozenBase) -> None:
    """In all that a card's recipe says of that: what is forgotten there is asked otherwise, without a word."""
    own: dict[str, Any] = {"fold_labels": True, "id2label": {"1": "yes", "0": "no"}, "no_answer": "no"}
    decision = {"type": "choice", "instructions": "Which?", "choices": [{"value": one} for one in LABELS]}
    asked: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "talk": ({"labels": LABELS, "input": "{messages}"}, {"messages": "in the chat template", **own}),
        "decide": ({"labels": LABELS}, {"decision": decision}),
        "write": ({"metric": "exact_match", "target": " {answer}"}, {"output_schema": '{"type": "object"}'}),
        "several": ({"labels": LABELS, "metric": "micro_f1"}, {"problem_type": SET, "label_separator": "|"}),
    }
    assert {*_OF_KIND, "fold_labels", "id2label"} == {*HOW_ASKED, "threshold", "answer_range"} - {DECISION}
    for task, (fields, recipe) in asked.items():
        for seed in (1, 2):
            prompt = some_prompt(base, task, seed=seed, **fields, recipe=recipe | {"seed": seed})
            library.publish(prompt.to_bytes(), base=base.address)
        combine([f"{task}@1", f"{task}@2"], library=library)
        before, now = (library.registry.resolve(f"{task}@{number}").card for number in (1, 3))
        assert vars(Form.of_card(now)) == vars(Form.of_card(before)), task
        assert Question.of_card(now) == Question.of_card(before)
        assert "seed" not in now.recipe
    other = some_prompt(base, "write", seed=3, **asked["write"][0], recipe={"output_schema": '{"type": "array"}'})
    library.publish(other.to_bytes(), base=base.address)
    with pytest.raises(ConfigError, match=r"write@1 and write@4 are asked otherwise: output_schema .*object.* and .*array"):
        combine(["write@1", "write@4"], library=library)


def test_what_cannot_be_combined_is_refused_and_nothing_is_published(
    library: Library, base: FrozenBase, base_folder: Path
) -> None:
    other = some_prompt(FrozenBase.load(str(base_folder)), "kind", seed=8, labels=LABELS)
    library.publish(other.to_bytes(), base=str(base_folder))
    combine(["kind@1", "kind@2"], "ensemble", library=library)
    before = len(library.registry.versions("kind"))
    with pytest.raises(FingerprintMismatch, match=r"kind@1 was made for base random/llama .*, and kind@4 for .*tiny-llama"):
        combine(["kind@1", "kind@4"], library=library)
    with pytest.raises(ConfigError, match=r"kind@1 is 5 virtual tokens long and kind@3 2; average takes one length"):
        combine(["kind@1", "kind@3"], library=library)
    with pytest.raises(ConfigError, match="task 'kind' is an ensemble of 2, which cannot be combined again; name one of"):
        combine(["kind@1", "kind@5"], "concatenate", library=library)
    with pytest.raises(ConfigError, match="tell@1 generates text, and an ensemble answers with the mean over labels"):
        combine(["tell", "tell@1"], "ensemble", library=library)
    with pytest.raises(ConfigError, match="1 prompt cannot be combined"):
        combine(["kind@1"], library=library)
    with pytest.raises(ConfigError, match="prompts is one string, 'kind@1'; give a list"):
        combine("kind@1", library=library)
    with pytest.raises(NotFound, match="no version 9"):
        combine(["kind@1", "kind@9"], library=library)
    assert len(library.registry.versions("kind")) == before


def test_an_ensemble_is_refused_where_one_matrix_is_meant(library: Library, base: FrozenBase, tmp_path: Path) -> None:
    combine(["kind@1", "kind@2"], "ensemble", library=library)
    with pytest.raises(ConfigError, match="an ensemble of 2, which PEFT has no file for"):
        export_prompt(library, "kind@4", tmp_path / "out")
    assert list(tmp_path.glob("out/*")) == []
    start = {"prompt_tuning_init": "PROMPT", "prompt_tuning_init_prompt": "kind@4", "num_virtual_tokens": 5}
    task = Task(task="next", labels=LABELS, data=ROWS, **start)
    with pytest.raises(ConfigError, match="an ensemble of 2, which no prompt can start from"):
        Preparer(base).prepare(task, library)


def test_an_ensemble_goes_out_and_in_as_our_one_file(library: Library, base: FrozenBase, tmp_path: Path) -> None:
    combine(["kind@1", "kind@3"], "ensemble", library=library)
    file = export_prompt(library, "kind@4", tmp_path / "out", Format.SOFTPROMPT).path
    import_prompt(library, file, task="again")
    assert scores_of(library, base, "again") == scores_of(library, base, "kind@4")
    with pytest.raises(
        ConfigError, match="task 'kind' is an ensemble, which chooses a label; it cannot be one that generates"
    ):
        import_prompt(library, file, task="other", like="tell")


def test_the_command_says_what_came_of_it(run: Run, home: Path, base_folder: Path, tmp_path: Path) -> None:
    with Library.open(home) as library:
        loaded = FrozenBase.load(str(base_folder))
        fill(library, loaded)
    (row,) = run("combine", "kind@1", "kind@2", "--json").rows
    assert (row["task"], row["version"], row["operation"], row["value"]) == ("kind", 4, "average", None)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    done = run("combine", "kind@1", "kind@3", "--by", "ensemble", "--data", tmp_path / "rows.jsonl", "--json")
    assert done.rows[0]["parents"] == ["kind@1", "kind@3"]
    assert done.rows[0]["rows"] == 12
    (shown,) = run("show", "kind@5", "--json").rows
    assert shown["versions"][0]["recipe"]["combined"] == "ensemble"
    (one,) = run("predict", "kind@5", "red", "--json").rows
    assert set(one["scores"]) == set(LABELS)
    told: Any = run("combine", "kind@1", "kind@2", "--by", "interpolate", "--weight", "1", "--weight", "2")
    assert "kind@6: not judged" in " ".join(told.out.split())
    assert "'blend' is no way to combine" in run("combine", "kind@1", "kind@2", "--by", "blend", "--json").refused()
