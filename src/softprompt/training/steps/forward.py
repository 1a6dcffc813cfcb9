"""One step of a mixed batch: the loss of each prompt's rows, and the gradient of every prompt.

Rows are laid in lines, or run in chunks of similar length, so that little is padding; the prompts' keys and values are made
once, each chunk's gradient adds up on them, and one backward pass takes the sum back to the vectors. A prompt's loss is a
mean over its own rows, so but for rounding neither its loss nor its gradient depends on what else is in the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from softprompt.model.architecture import Architecture
from softprompt.model.attention import packed_attention
from softprompt.model.lines import Ids, Tails, row_size
from softprompt.model.memory import tokens_on
from softprompt.model.recompute import recomputing
from softprompt.model.splice import Stack, chunk_by_length, chunk_by_prompt, common_head, extend_stack
from softprompt.training.objectives import Objective

TOKEN_BUDGET = {"cpu": 2048, "cuda": 16384}
"""Padded tokens of a chunk, by kind of device. Bounds memory; on a CPU larger chunks are slower, for they leave its caches,
and on a GPU smaller ones, for launching a pass takes longer than running it."""

LAUNCHES = 2 * 10**11
"""What a GPU could do in the time that it takes to launch a layer there and back, in weights times tokens."""

FLOAT16_SCALE = 1024.0
"""What losses are multiplied by on their way back in float16, whose smallest number is 6e-8: the gradients of a prompt that
fits well would vanish."""


@dataclass(frozen=True)
class Example:
    """One row of a batch."""

    which: int
    """The prompt it belongs to, as a row of the stack."""
    input: Ids
    objective: Objective[Any]
    target: Any
    """What it is trained for, as the objective has it."""
    weight: float
    """Of its loss: one over the sizes of all targets of its prompt in this batch."""
    front: Ids = ()
    """What stands before the prompt."""

    @property
    def tails(self) -> Tails:
        """What must be run behind the input, each apart from the others."""
        return self.objective.tails(self.target)

    @property
    def length(self) -> int:
        """Tokens of the input and its longest tail."""
        return len(self.input) + max(map(len, self.tails))


def losses_and_gradient(
    architecture: Architecture,
    stack: Stack,
    examples: Sequence[Example],
    *,
    token_budget: int | None = None,
    shared: bool | None = None,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mean loss of each prompt (K, float32) and the gradient of each prompt's own loss (K x P x D, float32).

    Args:
        recompute: gradient checkpointing: keep no activations inside the base's layers, make them again on the way back.
        shared: force the shared prefix on or off; by default as the architecture finds, and as is quicker on a GPU.
        token_budget: padded tokens of a chunk; by default as suits the device.
    """
    if not examples:  # the share of a process can be empty
        nothing_KPD = torch.zeros_like(stack.vectors_KPD, dtype=torch.float32)
        return nothing_KPD.new_zeros(len(stack.lengths_K)), nothing_KPD
    token_budget = budget_on(architecture.base.device) if token_budget is None else token_budget
    step = functools.partial(_step, architecture, stack, examples, token_budget, shared, recompute)
    with packed_attention(architecture.base):
        if architecture.base.dtype != torch.float16:
            return step(1.0)
        losses_K, gradient_KPD = step(FLOAT16_SCALE)
        broken = ~gradient_KPD.flatten(1).isfinite().all(1)
        if broken.any():  # too much for some prompt, if it is not broken for good
            gradient_KPD[broken] = step(1.0)[1][broken]
        return losses_K, gradient_KPD


def budget_on(device: torch.device) -> int:
    """Padded tokens of a chunk there."""
    return tokens_on(device, TOKEN_BUDGET)


