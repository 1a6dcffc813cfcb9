"""The fingerprint of a base: a digest of its weights, its tokenizer and the config that changes the computation.

BLAKE3, because it is a cryptographic digest that reads more than a gigabyte in a second. Weights are digested tensor by
tensor in the order of their names, so that the number of shards does not matter.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from blake3 import blake3

from softprompt.bases.adapter import CONFIG, WEIGHTS
from softprompt.bases.locate import read_object
from softprompt.errors import BaseModelError
from softprompt.files import write_whole

HEX = 32
"""Hex digits of a fingerprint: 128 bits."""

# Config keys that say nothing about the computation. All others count.
_COSMETIC = frozenset(
    {
        "_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype", "use_cache", "auto_map",
        "_attn_implementation", "attn_implementation", "output_attentions", "output_hidden_states", "return_dict",
        "id2label", "label2id", "problem_type", "bos_token_id", "eos_token_id", "pad_token_id", "finetuning_task",
        "task_specific_params", "_commit_hash", "gradient_checkpointing", "chunk_size_feed_forward",
    }
)  # fmt: skip

# Keys of an adapter's config that say where it came from, and nothing of what it adds.
_ADAPTER_COSMETIC = frozenset(
    {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"}
)

_TOKENIZER_FILES = ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "added_tokens.json")


def fingerprint_of_folder(folder: Path, adapter: Path | None = None) -> str:
    """Fingerprint of a saved model, with an adapter merged into it or without. The model's is remembered by path, size and
    time of each file, so that the second call is free.

    Raises:
        BaseModelError: no weights there, or they cannot be read.
    """
    if adapter is not None:
        return _with_adapter(fingerprint_of_folder(folder), adapter)
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not weights:
        raise BaseModelError(f"the folder {str(folder)!r} has no *.safetensors and no pytorch_model*.bin: no weights")
    tokenizer = [folder / "tokenizer.json"]
    if not tokenizer[0].is_file():
        tokenizer = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    files = [folder / "config.json", *tokenizer, *weights]
    key = json.dumps([[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files])
    key = blake3(key.encode()).hexdigest(length=16)
    known = _remembered(key)
    if known:
        return known
    digest = blake3(b"softprompt fingerprint 1\n", max_threads=blake3.AUTO)
    digest.update(_config_bytes(json.loads((folder / "config.json").read_text(encoding="utf-8"))))
    for file in tokenizer:
        digest.update(_tokenizer_bytes(file.read_bytes()) if file.suffix == ".json" else file.read_bytes())
    if weights[0].suffix == ".safetensors":
        _digest_safetensors(digest, weights)
    else:
        for file in weights:
            digest.update_mmap(file)
    value: str = digest.hexdigest(length=HEX // 2)
    _remember(key, value)
    return value


def _with_adapter(base: str, adapter: Path) -> str:
    digest = blake3(f"softprompt adapter 1\n{base}\n".encode(), max_threads=blake3.AUTO)
    config = {key: value for key, value in read_object(adapter / CONFIG).items() if key not in _ADAPTER_COSMETIC}
    # Sets of names, which PEFT writes in any order.
    config = {key: sorted(map(str, value)) if isinstance(value, list) else value for key, value in config.items()}
    digest.update(json.dumps(config, sort_keys=True).encode())
    _digest_safetensors(digest, [adapter / WEIGHTS])
    return str(digest.hexdigest(length=HEX // 2))


def fingerprint_of_model(model: Any, tokenizer: Any) -> str:
    """Fingerprint of a model in memory, from its tensors."""
    import torch

    digest = blake3(b"softprompt in-memory 1\n")
    digest.update(_config_bytes(model.config.to_dict()))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    digest.update(_tokenizer_bytes(text.encode()))
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return str(digest.hexdigest(length=HEX // 2))


def _config_bytes(config: dict[str, Any]) -> bytes:
    kept = {k: v for k, v in config.items() if k not in _COSMETIC}
    return json.dumps(kept, sort_keys=True, default=str).encode()


def _tokenizer_bytes(data: bytes) -> bytes:
    """A fast tokenizer's file without its padding and truncation, which tools change in passing."""
    raw = json.loads(data)
    if isinstance(raw, dict):
        raw = {k: v for k, v in raw.items() if k not in ("padding", "truncation")}
    return json.dumps(raw, sort_keys=True, ensure_ascii=False).encode()


def _digest_safetensors(digest: Any, files: list[Path]) -> None:
    import mmap

    places: list[tuple[str, str, Path, int, int]] = []
    for file in files:
        with file.open("rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            length = file.stat().st_size
            try:
                header = json.loads(handle.read(min(size, length)))
                for name, entry in header.items():
                    if name != "__metadata__":
                        start, end = entry["data_offsets"]
                        if not 0 <= start <= end <= length - 8 - size:
                            raise ValueError(name)
                        what = f"{name} {entry['dtype']} {entry['shape']}\n"
                        places.append((name, what, file, 8 + size + start, 8 + size + end))
            except (ValueError, KeyError, TypeError, MemoryError):
                raise BaseModelError(f"{file} is no safetensors file, or cut short; fetch it again") from None
    maps: dict[Path, mmap.mmap] = {}
    with contextlib.ExitStack() as stack:
        for _, what, file, start, end in sorted(places):
            digest.update(what.encode())
            if file not in maps:
                handle = stack.enter_context(file.open("rb"))
                maps[file] = stack.enter_context(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
            with memoryview(maps[file]) as view, view[start:end] as part:
                digest.update(part)


def _cache_file() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "softprompt" / "fingerprints"


def _remembered(key: str) -> str | None:
    try:
        value = (_cache_file() / key).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return value if len(value) == HEX else None


def _remember(key: str, value: str) -> None:
    folder = _cache_file()
    with contextlib.suppress(OSError):  # a read-only home only costs the digest again
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / key, value.encode("ascii"))
