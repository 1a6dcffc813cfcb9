"""The base that a running vLLM has, without its layers: the config, the tokenizer and the table of embeddings, which is all
that serving asks for where another process runs the rest.

Shapes: T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from softprompt.bases.base import FrozenBase
from softprompt.bases.behaviour import check_vocabulary
from softprompt.bases.files.fingerprint import fingerprint_of_folder
from softprompt.bases.files.locate import locate
from softprompt.bases.files.weights import find_weights
from softprompt.bases.folder import check_folder
from softprompt.bases.reading import quiet
from softprompt.errors import BaseModelError, reason_of


@dataclass(frozen=True, eq=False, repr=False)
class OutlineBase(FrozenBase):
    """A base whose layers hold no numbers; its embeddings do. It is asked what a base is, and never run."""

    longest: int | None = None
    """Longest sequence in tokens that vLLM was told to run (`--max-model-len`)."""

    @cached_property
    def context(self) -> int | None:
        """Longest sequence in tokens, virtual ones among them."""
        known = [length for length in (super().context, self.longest) if length is not None]
        return min(known, default=None)


def load_outline(config: Any, named: str | None = None) -> OutlineBase:
    """The outline of what a vLLM runs, its fingerprint taken from the very files that vLLM read.

    Args:
        config: vLLM's `ModelConfig`.
        named: what the user calls its model, where that is something else.

    Raises:
        BaseModelError: its files are not there, are no causal model of text with safetensors, or vLLM runs something else
            than they say.
    """
    source, code = named or str(config.model), bool(config.trust_remote_code)
    refuse_changes(config, source)
    path = locate(str(config.model), revision=config.revision, code=code)
    if path.is_file():
        raise BaseModelError(f"{source!r} is a GGUF file, whose prompts are not served by vLLM; give it a folder or an id")
    found = check_folder(path, source, code=code)
    model, tokenizer = _without_layers(path, source, found, config.dtype, code)
    outline = OutlineBase(
        model, tokenizer, source, fingerprint_of_folder(path, code=code), path,
        trust_remote_code=code, longest=config.max_model_len,
    )  # fmt: skip
    if outline.task_type != "CAUSAL_LM":
        raise BaseModelError(
            f"{source!r} is of the task type {outline.task_type}, and vLLM takes vectors before causal models alone; serve "
            "it with `softprompt serve`"
        )
    check_vocabulary(outline.model, outline.spelling, outline.name)
    return outline


def refuse_changes(config: Any, source: str) -> None:
    """Refuse a vLLM that was told to run something else than the files of its model say, which the fingerprint knows nothing
    of.

    Raises:
        BaseModelError: it was.
    """
    told = {
        "--hf-overrides": config.hf_overrides,
        "--tokenizer": None if config.tokenizer in (None, config.model) else config.tokenizer,
        "--tokenizer-revision": None if config.tokenizer_revision in (None, config.revision) else config.tokenizer_revision,
    }
    changed = sorted(f"{flag} {value!r}" for flag, value in told.items() if value)
    if changed:
        raise BaseModelError(
            f"vLLM runs {source!r} with {', '.join(changed)}, so it is not the base that prompts were made for; start it "
            "without, or save a model that is so"
        )


def _without_layers(folder: Path, source: str, found: dict[str, Any], dtype: torch.dtype, code: bool) -> tuple[Any, Any]:
    """A model of a folder's config whose parameters are nowhere, but for the table of embeddings; and its tokenizer."""
    import transformers
    from accelerate import init_empty_weights

    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=code)
            with init_empty_weights(include_buffers=False):
                model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=code)
            if (folder / "generation_config.json").is_file():
                model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BaseModelError(
            f"{source!r} ({folder}) cannot be read: {reason_of(error)}; fetch it again, or give another"
        ) from None
    embedding = model.get_input_embeddings()
    name = next(name for name, parameter in model.named_parameters() if parameter is embedding.weight)
    prefix = f"{model.base_model_prefix}."
    table_VD = _tensor(find_weights(folder, found), {name, name.removeprefix(prefix), prefix + name}, source)
    if table_VD.shape != embedding.weight.shape:
        raise BaseModelError(
            f"the embeddings of {source!r} are {' x '.join(map(str, table_VD.shape))}, and its config asks for "
            f"{' x '.join(map(str, embedding.weight.shape))}; give the config and the weights of one model"
        )
    embedding.weight = torch.nn.Parameter(table_VD.to(dtype), requires_grad=False)
    return model.eval().requires_grad_(False), tokenizer


def _tensor(files: list[Path], names: set[str], source: str) -> torch.Tensor:
    """The tensor of one of these names."""
    from safetensors import safe_open

    if files[0].suffix != ".safetensors":
        raise BaseModelError(f"the weights of {source!r} are no safetensors; save the model again, whole")
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in names & set(tensors.keys()):
                found: torch.Tensor = tensors.get_tensor(name)
                return found
    raise BaseModelError(
        f"the weights of {source!r} hold no table of embeddings ({' or '.join(sorted(names))}); fetch or save it again"
    )
