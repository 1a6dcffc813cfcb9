"""A soft prompt's vectors carried from one base to another, by the tokens that both know.

Two ways: a linear map between the two embedding tables, fitted on the tokens that both have (as word embeddings of two
languages are mapped, Mikolov et al. 2013; prompts have been carried by learnt maps, Su et al. 2022); and for each vector the
embedding of the token that is nearest to it. Neither gives the old prompt's answers. They are starts for training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase

FEWEST = 200
"""So many tokens that both bases know are needed for a map."""
MOST = 20_000
"""Of them a map is fitted on those that come first in the new vocabulary."""
RIDGE = 1e-2
"""Of the mean square of the old embeddings: keeps the map small where few tokens are shared."""


def carried(vectors_PD: Tensor, old: FrozenBase, new: FrozenBase) -> dict[str, Tensor]:
    """Soft prompts on `new` made of one on `old` (P x D, float32), by the way they were made; none where the two share too
    few tokens. `map` keeps how long each vector is beside the embeddings of its base."""
    before, behind = texts_of(old), texts_of(new)
    shared = sorted((number, before[text]) for text, number in behind.items() if text in before)[:MOST]
    if len(shared) < FEWEST:
        return {}
    olds_ND, news_NE = embeddings(old, [ids[1] for ids in shared]), embeddings(new, [ids[0] for ids in shared])
    vectors_PD = vectors_PD.double()
    gram_DD = olds_ND.T @ olds_ND
    gram_DD.diagonal().add_(RIDGE * float(gram_DD.diagonal().mean()))
    mapped_PE = vectors_PD @ torch.linalg.solve(gram_DD, olds_ND.T @ news_NE)
    lengths_P1 = vectors_PD.norm(dim=1, keepdim=True) / olds_ND.norm(dim=1).median()
    mapped_PE *= lengths_P1 * news_NE.norm(dim=1).median() / mapped_PE.norm(dim=1, keepdim=True).clamp_min(1e-12)
    near_PN = torch.nn.functional.normalize(vectors_PD) @ torch.nn.functional.normalize(olds_ND).T
    return {"map": mapped_PE.float(), "nearest": news_NE[near_PN.argmax(1)].float()}


def embeddings(base: FrozenBase, ids: list[int]) -> Tensor:
    """As they enter the layers, N x D, in float64 on the CPU."""
    with torch.no_grad():
        return base.embed(torch.tensor(ids, device=base.device)).double().cpu()


def texts_of(base: FrozenBase) -> dict[str, int]:
    """What each token stands for, with the blank before it, and its id; only tokens of plain ASCII, since others are pieces
    of characters in some vocabularies and not in others."""
    size = len(base.embedding.weight)
    raw = {
        text: number
        for text, number in base.tokenizer.get_vocab().items()
        if number < size and number not in base.spelling.control_ids and number not in base.spelling.unusable
    }
    pieces = any(text.startswith("##") for text in raw)
    found: dict[str, int] = {}
    for text, number in raw.items():
        plain = text.replace("\u0120", " ").replace("\u2581", " ").replace("\u010a", "\n")
        if pieces:  # of words that are written on, where others begin one
            plain = plain[2:] if plain.startswith("##") else f" {plain}"
        if plain.isascii() and plain:
            found[plain] = min(number, found.get(plain, number))
    return found
