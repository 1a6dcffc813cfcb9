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

from softprompt.bases.folder import check_folder
from softprompt.bases.locate import locate
from softprompt.bases.options import DEFAULT_BASE, BaseOptions
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


def read_tokenizer(options: BaseOptions) -> Any:
    """The tokenizer of a base alone, which takes no weights into memory.

    Raises:
        BaseModelError: the base cannot be found, is none, or its tokenizer cannot be read.
    """
    import transformers

    source, code = options.address, options.trust_remote_code
    folder = locate(options.source or DEFAULT_BASE, revision=options.revision, code=code)
    check_folder(folder, source, code=code)
    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=code)
    except Exception as error:  # tokenizers raises classes of its own for damaged files
        raise BaseModelError(
            f"the tokenizer of {source!r} ({folder}) cannot be loaded: {reason_of(error)}; fetch it again, or give another"
        ) from None


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
