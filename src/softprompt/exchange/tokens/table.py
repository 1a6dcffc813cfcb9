"""Vectors as rows of a model's table of embeddings, behind rows of its head that are never the best.

Shapes: P vectors, D width, V vocabulary of the base, T tokens.

No linear head without a bias can rule a token out: behind a norm that knows no direction, a row of the head beats all others
for some state, unless it lies within their convex hull. The mean of all rows does. Its logit is the mean of all logits,
which is never the largest; and as `exp` is convex, it gets 1/V of the probability at most, in practice e to the minus ten or
so. So greedy answers stay what they are in every engine, without a setting. A head with a bias says no outright: a row of
zeros and a bias of -10,000.

Where head and table are one (tied embeddings), the head becomes a matrix of its own: as a row of the head a trained vector
is large, and would win.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError

NEVER = -1e4
"""A bias that no logit comes near, and that float16 holds."""


@torch.no_grad()
def extend_model(base: FrozenBase, prompts: Sequence[Tensor], rows: int) -> None:
    """Give the model of a base rows for vectors, in place: the base is another one then.

    Args:
        base: loaded for this alone.
        prompts: the vectors, each P x D.
        rows: of the table with them; the last ones are theirs.

    Raises:
        BaseModelError: the model has no place for them, or computes something else of the tokens than of the vectors.
    """
    vectors_PD = torch.cat([prompt.to(base.device, base.dtype) for prompt in prompts])
    probe = _probe(base)
    wanted_TV = _logits(base, inputs_embeds=torch.cat([prompts[0].to(vectors_PD), base.embed(probe)])[None])
    head = base.model.get_output_embeddings()
    if head is None or not hasattr(head, "weight"):
        raise _no_place(base, "it has no head of rows")
    scale, first = table_scale(base), rows - len(vectors_PD)
    if head.weight is base.embedding.weight:
        _untie(base.model, head)
    never_D = head.weight[:first].float().mean(0)
    base.model.resize_token_embeddings(rows, mean_resizing=False)
    table, head = base.model.get_input_embeddings(), base.model.get_output_embeddings()
    if len(table.weight) != rows or len(head.weight) != rows:
        raise _no_place(base, f"transformers makes {len(table.weight)} and {len(head.weight)} rows of {rows}")
    table.weight[first:] = (vectors_PD.float() / scale).to(table.weight.dtype)
    bias = getattr(head, "bias", None)
    head.weight[first:] = never_D.to(head.weight.dtype) if bias is None else 0
    if bias is not None:
        bias[first:] = NEVER
    base.model.requires_grad_(False)
    ids = torch.arange(first, first + len(prompts[0]), device=probe.device)
    _check(base, _logits(base, input_ids=torch.cat([ids, probe])[None]), wanted_TV)
    found_PD = table(torch.arange(first, rows, device=probe.device))
    if not _near(found_PD, vectors_PD):
        raise _no_place(base, "its table gives other vectors back than were put into it")


def _untie(model: Any, head: Any) -> None:
    for config in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    if hasattr(model, "get_expanded_tied_weights_keys"):
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def _probe(base: FrozenBase) -> Tensor:
    """A few tokens of the vocabulary."""
    size = len(base.embedding.weight)
    ids = [token for token in range(size // 9, size, max(1, size // 9)) if token not in base.spelling.unusable]
    return torch.tensor(ids[:8], device=base.device)


@torch.no_grad()
def table_scale(base: FrozenBase) -> float:
    """What the table's module multiplies rows by (Gemma); 1 where it gives them as they are.

    Raises:
        BaseModelError: it does something else with them.
    """
    ids = _probe(base)
    row_TD, given_TD = base.embedding.weight[ids].float(), base.embedding(ids).float()
    scale = float((row_TD * given_TD).sum() / (row_TD * row_TD).sum().clamp_min(1e-12))
    if not torch.allclose(row_TD * scale, given_TD, rtol=1e-2, atol=1e-6 + 1e-2 * float(given_TD.abs().mean())):
        raise _no_place(base, "its embeddings are no rows of a table, times a number")
    return 1.0 if abs(scale - 1) < 1e-6 else scale


def _logits(base: FrozenBase, **given: Tensor) -> Tensor:
    """T x V for one row."""
    count = next(iter(given.values())).shape[1]
    positions = torch.arange(count, device=base.device)[None]
    try:
        made = base.model(**given, attention_mask=torch.ones_like(positions), position_ids=positions, use_cache=False)
    except Exception as error:  # a model that looks ids up in a second table has no row there for the new ones
        raise _no_place(base, f"it does not run tokens beyond its own ({type(error).__name__})") from None
    logits_TV: Tensor = made.logits[0].float()
    return logits_TV


def _check(base: FrozenBase, found_TV: Tensor, wanted_TV: Tensor) -> None:
    own = wanted_TV.shape[1]
    if not _near(found_TV[:, :own], wanted_TV, loose=base.dtype != torch.float32):
        raise _no_place(base, "it makes something else of tokens than of their vectors")
    if found_TV.shape[1] == own or (found_TV[:, own:].amax(1) > found_TV[:, :own].amax(1)).any():
        raise _no_place(base, "a new token would be the best answer")


def _near(one: Tensor, two: Tensor, *, loose: bool = True) -> bool:
    bound = 2e-2 if loose else 1e-4
    return bool((one.float() - two.float()).norm() <= bound * two.float().norm().clamp_min(1e-6))


def _no_place(base: FrozenBase, why: str) -> BaseModelError:
    return BaseModelError(
        f"{base.name} ({base.architecture}) cannot carry prompts as tokens: {why}; serve them with softprompt, or export "
        "them with --format peft"
    )
