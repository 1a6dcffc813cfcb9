"""Running out of memory: smaller chunks, the same result."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import BaseModelError, TrainingError
from softprompt.evaluation.trials import result_of
from softprompt.model import prefix, recompute
from softprompt.model.architecture import Architecture
from softprompt.model.kinds.causal import Causal
from softprompt.model.lines import Ids, Tails
from softprompt.model.prefix import Prefix
from softprompt.model.recompute import recomputing
from softprompt.model.splice import Stack, stack_prompts
from softprompt.tasks.task import Task
from softprompt.training.events import Noted
from softprompt.training.objectives import LABEL_SCORING, LANGUAGE_MODELING, LabelTarget
from softprompt.training.session import Session
from softprompt.training.steps.forward import Example, losses_and_gradient
from softprompt.training.train import train
from tests.engine_jobs import Starved, allocate
from tests.models import ARCHITECTURES, VOCABULARY, make_base
from tests.training.test_resume import make_task


class Hungry(Causal):
    """A base with memory for so many tokens of a chunk that is trained: beyond that it fails as the allocator does."""

    def __init__(self, base: FrozenBase, most: int) -> None:
        super().__init__(base)
        self.most = most

    def logits_behind(
        self, stack: Stack, prefix: Prefix | None, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]
    ) -> torch.Tensor:
        if torch.is_grad_enabled():
            allocate(sum(map(len, inputs)) <= self.most)
        return super().logits_behind(stack, prefix, which, inputs, tails)


class Broken(Causal):
    """A base that fails, and not for want of memory."""

    def logits_behind(self, *_: Any) -> torch.Tensor:
        raise RuntimeError("the size of tensor a must match")


def warnings_of(architecture: Architecture, task: Task) -> tuple[list[str], torch.Tensor]:
    """Train a task: what was warned of, and the vectors that came of it."""
    session = Session(architecture)
    member = session.add(task)
    warned = [event.message for event in session.run() if isinstance(event, Noted) and event.warning]
    assert member.tuned is not None
    return warned, member.tuned.prompt.vectors_PD


def test_out_of_memory_halves_the_chunks_says_so_once_and_changes_nothing(tmp_path: Path) -> None:
    base = make_base("gpt2", dtype=torch.float64)  # in which rounding cannot pass for a lost row
    warned, plain = warnings_of(Causal(base), make_task(tmp_path, "one"))
    assert not any("out of memory" in message for message in warned)
    warned, starved = warnings_of(Hungry(base, 20), make_task(tmp_path, "one"))
    sizes = [message.partition(" tokens")[0].split()[-1] for message in warned if "out of memory" in message]
    assert sizes == ["1024", "512", "256", "128", "64", "32", "16"]
    torch.testing.assert_close(starved, plain, rtol=0, atol=1e-6)


def test_a_row_that_does_not_fit_alone_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="out of memory with a single row"):
        warnings_of(Hungry(make_base("llama"), 0), make_task(tmp_path, "one"))


def test_other_failures_of_torch_are_not_taken_for_memory(tmp_path: Path) -> None:
    session = Session(Broken(make_base("llama")))
    session.add(make_task(tmp_path, "one"), publishes=False)
    with pytest.raises(RuntimeError, match="size of tensor"):
        list(session.run())


def engine_jobs(base: FrozenBase) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    spread = base.embedding.weight.std()
    return {
        "prompts": [torch.randn(n, base.width, generator=generator) * spread for n in (5, 2)],
        "which": [i % 2 for i in range(9)],
        "inputs": [torch.randint(2, VOCABULARY, (3 + i % 4,), generator=generator).tolist() for i in range(9)],
    }


@pytest.mark.parametrize("shared", [True, False])
def test_an_engine_that_runs_out_of_memory_halves_its_chunks_and_changes_nothing(shared: bool) -> None:
    base = make_base("llama")
    jobs = engine_jobs(base)
    labels = [((5,), (6, 7), (8, 9))] * 9
    starved = Starved(base)
    starved.shares_prefix = shared
    expected = result_of(OfflineEngine(starved).score(**jobs, labels=labels))
    generated = result_of(OfflineEngine(starved).generate(**jobs, max_new_tokens=[4] * 9))
    starved.rows = 7
    warned: list[str] = []
    done: list[int] = []
    engine = OfflineEngine(starved, warn=warned.append)
    scores = result_of(engine.score(**jobs, labels=labels), lambda rows, text: done.append(rows))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    assert sum(done) == 9
    assert all(message.startswith("out of memory: rows now run in chunks of") for message in warned)
    assert 1 <= len(warned) == len(set(warned)) <= 3
    known = len(warned)
    result_of(engine.score(**jobs, labels=labels))
    assert len(warned) == known  # what it has learnt it keeps
    wide = OfflineEngine(starved, warn=warned.append)
    assert result_of(wide.generate(**jobs, max_new_tokens=[4] * 9)) == generated
    assert len(warned) > known


def test_an_engine_without_memory_for_one_row_says_so() -> None:
    base = make_base("llama")
    jobs, starved = engine_jobs(base), Starved(base, rows=0)
    with pytest.raises(BaseModelError, match="out of memory with a single row of 6 tokens on cpu"):
        result_of(OfflineEngine(starved, warn=lambda _: None).score(**jobs, labels=[((5,),)] * 9))
    with pytest.warns(UserWarning, match="out of memory"), pytest.raises(BaseModelError, match="a single row of 10 tokens"):
        result_of(OfflineEngine(starved).generate(**jobs, max_new_tokens=[4] * 9))


def test_an_engine_takes_no_other_failure_for_memory() -> None:
    class Broken(Causal):
        def logits_behind(self, *_: Any) -> Any:
            raise RuntimeError("the size of tensor a must match")

    base = make_base("llama")
    with pytest.raises(RuntimeError, match="size of tensor"):
        result_of(OfflineEngine(Broken(base)).score(**engine_jobs(base), labels=[((5,),)] * 9))


def mixed_step(base: FrozenBase, *, weight: float = 0.5, **how: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and gradient of a step with prompts of unequal length and both objectives."""
    generator = torch.Generator().manual_seed(7)
    spread = base.embedding.weight.std()
    stack = stack_prompts([torch.randn(n, base.width, generator=generator) * spread for n in (9, 4)])
    labels = ((5,), (6, 7), (8,))
    rows = [torch.randint(2, VOCABULARY, (n,), generator=generator).tolist() for n in (11, 3, 7, 14)]
    examples = [
        Example(i % 2, row, LABEL_SCORING, LabelTarget(labels, 1), weight)
        if i < 2
        else Example(i % 2, row, LANGUAGE_MODELING, [4, 9], weight)
        for i, row in enumerate(rows)
    ]
    return losses_and_gradient(Causal(base), stack, examples, **how)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradient_checkpointing_keeps_the_prompt(architecture: str) -> None:
    base = make_base(architecture)
    losses, gradient = mixed_step(base)
    for shared in (True, False):
        recomputed_losses, recomputed = mixed_step(base, recompute=True, shared=shared)
        torch.testing.assert_close(recomputed_losses, losses, rtol=1e-5, atol=1e-5)
        assert (recomputed - gradient).norm() <= 1e-5 * gradient.norm()
    assert all("forward" not in vars(module) for module in base.model.modules())


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
def test_a_dropped_prompt_is_never_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base("llama")
    with monkeypatch.context() as patched:  # dropped on purpose
        patched.setattr(prefix.FixedLayer, "update", lambda self, keys, values, *_, **__: (keys, values))
        with pytest.raises(RuntimeError, match="size of tensor"):
            mixed_step(base, recompute=True, shared=True)
    base.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    base.model.train()  # the library's own way, which drops it too
    with pytest.raises(BaseModelError, match="eval mode"):
        mixed_step(base, shared=True)
    wrapped = FrozenBase.wrap(base.model, base.tokenizer)  # a base is always in eval mode, where that way is off
    losses, _ = mixed_step(wrapped)
    torch.testing.assert_close(losses, mixed_step(make_base("llama"))[0])


class Kept:
    """Bytes of the distinct tensors that autograd keeps for the way back, at their most."""

    def __init__(self) -> None:
        self.now: dict[int, int] = {}
        self.most = 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        self.now[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        self.most = max(self.most, sum(self.now.values()))
        return tensor


def test_gradient_checkpointing_keeps_less_for_the_way_back() -> None:
    base = make_base("llama")
    stack = stack_prompts([base.embed(torch.tensor([3, 4, 5]))])
    most = []
    for checkpointed in (False, True):
        kept = Kept()
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            context = recomputing(base) if checkpointed else contextlib.nullcontext()
            leaf = Stack(stack.vectors_KPD.clone().requires_grad_(), stack.mask_KP, stack.lengths_K)
            with context:
                Causal(base).logits_behind(leaf, None, [0], [list(range(2, 40))], [[]])
        most.append(kept.most)
    assert most[1] < 0.6 * most[0]


def test_an_architecture_without_such_layers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "GradientCheckpointingLayer", type("Nothing", (), {}))
    with pytest.raises(TrainingError, match="leave out gradient_checkpointing"):
        train(make_task(tmp_path, "one", gradient_checkpointing=True), base=make_base("llama"))
