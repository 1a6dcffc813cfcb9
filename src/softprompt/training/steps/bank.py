"""The bank: K prompts as one tensor, with an optimiser whose every prompt has a state and a learning rate of its own.

AdamW is elementwise and Adafactor works by rows and columns of one prompt, so K optimisers are one tensor operation, and a
prompt's updates do not depend on which others are in the bank. What is trained are the vectors, and before them the weights
of the network that stands before a reparameterised prompt.

Shapes: K prompts, P virtual tokens (of the longest; padded on the left), R trained rows (P where there is no network),
D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from softprompt.training.steps.reparameterize import Network, fold, lay_out, pull_back


@dataclass(frozen=True)
class Rule:
    """How one prompt is updated."""

    optim: str
    """`adamw` or `adafactor`."""
    weight_decay: float
    max_grad_norm: float
    network: Network | None = None
    """What stands before its vectors while it is trained."""
    beta2: float = 0.98
    """Of AdamW: how much of its second moment is kept at each step."""
    head: int = 0
    """Last rows that are the head's, whose numbers are of another size than the vectors'."""
    head_rate: float = 1.0
    """Their learning rate in units of the vectors'."""


_OF_ROWS = ("trained_KRD", "_first_KRD", "_second_KRD", "_rows_KR1")
"""What a prompt's state holds row by row."""


