"""The base: a frozen causal language model with its tokenizer, named by a fingerprint.

Shapes: B rows, T tokens, D width of the embeddings, V vocabulary.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from softprompt.bases.fingerprint import fingerprint_of_folder, fingerprint_of_model
from softprompt.bases.locate import locate, read_model_config, refuse_unless_causal, task_type_of_config
from softprompt.bases.quantization import check_quantization, nf4_options, quantize_int8
from softprompt.errors import BaseModelError, ContextError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

# Where a config keeps the longest sequence its positions allow, by family.
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")


def dtype_of(name: str) -> torch.dtype | None:
    """The torch dtype of a name (`float32`, `bf16`, ...), None for `auto`.

    Raises:
        BaseModelError: no such dtype.
    """
    if name == "auto":
        return None
    full = _SHORT.get(name, name)
    if full not in DTYPES:
        raise BaseModelError(f"dtype {name!r} is unknown; use auto, {', '.join(DTYPES)}")
    return DTYPES[full]


@dataclass(eq=False)
class FrozenBase:
    """A causal language model in eval mode, whose weights never change.

    Make one with :meth:`load` (an id or a folder) or :meth:`wrap` (a model already in memory).
    """

    model: Any
    """The transformers model."""
    tokenizer: Any
    """Its tokenizer."""
    source: str
    """What the user gave: an id, a folder, or builtin/tiny."""
    fingerprint: str
    """32 hex digits that name the exact weights, tokenizer and computing config."""
    path: Path | None = None
    """The folder it was loaded from."""
    quantization: str | None = None
    """`int8` or `4bit`: how the linear layers were made smaller. Not part of the fingerprint, as dtype is none."""

    @classmethod
    def load(
        cls,
        source: str = "builtin/tiny",
        *,
        dtype: str = "auto",
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        attn_implementation: str | None = None,
        quantization: str | None = None,
    ) -> FrozenBase:
        """Load and freeze a base.

        Args:
            source: a Hugging Face id, a folder, or `builtin/tiny`.
            dtype: `float32`, `bfloat16`, `float16`, or `auto`: as stored where the device is quick at that, which a CPU
                without AMX is not at 16 bits; it gets float32.
            device: `cpu`, `cuda:0`, ...; by default the first GPU, else the CPU.
            trust_remote_code: run code that comes with the model. Off unless asked.
            quantization: make the linear layers smaller: `int8`, or on a GPU `4bit`.

        Raises:
            BaseModelError: it cannot be found, read, quantised so, or is no causal language model.
        """
        import transformers

        torch_dtype = dtype_of(dtype)
        folder = locate(source, revision=revision)
        config = read_model_config(folder)
        refuse_unless_causal(task_type_of_config(config), source)
        if config.get("auto_map") and not trust_remote_code:
            raise BaseModelError(
                f"{source!r} comes with code of its own, which is not run unless you ask for it (trust_remote_code=True)"
            )
        target = _device(device)
        wanted = torch_dtype or (torch.float32 if _slow_at_16_bits(target) else None)
        reading: dict[str, Any] = {"dtype": wanted or "auto"}
        if quantization is not None:
            check_quantization(quantization, target, config, source)
            if quantization == "4bit":
                reading |= nf4_options(wanted or _stored_dtype(config), target)
            elif wanted == torch.float32:
                reading["dtype"] = "auto"  # made wide behind the quantisation, which spares a wide copy of it all
        # On a CPU the fused kernel's backward pass is the slower one, in bf16 by far.
        attention = attn_implementation or ("eager" if target.type == "cpu" else None)
        try:
            with _quiet():
                model, found = transformers.AutoModelForCausalLM.from_pretrained(
                    folder,
                    **reading,
                    trust_remote_code=trust_remote_code,
                    attn_implementation=attention,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                )
                tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BaseModelError(f"{source!r} ({folder}) cannot be loaded: {reason}") from None
        except Exception as error:  # safetensors and tokenizers raise classes of their own for damaged files
            raise BaseModelError(
                f"{source!r} ({folder}) is damaged or not readable: {type(error).__name__}: {error}; fetch it again"
            ) from None
        # Weights that are not there, or of another shape, transformers would fill with random numbers.
        lacking = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
        if lacking:
            raise BaseModelError(
                f"{source!r} ({folder}) lacks {len(lacking)} weights of {type(model).__name__}, {lacking[0]!r} among them, "
                "or has them in another shape; fetch or save it again, whole, or give a base with a language-modelling head"
            )
        if quantization == "int8":
            quantize_int8(model, wanted if reading["dtype"] == "auto" else None)
        model = _freeze(model)
        try:
            model = model if quantization == "4bit" else model.to(target)
        except torch.OutOfMemoryError:
            raise BaseModelError(
                f"{source!r} does not fit the memory of {target}; use a smaller dtype, quantization, base or another device"
            ) from None
        return cls(
            model=model,
            tokenizer=tokenizer,
            source=source,
            fingerprint=fingerprint_of_folder(folder),
            path=folder,
            quantization=quantization,
        )

    @classmethod
    def wrap(cls, model: Any, tokenizer: Any, *, name: str = "in-memory") -> FrozenBase:
        """Freeze a causal model that is already in memory. Its fingerprint is taken from the tensors themselves, so it
        differs from that of the same model loaded from files.

        Raises:
            BaseModelError: the model is no causal language model.
        """
        refuse_unless_causal(task_type_of_config(model.config.to_dict()), name)
        return cls(
            model=_freeze(model),
            tokenizer=tokenizer,
            source=name,
            fingerprint=fingerprint_of_model(model, tokenizer),
        )

    @property
    def _from_folder(self) -> bool:
        return self.path is not None and not self.source.startswith("builtin/") and Path(self.source).expanduser().is_dir()

    @property
    def name(self) -> str:
        """Public name: the id, or the last part of the folder; never a path of this machine."""
        return self.path.name if self.path is not None and self._from_folder else self.source

    @property
    def address(self) -> str:
        """What loads it again from anywhere on this machine: the id, or the absolute folder."""
        return str(self.path) if self._from_folder else self.source

    @property
    def device(self) -> torch.device:
        """Where the embeddings live."""
        device: torch.device = self.embedding.weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of the embeddings, and so of what is spliced into them."""
        dtype: torch.dtype = self.embedding.weight.dtype
        return dtype

    @cached_property
    def embedding(self) -> Any:
        """The input embedding, V x D."""
        return self.model.get_input_embeddings()

    @property
    def width(self) -> int:
        """D, the width of an input embedding and of each virtual token."""
        return int(self.embedding.weight.shape[1])

    @cached_property
    def params(self) -> int:
        """Number of weights, tied ones counted once."""
        return int(self.model.num_parameters())  # which knows that 4-bit weights are packed

    @cached_property
    def context(self) -> int | None:
        """Longest sequence in tokens, virtual ones among them; None where the architecture sets no limit."""
        config = self.model.config.get_text_config()
        for key in _CONTEXT_KEYS:
            value = getattr(config, key, None)
            if isinstance(value, int) and value > 0:
                return value
        return None

    @cached_property
    def window(self) -> int | None:
        """Fewest tokens that some layer attends to; None where every layer sees all."""
        config = self.model.config.get_text_config()
        found = [getattr(config, key, None) for key in ("sliding_window", "attention_chunk_size", "window_size")]
        return min((value for value in found if isinstance(value, int)), default=None)

    @cached_property
    def slices_logits(self) -> bool:
        """Whether the model's own forward can compute logits at chosen positions only."""
        return "logits_to_keep" in inspect.signature(self.model.forward).parameters

    @property
    def end_id(self) -> int | None:
        """Token that ends a generated text."""
        value = self.tokenizer.eos_token_id
        return int(value) if value is not None else None

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """All tokens that end a generated text."""
        ids = {self.end_id} if self.end_id is not None else set()
        configured = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        if isinstance(configured, int):
            ids.add(configured)
        elif configured:
            ids.update(configured)
        return frozenset(ids)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        if not texts:
            return []
        with _quiet():
            ids: list[list[int]] = self.tokenizer(
                list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
            )["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def embed(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Input embeddings B x T x D of token ids B x T."""
        embeds_BTD: torch.Tensor = self.embedding(ids_BT)
        return embeds_BTD

    def budget(self, num_virtual_tokens: int, output: int) -> int | None:
        """Tokens left for the input beside a prompt and an output; None without a limit.

        Raises:
            ContextError: nothing is left.
        """
        if self.context is None:
            return None
        left = self.context - num_virtual_tokens - output
        if left < 1:
            raise ContextError(
                f"{num_virtual_tokens} virtual tokens and {output} output tokens leave no room for an input in the "
                f"context of {self.name} ({self.context} tokens); use a shorter prompt"
            )
        return left

    def state_digest(self) -> str:
        """Digest of every weight as it is now in memory; equal before and after training."""
        return fingerprint_of_model(self.model, None)


def _slow_at_16_bits(device: torch.device) -> bool:
    # Measured on AVX-512 with bf16 instructions and no AMX: bf16 matrix products take 1.5 times as long as float32 ones.
    return device.type == "cpu" and not torch.cpu._is_amx_tile_supported()


def _stored_dtype(config: dict[str, Any]) -> torch.dtype:
    return DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), torch.float32)


def _freeze(model: Any) -> Any:
    model.eval()
    model.requires_grad_(False)
    return model


def _device(name: str | None) -> torch.device:
    if name is None:
        # The first GPU; in a process that was started beside others, the one that its launcher gave it.
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BaseModelError(f"device {name!r} is unknown; use cpu, cuda:0, mps, ...") from None
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):  # each backend has its own way to say that it is not there
        what = "no GPU is visible" if device.type == "cuda" else "it is not to be had here"
        raise BaseModelError(f"device {name!r} was asked for and {what}; use cpu") from None
    return device


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep transformers' advice and progress bars off the user's terminal while we load or tokenise."""
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
