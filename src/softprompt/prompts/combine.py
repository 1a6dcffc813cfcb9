"""Prompts made of prompts, without training: their mean, a weighted mean, one behind the other, or an ensemble of them.
Torch is loaded where numbers are combined.

Shapes: K prompts, P virtual tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from softprompt.errors import ConfigError
from softprompt.text import plural

if TYPE_CHECKING:
    from torch import Tensor

Operation = Literal["average", "interpolate", "concatenate", "ensemble"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)


def check_operation(operation: str, names: Sequence[str], weights: Sequence[float] | None) -> None:
    """Refuse an operation that is none, or that cannot be done with so many prompts or these weights.

    Raises:
        ConfigError: it is so.
    """
    if operation not in OPERATIONS:
        raise ConfigError(f"{operation!r} is no way to combine prompts; known: {', '.join(OPERATIONS)}")
    if len(names) < 2:
        raise ConfigError(f"{plural(len(names), 'prompt')} cannot be combined; name two or more")
    if operation != "interpolate":
        if weights is not None:
            raise ConfigError(f"weights are of interpolate, and {operation} takes none; leave them out")
        return
    if weights is None or len(weights) != len(names):
        given = "none" if weights is None else str(len(weights))
        raise ConfigError(f"interpolate takes a weight for each of {len(names)} prompts, and got {given}; give one for each")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights):
        shown = ", ".join(f"{weight:g}" for weight in weights)
        raise ConfigError(f"weights are 0 or more, and not all of them 0; these are {shown}")


def check_different(operation: str, digests: Sequence[str], refs: Sequence[str]) -> None:
    """Refuse a mean that has a prompt twice, however it was named: of a prompt with itself it is that prompt, and beside
    others it counts for two, which weights say openly. One behind itself is another prompt.

    Raises:
        ConfigError: it is so.
    """
    if operation == "concatenate":
        return
    places: dict[str, int] = {}
    for place, digest in enumerate(digests):
        if (before := places.setdefault(digest, place)) != place:
            named = (
                f"{refs[place]} is named twice"
                if refs[before] == refs[place]
                else f"{refs[before]} and {refs[place]} are the same prompt"
            )
            raise ConfigError(
                f"{named}, and {operation} of a prompt with itself is that prompt; name each once (interpolate takes "
                "a weight for each)"
            )


def shares(count: int, weights: Sequence[float] | None) -> list[float]:
    """What each of `count` prompts counts in a mean; they sum to 1."""
    given = [1.0] * count if weights is None else [float(weight) for weight in weights]
    return [round(weight / sum(given), 12) for weight in given]  # equal however they are scaled


def combine_vectors(
    prompts: Sequence[Tensor], names: Sequence[str], operation: Operation, weights: Sequence[float] | None = None
) -> Tensor:
    """The vectors of a combined prompt, P x D; for an ensemble those of all prompts end to end, as for a concatenation.

    A mean keeps where each virtual token stands, so it takes prompts of one length; the others take any lengths.

    Args:
        prompts: P_k x D each.
        names: what messages call each.
        operation: what is made of them.
        weights: for `interpolate`, one each, 0 or more; they count as shares of their sum.

    Raises:
        ConfigError: they are of unequal width, or of unequal length for a mean; or as :func:`check_operation`.
    """
    import torch

    check_operation(operation, names, weights)
    _check_equal([prompt_PD.shape[1] for prompt_PD in prompts], names, "numbers wide", "give prompts of one base")
    if operation in ("concatenate", "ensemble"):
        return torch.cat([prompt_PD.float() for prompt_PD in prompts])
    mend = f"{operation} takes one length; concatenate and ensemble take any"
    _check_equal([len(prompt_PD) for prompt_PD in prompts], names, "virtual tokens long", mend)
    return mean_of(prompts, weights)


def mean_of(tensors: Sequence[Tensor], weights: Sequence[float] | None) -> Tensor:
    """The mean of tensors of one shape, by their shares."""
    import torch

    parts_K = torch.tensor(shares(len(tensors), weights), dtype=torch.float64)
    return torch.einsum("k,k...->...", parts_K, torch.stack([tensor.double() for tensor in tensors])).float()


def _check_equal(sizes: Sequence[int], names: Sequence[str], what: str, mend: str) -> None:
    other = next((place for place, size in enumerate(sizes) if size != sizes[0]), None)
    if other is not None:
        raise ConfigError(f"{names[0]} is {sizes[0]} {what} and {names[other]} {sizes[other]}; {mend}")
