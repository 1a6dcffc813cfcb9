"""Reparameterised prompts: while it is trained, a small network of a prompt's own stands before its vectors.

RESIDUAL is Residual Prompt Tuning (Razdaibiedina et al. 2023): `v + LayerNorm(relu(v A) B)`, one network for all vectors of
a prompt. MLP leaves the skip out, as the encoder of P-tuning (Liu et al. 2021) does. The network is of no use afterwards:
what is judged and kept are the plain vectors that it gives.

The network's weights are rows of the base's width, as the vectors are. So a prompt in training is one matrix, whose rows
are the norm's gain and bias, M rows of A, M rows of B, and the P vectors. A prompt without a network has zeros in the place
of one and folds to its own vectors, to the bit; so one operation folds all prompts of a bank.

Shapes: K prompts, R trained rows, P virtual tokens, M hidden units (of the largest network), D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Network:
    """The network of one prompt."""

    kind: str
    """`RESIDUAL` or `MLP`."""
    hidden: int
    """M, its hidden units."""
    seed: int
    """Of its weights at the start."""


def weight_rows(hidden: int) -> int:
    """Rows that a network takes before the vectors."""
    return 2 + 2 * hidden if hidden else 0


def lay_out(prompt_PD: Tensor, network: Network | None, hidden: int, longest: int) -> tuple[Tensor, Tensor]:
    """A prompt as the matrix to train, R x D, and the mask of what is in use of it, R x 1.

    A residual network starts with a gain of zero, so that training starts from the very vectors given. Weights are as large
    as the norm lets them be, for one learning rate must suit them and the vectors.

    Args:
        prompt_PD: where the vectors start.
        network: what stands before them, if anything.
        hidden: M, the room for networks.
        longest: P, the room for vectors.
    """
    length, width = prompt_PD.shape
    weights_WD = torch.zeros(weight_rows(hidden), width)
    mask_W = torch.zeros(len(weights_WD))
    if network is not None:
        down, up = slice(2, 2 + network.hidden), slice(2 + hidden, 2 + hidden + network.hidden)
        generator = torch.Generator().manual_seed(network.seed)
        spread = prompt_PD.std().clamp_min(1e-12)
        weights_WD[down] = torch.randn(network.hidden, width, generator=generator) / (spread * width**0.5)
        weights_WD[up] = torch.randn(network.hidden, width, generator=generator)
        weights_WD[0] = 0 if network.kind == "RESIDUAL" else spread
        mask_W[:2] = mask_W[down] = mask_W[up] = 1
    pad = longest - length
    trained_RD = torch.cat([weights_WD, F.pad(prompt_PD, (0, 0, pad, 0))])
    return trained_RD, torch.cat([mask_W, torch.zeros(pad), torch.ones(length)])[:, None]


def rows_in_use(network: Network | None, hidden: int, length: int, longest: int) -> list[int]:
    """The rows of a prompt's matrix, laid out as above, that are its own: those of its network, then its vectors."""
    first = weight_rows(hidden)
    own = [] if network is None else [0, 1, *range(2, 2 + network.hidden), *range(2 + hidden, 2 + hidden + network.hidden)]
    return [*own, *range(first + longest - length, first + longest)]


def fold(trained_KRD: Tensor, mask_KR1: Tensor, skip_K11: Tensor, hidden: int) -> Tensor:
    """The plain vectors, K x P x D.

    Args:
        trained_KRD: what is trained, as laid out above.
        mask_KR1: what of it is in use.
        skip_K11: 1 for prompts whose vectors are added to what the network gives, 0 for others.
        hidden: M.
    """
    if not hidden:
        return trained_KRD
    first = weight_rows(hidden)
    gain_K1D, bias_K1D, vectors_KPD = trained_KRD[:, :1], trained_KRD[:, 1:2], trained_KRD[:, first:]
    down_KMD, up_KMD = trained_KRD[:, 2:first].chunk(2, dim=1)
    hidden_KPM = (vectors_KPD @ down_KMD.mT).relu()
    normed_KPD = F.layer_norm(hidden_KPM @ up_KMD, vectors_KPD.shape[2:])
    folded_KPD: Tensor = skip_K11 * vectors_KPD + gain_K1D * normed_KPD + bias_K1D
    return folded_KPD * mask_KR1[:, first:]


def pull_back(trained_KRD: Tensor, mask_KR1: Tensor, skip_K11: Tensor, hidden: int, gradient_KPD: Tensor) -> Tensor:
    """The gradient of what is trained, K x R x D, from the gradient of the plain vectors."""
    if not hidden:
        return gradient_KPD
    with torch.enable_grad():
        leaf_KRD = trained_KRD.detach().requires_grad_()
        folded_KPD = fold(leaf_KRD, mask_KR1, skip_K11, hidden)
    (pulled_KRD,) = torch.autograd.grad(folded_KPD, leaf_KRD, gradient_KPD)
    return pulled_KRD * mask_KR1
