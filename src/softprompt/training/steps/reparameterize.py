"""Reparameterised prompts: while it is trained, something small of a prompt's own stands before its vectors.

RESIDUAL is Residual Prompt Tuning (Razdaibiedina et al. 2023): `v + LayerNorm(relu(v A) B)`, one network for all vectors of
a prompt. MLP leaves the skip out. LSTM is the encoder of P-tuning (Liu et al. 2021): the vectors are read from both ends,
and what is read at each place goes through two layers and a norm; so they are no longer free of each other. LOW_RANK leaves
the vectors where they start and adds a matrix of low rank, `v + A B`, as in LoRA and decomposed prompts (Xiao et al. 2023):
`M (P + D)` numbers are trained. None is of use afterwards: what is judged and kept are the plain vectors that it gives.

The weights are rows of the base's width, as the vectors are; what is not so wide is packed into such rows. So a prompt in
training is one matrix, whose rows are its weights, room for those of its neighbours, and the P vectors. Prompts with equal
networks and lengths are folded together, the others apart, so that nothing is run over padding; a prompt without a network
is its own vectors, to the bit.

Shapes: K prompts, R trained rows, W rows of weights, P virtual tokens, M hidden units or the rank, D width.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Network:
    """What stands before one prompt."""

    kind: str
    """`RESIDUAL`, `MLP`, `LSTM` or `LOW_RANK`."""
    hidden: int
    """M, its hidden units, or its rank."""
    seed: int
    """Of its weights at the start."""
    apart: int = 0
    """Last rows of the prompt, such as a head's, that are none of its vectors, and are trained as they are."""

    def numbers(self, length: int, width: int) -> int:
        """How many are trained of it, for P vectors of D numbers."""
        return sum(math.prod(shape) for shape in (*self._wide(width), *self._narrow(length)))

    def rows(self, length: int, width: int) -> int:
        """Rows that its weights take, W, for P vectors."""
        packed = sum(math.prod(shape) for shape in self._narrow(length))
        return sum(rows for rows, _ in self._wide(width)) + -(-packed // width)

    @property
    def trains_vectors(self) -> bool:
        """Whether the vectors are trained with it, or stay where they start."""
        return self.kind != "LOW_RANK"

    def _wide(self, width: int) -> list[tuple[int, int]]:
        """Its weights that are as wide as the base."""
        size = self.hidden
        if self.kind == "LOW_RANK":
            return [(size, width)]
        norm = [(1, width), (1, width)]
        if self.kind == "LSTM":
            return [*norm, (2 * size, width), (8 * size, width)]
        return [*norm, (size, width), (size, width)]

    def _narrow(self, length: int) -> list[tuple[int, ...]]:
        """Its weights that are packed."""
        size = self.hidden
        if self.kind == "LOW_RANK":
            return [(length, size)]
        if self.kind == "LSTM":
            return [(2, 4 * size, size), (2, 1, 4 * size), (2 * size, 2 * size)]
        return []

    def parts(self, weights_KWD: Tensor, length: int) -> list[Tensor]:
        """The weights of prompts in their own shapes, K x ... each."""
        count, _, width = weights_KWD.shape
        wide = self._wide(width)
        rows = [rows for rows, _ in wide]
        *parts, packed_KWD = torch.split(weights_KWD, [*rows, weights_KWD.shape[1] - sum(rows)], dim=1)
        packed_KN, start = packed_KWD.flatten(1), 0
        for shape in self._narrow(length):
            size = math.prod(shape)
            parts.append(packed_KN[:, start : start + size].view(count, *shape))
            start += size
        return parts

    def start(self, prompt_PD: Tensor) -> Tensor:
        """Its weights at the start, W x D, for P vectors.

        A residual network and a low rank start from the very vectors given: the gain of the one and B of the other are zero.
        Weights are as large as a norm, or a fixed factor behind them, lets them be, for one learning rate must suit them and
        the vectors.
        """
        (length, width), size = prompt_PD.shape, self.hidden
        weights_WD = torch.zeros(self.rows(length, width), width)
        parts = [part[0] for part in self.parts(weights_WD[None], length)]  # views: what is put in there is in the whole
        generator = torch.Generator().manual_seed(self.seed)
        spread = prompt_PD.std().clamp_min(1e-12)

        def fill(part: Tensor, scale: Tensor | float = 1.0) -> None:
            part.copy_(torch.randn(part.shape, generator=generator) / scale)

        if self.kind == "LOW_RANK":
            fill(parts[1])
        elif self.kind == "LSTM":
            gain_1D, _, up, into, back, offset, mix = parts
            gain_1D.fill_(spread)
            fill(into, spread * width**0.5)
            fill(back)
            fill(mix)
            fill(up)
            offset[:, :, size : 2 * size] = 1  # the gate that keeps is open at first (Jozefowicz et al. 2015)
        else:
            gain_1D, _, down, up = parts
            fill(down, spread * width**0.5)
            fill(up)
            gain_1D.fill_(0 if self.kind == "RESIDUAL" else spread)
        return weights_WD


def lay_out(prompt_PD: Tensor, network: Network | None, room: int, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """A prompt as the matrix to train, R x D; the mask of what is in use of it, and of what is trained, R x 1 each.

    Args:
        prompt_PD: where the vectors start.
        network: what stands before them, if anything.
        room: for rows of weights.
        longest: P, the room for vectors.
    """
    length, width = prompt_PD.shape
    used_R, weights_WD = torch.zeros(room + longest), torch.zeros(room, width)
    used_R[room + longest - length :] = 1
    trained_R = used_R.clone()
    if network is not None:
        own_WD = network.start(prompt_PD[: length - network.apart])
        weights_WD[: len(own_WD)] = own_WD
        used_R[: len(own_WD)] = trained_R[: len(own_WD)] = 1
        if not network.trains_vectors:
            trained_R[room : room + longest - network.apart] = 0
    matrix_RD = torch.cat([weights_WD, F.pad(prompt_PD, (0, 0, longest - length, 0))])
    return matrix_RD, used_R[:, None], trained_R[:, None]


def fold(trained_KRD: Tensor, networks: Sequence[Network | None], lengths: Sequence[int], longest: int) -> Tensor:
    """The plain vectors, K x P x D.

    Args:
        trained_KRD: what is trained, as laid out above.
        networks: of each prompt.
        lengths: of each prompt.
        longest: P, the room for vectors.
    """
    vectors_KPD = trained_KRD[:, -longest:]
    if not any(networks):
        return vectors_KPD
    alike: dict[tuple[str, int, int, int], list[int]] = defaultdict(list)
    for place, (network, length) in enumerate(zip(networks, lengths, strict=True)):
        if network is not None:
            alike[network.kind, network.hidden, length, network.apart].append(place)
    folded_KPD = vectors_KPD.clone()
    for (kind, _, length, apart), places in alike.items():
        network, count = networks[places[0]], length - apart
        assert network is not None
        weights_NWD = trained_KRD[places, : network.rows(count, trained_KRD.shape[2])]
        parts, own = network.parts(weights_NWD, count), slice(longest - length, longest - apart)
        folded_KPD[places, own] = _FOLDS[kind](vectors_KPD[places, own], parts)
    return folded_KPD


def pull_back(
    trained_KRD: Tensor, networks: Sequence[Network | None], lengths: Sequence[int], gradient_KPD: Tensor
) -> Tensor:
    """The gradient of what is trained, K x R x D, from the gradient of the plain vectors; of what is in use and not trained,
    too."""
    if not any(networks):  # there may be room for the weights of neighbours
        return F.pad(gradient_KPD, (0, 0, trained_KRD.shape[1] - gradient_KPD.shape[1], 0))
    with torch.enable_grad():
        leaf_KRD = trained_KRD.detach().requires_grad_()
        folded_KPD = fold(leaf_KRD, networks, lengths, gradient_KPD.shape[1])
    (pulled_KRD,) = torch.autograd.grad(folded_KPD, leaf_KRD, gradient_KPD)
    return pulled_KRD


def _mlp(vectors_KPD: Tensor, parts: Sequence[Tensor]) -> Tensor:
    gain_K1D, bias_K1D, down_KMD, up_KMD = parts
    hidden_KPM = (vectors_KPD @ down_KMD.mT).relu()
    return gain_K1D * F.layer_norm(hidden_KPM @ up_KMD, vectors_KPD.shape[2:]) + bias_K1D


def _residual(vectors_KPD: Tensor, parts: Sequence[Tensor]) -> Tensor:
    return vectors_KPD + _mlp(vectors_KPD, parts)


def _low_rank(vectors_KPD: Tensor, parts: Sequence[Tensor]) -> Tensor:
    up_KMD, down_KPM = parts
    added_KPD: Tensor = (down_KPM / up_KMD.shape[1] ** 0.5) @ up_KMD
    return vectors_KPD + added_KPD


def _lstm(vectors_KPD: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Both directions (axis 2) at once. G gates of each unit: input, forget, cell, output."""
    gain_K1D, bias_K1D, up_KHD, into_KWD, back_K2GM, offset_K21G, mix_KHH = parts
    count, length, _ = vectors_KPD.shape
    size = back_K2GM.shape[3]
    into_K2GD = into_KWD.reshape(count, 2, 4 * size, -1)
    both_K2PD = torch.stack([vectors_KPD, vectors_KPD.flip(1)], dim=1)
    gates_K2PG = both_K2PD @ into_K2GD.mT + offset_K21G
    back_K2MG = back_K2GM.mT / size**0.5
    state_K21M = cell_K21M = vectors_KPD.new_zeros(count, 2, 1, size)
    states: list[Tensor] = []
    for place in range(length):
        enter, keep, new, out = (gates_K2PG[:, :, place : place + 1] + state_K21M @ back_K2MG).chunk(4, dim=3)
        cell_K21M = keep.sigmoid() * cell_K21M + enter.sigmoid() * new.tanh()
        state_K21M = out.sigmoid() * cell_K21M.tanh()
        states.append(state_K21M)
    states_K2PM = torch.cat(states, dim=2)
    read_KPH = torch.cat([states_K2PM[:, 0], states_K2PM[:, 1].flip(1)], dim=2)
    hidden_KPH = (read_KPH @ mix_KHH.mT / (2 * size) ** 0.5).relu()
    return gain_K1D * F.layer_norm(hidden_KPH @ up_KHD, vectors_KPD.shape[2:]) + bias_K1D


_FOLDS: dict[str, Callable[[Tensor, Sequence[Tensor]], Tensor]] = {
    "RESIDUAL": _residual,
    "MLP": _mlp,
    "LSTM": _lstm,
    "LOW_RANK": _low_rank,
}
