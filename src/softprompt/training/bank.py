"""The bank: K prompts as one tensor, with an optimiser whose every prompt has a state and a learning rate of its own.

AdamW is elementwise and Adafactor works by rows and columns of one prompt, so K optimisers are one tensor operation, and a
prompt's updates do not depend on which others are in the bank.

Shapes: K prompts, P virtual tokens (of the longest; padded on the left), D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """How one prompt is updated."""

    optim: str
    """`adamw` or `adafactor`."""
    weight_decay: float
    max_grad_norm: float


_STATE = ("vectors_KPD", "steps_K", "_first_KPD", "_second_KPD", "_rows_KP1", "_columns_K1D")


class Bank:
    """K prompts trained together."""

    def __init__(self, prompts: Sequence[Tensor], rules: Sequence[Rule], device: torch.device | None = None) -> None:
        """Start from P_k x D matrices."""
        self.lengths = [len(prompt_PD) for prompt_PD in prompts]
        longest = max(self.lengths)
        padded = [torch.nn.functional.pad(p.float(), (0, 0, longest - len(p), 0)) for p in prompts]
        self.vectors_KPD = torch.stack(padded).to(device)
        columns = torch.arange(longest)
        self.mask_KP1 = torch.stack([columns >= longest - n for n in self.lengths])[:, :, None].float().to(device)
        self.rules = list(rules)
        self.steps_K = torch.zeros(len(prompts), device=device)
        self._first_KPD = torch.zeros_like(self.vectors_KPD)
        self._second_KPD = torch.zeros_like(self.vectors_KPD)
        self._rows_KP1 = torch.zeros_like(self.mask_KP1)
        self._columns_K1D = torch.zeros_like(self.vectors_KPD[:, :1])

    def prompt(self, index: int) -> Tensor:
        """A copy of prompt `index`, P_k x D."""
        return self.vectors_KPD[index, -self.lengths[index] :].clone()

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state of a bank of the same shape."""
        for name in _STATE:
            getattr(self, name).copy_(state[name])

    def step(self, which: Sequence[int], gradient_NPD: Tensor, rates: Sequence[float]) -> None:
        """Update some prompts.

        Args:
            which: their N indices.
            gradient_NPD: their gradients, padded like the bank.
            rates: a learning rate for each.
        """
        for optim in ("adamw", "adafactor"):
            chosen = [place for place, index in enumerate(which) if self.rules[index].optim == optim]
            if not chosen:
                continue
            rows = [which[place] for place in chosen]
            gradient = gradient_NPD[chosen].float() * self.mask_KP1[rows]
            bound_N = self._vector([self.rules[row].max_grad_norm for row in rows])
            norm_N = gradient.flatten(1).norm(dim=1)
            gradient *= (bound_N / norm_N.clamp_min(1e-12)).clamp_max(1.0)[:, None, None]
            self.steps_K[rows] += 1
            update = self._adamw(rows, gradient) if optim == "adamw" else self._adafactor(rows, gradient)
            rate_N11 = self._vector([rates[place] for place in chosen])[:, None, None]
            decay_N11 = self._vector([self.rules[row].weight_decay for row in rows])[:, None, None]
            vectors = self.vectors_KPD[rows]
            self.vectors_KPD[rows] = vectors - rate_N11 * (update + decay_N11 * vectors)

    def _adamw(self, rows: list[int], gradient: Tensor, beta1: float = 0.9, beta2: float = 0.999) -> Tensor:
        """Loshchilov and Hutter (2019)."""
        first = self._first_KPD[rows].lerp(gradient, 1 - beta1)
        second = self._second_KPD[rows].lerp(gradient.square(), 1 - beta2)
        self._first_KPD[rows], self._second_KPD[rows] = first, second
        step_N11 = self.steps_K[rows][:, None, None]
        return (first / (1 - beta1**step_N11)) / ((second / (1 - beta2**step_N11)).sqrt() + 1e-8)

    def _adafactor(self, rows: list[int], gradient: Tensor) -> Tensor:
        """Shazeer and Stern (2018) as Lester et al. (2021) use it: second moments factored, decay 1 - t^-0.8, the update
        clipped at a root mean square of 1, no momentum, no scaling by the size of the parameter."""
        mask = self.mask_KP1[rows]
        count_N11 = mask.sum(1, keepdim=True)
        squares = gradient.square() + 1e-30 * mask
        decay_N11 = 1 - self.steps_K[rows][:, None, None] ** -0.8
        by_row = decay_N11 * self._rows_KP1[rows] + (1 - decay_N11) * squares.mean(2, keepdim=True)
        by_column = decay_N11 * self._columns_K1D[rows] + (1 - decay_N11) * squares.sum(1, keepdim=True) / count_N11
        self._rows_KP1[rows], self._columns_K1D[rows] = by_row, by_column
        mean_N11 = by_row.sum(1, keepdim=True) / count_N11
        second = (by_row / mean_N11.clamp_min(1e-30)) * by_column
        update = gradient / second.clamp_min(1e-30).sqrt() * mask
        rms_N11 = (update.square().mean(2, keepdim=True).sum(1, keepdim=True) / count_N11).sqrt()
        return update / rms_N11.clamp_min(1.0)

    def _vector(self, values: list[float]) -> Tensor:
        return torch.tensor(values, device=self.vectors_KPD.device)
