"""Adapters of a base: LoRA (Hu et al., 2021) as PEFT saves it, merged into the weights when the base is loaded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from softprompt.bases.locate import read_object
from softprompt.errors import BaseModelError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def find_adapter(folder: str) -> Path:
    """The folder of a LoRA adapter.

    Raises:
        BaseModelError: it is not there, lacks its config or its weights, or is another kind of adapter.
    """
    found = Path(folder).expanduser()
    if not (found / CONFIG).is_file():
        raise BaseModelError(f"no LoRA adapter in {folder!r}: {CONFIG} is not there; give a folder that PEFT has saved")
    kind = read_object(found / CONFIG).get("peft_type")
    if kind != "LORA":
        raise BaseModelError(f"the adapter in {folder!r} is {kind}, not LORA; only LoRA adapters are merged into a base")
    if not (found / WEIGHTS).is_file():
        raise BaseModelError(f"the adapter in {folder!r} has no weights: {WEIGHTS} is not there; save it with safetensors")
    return found.resolve()


def merge_adapter(model: Any, folder: Path) -> Any:
    """The model with an adapter's weights added to its own, and nothing else of it left.

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

    embeddings = model.get_input_embeddings(), model.get_output_embeddings()
    tied = embeddings[1] is not None and embeddings[0].weight is embeddings[1].weight
    try:
        with warnings.catch_warnings(action="ignore"):
            wrapped = peft.get_peft_model(model, peft.LoraConfig.from_pretrained(str(folder)))
            changed = any(
                isinstance(layer, BaseTunerLayer) for layer in (model.get_input_embeddings(), model.get_output_embeddings())
            )
            if tied and changed:  # merged into one of them, it would change the other
                raise ValueError("it changes the embeddings or the output head, which are one matrix in this base")
            found: Any = peft.set_peft_model_state_dict(wrapped, load_file(folder / WEIGHTS))
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
