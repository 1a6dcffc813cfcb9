"""Where a prompt stands in its input: before everything, behind text that all inputs share, or behind columns of the rows.
Whatever is run is what a plain concatenation of embeddings gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError
from softprompt.evaluation.trials import Trial, answer, result_of
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.model.splice import no_prompt, with_front
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.form import Form
from softprompt.tasks.task import Task
from softprompt.training.steps.bank import Bank
from softprompt.training.steps.loop import Stepper
from softprompt.training.steps.run import Run
from tests.commands import Run as Command
from tests.http_server import serving
from tests.models import CONFIGS, make_base, make_masked
from tests.sessions import runs_of

PLACES = {
    "before everything": "{text} is{other}\n",
    "behind fixed text": "the thing:{soft_prompt}{text} is{other}\n",
    "behind a column": "{text} is{soft_prompt}{other}\n",
}
ROWS = [
    {"text": text, "other": other, "label": label}
    for number in range(12)
    for text, other, label in (("red apple", f" good {number}", "yes"), (f"blue {number}", " bad", "no"))
]


def placed(input: str, **fields: Any) -> Task:
    known = {"task": "placed", "labels": ["yes", "no"], "num_virtual_tokens": 5, "per_device_train_batch_size": 6}
    return Task(data=ROWS, input=input, **{**known, **fields})


def concatenated(base: FrozenBase, run: Run, row: int, vectors_PD: Tensor, tail: Sequence[int]) -> Tensor:
    """Log-probabilities of what follows each token of a row and its tail but the last, from one plain sequence."""
    front, ids = run.train.front(row), [*run.train.inputs[row], *tail]
    parts = [base.embed(torch.tensor(front, dtype=torch.long)), vectors_PD, base.embed(torch.tensor(ids))]
    logits_TV = base.model(inputs_embeds=torch.cat(parts)[None]).logits[0]
    return logits_TV[len(front) + len(vectors_PD) :].log_softmax(-1)


@pytest.mark.parametrize("architecture", [*CONFIGS])
def test_embeddings_of_real_tokens_in_the_place_of_a_prompt_are_those_tokens(architecture: str) -> None:
    base = make_base(architecture)
    engine = OfflineEngine(architecture_of(base))
    front, middle, rest = (
        [int(token) for token in base.tokenizer(text)["input_ids"]] for text in ("the", " red of", " is a")
    )
    vectors_PD = base.embed(torch.tensor(middle)).detach()
    labels = ((5, 6), (7,), (8, 9, 10))
    (there,) = result_of(engine.score([with_front(base, front, vectors_PD)], [0], [rest], [labels]))
    (plain,) = result_of(engine.score([no_prompt(base)], [0], [[*front, *middle, *rest]], [labels]))
    assert there == pytest.approx(plain, abs=1e-3)
    (said,) = result_of(engine.generate([with_front(base, front, vectors_PD)], [0], [rest], [6]))
    (plain_said,) = result_of(engine.generate([no_prompt(base)], [0], [[*front, *middle, *rest]], [6]))
    assert said == plain_said


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "opt"])
@pytest.mark.parametrize("objective", ["language_modelling", "label_scoring"])
def test_a_step_of_prompts_in_different_places_is_each_alone_and_a_plain_concatenation(
    architecture: str, objective: str
) -> None:
    base = make_base(architecture)
    lengths = (5, 3, 7)
    tasks = [
        placed(input, objective=objective, num_virtual_tokens=length)
        for input, length in zip(PLACES.values(), lengths, strict=True)
    ]
    runs = runs_of(base, tasks)
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(Bank):
        def step(self, which: Sequence[int], gradient_NPD: Tensor, rates: Sequence[float]) -> None:
            seen.append((torch.tensor([run.loss for run in runs]), gradient_NPD.clone()))
            super().step(which, gradient_NPD, rates)

    bank = Watched([run.start_PD for run in runs], [run.rule for run in runs], base.device)
    batches = [run.batch(0) for run in runs]
    Stepper(architecture_of(base)).take(bank, runs)
    ((_, gradient_KPD),) = seen
    for number, (run, batch) in enumerate(zip(runs, batches, strict=True)):
        leaf_PD = run.start_PD.clone().requires_grad_()
        total = torch.zeros(())
        for example in batch:
            row = next(
                row
                for row, (ids, target) in enumerate(zip(run.train.inputs, run.targets, strict=True))
                if ids is example.input and target is example.target
            )
            labels = [run.train.targets[row]] if objective == "language_modelling" else run.labels or ()
            scores = []
            for ids in labels:
                log_TV = concatenated(base, run, row, leaf_PD, ids)[-len(ids) - 1 : -1]
                scores.append(log_TV[torch.arange(len(ids)), torch.tensor(ids)].sum())
            right = (
                scores[0]
                if objective == "language_modelling"
                else torch.stack(scores).log_softmax(0)[run.train.choices[row]]
            )
            total = total - example.weight * right
        total.backward()
        assert leaf_PD.grad is not None
        assert run.loss == pytest.approx(total.item(), rel=1e-3)
        mine_PD = gradient_KPD[number, -lengths[number] :]
        assert torch.allclose(mine_PD, leaf_PD.grad, rtol=1e-2, atol=1e-3 * float(leaf_PD.grad.abs().max()))
        assert not gradient_KPD[number, : -lengths[number]].any()
    # Beside each other they took the steps that they take alone.
    for number, task in enumerate(tasks):
        (alone,) = runs_of(base, [task])
        own = Bank([alone.start_PD], [alone.rule], base.device)
        Stepper(architecture_of(base)).take(own, [alone])
        assert alone.loss == pytest.approx(runs[number].loss, rel=1e-4)
        assert torch.allclose(own.prompt(0), bank.prompt(number), atol=2e-3)


def test_rows_of_prompts_in_different_places_are_judged_together_as_alone() -> None:
    base = make_base("llama")
    trials = []
    for input in PLACES.values():
        (run,) = runs_of(base, [placed(input)])
        trials.append(Trial(run.task.form, run.start_PD, run.train))
        scores = [
            [concatenated(base, run, row, run.start_PD, ids)[-len(ids) - 1, ids[0]].item() for ids in run.labels or ()]
            for row in range(len(run.train))
        ]
        if max(map(len, run.labels or ())) == 1:
            said = [one.said for one in result_of(answer(OfflineEngine(architecture_of(base)), [trials[-1]]))[0]]
            assert said == [("yes", "no")[own[1] > own[0]] for own in scores]
    engine = OfflineEngine(architecture_of(base))
    together = result_of(answer(engine, trials))
    for trial, own in zip(trials, together, strict=True):
        (alone,) = result_of(answer(engine, [trial]))
        assert [one.said for one in own] == [one.said for one in alone]
        assert [one.loss for one in own] == pytest.approx([one.loss for one in alone], abs=1e-4)


def task_file(folder: Path, base: Path, name: str, input: str, **fields: Any) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    known = {"base": str(base), "data": {"train": "rows.jsonl", "validation": 0.2}, "labels": ["yes", "no"], "max_steps": 3}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**known, "input": input, "num_virtual_tokens": 6, **fields}))
    return file


@pytest.mark.parametrize(
    ("place", "generates"),
    [("behind fixed text", False), ("behind fixed text", True), ("behind a column", False), ("behind a column", True)],
)
def test_a_placed_prompt_is_trained_judged_and_served_alike(
    run: Command, tmp_path: Path, base_folder: Path, home: Path, place: str, generates: bool
) -> None:
    fields: dict[str, Any] = {"labels": None, "max_new_tokens": 4} if generates else {}
    file = task_file(tmp_path, base_folder, "mine", PLACES[place], **fields)
    done = run("train", file, "--json")
    (row,) = done.rows
    assert ("rows share nothing of the prompt" in done.err) is (place == "behind a column")
    (judged,) = run("evaluate", file, "--json").rows
    assert judged["value"] == pytest.approx(row["value"])
    text = json.dumps({"text": "red apple", "other": " good 3"})
    (said,) = run("predict", "mine", text, "--json").rows
    base = FrozenBase.load(str(base_folder))
    with Library.open(home) as library, serving(library, base, engine=ContinuousEngine(architecture_of(base))) as server:
        body: dict[str, Any] = {"model": "mine", "messages": [{"role": "user", "content": text}]}
        chatted = server.http.post(f"{server.url}/v1/chat/completions", json=body).json()
        assert chatted["choices"][0]["message"]["content"] == said["output"]
        if not generates:
            found = server.http.post(f"{server.url}/v1/classify", json={"model": "mine", "input": [text, text]}).json()
            assert found["data"][0]["scores"] == pytest.approx(said["scores"], abs=1e-4)
        prompt = library.read("mine@1")
    refused = run("export", "mine", tmp_path / "adapter", "--format", "peft").refused()
    assert "PEFT puts prompts before everything" in refused
    assert run("export", "mine", tmp_path / "file", "--format", "softprompt").code == 0
    assert prompt in [file.read_bytes() for file in (tmp_path / "file").iterdir()]


def test_a_plan_says_what_it_costs_to_stand_behind_columns(run: Command, tmp_path: Path, base_folder: Path) -> None:
    tokens = {}
    for place in ("before everything", "behind a column"):
        done = run("train", task_file(tmp_path, base_folder, "mine", PLACES[place]), "--plan", "--json")
        assert done.code == 0, done.err
        assert ("rows share nothing of the prompt" in done.err) is (place == "behind a column")
        tokens[place] = done.rows[0]["tokens_per_step"]
    assert tokens["behind a column"] > tokens["before everything"] + 6 * 5


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"input": "{soft_prompt}{text}{soft_prompt}."}, "has {soft_prompt} 2 times"),
        ({"input": "{text}{soft_prompt}"}, "ends with {soft_prompt}; put text behind it"),
        ({"input": "a{soft_prompt}b"}, "names no column"),
        ({"input": "{text}", "target": " {soft_prompt}{label}"}, "target: {soft_prompt} is the place of the vectors"),
    ],
)
def test_a_place_that_is_none_is_told(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=r".*") as caught:
        Form.of_config(parse_config({"task": "t", **fields}))
    assert told in str(caught.value)


def test_a_mask_is_no_column_beside_a_placed_prompt_and_stands_behind_it() -> None:
    base, fields = make_masked("roberta"), {"task_type": "MASKED_LM"}
    (run,) = runs_of(base, [placed("the thing:{soft_prompt}{text} is {mask} now", **fields)])
    assert run.train.front(0) == base.encode(["the thing:"])[0]
    task = run.task
    assert [ids.count(base.tokenizer.mask_token_id) for ids in run.train.inputs] == [1] * len(run.train)
    whole = task.encode(base, task.train, 0, split="training").inputs
    assert [ids.count(base.tokenizer.mask_token_id) for ids in whole] == [1] * len(whole)
    with pytest.raises(ConfigError, match=r"the mask .* stands before \{soft_prompt\}.*; put it there"):
        runs_of(base, [placed("it is {mask}:{soft_prompt}{text}", **fields)])


def test_a_prompt_in_the_system_turn_stands_between_its_control_tokens() -> None:
    base = make_base("llama")
    form = Form.of_config(parse_config({"task": "t", "input": "<end>of{soft_prompt}<end>a {text} is"}))
    row = {"text": "red <end> apple"}
    inputs = form.encode_inputs(base, [row], 3)
    assert inputs.fronts == [base.encode([[("<end>of", "")]])[0]]
    assert inputs.ids == [base.encode([[("<end>a ", row["text"]), (" is", "")]])[0]]
    assert inputs.ids[0].count(base.end_id) == 1  # the user's is text
    plain = form.encode_inputs(base, [row], 0)  # without a prompt it is all one text
    assert plain.ids == [base.encode([[("<end>of<end>a ", row["text"]), (" is", "")]])[0]]
    assert plain.fronts == [[]]


def test_what_stands_before_a_prompt_counts_in_the_context() -> None:
    base = make_base("llama")  # of 96 tokens
    form = Form.of_config(parse_config({"task": "t", "input": "{text}{soft_prompt}{other}.", "max_new_tokens": 6}))
    rows = [{"text": "red " * 90, "other": "blue"}, {"text": "red", "other": "blue " * 90}]
    inputs = form.encode_inputs(base, rows, 10)
    assert inputs.cut == [0, 1]
    assert all(len(front) + len(ids) <= 96 - 10 - 6 for front, ids in zip(inputs.fronts, inputs.ids, strict=True))
    assert [bool(front) for front in inputs.fronts] == [True, True]
