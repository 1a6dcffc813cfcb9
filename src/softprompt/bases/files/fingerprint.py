"""The fingerprint of a base: a digest of its weights, its tokenizer and the config that changes the computation, of the
files that are opened when it is loaded and of no others.

BLAKE3, because it is a cryptographic digest that reads more than a gigabyte in a second. Weights are digested tensor by
tensor in the order of their names, so that the number of shards does not matter. All is said in words of our own, from the
files: neither the version of transformers nor the packages beside it are part of it.

There are two rules. By the first one, of versions before, tensors, vocabulary and config counted; the second one takes the
first one's digest, of the files that are opened, and adds what else of the tokenizer and of generation changes answers. So
prompts bound by the first rule can be told to be of the same base.

Of a GGUF file every byte counts, and there is one rule: its digest, of all parts of a split one in their order. So a GGUF
file and a folder of the same model are two bases.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blake3 import blake3

from softprompt.bases.files.adapter import CONFIG, WEIGHTS
from softprompt.bases.files.locate import read_object
from softprompt.bases.files.vocabulary import CONFIG as TOKENIZER_CONFIG
from softprompt.bases.files.vocabulary import (
    NAMED,
    WHOLE,
    describe_built,
    describe_tokenizer,
    describing_files,
    tokenizer_files,
)
from softprompt.bases.files.weights import digest_tensors, find_weights
from softprompt.bases.gguf.file import parts_of
from softprompt.errors import BaseModelError
from softprompt.files import cache_folder, write_whole

HEX = 32
"""Hex digits of a fingerprint: 128 bits."""

SETTLED_S = 2.0
"""Seconds for which files must have been left alone before their digest is remembered: the coarsest clock of a file system
that is in use would not show a change within them."""

# Config keys that say nothing about the computation. All others count.
_COSMETIC = frozenset(
    {
        "_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype", "use_cache", "auto_map",
        "_attn_implementation", "attn_implementation", "output_attentions", "output_hidden_states", "return_dict",
        "id2label", "label2id", "problem_type", "bos_token_id", "eos_token_id", "pad_token_id", "finetuning_task",
        "task_specific_params", "_commit_hash", "gradient_checkpointing", "chunk_size_feed_forward",
    }
)  # fmt: skip

# Kinds of models that count positions from `pad_token_id` on, or make nothing of that position; an id of padding changes
# nothing anywhere else. The usual one is left unsaid, as it was before, so that their fingerprints stay.
_COUNT_FROM_PADDING = frozenset(
    {
        "camembert", "data2vec-text", "ibert", "longformer", "luke", "m2m_100", "nllb-moe", "roberta",
        "roberta-prelayernorm", "xglm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip
_USUAL_PADDING = 1

# Keys of an adapter's config that say where it came from, and nothing of what it adds.
_ADAPTER_COSMETIC = frozenset(
    {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"}
)


def fingerprint_of_folder(folder: Path, adapter: Path | None = None, *, code: bool = False, again: bool = False) -> str:
    """Fingerprint of a saved model, with an adapter merged into it or without. What was read of its weights is remembered by
    path, size, times and inode of each file, so that the second call reads only what is small.

    Args:
        folder: with its config, weights and tokenizer; or a GGUF file.
        adapter: folder of an adapter.
        code: whether code that comes with the model runs; then it counts.
        again: read every byte, whatever is remembered.

    Raises:
        BaseModelError: no weights there, or they cannot be read.
    """
    if folder.is_file():
        value = _of_gguf(folder, again=again)
        return value if adapter is None else _with_adapter(value, adapter)
    config = read_object(folder / "config.json")
    first = _first_rule(folder, config, find_weights(folder, config), again=again)
    more = {"tokenizer": describe_tokenizer(folder), "end": _end_ids(folder, config), "code": _code(folder) if code else {}}
    more |= _positions(config)
    digest = blake3(f"softprompt fingerprint 2\n{first}\n".encode())
    digest.update(json.dumps(more, sort_keys=True).encode())
    value = str(digest.hexdigest(length=HEX // 2))
    return value if adapter is None else _with_adapter(value, adapter)


def fingerprints_of_folder(folder: Path, adapter: Path | None = None, *, code: bool = False) -> frozenset[str]:
    """All names that a saved model has had: its fingerprint, and the one by the first rule.

    Raises:
        BaseModelError: as :func:`fingerprint_of_folder`.
    """
    return frozenset({fingerprint_of_folder(folder, adapter, code=code), *former_fingerprint(folder, adapter)})


def former_fingerprint(folder: Path, adapter: Path | None = None) -> tuple[str, ...]:
    """The fingerprint of a saved model by the first rule, which counted files of weights that nothing opens, too; none where
    it did not count those that are opened, or the padding that positions are counted from, and so says nothing of them; nor
    of a GGUF file, which that rule had not."""
    if folder.is_file():
        return ()
    config = read_object(folder / "config.json")
    if _positions(config):
        return ()
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    try:
        if not {*find_weights(folder, config)} <= {*weights}:
            return ()
        value = _first_rule(folder, config, weights)
        return (value if adapter is None else _with_adapter(value, adapter),)
    except (BaseModelError, OSError):
        return ()


def fingerprint_of_model(model: Any, tokenizer: Any) -> str:
    """Fingerprint of a model in memory, from its tensors."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    more = {"tokenizer": describe_built(tokenizer), "end": sorted_ids(ends)} | _positions(model.config.to_dict())
    header = b"softprompt in-memory 2\n" + json.dumps(more, sort_keys=True).encode()
    return _of_tensors(header, _own(model.config), model, tokenizer)