class Bank:
    """K prompts trained together. More may join at any time: those there keep their states."""

    def __init__(self, prompts: Sequence[Tensor], rules: Sequence[Rule], device: torch.device | None = None) -> None:
        """Start from P_k x D matrices, none or more."""
        self.lengths: list[int] = []
        self.rules: list[Rule] = []
        self._device = device
        if prompts:
            self.extend(prompts, rules)

    def extend(self, prompts: Sequence[Tensor], rules: Sequence[Rule]) -> None:
        """Let more prompts in, at their starts, behind those there are."""
        self._lay(range(len(self.rules)), prompts, rules)

    def keep(self, which: Sequence[int]) -> None:
        """Let go of all prompts but these, one at least, which stand in this order then and keep their states."""
        self._lay(which, [], [])

    def _lay(self, which: Sequence[int], prompts: Sequence[Tensor], rules: Sequence[Rule]) -> None:
        """Lay out prompts that are in, and others behind them at their starts."""
        states = [self.state(index) for index in which]
        kept = [state["trained_KRD"][-self.lengths[index] :] for index, state in zip(which, states, strict=True)]
        starts = [*kept, *prompts]
        self.rules = [*(self.rules[index] for index in which), *rules]
        self.lengths = [len(start_PD) for start_PD in starts]
        self._networks = [rule.network for rule in self.rules]
        self._weights = [
            network.rows(len(start_PD) - network.apart, start_PD.shape[1]) if network else 0
            for network, start_PD in zip(self._networks, starts, strict=True)
        ]
        laid = [
            lay_out(start_PD.float().cpu(), network, max(self._weights), max(self.lengths))
            for start_PD, network in zip(starts, self._networks, strict=True)
        ]
        stacked = (torch.stack(each).to(self._device) for each in zip(*laid, strict=True))
        self.trained_KRD, self.mask_KR1, self._trains_KR1 = stacked
        self._pace_KR1 = torch.ones_like(self.mask_KR1)
        for index, rule in enumerate(self.rules):
            self._pace_KR1[index, len(self._pace_KR1[index]) - rule.head :] = rule.head_rate
        self.steps_K = torch.zeros(len(self.rules), device=self._device)
        self._first_KRD = torch.zeros_like(self.trained_KRD)
        self._second_KRD = torch.zeros_like(self.trained_KRD)
        self._rows_KR1 = torch.zeros_like(self.mask_KR1)
        self._columns_K1D = torch.zeros_like(self.trained_KRD[:, :1])
        for index, state in enumerate(states):
            self.load_state(index, state)

    @property
    def vectors_KPD(self) -> Tensor:  # noqa: N802
        """All prompts as plain vectors, padded on the left."""
        return fold(self.trained_KRD, self._networks, self.lengths, max(self.lengths))

    def prompt(self, index: int) -> Tensor:
        """A copy of prompt `index` as plain vectors, P_k x D."""
        one = slice(index, index + 1)
        vectors_1PD = fold(self.trained_KRD[one], self._networks[one], self.lengths[one], max(self.lengths))
        return vectors_1PD[0, -self.lengths[index] :].clone()

    def parts(self, places: Sequence[int]) -> Iterator[tuple[Bank, list[int], list[int]]]:
        """The banks that prompts are in, all in this one: the places of each bank's own, and where they are in it."""
        if places:
            yield self, [*places], [*places]

    def alone(self, index: int) -> Bank:
        """A bank of prompt `index` alone, in the same state: nothing of it has the shape that its neighbours bring."""
        rows = self.trained_KRD[index, -self.lengths[index] :]
        bank = Bank([rows], [self.rules[index]], self._device)
        bank.load_state(0, self.state(index))
        return bank

    def state(self, index: int) -> dict[str, Tensor]:
        """Everything that the next step of prompt `index` depends on, without the padding that its neighbours bring."""
        rows = self._rows_of(index)
        state = {name: getattr(self, name)[index, rows] for name in _OF_ROWS}
        return state | {"_columns_K1D": self._columns_K1D[index].clone(), "steps_K": self.steps_K[index].clone()}

    def load_state(self, index: int, state: Mapping[str, Tensor]) -> None:
        """Let prompt `index` go on from a state of a prompt of the same length and network."""
        rows = self._rows_of(index)
        for name in _OF_ROWS:
            getattr(self, name)[index, rows] = state[name].to(self.trained_KRD.device)
        self._columns_K1D[index].copy_(state["_columns_K1D"])
        self.steps_K[index].copy_(state["steps_K"])

    def _rows_of(self, index: int) -> list[int]:
        total = self.trained_KRD.shape[1]
        return [*range(self._weights[index]), *range(total - self.lengths[index], total)]

    def step(self, which: Sequence[int], gradient_NPD: Tensor, rates: Sequence[float]) -> None:
        """Update some prompts.

        Args:
            which: their N indices.
            gradient_NPD: the gradients of their plain vectors, padded on the left to the longest of them at least.
            rates: a learning rate for each.
        """
        for optim in ("adamw", "adafactor"):
            chosen = [place for place, index in enumerate(which) if self.rules[index].optim == optim]
            if not chosen:
                continue
            rows = [which[place] for place in chosen]
            trains = self._trains_KR1[rows]
            columns = gradient_NPD.shape[1]
            gradient = gradient_NPD[chosen].float() * self.mask_KR1[rows, -columns:]
            bound_N = self._vector([self.rules[row].max_grad_norm for row in rows])
            norm_N = gradient.flatten(1).norm(dim=1)
            gradient *= (bound_N / norm_N.clamp_min(1e-12)).clamp_max(1.0)[:, None, None]
            gradient = F.pad(gradient, (0, 0, max(self.lengths) - columns, 0))
            networks, lengths = [self._networks[row] for row in rows], [self.lengths[row] for row in rows]
            gradient = pull_back(self.trained_KRD[rows], networks, lengths, gradient) * trains
            self.steps_K[rows] += 1
            update = self._adamw(rows, gradient) if optim == "adamw" else self._adafactor(rows, gradient)
            rate_N11 = self._vector([rates[place] for place in chosen])[:, None, None]
            decay_N11 = self._vector([self.rules[row].weight_decay for row in rows])[:, None, None]
            trained = self.trained_KRD[rows]
            paces = self._pace_KR1[rows] * trains
            self.trained_KRD[rows] = trained - rate_N11 * (update + decay_N11 * trained) * paces

    def _adamw(self, rows: list[int], gradient: Tensor, beta1: float = 0.9) -> Tensor:
        """Loshchilov and Hutter (2019)."""
        beta2 = self._vector([self.rules[row].beta2 for row in rows])[:, None, None]
        first = self._first_KRD[rows].lerp(gradient, 1 - beta1)
        second = self._second_KRD[rows].lerp(gradient.square(), 1 - beta2)
        self._first_KRD[rows], self._second_KRD[rows] = first, second
        step_N11 = self.steps_K[rows][:, None, None]
        return (first / (1 - beta1**step_N11)) / ((second / (1 - beta2**step_N11)).sqrt() + 1e-8)

    def _adafactor(self, rows: list[int], gradient: Tensor) -> Tensor:
        """Shazeer and Stern (2018) as Lester et al. (2021) use it: second moments factored, decay 1 - t^-0.8, the update
        clipped at a root mean square of 1, no momentum, no scaling by the size of the parameter."""
        mask = self._trains_KR1[rows]
        count_N11 = mask.sum(1, keepdim=True)
        squares = gradient.square() + 1e-30 * mask
        decay_N11 = 1 - self.steps_K[rows][:, None, None] ** -0.8
        by_row = decay_N11 * self._rows_KR1[rows] + (1 - decay_N11) * squares.mean(2, keepdim=True)
        by_column = decay_N11 * self._columns_K1D[rows] + (1 - decay_N11) * squares.sum(1, keepdim=True) / count_N11
        self._rows_KR1[rows], self._columns_K1D[rows] = by_row, by_column
        mean_N11 = by_row.sum(1, keepdim=True) / count_N11
        second = (by_row / mean_N11.clamp_min(1e-30)) * by_column
        update = gradient / second.clamp_min(1e-30).sqrt() * mask
        rms_N11 = (update.square().mean(2, keepdim=True).sum(1, keepdim=True) / count_N11).sqrt()
        return update / rms_N11.clamp_min(1.0)

    def _vector(self, values: list[float]) -> Tensor:
        return torch.tensor(values, device=self.trained_KRD.device)


