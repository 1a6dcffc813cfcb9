"""Where a base comes from: a built-in name, a folder, or a Hugging Face id; and what kind of model it is. No torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from softprompt.errors import BaseModelError

BUILTIN = {"builtin/tiny": Path(__file__).parent / "builtin" / "tiny"}
"""The bases that come with the package, by name."""

# Families by a word of their name, for advice before anything is downloaded. Whole words: `distilled-` is not `led-`,
# and `bertin-gpt` is no BERT. What is not known by name is known by its config.
_FAMILIES = {
    "SEQ_2_SEQ_LM": r"(u?m|by|flan|long|code|switch|nt)?t5p?|m?bart|pegasus|(flan)?ul2|marian|opus-mt|prophetnet|led",
    "MASKED_LM": r"(distil|al|m|mobile|modern|bio|sci|fin|legal|tiny|camem)?bert|(distil|xlm)?(ro|de)berta|electra|mpnet",
}


def task_type_of_name(name: str) -> str | None:
    """The task type that a model's name tells (`google/flan-t5-large` is SEQ_2_SEQ_LM), or None."""
    stem = name.rsplit("/", 1)[-1].lower()
    for task_type, words in _FAMILIES.items():
        if re.search(rf"(?<![a-z0-9])({words})(?![a-z0-9])", stem):
            return task_type
    return None


def task_type_of_config(config: dict[str, Any]) -> str:
    """The task type that a model's config tells."""
    architecture = (config.get("architectures") or [""])[0]
    if config.get("is_encoder_decoder") or architecture.endswith("ForConditionalGeneration"):
        return "SEQ_2_SEQ_LM"
    if architecture.endswith("ForMaskedLM"):
        return "MASKED_LM"
    if architecture.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    if architecture.endswith("ForTokenClassification"):
        return "TOKEN_CLS"
    return "CAUSAL_LM"


def locate(source: str, *, revision: str | None = None) -> Path:
    """The folder of a base: a built-in name, a folder, or a Hugging Face id (fetched, or found in the local cache).

    Raises:
        BaseModelError: no such built-in, folder or id; no network and not in the cache.
    """
    if source.startswith("builtin/"):
        if source not in BUILTIN:
            raise BaseModelError(f"no built-in base {source!r}; there is {', '.join(BUILTIN)}")
        return BUILTIN[source]
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BaseModelError(
                f"the folder {source!r} has no config.json, so it holds no model; save one there with save_pretrained"
            )
        return folder.resolve()
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or folder.exists():
        raise BaseModelError(f"no folder {source!r}; give a folder with a saved model, a hub id, or builtin/tiny")
    return _fetch(source, revision)


def _fetch(repo: str, revision: str | None) -> Path:
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.bin"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except hub.HFValidationError:
        raise BaseModelError(
            f"{repo!r} is neither a folder here nor a valid hub id; give `owner/name`, a folder, or builtin/tiny"
        ) from None
    except hub.GatedRepoError:
        raise BaseModelError(
            f"{repo!r} is gated; accept its terms on its hub page and log in with `hf auth login`"
        ) from None
    except hub.RepositoryNotFoundError:
        raise BaseModelError(f"the hub has no model {repo!r} (or it is private); check the id") from None
    except hub.LocalEntryNotFoundError:
        raise BaseModelError(
            f"{repo!r} is not in the local cache and the hub cannot be reached; "
            "connect once to fetch it, or give a folder, or builtin/tiny"
        ) from None
    except (hub.HfHubHTTPError, OSError) as error:
        raise BaseModelError(
            f"{repo!r} could not be fetched ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
            "check the network, or give a folder, or builtin/tiny"
        ) from None


def read_model_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model's folder.

    Raises:
        BaseModelError: it cannot be read.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise BaseModelError(f"{folder / 'config.json'} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise BaseModelError(f"{folder / 'config.json'} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise BaseModelError(f"{folder / 'config.json'} is not a JSON object")
    return config


def refuse_unless_causal(task_type: str, name: str) -> None:
    """Refuse a model that is not a causal language model, naming what it is.

    Raises:
        BaseModelError: always, unless `task_type` is CAUSAL_LM.
    """
    if task_type == "CAUSAL_LM":
        return
    kinds = {
        "SEQ_2_SEQ_LM": "an encoder-decoder model",
        "MASKED_LM": "a masked language model",
        "SEQ_CLS": "a sequence classifier",
        "TOKEN_CLS": "a token classifier, which needs a head of its own",
    }
    raise BaseModelError(
        f"{name!r} is {kinds.get(task_type, 'no causal language model')}: its task type is {task_type}, not CAUSAL_LM. "
        f"This version tunes causal models only; use a decoder-only base (Llama, Qwen, GPT-2, ..., or builtin/tiny)"
    )
