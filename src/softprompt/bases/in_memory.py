"""The fingerprint of a base that was made in memory and has no files: from its tensors, tokenizer and config."""

from __future__ import annotations

import json
from typing import Any

import torch
from blake3 import blake3

from softprompt.bases.fingerprint import HEX, config_bytes, sorted_ids, tokenizer_bytes
from softprompt.bases.vocabulary import describe_built


def fingerprint_of_model(model: Any, tokenizer: Any) -> str:
    """Fingerprint of a model in memory, from its tensors."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    more = {"tokenizer": describe_built(tokenizer), "end": sorted_ids(ends)}
    header = b"softprompt in-memory 2\n" + json.dumps(more, sort_keys=True).encode()
    return _of_tensors(header, _own(model.config), model, tokenizer)


def former_fingerprint_of_model(model: Any, tokenizer: Any) -> str:
    """The same by the first rule."""
    return _of_tensors(b"softprompt in-memory 1\n", model.config.to_dict(), model, tokenizer)


def _own(config: Any) -> dict[str, Any]:
    """What a config says beside the defaults of its kind: a newer transformers gives more of those to every config."""
    try:
        defaults = type(config)().to_dict()
    except Exception:  # a kind that has none
        defaults = {}
    values = config.to_dict()
    return {
        key: value for key, value in values.items() if key == "model_type" or key not in defaults or value != defaults[key]
    }


def _of_tensors(header: bytes, config: dict[str, Any], model: Any, tokenizer: Any) -> str:
    digest = blake3(header)
    digest.update(config_bytes(config))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    digest.update(tokenizer_bytes(json.loads(text)))
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return str(digest.hexdigest(length=HEX // 2))
