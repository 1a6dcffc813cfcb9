"""How far rounding moves logits when a row is run in another company, and the decisions that hang on less.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase

ROUNDING = {
    torch.float32: 256 * torch.finfo(torch.float32).eps,
    torch.bfloat16: 4 * torch.finfo(torch.bfloat16).eps,
    torch.float16: 8 * torch.finfo(torch.float16).eps,
}
"""By dtype, how far any logit of a row may move by what is run beside it, as a share of the row's largest (by magnitude):
3e-5 in float32, 0.03 in bfloat16, 0.008 in float16. Measured on the built-in base and on random ones of four architectures,
with a margin."""


class NearTies:
    """Counts decisions that rounding could turn: another company may give another answer."""

    def __init__(self, base: FrozenBase) -> None:
        """None are counted of a base that is batch invariant."""
        self._dtype = str(base.dtype).removeprefix("torch.")
        self.share = 0.0 if base.batch_invariant else ROUNDING.get(base.dtype, 0.0)
        """Of a row's largest logit: what may be nearer than that is a near tie."""
        self.count = 0
        """So far."""

    @property
    def remark(self) -> str | None:
        """What people should know of them; None where there were none."""
        if not self.count:
            return None
        what = "choice was a near tie" if self.count == 1 else "choices were near ties"
        return (
            f"{self.count} {what} in {self._dtype}: what else is in the batch can turn such a one; float32 has fewer "
            "(--dtype), and with --batch-invariant nothing depends on the batch"
        )

    def bounds(self, logits_BV: Tensor, best_B: Tensor | None = None) -> Tensor:
        """The distance below which two logits are near, of each row; B, float32. `best_B`: each row's best, where known."""
        # Both are vectorised; `aminmax` takes several times as long.
        best_B = logits_BV.amax(-1) if best_B is None else best_B
        return self.share * torch.maximum(logits_BV.amin(-1).abs(), best_B.abs()).float()

    def greedy(self, logits_BV: Tensor, best_B: Tensor, greedy_B: Tensor, given_BV: Tensor | None = None) -> list[bool]:
        """Whether each row's second best logit is that near. The logits are as they were, afterwards. `given_BV`: what the
        base gave, where some of the logits are ruled out."""
        if not self.share:
            return [False] * len(logits_BV)
        bound_B = self.bounds(logits_BV, best_B) if given_BV is None or given_BV is logits_BV else self.bounds(given_BV)
        best = torch.arange(len(logits_BV), device=logits_BV.device), greedy_B
        logits_BV[best] = -torch.inf
        second_B = logits_BV.amax(-1)
        logits_BV[best] = best_B
        near: list[bool] = (best_B.float() - second_B.float() < bound_B).tolist()
        return near

    def labels(self, scores: Sequence[float], bound: float, longest: int) -> bool:
        """Whether two labels' scores are that near, each the sum over up to `longest` tokens."""
        if len(scores) < 2 or not self.share:
            return False
        second, best = sorted(scores)[-2:]
        return best - second < bound * longest
