"""Sessions that tests look into: runs of tasks, and trainings that end as if they were killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.model.label_scores import Labels
from softprompt.model.splice import stack_prompts
from softprompt.progress import Advance, Silent
from softprompt.tasks.task import Task
from softprompt.training.events import Event, Stepped
from softprompt.training.objectives import LABEL_SCORING, LANGUAGE_MODELING, LabelTarget
from softprompt.training.prepare import Preparer
from softprompt.training.session import Session
from softprompt.training.steps.bank import Bank
from softprompt.training.steps.forward import Example, losses_and_gradient
from softprompt.training.steps.loop import Stepper
from softprompt.training.steps.run import Run


def runs_of(base: FrozenBase, tasks: Sequence[Task]) -> list[Run]:
    """The tasks' runs, ready to train."""
    preparer = Preparer(base)
    return [preparer.prepare(task, None)[0] for task in tasks]


def train_bank(architecture: Architecture, runs: Sequence[Run]) -> None:
    """Train all runs to their ends, and nothing else: the slow, obvious twin of what a session does about it."""
    runs = [one for run in runs for one in (run, *run.folds)]
    bank = Bank([run.start_PD for run in runs], [run.rule for run in runs], architecture.base.device)
    stepper = Stepper(architecture)
    while stepper.step(bank, runs):
        pass


class Untrained(Silent):
    """A progress that fails the test once training begins."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Advance]:
        assert name not in ("train", "sweep"), "it was trained"
        return super().stage(name, total)


def up_to(session: Session, steps: int) -> Iterator[Event]:
    """A session's events until so many steps are taken; then nothing more of it happens, as behind a kill."""
    taken = 0
    for event in session.run():
        taken += isinstance(event, Stepped)
        if taken > steps:
            return
        yield event


def cut(tasks: Sequence[Task], base: FrozenBase, library: Library, steps: int) -> None:
    """Train for so many more steps, with a checkpoint behind each, and be killed in the next."""
    session = Session(architecture_of(base), library=library, every=0.0)
    for task in tasks:
        session.add(task)
    assert sum(isinstance(event, Stepped) for event in up_to(session, steps)) == steps


def some_examples(inputs: Sequence[Sequence[int]], labels: Labels, labelled: int) -> list[Example]:
    """Rows of two prompts in turn; the first so many choose a label, the others write."""
    return [
        Example(row % 2, ids, LABEL_SCORING, LabelTarget(labels, row % 3), 0.5)
        if row < labelled
        else Example(row % 2, ids, LANGUAGE_MODELING, [4, 9, 2][: 1 + row % 3], 0.25)
        for row, ids in enumerate(inputs)
    ]


def check_step(
    architecture: Architecture,
    prompts: Sequence[Tensor],
    examples: Sequence[Example],
    plain_loss: Callable[[Any, Tensor, Example], Tensor],
    within: float,
) -> None:
    """Losses and gradients of a step, with activations kept or made again, are those of each row alone."""
    losses_K, gradient_KPD = losses_and_gradient(architecture, stack_prompts(prompts), examples, token_budget=30)
    for number, prompt_PD in enumerate(prompts):
        leaf = prompt_PD.clone().requires_grad_()
        loss = torch.stack([e.weight * plain_loss(architecture, leaf, e) for e in examples if e.which == number]).sum()
        (expected,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(losses_K[number], loss.detach(), rtol=1e-4, atol=1e-4)
        assert (gradient_KPD[number, -len(leaf) :] - expected).norm() <= within * expected.norm()
        assert not gradient_KPD[number, : -len(leaf)].any()
    recomputed = losses_and_gradient(architecture, stack_prompts(prompts), examples, recompute=True)[1]
    torch.testing.assert_close(recomputed, gradient_KPD, rtol=within, atol=within / 10)
