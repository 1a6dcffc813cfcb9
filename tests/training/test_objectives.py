"""Objectives: losses and gradients equal a slow and obvious formula, and a bank of all of them equals each alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from softprompt.errors import ConfigError, DataError
from softprompt.evaluation.trials import Report
from softprompt.library.library import Library
from softprompt.model.kinds.causal import Causal
from softprompt.model.splice import no_prompt, stack_prompts
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.task import Task
from softprompt.training.objectives import OBJECTIVES, Pair, Taught, Unwanted
from softprompt.training.plan import plan
from softprompt.training.prepare import Preparer
from softprompt.training.remarks import remarks_on
from softprompt.training.steps.forward import Example, losses_and_gradient
from softprompt.training.train import train
from tests.models import make_base
from tests.sessions import Untrained, cut, runs_of, train_bank

LABELS = ((5,), (6, 7), (6, 8, 9))
ROWS = [
    {"text": f"the {colour} {thing} {number}", "label": good, "unwanted": bad if number % 2 else None, "rejected": bad}
    for number in range(12)
    for colour, good, bad in (("red", "yes", "no"), ("blue", "no", "the river"), ("green", "yes a stone", "yes"))
    for thing in ("apple", "stone")
]


@pytest.fixture(scope="module")
def causal() -> Causal:
    return Causal(make_base("llama"))


def a_task(name: str, **fields: Any) -> Task:
    known = {"num_virtual_tokens": 6, "max_steps": 3, "per_device_train_batch_size": 8, "max_new_tokens": 8}
    return Task(task=name, data=ROWS, **(known | fields))


KINDS: dict[str, dict[str, Any]] = {
    "distillation": {"instruction": "say yes to red\nthe red river: yes"},
    "unlikelihood": {"unwanted": "unwanted"},
    "preference": {"target": " {label}"},
}

OF_PATTERNS: dict[str, Any] = {
    "objective": "unlikelihood", "unwanted_patterns": ["/[bcdfgjklmpquwxz0-9]/"], "unwanted_every": 2, "unwanted_rows": 4,
    "max_steps": 6,
    "target": " {rejected}",
}  # fmt: skip


def logits_alone(causal: Causal, prompt_PD: Tensor, ids: Sequence[int], answer: Sequence[int]) -> Tensor:
    """Log-probabilities behind an input and behind each token of an answer but the last, one row by the plain model."""
    tokens = torch.tensor([*ids, *answer[:-1]])
    embeds = torch.cat([prompt_PD, causal.base.embed(tokens)])[None]
    logits: Tensor = causal.base.model(inputs_embeds=embeds, use_cache=False).logits[0]
    return logits[len(prompt_PD) + len(ids) - 1 :].log_softmax(-1)


def of_answer(causal: Causal, prompt_PD: Tensor, ids: Sequence[int], answer: Sequence[int]) -> Tensor:
    """Log-probability of a whole answer."""
    logs = logits_alone(causal, prompt_PD, ids, answer)
    return torch.stack([logs[place, token] for place, token in enumerate(answer)]).sum()


def divergence(taught: Tensor, own: Tensor) -> Tensor:
    return (taught.exp() * (taught - own)).sum()


def plain_taught(causal: Causal, prompt_PD: Tensor, ids: Sequence[int], target: Taught) -> Tensor:
    if target.labels is not None:
        own = torch.stack([of_answer(causal, prompt_PD, ids, label) for label in target.labels])
        taught = torch.tensor(target.scores)
        any_own, any_taught = own.exp().sum(), taught.exp().sum()
        whether = divergence(torch.stack([any_taught, 1 - any_taught]).log(), torch.stack([any_own, 1 - any_own]).log())
        return divergence((taught.exp() / any_taught).log(), (own.exp() / any_own).log()) + whether
    assert target.tokens_TK is not None
    assert target.logs_TK is not None
    total = torch.zeros(())
    every = logits_alone(causal, prompt_PD, ids, target.ids)
    for own, tokens, taught in zip(every, target.tokens_TK, target.logs_TK, strict=True):
        known = own[tokens]
        total = total + divergence(
            torch.cat([taught, (1 - taught.exp().sum()).log()[None]]),
            torch.cat([known, (1 - known.exp().sum()).log()[None]]),
        )
    return total


def plain_unwanted(causal: Causal, prompt_PD: Tensor, ids: Sequence[int], target: Unwanted) -> Tensor:
    loss = -of_answer(causal, prompt_PD, ids, target.answer)
    for unwanted in filter(None, (target.unwanted, target.found)):
        logs = logits_alone(causal, prompt_PD, ids, unwanted)
        parted = False
        for place, token in enumerate(unwanted):
            parted = parted or place >= len(target.answer) or target.answer[place] != token
            if parted:
                loss = loss - target.weight * (1 - logs[place, token].exp()).log()
    return loss


def plain_pair(causal: Causal, prompt_PD: Tensor, ids: Sequence[int], target: Pair) -> Tensor:
    chosen, rejected = (of_answer(causal, prompt_PD, ids, answer) for answer in target.answers)
    return -torch.log(1 / (1 + torch.exp(-target.beta * (chosen - rejected - target.margin))))


def some_taught(seed: int, length: int) -> Taught:
    generator = torch.Generator().manual_seed(seed)
    logs = torch.randn(length, 320, generator=generator).log_softmax(-1)
    top = logs.topk(10)
    ids = tuple(torch.randint(2, 320, (length,), generator=generator).tolist())
    return Taught("", None, (), ids, top.indices, top.values)


TARGETS: list[tuple[str, Any, Callable[..., Tensor]]] = [
    ("distillation", Taught("", LABELS, (-1.0, -2.5, -0.9)), plain_taught),
    ("distillation", some_taught(0, 3), plain_taught),
    ("distillation", some_taught(1, 1), plain_taught),
    ("distillation", Taught("", ((5,), (9,)), (-0.2, -4.0)), plain_taught),
    ("unlikelihood", Unwanted((5, 6), (5, 7, 8), 0.7), plain_unwanted),
    ("unlikelihood", Unwanted((5,), (9, 7), 2.0), plain_unwanted),
    ("unlikelihood", Unwanted((5, 6, 7), (9,), 1.0), plain_unwanted),
    ("unlikelihood", Unwanted((5, 6), (), 1.0), plain_unwanted),
    ("unlikelihood", Unwanted((5, 6), (9, 4), 1.0, "", (5, 8, 3)), plain_unwanted),
    ("unlikelihood", Unwanted((5, 6, 7), (), 0.5, "", (8,)), plain_unwanted),
    ("preference", Pair(((5, 6), (5, 7, 8)), -0.4, 0.5), plain_pair),
    ("preference", Pair(((4,), (9,)), 1.3, 0.1), plain_pair),
]


@pytest.mark.parametrize("shared", [True, False])
def test_losses_and_gradients_of_a_mixed_batch_are_those_of_the_formula_row_by_row(causal: Causal, shared: bool) -> None:
    prompts = [causal.base.embed(torch.arange(3, 3 + length)).detach() for length in (4, 6)]
    examples = [
        Example(number % 2, [number + 20, 40, *range(50, 50 + number % 3)], OBJECTIVES[name], target, 0.25)
        for number, (name, target, _) in enumerate(TARGETS)
    ]
    losses_K, gradient_KPD = losses_and_gradient(causal, stack_prompts(prompts), examples, token_budget=40, shared=shared)
    for which, prompt_PD in enumerate(prompts):
        leaf = prompt_PD.clone().requires_grad_()
        parts = [
            e.weight * plain(causal, leaf, e.input, e.target)
            for e, (_, _, plain) in zip(examples, TARGETS, strict=True)
            if e.which == which
        ]
        loss = torch.stack(parts).sum()
        (expected,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(losses_K[which], loss.detach(), rtol=1e-4, atol=1e-4)
        assert (gradient_KPD[which, -len(leaf) :] - expected).norm() <= 1e-3 * expected.norm()


def test_a_teacher_that_says_what_the_prompt_says_teaches_nothing(causal: Causal) -> None:
    prompt_PD, ids = causal.base.embed(torch.arange(3, 7)).detach(), [20, 40]
    with torch.no_grad():
        scores = tuple(float(of_answer(causal, prompt_PD, ids, label)) for label in LABELS)
        top = logits_alone(causal, prompt_PD, ids, [5, 6]).topk(10)
    taught = [Taught("", LABELS, scores), Taught("", None, (), (5, 6), top.indices, top.values)]
    examples = [Example(0, ids, OBJECTIVES["distillation"], target, 1.0) for target in taught]
    losses_K, gradient_KPD = losses_and_gradient(causal, stack_prompts([prompt_PD]), examples)
    assert abs(float(losses_K[0])) < 1e-4
    assert float(gradient_KPD.norm()) < 1e-2


def test_a_bank_of_all_objectives_equals_each_alone(causal: Causal) -> None:
    tasks = [a_task(f"{name}-{n}", objective=name, **KINDS[name]) for name in KINDS for n in (0, 1)]
    tasks += [
        a_task("plain"),
        a_task("patterns", **OF_PATTERNS),
        a_task("labels", labels=["yes", "no", "yes a stone"], objective="distillation", instruction="yes"),
    ]
    together = runs_of(causal.base, tasks)
    train_bank(causal, together)
    for task, mixed in zip(tasks, together, strict=True):
        (alone,) = runs_of(causal.base, [task])
        train_bank(causal, [alone])
        assert mixed.best_PD is not None
        assert alone.best_PD is not None
        torch.testing.assert_close(mixed.best_PD, alone.best_PD, rtol=0, atol=2e-4)
        assert not torch.allclose(alone.best_PD, alone.start_PD, rtol=0, atol=1e-3)


def test_unwanted_answers_become_less_likely_and_the_right_ones_more(causal: Causal) -> None:
    task = a_task("away", objective="unlikelihood", unwanted="unwanted", max_steps=30, unwanted_weight=2.0)
    (run,) = runs_of(causal.base, [task])
    train_bank(causal, [run])
    assert run.best_PD is not None

    def chances(prompt_PD: Tensor) -> tuple[float, float]:
        found = [(ids, target) for ids, target in zip(run.train.inputs, run.targets, strict=True) if target.unwanted]
        with torch.no_grad():
            sums = [
                [float(of_answer(causal, prompt_PD, ids, answer)) for answer in (target.answer, target.unwanted)]
                for ids, target in found[:12]
            ]
        return sum(right for right, _ in sums), sum(wrong for _, wrong in sums)

    before, after = chances(run.start_PD), chances(run.best_PD)
    assert after[0] > before[0]
    assert after[0] - after[1] > before[0] - before[1]


def test_preference_has_the_base_without_a_prompt_as_its_reference(causal: Causal) -> None:
    (run,) = runs_of(causal.base, [a_task("pairs", objective="preference", target=" {label}", preference_beta=0.3)])
    with torch.no_grad():
        for ids, target in list(zip(run.train.inputs, run.targets, strict=True))[:5]:
            chosen, rejected = (float(of_answer(causal, no_prompt(causal.base), ids, answer)) for answer in target.answers)
            assert target.margin == pytest.approx(chosen - rejected, abs=1e-3)
            assert target.beta == 0.3
            assert target.answers[0][-1] == target.answers[1][-1] == causal.base.end_id


def test_rows_of_pairs_say_chosen_and_rejected_by_themselves() -> None:
    config = parse_config({"task": "t", "objective": "preference"})
    assert (config.target, config.rejected) == (" {chosen}", "rejected")
    assert config.recipe()["preference_beta"] == 0.1
    assert "unwanted_weight" not in config.recipe()
    assert "preference_beta" not in parse_config({"task": "t"}).recipe()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "unlikelihood"}, "objective: unlikelihood needs unwanted answers; name their column with `unwanted`"),
        ({"objective": "distillation"}, "objective: distillation needs the text to distill; give `instruction`"),
        ({"objective": "distillation", "instruction": "  "}, "needs the text to distill"),
        ({"instruction": "a", "instruction_file": "b.txt"}, "instruction_file: `instruction` is given too"),
        ({"prompt_tuning_init": "INSTRUCTION"}, "prompt_tuning_init: INSTRUCTION needs `instruction`"),
    ],
)
def test_an_objective_without_what_it_needs_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"task": "t", **fields})


LABELLED = {"labels": ["yes", "no"]}


@pytest.mark.parametrize(
    ("changed", "fields", "message"),
    [
        ({"unwanted": " "}, {"objective": "unlikelihood", "unwanted": "unwanted"}, "no training row has an unwanted answer"),
        ({}, {"objective": "unlikelihood", "unwanted": "bad"}, "no training row has an unwanted answer in the column 'bad'"),
        ({"unwanted": "yes"}, {"objective": "unlikelihood", "unwanted": "unwanted"}, "is the right answer itself; mend it"),
        ({"unwanted": "maybe"}, {"objective": "unlikelihood", "unwanted": "unwanted", **LABELLED}, "'maybe' in the column"),
        ({"rejected": None}, {"objective": "preference"}, "there is nothing in the column 'rejected'"),
        ({"rejected": "yes"}, {"objective": "preference"}, "the answer itself stands in the column 'rejected'"),
    ],
)
def test_rows_without_what_an_objective_needs_are_refused_before_training(
    causal: Causal, changed: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    rows = [{"text": f"the river {n}", "label": "yes", "rejected": "no", "unwanted": "no"} | changed for n in range(20)]
    rows += [
        {"text": f"a stone {n}", "label": "no", "rejected": "yes", "unwanted": "" if not changed else None} for n in range(9)
    ]
    task = Task(task="t", data=rows, max_steps=2, num_virtual_tokens=6, **({"target": " {label}"} | fields))
    with pytest.raises(DataError, match=message):
        train(task, base=causal.base, publish=False, progress=Untrained())


def test_a_prompt_of_an_objective_says_so_in_its_card(causal: Causal) -> None:
    (tuned,) = train(a_task("away", objective="unlikelihood", unwanted="unwanted"), base=causal.base, publish=False)
    recipe = tuned.prompt.card.recipe
    assert (recipe["objective"], recipe["unwanted"], recipe["unwanted_weight"]) == ("unlikelihood", "unwanted", 1.0)
    assert math.isfinite(tuned.report.loss)


def test_words_that_must_not_come_become_unwanted_answers_where_the_prompt_writes_them(causal: Causal) -> None:
    task = a_task("away", **OF_PATTERNS)
    (run,) = runs_of(causal.base, [task])
    train_bank(causal, [run])
    own = run.own_answers
    assert own.asked == 3 * 4
    assert 0 < own.matched <= own.asked
    assert own.found
    for row, ids in own.found.items():
        assert run.targets[row].found == tuple(ids)
        assert own.patterns.check(causal.base.decode(ids))


def test_a_resumed_training_against_patterns_gives_the_same_digest(causal: Causal, tmp_path: Path) -> None:
    task = a_task("away", **OF_PATTERNS)
    with Library.open(tmp_path / "whole") as library:
        (whole,) = train(task, base=causal.base, library=library)
    with Library.open(tmp_path / "cut") as library:
        cut([task], causal.base, library, 3)
        (resumed,) = train(task, base=causal.base, library=library)
    assert resumed.prompt.digest == whole.prompt.digest
    recipe = whole.prompt.card.recipe
    assert 0 < recipe["unwanted_matched"] <= recipe["unwanted_asked"] == 12
    row = whole.row()
    assert 0 <= row["unwanted_rate"] <= 1
    assert {"zero_shot_unwanted_rate", "untrained_unwanted_rate"} <= row.keys()


def test_what_looking_at_own_answers_costs_is_told_before(causal: Causal) -> None:
    task = a_task("away", **OF_PATTERNS)
    (run,) = runs_of(causal.base, [task])
    told = [message for message, _ in remarks_on(causal.base, run)]
    assert any("4 training rows every 2 steps" in one and "up to 96 tokens" in one for one in told)
    (row,) = plan(task, base=causal.base)
    assert row["unwanted_tokens"] == 96
    assert row["unwanted_seconds"] > 0


def test_right_answers_that_match_are_counted_and_refused_where_they_are_all(causal: Causal) -> None:
    told: list[str] = []
    run, _ = Preparer(causal.base, warn=told.append).prepare(
        a_task("t", **OF_PATTERNS | {"unwanted_patterns": ["yes"]}), None
    )
    matching = sum("yes" in answer for answer in run.train.answers)
    assert f"{matching} of {len(run.train)} right answers of training rows match `unwanted_patterns`" in told[0]
    assert 0 < matching < len(run.train)
    assert run.own_answers.most_tokens(2) <= (len(run.train) - matching) * 8
    with pytest.raises(DataError, match="all right answers of training rows match"):
        runs_of(causal.base, [a_task("t", **OF_PATTERNS | {"unwanted_patterns": ["/[a-z]/"]})])


def test_the_share_of_pairs_whose_chosen_answer_is_likelier_is_that_of_each_asked_alone(causal: Causal) -> None:
    (tuned,) = train(a_task("pairs", objective="preference", target=" {label}"), base=causal.base, publish=False)
    run, test = Preparer(causal.base).prepare(a_task("pairs", objective="preference", target=" {label}"), None)
    with torch.no_grad():
        for name, prompt_PD in (("preferred", tuned.prompt.vectors_PD), ("base_preferred", no_prompt(causal.base))):
            likelier = [
                bool(of_answer(causal, prompt_PD, ids, chosen) > of_answer(causal, prompt_PD, ids, rejected))
                for ids, (chosen, rejected) in zip(test.inputs, (pair.answers for pair in test.beside), strict=True)
            ]
            assert tuned.row()[name] == pytest.approx(sum(likelier) / len(likelier))
    assert run.task.name == "pairs"


def test_the_unwanted_rate_counts_patterns_and_the_unwanted_answers_of_rows(causal: Causal) -> None:
    task = a_task("away", **OF_PATTERNS | {"unwanted": "unwanted", "unwanted_patterns": ["bad"], "target": " {label}"})
    _, test = Preparer(causal.base).prepare(task, None)
    said = ["a BAD day", *(one.said or "fine" for one in test.beside[1:])]
    report = Report("exact_match", 0.0, len(test), 0.0, said)
    expected = (1 + sum(bool(one.said) for one in test.beside[1:])) / len(test)
    assert OBJECTIVES["unlikelihood"].scores(task, test, report)["unwanted_rate"] == pytest.approx(expected)
