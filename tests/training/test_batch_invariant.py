"""A prompt tuned in a bank against the same prompt tuned alone: to the last bit where that is asked for, else to a bound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from softprompt.errors import ConfigError
from softprompt.model.architecture import architecture_of
from softprompt.tasks.task import Task
from softprompt.training.steps.loop import Group, Stepper
from softprompt.training.train import train
from tests.models import make_base
from tests.sessions import runs_of, train_bank
from tests.training.test_training import MANY, a_task

pytestmark = pytest.mark.slow

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHORT = {"max_steps": 2, "learning_rate": 0.1}

MOVED = {torch.float32: 5e-4, torch.bfloat16: 0.2, torch.float16: 0.1}
"""How far a prompt tuned in a bank ends from the one tuned alone after two steps: L2, as a share of the way it went."""


def some_tasks(folder: Path, names: str) -> dict[str, Task]:
    settings = {name: {**MANY[name], **SHORT} for name in names}
    for own in settings.values():
        if "warmup_steps" in own:  # no more than there are
            own["warmup_steps"] = own["max_steps"]
    return {name: a_task(folder, name, **own) for name, own in settings.items()}


@pytest.mark.parametrize(
    ("architecture", "dtype", "names"),
    [
        ("llama", torch.float32, "acef"),
        ("llama", torch.bfloat16, "abe"),
        ("llama", torch.float16, "ac"),
        ("gpt2", torch.bfloat16, "ac"),
        ("gemma2", torch.bfloat16, "ac"),
        ("gemma4", torch.float32, "ac"),
    ],
)
def test_a_bank_has_no_say_in_any_bit_of_a_prompt(tmp_path: Path, architecture: str, dtype: torch.dtype, names: str) -> None:
    base = replace(make_base(architecture, dtype=dtype), batch_invariant=True)
    tasks = some_tasks(tmp_path, names)
    together = train(list(tasks.values()), base=base)
    for name, tuned in zip(tasks, together, strict=True):
        (alone,) = train(some_tasks(tmp_path, name)[name], base=base)
        assert tuned.prompt.digest == alone.prompt.digest, name
        assert tuned.history == alone.history
    assert together[0].prompt.card.recipe["batch_invariant"] is True


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_it_a_prompt_keeps_to_a_bound(tmp_path: Path, dtype: torch.dtype) -> None:
    base = make_base("llama", dtype=dtype)
    together = runs_of(base, list(some_tasks(tmp_path, "abg").values()))
    train_bank(architecture_of(base), together)
    for name, run in zip("abg", together, strict=True):
        (alone,) = runs_of(base, [some_tasks(tmp_path, name)[name]])
        train_bank(architecture_of(base), [alone])
        assert run.best_PD is not None
        assert alone.best_PD is not None
        went = (alone.best_PD - alone.start_PD).norm()
        assert (run.best_PD - alone.best_PD).norm() <= MOVED[dtype] * went


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_the_same_training_twice_is_the_same_to_the_last_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    digests = [
        [one.prompt.digest for one in train(list(some_tasks(tmp_path, "ag").values()), base=make_base("llama", dtype=dtype))]
        for _ in range(2)
    ]
    assert digests[0] == digests[1]


def test_several_processes_are_refused() -> None:
    base = replace(make_base("llama"), batch_invariant=True)
    with pytest.raises(ConfigError, match="leave out --batch-invariant"):
        Stepper(architecture_of(base), group=Group(0, 2))
