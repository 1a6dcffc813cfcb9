"""How far two runs of one base are apart, on the same made-up rows: losses and gradient of a mixed step, label scores,
greedy answers; and whether that is no more than rounding.

Shapes: K prompts, P virtual tokens, D width, B rows, C labels, N logits of all rows, V vocabulary.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.row import Row
from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.trials import result_of
from softprompt.model.architecture import architecture_of
from softprompt.model.rounding import ROUNDING
from softprompt.model.splice import stack_prompts
from softprompt.training.objectives import LABEL_SCORING, LANGUAGE_MODELING, LabelTarget
from softprompt.training.steps.forward import Example, losses_and_gradient

ROWS, PROMPTS = 12, 3
LABELS = ((4, 5), (6,), (4, 7))
WHICH = [number % PROMPTS for number in range(ROWS)]
"""The prompt of each row."""

ALWAYS = {torch.float32: 5e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
"""What a loss or a label's score (absolute, or as a share where above 1) and a prompt's gradient (norm of the difference
over the norm) may always be away from float32 with the same rounded weights, by the dtype that was computed in."""
TIMES = 3
"""How often the CPU's own distance in that dtype they may be, where that is more: some random bases amplify rounding."""


@dataclass(frozen=True)
class Outcome:
    """What a base makes of the rows; on the CPU."""

    losses_K: Tensor
    gradient_KPD: Tensor
    scores_BC: Tensor
    texts: list[list[int]]
    recompute: float
    """The most that gradient checkpointing changes of a gradient."""
    way: str
    """How rows are run behind prompts: `lines`, `shared` (prefix) or `concatenated`."""
    played: int = 0
    """Passes of the step that were recorded, on a GPU; the losses and gradient are then of a step that played them."""


def moved(base: FrozenBase, device: torch.device | str, dtype: torch.dtype, *, batch_invariant: bool = False) -> FrozenBase:
    """A copy of a base, on another device or in another dtype; its buffers keep theirs, as when a base is loaded in a dtype:
    the frequencies of rotary positions must not be rounded."""
    model = copy.deepcopy(base.model).to(device)
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return replace(base, model=model, batch_invariant=batch_invariant)


def reference_of(base: FrozenBase, dtype: torch.dtype) -> FrozenBase:
    """What runs in a dtype are held against: weights rounded to it, in float32 on the CPU, with plain attention."""
    reference = moved(moved(base, "cpu", dtype), "cpu", torch.float32)
    reference.model.set_attn_implementation("eager")
    return reference


class Referee:
    """A reference and the CPU's own run in a dtype, made once for all that is held against them."""

    def __init__(self, base: FrozenBase, dtype: torch.dtype) -> None:
        """Of a base in float32 or in that dtype."""
        self.dtype = dtype
        self._reference = reference_of(base, dtype)
        self._wanted = outcome_of(self._reference, dtype)
        self._own = self._wanted if dtype == torch.float32 else outcome_of(moved(self._reference, "cpu", dtype), dtype)

    def judge(self, base: FrozenBase) -> Row:
        """Run the rows on a base with the same weights, and see."""
        found = outcome_of(base, self.dtype)
        return judged(self._wanted, self._own, found, greedy_gap(self._reference, found.texts, self.dtype), self.dtype)


