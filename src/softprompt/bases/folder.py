"""The folder of a base, or its GGUF file: what its files tell before anything is loaded. No torch, no network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from softprompt.bases.architectures import refuse_unless_tuned, task_type_of_config
from softprompt.bases.files.adapter import CONFIG as ADAPTER
from softprompt.bases.files.adapter import find_adapter
from softprompt.bases.files.locate import is_local, locate, read_object
from softprompt.bases.files.vocabulary import CONFIG as TOKENIZER
from softprompt.bases.files.vocabulary import WHOLE, tokenizer_files
from softprompt.bases.files.weights import check_whole, find_weights
from softprompt.bases.gguf.check import check_gguf
from softprompt.bases.gguf.file import gguf_files
from softprompt.bases.options import DEFAULT_BASE, BaseOptions, check_quantization_name, full_dtype
from softprompt.errors import BaseModelError


def check_options(options: BaseOptions) -> None:
    """Refuse a base that cannot be loaded, as far as that shows here and now; of a hub id nothing does.

    Raises:
        BaseModelError: it is no such folder, or its files do not make a base; or those of its adapter do not; or a dtype or
            a way to quantise is unknown.
    """
    full_dtype(options.dtype)
    if options.quantization is not None:
        check_quantization_name(options.quantization)
    if is_local(options.source or DEFAULT_BASE):
        folder = locate(options.source or DEFAULT_BASE, revision=options.revision)
        check_folder(folder, options.address, code=options.trust_remote_code)
    if options.adapter is not None:
        find_adapter(options.adapter)


def check_folder(folder: Path, source: str, *, code: bool = False) -> dict[str, Any]:
    """The config of a saved model whose files are all there, and make a causal model that can be loaded; of a GGUF file what
    it tells of one.

    Args:
        folder: where it lies, or the GGUF file.
        source: what the user calls it.
        code: whether code that comes with it may run.

    Raises:
        BaseModelError: something else lies there, or a part of a model, or one of another kind.
    """
    if folder.is_file():
        return check_gguf(folder, source)
    if not (folder / "config.json").is_file():
        raise BaseModelError(f"{_shown(source)} is no base: {_what_is_there(folder, source)}")
    config = read_object(folder / "config.json")
    if (folder / ADAPTER).is_file():
        raise BaseModelError(
            f"{_shown(source)} has an adapter among its own files, {ADAPTER}, which transformers adds to the model where "
            "peft is installed and leaves out where not; move the adapter's files to a folder of their own, and name that "
            "with --base-adapter FOLDER or `base_adapter` if it is to be added"
        )
    refuse_unless_tuned(task_type_of_config(config), source)
    if config.get("auto_map") and not code:
        raise BaseModelError(
            f"{source!r} comes with code of its own, which is not run unasked; if you trust it, add --trust-remote-code, "
            "or with `trust_remote_code: true` in a task file"
        )
    check_whole(find_weights(folder, config))
    if not tokenizer_files(folder) and not (folder / TOKENIZER).is_file():
        raise BaseModelError(
            f"{_shown(source)} has no tokenizer: neither {WHOLE} nor the files of a vocabulary are there; save the "
            "tokenizer to the same folder with save_pretrained"
        )
    return config


def _shown(source: str) -> str:
    return f"the folder {source!r}" if Path(os.path.expanduser(source)).is_dir() else repr(source)


def _what_is_there(folder: Path, source: str) -> str:
    """What a folder without `config.json` is, and what to give in its place."""
    if (folder / ADAPTER).is_file():
        config = read_object(folder / ADAPTER)
        named = config.get("base_model_name_or_path")
        of = f" of the base {named!r}" if isinstance(named, str) and named else ""
        if config.get("peft_type") == "LORA":
            this = "this folder" if is_local(source) else f"its folder, which `hf download {source}` prints,"
            return f"it is a LoRA adapter{of}; give that base, and {this} with --base-adapter or `base_adapter`"
        prompt = "; take it in with `softprompt import`" if config.get("peft_type") == "PROMPT_TUNING" else ""
        return f"it is an adapter ({config.get('peft_type')}){of}; give that base{prompt}"
    if models := gguf_files(folder):
        if len(models) == 1:
            return f"it holds a GGUF file; give that file, {str(models[0])!r}"
        return f"it holds {len(models)} GGUF files ({', '.join(file.name for file in models[:5])}); give one of these files"
    snapshots = folder / "snapshots"
    if snapshots.is_dir():
        name = folder.name.removeprefix("models--").replace("--", "/")
        whole = sorted(path for path in snapshots.iterdir() if (path / "config.json").is_file())
        if whole:
            return f"it is the hub's cache of {name}; give the id {name}, or the folder {str(whole[-1])!r} in it"
        return f"it is the hub's cache of {name}, and no model is in it; give the id {name} once with a network to fetch it"
    if folder.parent.name == "snapshots":
        return (
            "it is a folder of the hub's cache from which config.json is gone or was never fetched; give the id to fetch "
            "it. Of a model that the hub has as GGUF files alone, download one (`hf download ID FILE.gguf`), and give that"
        )
    if not any(folder.iterdir()):
        return "it is empty; save a model there with save_pretrained"
    inner = sorted(path.name for path in folder.iterdir() if (path / "config.json").is_file())
    if inner:
        have = "have" if len(inner) > 1 else "has"
        return f"it has no config.json, but {', '.join(inner[:3])} in it {have} one; give such a folder"
    return "it has no config.json, so it holds no model; save one there with save_pretrained"
