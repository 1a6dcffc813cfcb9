"""Adapters of a base: LoRA (Hu et al., 2021) as PEFT saves it, merged into the weights when the base is loaded."""

from __future__ import annotations

import logging
import os
import re
import warnings
from pathlib import Path
from typing import Any

from softprompt.bases.files.locate import read_object, split_revision
from softprompt.errors import BaseModelError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"

_log = logging.getLogger(__name__)

# What the text decoder is called in a model of several senses, and in an adapter of one.
_TEXT = ("language_model", "text_model")
_HALF = re.compile(rf"base_model\.model\.(?:model\.)?(?:{'|'.join(_TEXT)})\.(?:model\.)?(lm_head\.)?")
_TARGET = re.compile(r"^base_model\.model\.(.+)\.lora_A\.weight$")

# How adapters may begin so that what PEFT has saved can be added to the base as it is: elsewhere the beginning changed the
# base's own weights, in a way that cannot be done again.
_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva", "pissa", "olora")


def find_adapter(folder: str) -> Path:
    """The folder of a LoRA adapter.

    Raises:
        BaseModelError: it is not there, lacks its config or its weights, or is another kind of adapter.
    """
    found = Path(os.path.expanduser(folder))
    if not (found / CONFIG).is_file():
        raise BaseModelError(f"no LoRA adapter in {folder!r}: {CONFIG} is not there; give a folder that PEFT has saved")
    config = read_object(found / CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise BaseModelError(f"the adapter in {folder!r} is {kind}, not LORA; only LoRA adapters are merged into a base")
    if config.get("layer_replication"):
        raise BaseModelError(
            f"the adapter in {folder!r} repeats layers of the base (layer_replication), which share their weights and so "
            "cannot have it merged into them; train one without"
        )
    beginning = config.get("init_lora_weights")
    if beginning not in _BEGINNINGS:
        raise BaseModelError(
            f"the adapter in {folder!r} began with {beginning!r} (init_lora_weights), which changed the base's own weights; "
            "save it as a plain LoRA, with path_initial_model_for_weight_conversion in PEFT's save_pretrained"
        )
    if not (found / WEIGHTS).is_file() and (found / _PICKLED).is_file():
        raise BaseModelError(
            f"the weights of the adapter in {folder!r} are a pickle, {_PICKLED}, which can hold code and is not opened; "
            "load it with PEFT where you trust it, and save it with safetensors"
        )
    if not (found / WEIGHTS).is_file():
        raise BaseModelError(f"the adapter in {folder!r} has no weights: {WEIGHTS} is not there; save it with safetensors")
    return found.resolve()


def merge_adapter(model: Any, folder: Path, source: str) -> Any:
    """The model with an adapter's weights added to its own, and nothing else of it left. Where the adapter names another
    base than `source`, that is said: nothing proves that it is another.

    Raises:
        BaseModelError: peft is not installed, or the adapter is damaged or made for another base.
    """
    try:
        import peft
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError:
        raise BaseModelError(
            f"the adapter in {str(folder)!r} needs the package peft, which is not here; pip install 'softprompt[peft]'"
        ) from None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    named = read_object(folder / CONFIG).get("base_model_name_or_path")
    if isinstance(named, str) and named and Path(named).name.lower() != Path(split_revision(source)[0]).name.lower():
        _log.warning("the adapter in %r says that its base is %r, and is merged into %r", str(folder), named, source)
    embeddings = model.get_input_embeddings(), model.get_output_embeddings()
    tied = embeddings[1] is not None and embeddings[0].weight is embeddings[1].weight
    try:
        with warnings.catch_warnings(action="ignore"):
            config, tensors = peft.LoraConfig.from_pretrained(str(folder)), load_file(folder / WEIGHTS)
            whole = any(hasattr(model.base_model, name) for name in _TEXT)
            half = {} if whole else _of_text_half(tensors, model.base_model_prefix)
            if half:
                tensors = half
                config.target_modules = {name for key in half for name in _TARGET.findall(key)}
            wrapped = peft.get_peft_model(model, config)
            changed = any(
                isinstance(layer, BaseTunerLayer) for layer in (model.get_input_embeddings(), model.get_output_embeddings())
            )
            rows = config.trainable_token_indices  # by module where they are given for several
            apart = isinstance(rows, dict) and len(rows) > 1
            if tied and (changed or apart):  # merged into one of them, it would change the other
                raise ValueError("it changes the embeddings or the output head, which are one matrix in this base")
            found: Any = peft.set_peft_model_state_dict(wrapped, tensors)
            if found.unexpected_keys:
                raise ValueError(f"the base has no place for {found.unexpected_keys[0]!r}")
            if lacking := [key for key in found.missing_keys if "lora_" in key or "modules_to_save" in key]:
                raise ValueError(f"it lacks {lacking[0]!r}")
            return wrapped.merge_and_unload(safe_merge=True)
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, SafetensorError) as error:
        reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        raise BaseModelError(
            f"the adapter in {str(folder)!r} cannot be merged into {type(model).__name__}: {reason.rstrip('.')}; "
            "give the base that it was trained on, or save the adapter again"
        ) from None


def _of_text_half(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Of an adapter of a model of several senses what changes its text half, by the half's names; nothing of another's."""
    named = ((_HALF.match(key), key) for key in tensors)
    half = {
        f"base_model.model.{found[1] or f'{prefix}.'}{key[found.end() :]}": tensors[key] for found, key in named if found
    }
    return half and half | {key: tensor for key, tensor in tensors.items() if key.startswith("base_model.model.lm_head.")}