def former_fingerprint_of_model(model: Any, tokenizer: Any) -> tuple[str, ...]:
    """The same by the first rule; none where that did not count what positions are counted from."""
    config = model.config.to_dict()
    return () if _positions(config) else (_of_tensors(b"softprompt in-memory 1\n", config, model, tokenizer),)


def stamp_of_folder(folder: Path, *, code: bool = False) -> str:
    """Another value once a file that counts is another one, at the price of a look at each.

    Raises:
        BaseModelError: no weights there.
    """
    if folder.is_file():
        return _stamp(parts_of(folder))
    config = read_object(folder / "config.json")
    generation = [file for file in [folder / "generation_config.json"] if file.is_file()]
    opened = [*tokenizer_files(folder), *describing_files(folder), *generation, *(_code_files(folder) if code else ())]
    return _stamp([folder / "config.json", *opened, *find_weights(folder, config)])


def _first_rule(folder: Path, config: dict[str, Any], weights: Sequence[Path], *, again: bool = False) -> str:
    """Digest of weights, vocabulary and config."""
    vocabulary = [folder / WHOLE]
    if not vocabulary[0].is_file():
        vocabulary = [folder / name for name in NAMED if (folder / name).is_file()]
    files = [folder / "config.json", *vocabulary, *weights]
    digest = blake3(b"softprompt fingerprint 1\n", max_threads=blake3.AUTO)

    def read() -> None:
        digest.update(config_bytes(config))
        for file in vocabulary:
            digest.update(_bytes_of_tokenizer(file) if file.suffix == ".json" else file.read_bytes())
        if weights and weights[0].suffix == ".safetensors":
            digest_tensors(digest, list(weights))
        else:
            for file in weights:
                digest.update_mmap(file)

    return _digest_once(files, digest, read, again=again)


def _of_gguf(file: Path, *, again: bool) -> str:
    """Digest of all bytes of a GGUF file, of its parts end to end."""
    files = parts_of(file)
    digest = blake3(b"softprompt gguf 1\n", max_threads=blake3.AUTO)
    try:
        return _digest_once(files, digest, lambda: [digest.update_mmap(part) for part in files], again=again)
    except OSError as error:
        raise BaseModelError(f"{str(file)!r} cannot be read ({error.strerror}); mend that, or fetch it again") from None