class Banks:
    """Prompts of any width: a bank for each, as soft prompts and prefixes share no operation. Those of one width are trained
    together, and places count through all of them."""

    def __init__(self, prompts: Sequence[Tensor], rules: Sequence[Rule], device: torch.device | None = None) -> None:
        """Start from matrices, none or more."""
        self._device = device
        self._banks: dict[int, Bank] = {}
        self._places: list[tuple[Bank, int]] = []
        self.extend(prompts, rules)

    def extend(self, prompts: Sequence[Tensor], rules: Sequence[Rule]) -> None:
        """Let more prompts in, at their starts, behind those there are."""
        joining: dict[int, list[int]] = {}
        for place, prompt_PD in enumerate(prompts):
            joining.setdefault(prompt_PD.shape[1], []).append(place)
        placed: dict[int, tuple[Bank, int]] = {}
        for width, own in joining.items():
            bank = self._banks.setdefault(width, Bank([], [], self._device))
            placed |= {place: (bank, index) for index, place in enumerate(own, len(bank.rules))}
            bank.extend([prompts[place] for place in own], [rules[place] for place in own])
        self._places += [placed[place] for place in range(len(prompts))]

    def keep(self, places: Sequence[int]) -> None:
        """Let go of all prompts but these, which stand in this order then; a width that none has goes too."""
        kept = {place: (bank, at) for bank, own, _ in self.parts(places) for at, place in enumerate(own)}
        for width, bank in [*self._banks.items()]:
            if own := [self._places[place][1] for place in places if self._places[place][0] is bank]:
                bank.keep(own)
            else:
                del self._banks[width]
        self._places = [kept[place] for place in places]

    def parts(self, places: Sequence[int]) -> Iterator[tuple[Bank, list[int], list[int]]]:
        """The banks that prompts are in: the places of each bank's own, and where they are in it."""
        for bank in self._banks.values():
            if own := [place for place in places if self._places[place][0] is bank]:
                yield bank, own, [self._places[place][1] for place in own]

    def prompt(self, place: int) -> Tensor:
        """See :meth:`Bank.prompt`, as for those below."""
        bank, index = self._places[place]
        return bank.prompt(index)

    def alone(self, place: int) -> Bank:
        bank, index = self._places[place]
        return bank.alone(index)

    def state(self, place: int) -> dict[str, Tensor]:
        bank, index = self._places[place]
        return bank.state(index)

    def load_state(self, place: int, state: Mapping[str, Tensor]) -> None:
        bank, index = self._places[place]
        bank.load_state(index, state)
