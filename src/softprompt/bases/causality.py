"""Whether a model is causal, by what it does and not by its name.

Shapes: T tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch

from softprompt.errors import BaseModelError


def check_causal(model: Any, source: str) -> None:
    """Refuse a model that looks ahead: one whose states of a token change with the tokens behind it.

    Raises:
        BaseModelError: it does.
    """
    if looks_ahead(model):
        raise BaseModelError(
            f"{source!r} is no causal language model: loaded as {type(model).__name__}, what it makes of a token changes "
            "with the tokens behind it, as in an encoder (BERT and its kind). This version tunes causal models only; use a "
            "decoder-only base (Llama, Qwen, GPT-2, ..., or builtin/tiny)"
        )


@torch.no_grad()
def looks_ahead(model: Any) -> bool:
    """Whether the logits at a token change with the tokens behind it: three tokens twice as they are and once with another
    last one. What two equal rows differ by is rounding."""
    embedding = model.get_input_embeddings()
    vocabulary, device = embedding.weight.shape[0], embedding.weight.device
    first, second, last, other = (vocabulary * share // 9 for share in (2, 4, 6, 8))
    ids_BT = torch.tensor([[first, second, last], [first, second, last], [first, second, other]], device=device)
    try:
        logits_BTV = model(inputs_embeds=embedding(ids_BT), attention_mask=torch.ones_like(ids_BT), use_cache=False).logits
        one, same, changed = logits_BTV[:, :2].float().unbind(0)
    except Exception:  # a forward that takes none of this is told where it is used
        return False
    scale = one.norm().clamp_min(1e-6)
    rounding, effect = (one - same).norm() / scale, (one - changed).norm() / scale
    if getattr(model.config, "is_decoder", None) is False:  # of a kind that can be either, and set to be an encoder
        least = 1e-5
    else:  # experts may be given other tiles of rows with the other token, which rounds otherwise
        least = 1e-4 if logits_BTV.dtype == torch.float32 else 1e-2
    return bool(effect > torch.maximum(10 * rounding, torch.tensor(least, device=device)))