def _digest_once(files: Sequence[Path], digest: Any, read: Callable[[], object], *, again: bool) -> str:
    """The digest that `read` makes of files, remembered for as long as they are what they are."""
    began, key = time.time(), _stamp(files)
    known = None if again else _remembered(key)
    if known:
        return known
    read()
    value = str(digest.hexdigest(length=HEX // 2))
    if _stamp(files) == key and all(file.stat().st_ctime < began - SETTLED_S for file in files):
        _remember(key, value)
    return value


def _with_adapter(base: str, adapter: Path) -> str:
    digest = blake3(f"softprompt adapter 1\n{base}\n".encode(), max_threads=blake3.AUTO)
    config = {key: value for key, value in read_object(adapter / CONFIG).items() if key not in _ADAPTER_COSMETIC}
    # Sets of names, which PEFT writes in any order.
    config = {key: sorted(map(str, value)) if isinstance(value, list) else value for key, value in config.items()}
    digest.update(json.dumps(config, sort_keys=True).encode())
    digest_tensors(digest, [adapter / WEIGHTS])
    return str(digest.hexdigest(length=HEX // 2))


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
        flat = tensor.detach().cpu().contiguous().view(-1)
        digest.update(flat.view(flat.new_empty(0).byte().dtype).numpy())
    return str(digest.hexdigest(length=HEX // 2))


def config_bytes(config: dict[str, Any]) -> bytes:
    """What counts of a model's config."""
    kept = {k: v for k, v in config.items() if k not in _COSMETIC}
    return json.dumps(kept, sort_keys=True, default=str).encode()


def _bytes_of_tokenizer(file: Path) -> bytes:
    try:
        return tokenizer_bytes(json.loads(file.read_bytes()))
    except ValueError as error:
        raise BaseModelError(f"{file} is not JSON ({error}); fetch it again") from None


def tokenizer_bytes(raw: Any) -> bytes:
    """What counts of a fast tokenizer's file: not its padding and truncation, which tools change in passing."""
    if isinstance(raw, dict):
        raw = {k: v for k, v in raw.items() if k not in ("padding", "truncation")}
    return json.dumps(raw, sort_keys=True, ensure_ascii=False).encode()


def _positions(config: dict[str, Any]) -> dict[str, Any]:
    """What positions are counted from, of a model that counts them from another id of padding than its kind usually has."""
    padding = config.get("pad_token_id", _USUAL_PADDING)
    counts = config.get("model_type") in _COUNT_FROM_PADDING and padding not in (None, _USUAL_PADDING)
    return {"positions": padding} if counts else {}


def _end_ids(folder: Path, config: dict[str, Any]) -> list[int]:
    """The tokens that end a generated text, beside the tokenizer's own: of the generation config, else of the config."""
    if (folder / "generation_config.json").is_file():
        return sorted_ids(read_object(folder / "generation_config.json").get("eos_token_id"))
    inner = (config.get(name) for name in ("decoder", "generator", "text_config"))
    of_text = next((one for one in inner if isinstance(one, dict)), {})
    found = config.get("eos_token_id")
    return sorted_ids(of_text.get("eos_token_id") if found is None else found)


def sorted_ids(ids: Any) -> list[int]:
    """Ids of tokens as a config has them: one, several or none."""
    return sorted({*([ids] if isinstance(ids, int) else ids or ())})


def _code_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def _code(folder: Path) -> dict[str, Any]:
    """What runs of a model's own code: its files, and the names of what is taken from them or from another repository."""
    configs = [folder / name for name in ("config.json", TOKENIZER_CONFIG)]
    classes = [named for file in configs if file.is_file() and (named := read_object(file).get("auto_map"))]
    if not classes:
        return {}
    files = {str(file.relative_to(folder)): blake3(file.read_bytes()).hexdigest() for file in _code_files(folder)}
    return {"files": files, "classes": classes}


def _stamp(files: Sequence[Path]) -> str:
    """A name of files as they are: what is written to a file changes its time of change, which nobody can set back."""
    stats = [(str(file.resolve()), file.stat()) for file in files]
    seen = [[path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] for path, stat in stats]
    return str(blake3(json.dumps(seen).encode()).hexdigest(length=16))


def _remembered(key: str) -> str | None:
    try:
        value = (cache_folder("fingerprints") / key).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return value if len(value) == HEX else None


def _remember(key: str, value: str) -> None:
    with contextlib.suppress(OSError):  # a read-only home only costs the digest again
        folder = cache_folder("fingerprints")
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / key, value.encode("ascii"))
