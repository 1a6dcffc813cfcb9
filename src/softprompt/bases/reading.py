"""Reading a saved model and its tokenizer through transformers: whole, and causal by what it does, or not at all.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from softprompt.bases.vocabulary import WHOLE
from softprompt.errors import BaseModelError, reason_of
from softprompt.text import plural


def read_model(folder: Path, source: str, config: dict[str, Any], reading: dict[str, Any]) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, whole.

    Args:
        folder: where they lie.
        source: what the user calls it.
        config: the model's, as it is written there.
        reading: how transformers is to load it.

    Raises:
        BaseModelError: they cannot be read, or weights are missing.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES as KNOWN
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    kind = config.get("model_type")
    if kind in KNOWN and kind not in CAUSAL and not config.get("auto_map"):
        raise BaseModelError(
            f"{source!r} is of the kind {kind!r}, of which transformers {transformers.__version__} has no causal language "
            "model that takes text alone; use a decoder-only base (Llama, Qwen, GPT-2, ..., or builtin/tiny)"
        )
    try:
        with quiet():
            model, found = transformers.AutoModelForCausalLM.from_pretrained(
                folder, **reading, output_loading_info=True, ignore_mismatched_sizes=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=reading["trust_remote_code"])
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise BaseModelError(
            f"{source!r} ({folder}) cannot be loaded: {reason_of(error)}; fetch it again, or give another"
        ) from None
    except Exception as error:  # safetensors and tokenizers raise classes of their own for damaged files
        raise BaseModelError(
            f"{source!r} ({folder}) is damaged or not readable: {type(error).__name__}: {reason_of(error)}; fetch it again"
        ) from None
    if getattr(tokenizer, "backend_tokenizer", None) is None and (folder / WHOLE).is_file():
        raise BaseModelError(
            f"{source!r} ({folder}) has a {WHOLE} which its tokenizer, {type(tokenizer).__name__}, does not read: it is "
            f"built from the vocabulary beside it; move {WHOLE} out of the folder"
        )
    # Weights that are not there, or of another shape, transformers would fill with random numbers.
    lacking = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if lacking:
        raise BaseModelError(
            f"{source!r} ({folder}) lacks {plural(len(lacking), 'weight')} of {type(model).__name__}, {lacking[0]!r} among "
            "them, or has them in another shape; fetch or save it again, or give a base with a language-modelling head"
        )
    return model, tokenizer


def check_causal(model: Any, source: str) -> None:
    """Refuse a model that looks ahead, one whose states of a token change with the tokens behind it, and one that answers
    nothing but NaN.

    Raises:
        BaseModelError: it does.
    """
    probed = _probe(model)
    if probed is None:
        return
    embedded, logits_BTV = probed
    if embedded.isfinite().all() and not logits_BTV.isfinite().any():
        raise BaseModelError(
            f"{source!r} cannot answer: it makes NaN or infinity of any tokens, so weights that are used hold such, or its "
            f"dtype, {str(logits_BTV.dtype)[6:]}, is too small for it; fetch it again, or give another --dtype"
        )
    if _differs(model, logits_BTV):
        raise BaseModelError(
            f"{source!r} is no causal language model: loaded as {type(model).__name__}, what it makes of a token changes "
            "with the tokens behind it, as in an encoder (BERT and its kind). This version tunes causal models only; use a "
            "decoder-only base (Llama, Qwen, GPT-2, ..., or builtin/tiny)"
        )


@torch.no_grad()
def _probe(model: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Embeddings and logits of three rows of three tokens: twice the same, and once with another last one. None where the
    model cannot be run so, which is told where it is used."""
    embedding = model.get_input_embeddings()
    vocabulary, device = embedding.weight.shape[0], embedding.weight.device
    first, second, last, other = (vocabulary * share // 9 for share in (2, 4, 6, 8))
    ids_BT = torch.tensor([[first, second, last], [first, second, last], [first, second, other]], device=device)
    try:
        embeds_BTD = embedding(ids_BT)
        logits_BTV = model(inputs_embeds=embeds_BTD, attention_mask=torch.ones_like(ids_BT), use_cache=False).logits
        return embeds_BTD, logits_BTV[: len(ids_BT), : ids_BT.shape[1]]
    except Exception:
        return None


@torch.no_grad()
def looks_ahead(model: Any) -> bool:
    """Whether the logits at a token change with the tokens behind it: three tokens twice as they are and once with another
    last one. What two equal rows differ by is rounding."""
    probed = _probe(model)
    return probed is not None and _differs(model, probed[1])


def _differs(model: Any, logits_BTV: torch.Tensor) -> bool:
    one, same, changed = logits_BTV[:, :2].float().unbind(0)
    scale = one.norm().clamp_min(1e-6)
    rounding, effect = (one - same).norm() / scale, (one - changed).norm() / scale
    if getattr(model.config, "is_decoder", None) is False:  # of a kind that can be either, and set to be an encoder
        least = 1e-5
    else:  # experts may be given other tiles of rows with the other token, which rounds otherwise
        least = 1e-4 if logits_BTV.dtype == torch.float32 else 1e-2
    return bool(effect > torch.maximum(10 * rounding, torch.tensor(least, device=scale.device)))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Say nothing while transformers loads or tokenises."""
    from transformers.utils import logging as transformers_logging

    logger = logging.getLogger("transformers")
    level = logger.level
    bars = transformers_logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
