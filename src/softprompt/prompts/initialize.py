"""Where a soft prompt starts: functions that return P x D matrices (float32, on the CPU).

Lester et al. (2021), section 3.2: class labels and sampled vocabulary beat random vectors, most of all on small bases.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.errors import ConfigError

COMMON = 5000
"""How many of the most common tokens are sampled from, as in Lester et al. (2021)."""


def random_vectors(base: FrozenBase, length: int, seed: int) -> Tensor:
    """Uniform vectors with the spread of the base's own embeddings, so that their size suits any base."""
    usable = [token for token in range(len(base.embedding.weight)) if token not in base.spelling.unusable]
    spread = float(_embed(base, usable).std()) * 3**0.5
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(length, base.width, generator=generator) * 2 - 1) * spread


def sample_vocabulary(base: FrozenBase, length: int, seed: int) -> Tensor:
    """Embeddings of random common tokens. Merged vocabularies number their tokens by frequency, so low ids are common."""
    special = set(base.tokenizer.all_special_ids)
    size = len(base.embedding.weight)
    unusable = base.spelling.unusable
    common = [token for token in range(min(size, COMMON + len(special))) if token not in special and token not in unusable]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, len(common), (length,), generator=generator).tolist()
    return _embed(base, [common[index] for index in drawn])


def from_text(base: FrozenBase, length: int, text: str) -> Tensor:
    """Embeddings of a text's tokens, repeated or cut to the length.

    Raises:
        ConfigError: the text has no tokens, or one that the base has no embedding for.
    """
    ids = _tokens_of(base, "prompt_tuning_init_text", text)
    return _embed(base, (ids * (length // len(ids) + 1))[:length])


def from_spread(base: FrozenBase, length: int, text: str) -> Tensor:
    """Embeddings of tokens of a text, at even distances from its beginning to its end; some are repeated where it has fewer.

    Raises:
        ConfigError: the text has no tokens, or one that the base has no embedding for.
    """
    ids = _tokens_of(base, "instruction", text)
    return _embed(base, [ids[(2 * place + 1) * len(ids) // (2 * length)] for place in range(length)])


def _tokens_of(base: FrozenBase, key: str, text: str) -> list[int]:
    (ids,) = base.encode([text], name=lambda _: f"{key} {text[:60]!r}")
    if not ids:
        raise ConfigError(f"{key} {text[:60]!r} has no tokens on {base.name}; give some text")
    return ids


def from_labels(base: FrozenBase, length: int, labels: Sequence[Sequence[int]], seed: int) -> Tensor:
    """The mean embedding of each label's tokens; what remains is sampled from the vocabulary."""
    named = torch.stack([_embed(base, ids).mean(0) for ids in labels])[:length]
    if len(named) == length:
        return named
    return torch.cat([sample_vocabulary(base, length - len(named), seed), named])


def from_prompts(prompts: Sequence[Tensor], length: int) -> Tensor:
    """The mean of other prompts (SPoT, Vu et al. 2022), each repeated or cut to the length at its front.

    The end of a prompt stands next to the input and is kept.

    Raises:
        ConfigError: they are of unequal width.
    """
    _check_widths(prompts)
    fitted = [prompt_PD.float().repeat(length // len(prompt_PD) + 1, 1)[-length:] for prompt_PD in prompts]
    return torch.stack(fitted).mean(0)


def from_prefixes(prefixes: Sequence[Tensor], length: int) -> Tensor:
    """The mean of other prefixes, as they are: keys know their positions, so they are neither cut nor repeated.

    Raises:
        ConfigError: they are of unequal width, or of another length.
    """
    _check_widths(prefixes)
    for prefix_PW in prefixes:
        if len(prefix_PW) != length:
            raise ConfigError(
                f"num_virtual_tokens is {length}, and the prefix to start from has {len(prefix_PW)}, which can be neither "
                f"cut nor repeated, as its keys know their positions; say num_virtual_tokens: {len(prefix_PW)}"
            )
    return torch.stack([prefix_PW.float() for prefix_PW in prefixes]).mean(0)


def _check_widths(prompts: Sequence[Tensor]) -> None:
    widths = {prompt_PD.shape[1] for prompt_PD in prompts}
    if len(widths) != 1:
        raise ConfigError(
            f"prompts of unequal width cannot be averaged ({sorted(widths)}); give prompts of one base and one kind"
        )


def _embed(base: FrozenBase, ids: Sequence[int]) -> Tensor:
    """Embeddings as the base makes them: some scale the numbers of their table."""
    return base.embed(torch.tensor(ids, device=base.device)).detach().float().cpu()
