"""What the files of a tokenizer say of it, in words of our own: a version of transformers that writes or fills in more
changes nothing here. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from softprompt.bases.files.locate import read_object
from softprompt.bases.gguf.file import read_gguf
from softprompt.errors import BaseModelError

WHOLE, CONFIG = "tokenizer.json", "tokenizer_config.json"
_ADDED, _SPECIAL = "added_tokens.json", "special_tokens_map.json"
_TEMPLATE, _TEMPLATES = "chat_template.jinja", "additional_chat_templates"

NAMED = ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", _ADDED)
"""Files of a vocabulary that fingerprints have always counted where there is no `tokenizer.json`."""

VOCABULARIES = (
    "*.model", "*.spm", "*.tiktoken", "*.codes", "*.tokenizer", "*vocab*.json", "*vocab*.txt", "merges.txt", "dict.txt",
    "tekken.json", "normalizer.json", "emoji.json", "byte_maps.json", "word_shape.json", "word_pronunciation.json",
)  # fmt: skip
"""Patterns of all files that some tokenizer of transformers is built from, beside `tokenizer.json`."""

# Keys of a tokenizer's config that change no ids and no text here. All others count.
_COSMETIC = frozenset(
    {
        "name_or_path", "tokenizer_file", "special_tokens_map_file", "fast_tokenizer_files", "vocab_file", "merges_file",
        "processor_class", "backend", "is_local", "local_files_only", "transformers_version", "auto_map", "_commit_hash",
        "model_max_length", "max_length", "max_len", "padding", "padding_side", "pad_to_multiple_of", "pad_token_type_id",
        "truncation", "truncation_side", "truncation_strategy", "stride", "model_input_names", "verbose",
        "clean_up_tokenization_spaces", "chat_template", "added_tokens_decoder",
    }
)  # fmt: skip
_SAME_CLASS = {"PreTrainedTokenizerFast": "TokenizersBackend", "PreTrainedTokenizer": "TokenizersBackend"}


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that hold a saved tokenizer's vocabulary: `tokenizer.json`, else all that a tokenizer is built from; what
    Mistral's own package reads in their place, where it is installed, too."""
    versions = read_object(folder / CONFIG).get("fast_tokenizer_files") if (folder / CONFIG).is_file() else None
    whole = [WHOLE, *(name for name in versions if isinstance(name, str))] if isinstance(versions, list) else [WHOLE]
    files = {folder / name for name in (*whole, "tekken.json") if (folder / name).is_file()}
    if not (folder / WHOLE).is_file():
        files |= {file for pattern in VOCABULARIES for file in folder.glob(pattern) if file.is_file()}
    return sorted(files)


def describing_files(folder: Path) -> list[Path]:
    """The files that say how the vocabulary is used."""
    named = [folder / name for name in (CONFIG, _SPECIAL, _ADDED, _TEMPLATE)]
    return [file for file in (*named, *sorted((folder / _TEMPLATES).glob("*.jinja"))) if file.is_file()]


def describe_tokenizer(folder: Path) -> dict[str, Any]:
    """Special and added tokens, settings and chat templates of a saved tokenizer, and digests of the files of its
    vocabulary that are not in :data:`NAMED` or `tokenizer.json`; by transformers' rules of which file goes over which.

    Raises:
        BaseModelError: a file is damaged.
    """
    config = read_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    settings = {key: value for key, value in config.items() if key not in _COSMETIC}
    added = config.get("added_tokens_decoder")
    if added is None:
        if (folder / _SPECIAL).is_file():
            settings |= read_object(folder / _SPECIAL)
        if (folder / _ADDED).is_file():
            added = {str(number): token for token, number in read_object(folder / _ADDED).items()}
    if "additional_special_tokens" in settings and not settings.get("extra_special_tokens"):
        settings["extra_special_tokens"] = settings.pop("additional_special_tokens")
    if isinstance(named := settings.get("tokenizer_class"), str):
        settings["tokenizer_class"] = _SAME_CLASS.get(named, named.removesuffix("Fast"))
    apart = [file for file in tokenizer_files(folder) if file.name not in (WHOLE, *NAMED)]
    described: dict[str, Any] = _plain(
        {
            "settings": settings,
            "added": added,
            "templates": _templates(folder, config.get("chat_template")),
            "files": {file.name: blake3(file.read_bytes()).hexdigest() for file in apart},
        }
    )
    return described


def chat_templates(path: Path) -> dict[str, Any]:
    """The chat templates of a base by name, as its files have them: of a folder, or of a GGUF file. No tokenizer is made.

    Raises:
        BaseModelError: a file is damaged.
    """
    if path.is_file():
        return _by_name(read_gguf(path).metadata.get("tokenizer.chat_template"))
    config = read_object(path / CONFIG) if (path / CONFIG).is_file() else {}
    return _templates(path, config.get("chat_template"))


def describe_built(tokenizer: Any) -> dict[str, Any]:
    """The like of a tokenizer in memory."""
    roles = {role: getattr(tokenizer, role, None) for role in getattr(tokenizer, "SPECIAL_TOKENS_ATTRIBUTES", ())}
    described: dict[str, Any] = _plain(
        {
            "settings": {role: None if token is None else str(token) for role, token in roles.items()},
            "extra": [str(token) for token in getattr(tokenizer, "extra_special_tokens", None) or ()],
            "templates": _by_name(getattr(tokenizer, "chat_template", None)),
        }
    )
    return described


def _templates(folder: Path, configured: Any) -> dict[str, Any]:
    """Chat templates by name: those of files go before those of the config, all or none."""
    files = {file.stem: file for file in sorted((folder / _TEMPLATES).glob("*.jinja"))}
    if (folder / _TEMPLATE).is_file():
        files["default"] = folder / _TEMPLATE
    try:
        return {name: file.read_text(encoding="utf-8") for name, file in files.items()} or _by_name(configured)
    except (OSError, UnicodeDecodeError) as error:
        raise BaseModelError(f"a chat template in {str(folder)!r} cannot be read ({error}); fetch it again") from None


def _by_name(templates: Any) -> dict[str, Any]:
    if isinstance(templates, list):  # as older versions write several
        return {str(one.get("name")): one.get("template") for one in templates if isinstance(one, Mapping)}
    if isinstance(templates, Mapping):
        return dict(templates)
    return {} if templates is None else {"default": templates}


def _plain(value: Any) -> Any:
    """A value without what says nothing: nulls, empty things, and flags of tokens that are off. A token that is nothing but
    its text is that text."""
    if isinstance(value, Mapping):
        kept = {str(key): _plain(item) for key, item in value.items() if key != "__type"}
        kept = {key: item for key, item in kept.items() if item is not None and item != {} and item != []}
        if "content" in kept:
            flags = {key: True for key in kept if kept[key] is True}
            return {"content": kept["content"], **flags} if flags else kept["content"]
        return kept
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