def some_prompts(base: FrozenBase, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Prompts of unequal lengths: embeddings of random tokens, rounded to a dtype; float32, on the CPU. Behind vectors that
    are nobody's embedding real bases may be so steep that no half precision has their gradient."""
    generator = torch.Generator().manual_seed(0)
    table_VD = base.embedding.weight.detach()
    ids = [torch.randint(2, len(table_VD), (rows,), generator=generator) for rows in (5, 1, 8)]
    return [table_VD[own.to(table_VD.device)].cpu().to(dtype).float() for own in ids]


def some_inputs(base: FrozenBase, count: int) -> list[tuple[int, ...]]:
    """Random inputs of 2 to 23 tokens."""
    draw, size = random.Random(0), len(base.embedding.weight)
    return [tuple(draw.randrange(2, size) for _ in range(draw.randrange(2, 24))) for _ in range(count)]


def outcome_of(base: FrozenBase, dtype: torch.dtype = torch.float32) -> Outcome:
    """Run the rows behind prompts rounded to a dtype."""
    prompts, inputs = some_prompts(base, dtype), some_inputs(base, ROWS)
    examples = [
        Example(w, ids, LABEL_SCORING, LabelTarget(LABELS, w), 0.5)
        if number % 2
        else Example(w, ids, LANGUAGE_MODELING, [*ids[:2], 3], 0.5)
        for number, (w, ids) in enumerate(zip(WHICH, inputs, strict=True))
    ]
    architecture = architecture_of(base)
    stack = stack_prompts([prompt.to(base.device) for prompt in prompts])
    for _ in range(3 if base.device.type == "cuda" else 1):  # the second records, the third plays
        losses_K, gradient_KPD = losses_and_gradient(architecture, stack, examples)
    again_KPD = losses_and_gradient(architecture, stack, examples, recompute=True)[1]
    engine = OfflineEngine(architecture)
    return Outcome(
        losses_K.cpu(),
        gradient_KPD.cpu(),
        torch.tensor(result_of(engine.score(prompts, WHICH, inputs, [LABELS] * ROWS))),
        result_of(engine.generate(prompts, WHICH, inputs, [8] * ROWS)),
        float((again_KPD - gradient_KPD).abs().max()),
        "lines" if architecture.lays_lines(40) else "shared" if architecture.shares_prefix else "concatenated",
        graphs.recorded if (graphs := getattr(architecture, "graphs", None)) is not None else 0,
    )


def differences(one: Outcome, other: Outcome) -> Row:
    """The largest differences, absolute; `recompute` is the other's."""
    return {
        "loss": float((one.losses_K - other.losses_K).abs().max()),
        "gradient": float((one.gradient_KPD - other.gradient_KPD).abs().max()),
        "score": float((one.scores_BC - other.scores_BC).abs().max()),
        "recompute": other.recompute,
        "same_texts": one.texts == other.texts,
    }


@torch.no_grad()
def greedy_gap(reference: FrozenBase, texts: Sequence[Sequence[int]], dtype: torch.dtype) -> float:
    """How far the tokens of answers are from being the reference's choice behind the same tokens: the most by which its best
    logit is above theirs, as a share of the row's largest logit by magnitude."""
    architecture = architecture_of(reference)
    stack = stack_prompts(some_prompts(reference, dtype))
    tails = [[text[:-1]] for text in texts]
    logits_NV = architecture.logits_behind(stack, None, WHICH, some_inputs(reference, ROWS), tails)
    gap, first = 0.0, 0
    for text in texts:
        logits_TV = logits_NV[first : first + max(1, len(text))]
        first += len(logits_TV)
        if text:
            below_T = logits_TV.amax(1) - logits_TV.gather(1, torch.tensor(text)[:, None])[:, 0]
            gap = max(gap, float((below_T / logits_TV.abs().amax(1)).max()))
    return gap


def judged(reference: Outcome, own: Outcome, other: Outcome, gap: float, dtype: torch.dtype) -> Row:
    """Relative distances of a run in a dtype to its reference, and whether they are rounding: `ok`, by the bounds above.
    Answers may differ where the reference's logits are that near (`gap`), and rows must be run in the same way.

    Args:
        own: of the CPU in that dtype.
    """
    found, usual = distances(reference, other), distances(reference, own)
    # Written so that what is no number is not within; and a prompt whose gradient no half precision has excuses no other.
    within = all(bool((found[name] <= (TIMES * usual[name]).clamp_min(ALWAYS[dtype])).all()) for name in found)
    return {
        "ok": within and gap <= 2 * ROUNDING[dtype] and other.way == reference.way,
        **{name: _short(float(values.max())) for name, values in found.items()},
        "cpu_gradient": _short(float(usual["gradient"].max())),
        "greedy_gap": _short(gap),
        "same_texts": sum(one == two for one, two in zip(reference.texts, other.texts, strict=True)),
        "of_texts": len(reference.texts),
        "way": other.way,
        "played": other.played,
        "recompute": _short(other.recompute),
    }


def distances(reference: Outcome, other: Outcome) -> dict[str, Tensor]:
    """Of losses and scores the largest, of gradients each prompt's, relative as :data:`ALWAYS` has them."""

    def relative(ours: Tensor, its: Tensor) -> Tensor:
        return ((ours - its).abs() / its.abs().clamp_min(1)).max()

    off_KPD = other.gradient_KPD - reference.gradient_KPD
    return {
        "loss": relative(other.losses_K, reference.losses_K),
        "gradient": off_KPD.flatten(1).norm(dim=1) / reference.gradient_KPD.flatten(1).norm(dim=1).clamp_min(1e-12),
        "score": relative(other.scores_BC, reference.scores_BC),
    }


def _short(value: float) -> float:
    return float(f"{value:.2g}")