def sharing_pays(architecture: Architecture, stack: Stack, examples: Sequence[Example]) -> bool:
    """Whether prompts are run once for all of their rows, where the architecture can. On a GPU that is a pass more, which
    must save as much as it takes to launch it; a prefix, which is no vectors, stands before rows in no other way."""
    base = architecture.base
    if not architecture.shares_prefix or base.device.type == "cpu" or stack.vectors_KPD.shape[2] != base.width:
        return architecture.shares_prefix
    lengths = stack.lengths_K.tolist()
    sizes = [row_size(len(e.input), e.tails, True)[0] for e in examples]
    apart = [row_size(len(e.input), e.tails, False) for e in examples]
    whole = sum(rows * (lengths[e.which] + longest) for e, (longest, rows) in zip(examples, apart, strict=True))
    saved = whole - sum(lengths) - sum(sizes)
    layers = int(getattr(base.model.config.get_text_config(), "num_hidden_layers", 1))
    return bool(saved * base.params > LAUNCHES * layers)


def _step(
    architecture: Architecture,
    stack: Stack,
    examples: Sequence[Example],
    token_budget: int,
    shared: bool | None,
    recompute: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    base = architecture.base
    losses_K = torch.zeros(len(stack.lengths_K), device=base.device)
    leaf = Stack(stack.vectors_KPD.detach().to(base.dtype).requires_grad_(), stack.mask_KP, stack.lengths_K)
    use_shared = sharing_pays(architecture, stack, examples) if shared is None else shared
    stacked, made = leaf, None
    if use_shared:
        if stack.vectors_KPD.shape[2] == base.width:  # behind a prefix there are no vectors to put a head behind
            heads = _common_heads(examples, len(stack.lengths_K))
            stacked = extend_stack(
                leaf, [base.embed(torch.tensor(head, dtype=torch.long, device=base.device)) for head in heads]
            )
            examples = [replace(e, input=e.input[len(heads[e.which]) :]) for e in examples]
        made = architecture.compute_prefix(stacked)
    prefix = made.detached() if made is not None else None
    longest = int(stacked.lengths_K.max()) + max(e.length for e in examples)
    in_lines = made is not None and architecture.lays_lines(longest)
    with recomputing(base) if recompute else nullcontext():
        for chunk in _chunks(examples, token_budget, in_lines):
            which = [e.which for e in chunk]
            inputs, tails = [e.input for e in chunk], [e.tails for e in chunk]
            logits_NV = architecture.logits_behind(stacked, prefix, which, inputs, tails)
            loss_B = chunk[0].objective.losses([e.target for e in chunk], logits_NV)
            weighted_B = loss_B * torch.tensor([e.weight for e in chunk], device=base.device)
            (weighted_B.sum() * scale).backward()  # type: ignore[no-untyped-call]
            losses_K.index_add_(0, torch.tensor(which, device=base.device), weighted_B.detach())
    if made is not None and prefix is not None:
        pairs = [
            (t, leaf_t.grad) for t, leaf_t in zip(made.tensors(), prefix.tensors(), strict=True) if leaf_t.grad is not None
        ]
        torch.autograd.backward([t for t, _ in pairs], [g for _, g in pairs])
    assert leaf.vectors_KPD.grad is not None
    return losses_K, leaf.vectors_KPD.grad.float() * stack.mask_KP[:, :, None] / scale


def _common_heads(examples: Sequence[Example], prompts: int) -> list[Sequence[int]]:
    """What all inputs of each prompt begin with, such as the first words of a template: it is run once, behind the prompt.
    One token at least is left of each input."""
    inputs: list[list[list[int]]] = [[] for _ in range(prompts)]
    for example in examples:
        inputs[example.which].append(list(example.input[:-1]))
    return [common_head(own) for own in inputs]


def _chunks(examples: Sequence[Example], budget: int, in_lines: bool) -> Iterator[list[Example]]:
    """Examples in groups of one objective: of about the budget's tokens each, a prompt's rows together, where rows are laid
    in lines; else of similar length, padding counted."""
    for objective in dict.fromkeys(e.objective for e in examples):
        own = [e for e in examples if e.objective is objective]
        lengths, rows = zip(*(row_size(len(e.input), e.tails, in_lines) for e in own), strict=True)
        if in_lines:
            groups = chunk_by_prompt([e.which for e in own], lengths, budget)
        else:
            groups = chunk_by_length(lengths, budget, rows)
        for group in groups:
            yield [own[index] for index in group]
