"""The base: a frozen language model with its tokenizer, named by a fingerprint.

Shapes: B rows, T tokens, D width of the embeddings, V vocabulary.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from softprompt.bases import architectures
from softprompt.bases.architectures import ENCODERS, refuse_unless_tuned, task_type_of_model
from softprompt.bases.behaviour import check_behaviour, check_vocabulary, embedding_scale, first_position
from softprompt.bases.devices import choose_kernels, device_of, dtype_of, slow_at_16_bits, stored_dtype
from softprompt.bases.files.adapter import find_adapter, merge_adapter
from softprompt.bases.files.fingerprint import (
    fingerprint_of_folder,
    fingerprint_of_model,
    former_fingerprint,
    former_fingerprint_of_model,
    stamp_of_folder,
)
from softprompt.bases.files.locate import commit_of, locate, read_object, split_revision
from softprompt.bases.folder import check_folder
from softprompt.bases.grammar import Grammars
from softprompt.bases.options import DEFAULT_BASE, BaseOptions
from softprompt.bases.quantization import check_quantization, nf4_options, quantize_int8
from softprompt.bases.reading import check_finite, loadable, read_model
from softprompt.bases.spelling import Spelling
from softprompt.errors import BaseModelError, ContextError
from softprompt.progress import Progress, Silent, loading
from softprompt.text import Parts, plural, with_mask


@dataclass(frozen=True, eq=False)
class FrozenBase:
    """A language model in eval mode, whose weights never change.

    Make one with :meth:`load` (an id, a folder or a GGUF file) or :meth:`wrap` (a model already in memory).
    """

    model: Any
    """The transformers model."""
    tokenizer: Any
    """Its tokenizer."""
    source: str
    """What the user gave: an id, an id@revision, a folder, a GGUF file, or builtin/tiny."""
    fingerprint: str
    """32 hex digits that name the exact weights, adapter, tokenizer, computing config and end of a text."""
    path: Path | None = None
    """The folder it was loaded from, or the GGUF file; of a split one its first part."""
    quantization: str | None = None
    """`int8` or `4bit`: how the linear layers were made smaller. Not part of the fingerprint, as dtype is none."""
    adapter: Path | None = None
    """Folder of the LoRA adapter that was merged into it."""
    trust_remote_code: bool = False
    """Whether code that came with it was allowed to run."""
    batch_invariant: bool = False
    """Whether it is run so that no bit of a row's results depends on the rows beside it."""

    def __repr__(self) -> str:
        kind = getattr(self.model.config, "model_type", "model")
        return f"FrozenBase({self.name!r}, {kind} of {self.params:,} weights, {str(self.dtype)[6:]} on {self.device})"

    @classmethod
    def load(
        cls, options: BaseOptions | str = DEFAULT_BASE, *, attn_implementation: str | None = None, **fields: Any
    ) -> FrozenBase:
        """Load and freeze a base.

        Args:
            options: what to load, and how; a string is a source.
            attn_implementation: as transformers calls it; by default the one that trains fastest on the device.
            fields: of :class:`BaseOptions`, in the place of those in `options`.

        Raises:
            BaseModelError: it cannot be found, read, quantised so, or is of a kind that is not tuned; or its adapter cannot.
        """
        options = BaseOptions.of(options, **fields)
        source, code = options.address, options.trust_remote_code
        torch_dtype = dtype_of(options.dtype)
        path = locate(options.source or DEFAULT_BASE, revision=options.revision, code=code)
        config = check_folder(path, source, code=code)
        target = device_of(options.device)
        dtype = torch_dtype or (torch.float32 if slow_at_16_bits(target) else None)
        reading: dict[str, Any] = {"dtype": dtype or "auto"}
        adapter = find_adapter(options.adapter) if options.adapter is not None else None
        if options.quantization is not None:
            check_quantization(options.quantization, target, config, source)
            if options.quantization == "4bit":
                reading |= nf4_options(dtype or stored_dtype(config), target)
            elif dtype == torch.float32:
                reading["dtype"] = "auto"  # made wide behind the quantisation, which spares a wide copy of it all
        if adapter is not None and (options.quantization == "4bit" or config.get("quantization_config")):
            raise BaseModelError(
                f"the adapter in {options.adapter!r} cannot be merged into weights of few bits; take {source!r} as it was "
                "before that, or --quantization int8 in the place of 4bit"
            )
        # On a CPU the fused kernel's backward pass is the slower one, in bf16 by far.
        reading["attn_implementation"] = attn_implementation or ("eager" if target.type == "cpu" else None)
        before = stamp_of_folder(path, code=code)
        folder = loadable(path, source, dtype or stored_dtype(config))
        config = read_object(folder / "config.json")
        model, tokenizer = read_model(folder, source, config, reading | {"trust_remote_code": code})
        if adapter is not None:
            model = merge_adapter(model, adapter, source)
        check_finite(model, options.shown, forget=options.quantization == "int8")
        if options.quantization == "int8":
            quantize_int8(model, dtype if reading["dtype"] == "auto" else None)
        model = model.eval().requires_grad_(False)
        try:
            model = model if options.quantization == "4bit" else model.to(target)
        except torch.OutOfMemoryError:
            raise BaseModelError(
                f"{source!r} does not fit the memory of {target}; use a smaller dtype, quantization, base or another device"
            ) from None
        check_behaviour(model, source)
        fingerprint = fingerprint_of_folder(path, adapter, code=code)
        if stamp_of_folder(path, code=code) != before:
            raise BaseModelError(f"files of {source!r} ({path}) were changed while they were read; load it again")
        choose_kernels(target)
        base = cls(model, tokenizer, source, fingerprint, path, options.quantization, adapter, code, options.batch_invariant)
        check_vocabulary(base.model, base.spelling, base.name)
        return base

    @classmethod
    def wrap(cls, model: Any, tokenizer: Any, *, name: str = "in-memory", batch_invariant: bool = False) -> FrozenBase:
        """Freeze a model that is already in memory. Its fingerprint is taken from the tensors themselves, so it
        differs from that of the same model loaded from files.

        Raises:
            BaseModelError: the model is of a kind that is not tuned.
        """
        refuse_unless_tuned(task_type_of_model(model), name)
        check_finite(model, name)
        check_behaviour(model.eval().requires_grad_(False), name)
        choose_kernels(model.device)
        base = cls(model, tokenizer, name, fingerprint_of_model(model, tokenizer), batch_invariant=batch_invariant)
        check_vocabulary(base.model, base.spelling, base.name)
        return base

    @cached_property
    def fingerprints(self) -> frozenset[str]:
        """All names that this exact base has had: its fingerprint, and the one by the rule of versions before. A prompt that
        carries one of them is one of this base."""
        if self.path is None:
            return frozenset({self.fingerprint, *former_fingerprint_of_model(self.model, self.tokenizer)})
        return frozenset({self.fingerprint, *former_fingerprint(self.path, self.adapter)})

    @property
    def _from_here(self) -> bool:
        outside = self.path is not None and not self.source.startswith("builtin/")
        return outside and os.path.exists(os.path.expanduser(self.source))

    @property
    def name(self) -> str:
        """Public name: the id, or the last part of the path; never a path of this machine."""
        if self.path is None:
            return self.source
        return self.path.name if self._from_here else split_revision(self.source)[0]

    @property
    def address(self) -> str:
        """What loads it again from anywhere on this machine, its adapter apart: the id or id@revision, or the absolute
        path."""
        return str(self.path) if self._from_here else self.source

    @property
    def revision(self) -> str | None:
        """The full commit of what came from the hub; None where there is none."""
        return commit_of(self.path) if self.path is not None else None

    @property
    def shown(self) -> str:
        """For messages: the name, the commit where it came from the hub, and the adapter."""
        commit = f"@{self.revision}" if self.revision else ""
        return f"{self.name}{commit}{f' with the adapter {self.adapter.name!r}' if self.adapter else ''}"

    def provenance(self) -> dict[str, Any]:
        """What a card says of how the base was loaded, beside its name and dtype; only what there is to say."""
        known = {
            "revision": self.revision,
            "adapter": self.adapter and self.adapter.name,
            "trust_remote_code": self.trust_remote_code,
            "quantization": self.quantization,
            "batch_invariant": self.batch_invariant,
        }
        return {key: value for key, value in known.items() if value}

    @cached_property
    def task_type(self) -> str:
        """Of :data:`~softprompt.bases.architectures.TUNED`."""
        return task_type_of_model(self.model)

    @property
    def architecture(self) -> str:
        """The model's class, as its config names it."""
        return str((getattr(self.model.config, "architectures", None) or [type(self.model).__name__])[0])

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
    @torch.no_grad()
    def spread(self) -> float:
        """Standard deviation of the numbers of its input embeddings, as they enter its layers: of some thousand tokens."""
        rows = len(self.embedding.weight)
        ids = [token for token in range(0, rows, max(1, rows // 4096)) if token not in self.spelling.unusable]
        return float(self.embed(torch.tensor(ids, device=self.device)).float().std())

    @cached_property
    def params(self) -> int:
        """Number of weights, tied ones counted once."""
        return int(self.model.num_parameters())  # which knows that 4-bit weights are packed

    @cached_property
    def context(self) -> int | None:
        """Longest sequence in tokens, virtual ones among them; None where the architecture sets no limit."""
        limit = architectures.context_of(self.model.config.get_text_config())
        return limit - first_position(self.model) if limit is not None and self.task_type in ENCODERS else limit

    @cached_property
    def window(self) -> int | None:
        """Fewest tokens that some layer attends to; None where every layer sees all."""
        return architectures.window_of(self.model.config.get_text_config())

    @cached_property
    def slices_logits(self) -> bool:
        """Whether the model's own forward can compute logits at positions chosen row by row only, which those of
        transformers could not up to 5.19."""
        from transformers import modeling_utils

        known = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        return known and hasattr(modeling_utils, "slice_logits_to_keep")

    @property
    def end_id(self) -> int | None:
        """Token that ends a text: the tokenizer's, else the first that the generation settings name."""
        value, rows = self.tokenizer.eos_token_id, len(self.embedding.weight)
        named = self._configured_ends if value is None else (int(value), *self._configured_ends)
        return next((token for token in named if token < rows), None)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """All tokens that end a generated text."""
        own = () if self.end_id is None else (self.end_id,)
        return frozenset((*own, *self._configured_ends))

    @cached_property
    def _configured_ends(self) -> tuple[int, ...]:
        configured = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        return (configured,) if isinstance(configured, int) else tuple(configured or ())

    @cached_property
    def spelling(self) -> Spelling:
        """How it spells text."""
        return Spelling(self.tokenizer, self.name, self.embedding)

    @cached_property
    def grammars(self) -> Grammars:
        """What compiles schemas of answers for it."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return Grammars(backend, self.name, len(self.embedding.weight), self.end_ids)

    def encode(
        self, texts: Sequence[str | Parts], *, behind: bool = False, name: Callable[[int], str] | None = None
    ) -> list[list[int]]:
        """Token ids of each text, without special tokens but those of its author: see :meth:`Spelling.encode`."""
        if self.task_type == "MASKED_LM":
            texts = [text if isinstance(text, str) else with_mask(text, self.tokenizer.mask_token) for text in texts]
        return self.spelling.encode(texts, behind=behind, name=name)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens left out."""
        return self.spelling.decode(ids)

    @cached_property
    def frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What is put in front of each input and behind it: what the tokenizer puts there, before encoders alone."""
        return ((), ()) if self.task_type == "CAUSAL_LM" else self.spelling.frame

    @cached_property
    def answer_start(self) -> tuple[int, ...]:
        """What an encoder-decoder's decoder begins with: its start token, and what its tokenizer begins texts with."""
        start = (int(self.model.config.decoder_start_token_id),)
        return start if self.frame[0] == start else start + self.frame[0]

    @cached_property
    def embedding_scale(self) -> float:
        """See :func:`~softprompt.bases.behaviour.embedding_scale`."""
        return embedding_scale(self.model)

    def embed(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Input embeddings B x T x D of token ids B x T."""
        embeds_BTD: torch.Tensor = self.embedding(ids_BT)
        return embeds_BTD if self.embedding_scale == 1.0 else embeds_BTD * self.embedding_scale

    def room(self, held: int) -> int | None:
        """Tokens of an answer that fit beside a prompt and an input of `held` tokens in all, below 0 where these do not fit
        themselves; None without a limit."""
        if self.context is None:
            return None
        left = self.context - held - sum(map(len, self.frame))
        if self.task_type != "SEQ_2_SEQ_LM" or left < 0:
            return left
        limit = architectures.answer_context_of(self.model.config)
        return limit and limit - len(self.answer_start)

    def budget(self, num_virtual_tokens: int, output: int) -> int | None:
        """Tokens left for the input beside a prompt and an output; None without a limit.

        Raises:
            ContextError: nothing is left.
        """
        if self.context is None:
            return None
        apart = self.task_type == "SEQ_2_SEQ_LM"  # its answers stand in a sequence of their own
        most = self.room(num_virtual_tokens) if apart else None
        left = self.context - num_virtual_tokens - sum(map(len, self.frame)) - (0 if apart else output)
        if left < 1 or (most is not None and output > most):
            raise ContextError(
                f"{plural(num_virtual_tokens, 'virtual token')} and {plural(output, 'output token')} leave no room for an "
                f"input in the context of {self.name} ({self.context} tokens); use a shorter prompt{' or answer' * apart}"
            )
        return left


BaseLike = FrozenBase | BaseOptions | str | None
"""A loaded base, options or a source to load one by, or None: what a task or a version names."""


def base_of(base: BaseLike, named: BaseOptions, progress: Progress | None = None) -> FrozenBase:
    """A base that is loaded already; else the one that is asked for, where nothing is said as `named`, and told as it loads.

    Raises:
        BaseModelError: it cannot be loaded.
    """
    if isinstance(base, FrozenBase):
        return base
    options = BaseOptions.of(base).over(named)
    with loading(progress or Silent(), options.shown):
        return FrozenBase.load(options)
