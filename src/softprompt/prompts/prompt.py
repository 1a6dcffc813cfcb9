"""The prompt: a matrix with its card, in one safetensors file. Of a soft prompt P x D, vectors before an input; of a prefix
P x W, the keys and values of each virtual token on all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from softprompt.bases.architectures import KINDS
from softprompt.bases.files.locate import two_forms
from softprompt.bases.head import pack
from softprompt.errors import ConfigError, FingerprintMismatch, PromptFileError
from softprompt.files import write_whole
from softprompt.prompts.card import Card, Dtype
from softprompt.prompts.file import Stored, digest_of, read_file, write_file
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase

TENSOR = "prompt_embeddings"
WEIGHT, BIAS = "classifier_weight", "classifier_bias"
SCALE = "scale"
CENTROID = "centroid"

_BLOCK = 64
"""Numbers of a prefix that share a scale in int8: keys are many times as large as values, and layers differ. The vectors of
a soft prompt have one each."""

_AGAIN = "fetch the file again"

_NAMES: dict[str, tuple[str, torch.dtype]] = {
    "float32": ("F32", torch.float32),
    "bfloat16": ("BF16", torch.bfloat16),
    "float16": ("F16", torch.float16),
    "int8": ("I8", torch.int8),
}


class Classifier(NamedTuple):
    """A head: a linear layer from what an input becomes to a logit for each label. Float32 in every file."""

    weight_CF: torch.Tensor
    bias_C: torch.Tensor


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """P virtual tokens, vectors or keys and values as the card says, and the card that says what they are for. Immutable:
    change makes a new one."""

    vectors_PD: torch.Tensor
    """P x D, float32; of a prefix P x W."""
    card: Card
    centroid_D: torch.Tensor | None = None
    """Where the task's inputs lie among the base's embeddings, D float32, for `auto`; see :func:`centroid.centroid_of`."""
    classifier: Classifier | None = None
    """The head that it was trained with, on a base that answers through one."""

    def __post_init__(self) -> None:
        shape = (self.card.num_virtual_tokens, self.card.token_dim)
        if tuple(self.vectors_PD.shape) != shape:
            raise PromptFileError(
                f"the card says {shape[0]} x {shape[1]} and the tensor is {' x '.join(map(str, self.vectors_PD.shape))}; "
                f"{_AGAIN}"
            )
        if not torch.isfinite(self.rows_PD).all():
            raise PromptFileError("the prompt holds values that are not finite (NaN or infinity); train it again")
        self._check_classifier()
        if self.centroid_D is None:
            return
        width, there = self.card.centroid_width, tuple(self.centroid_D.shape)
        if len(there) != 1 or width not in (None, there[0]):
            raise PromptFileError(f"the card says {shape[1]} wide and the centroid is {there}; {_AGAIN}")
        if not torch.isfinite(self.centroid_D).all():
            raise PromptFileError("the centroid holds values that are not finite (NaN or infinity); train the prompt again")

    def _check_classifier(self) -> None:
        if (self.card.task_type == "SEQ_CLS") != (self.classifier is not None):
            there = "holds no" if self.classifier is None else "holds a"
            raise PromptFileError(f"the card says {self.card.task_type} and the file {there} head; {_AGAIN}")
        if self.classifier is None:
            return
        weight, bias = self.classifier
        labels = self.card.num_labels
        if weight.ndim != 2 or len(weight) != labels or tuple(bias.shape) != (labels,):
            raise PromptFileError(
                f"the card has labels for a head of {labels}, and the tensors are {tuple(weight.shape)} and "
                f"{tuple(bias.shape)}; {_AGAIN}"
            )

    def __repr__(self) -> str:
        length, width = self.vectors_PD.shape
        kind = ", a prefix" if self.card.prompt_type == "prefix" else ""
        kind += f", with a head of {self.card.num_labels}" if self.classifier is not None else ""
        return f"SoftPrompt({self.card.task!r}{kind}, {length} x {width} for {self.card.base}, digest {self.digest[:12]})"

    def to_bytes(self) -> bytes:
        """The file: equal prompts give equal bytes. Stored as `card.dtype` says."""
        tensors = _store(self.vectors_PD.detach().float().cpu(), self.card.dtype, _block_of(self.card))
        if self.centroid_D is not None:
            tensors[CENTROID] = _stored(self.centroid_D.detach().float().cpu())
        if self.classifier is not None:
            tensors |= {
                name: _stored(one.detach().float().cpu()) for name, one in zip((WEIGHT, BIAS), self.classifier, strict=True)
            }
        return write_file(self.card, tensors)

    @classmethod
    def from_bytes(cls, data: bytes, *, digest: str | None = None) -> SoftPrompt:
        """Read a prompt file.

        Args:
            data: the whole file.
            digest: the digest that the bytes must have, where one is known.

        Raises:
            PromptFileError: damaged, foreign, newer, or not of that digest.
        """
        if digest is not None and digest_of(data) != digest:
            raise PromptFileError(
                f"these bytes have digest {digest_of(data)[:12]}, not {digest[:12]}: the file was altered; "
                "restore it from a copy"
            )
        card, stored = read_file(data)
        centroid, head = stored.pop(CENTROID, None), [stored.pop(name, None) for name in (WEIGHT, BIAS)]
        classifier = Classifier(*(_tensor(one).float() for one in head if one)) if all(head) else None
        vectors_PD = _restore(stored, card.dtype, _block_of(card))
        return cls(vectors_PD, card, None if centroid is None else _tensor(centroid).float(), classifier)

    @property
    def rows_PD(self) -> torch.Tensor:  # noqa: N802
        """All that is run of it, as one matrix: the vectors, and the numbers of its head behind them."""
        if self.classifier is None:
            return self.vectors_PD
        return torch.cat([self.vectors_PD, pack(*self.classifier, self.card.token_dim).to(self.vectors_PD)])

    @property
    def members(self) -> tuple[torch.Tensor, ...]:
        """What an engine gets: each prompt of an ensemble, else the prompt, with its head; P_k x D each."""
        return members_of(self.rows_PD, self.card.members)

    @property
    def columns(self) -> int:
        """Virtual tokens that stand before an input at once: those of the longest member of an ensemble."""
        return max(self.card.members, default=len(self.vectors_PD))

    def check_single(self, what: str) -> None:
        """Refuse an ensemble for what takes one matrix.

        Raises:
            ConfigError: it is one.
        """
        if self.card.members:
            raise ConfigError(
                f"a prompt of task {self.card.task!r} is an ensemble of {len(self.card.members)}, which {what}; name one of "
                "those that it was made from"
            )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, 64 hex digits: the name of the prompt's blob."""
        return digest_of(self.to_bytes())

    def save(self, path: str | Path) -> Path:
        """Write the file, whole or not at all."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, self.to_bytes())
        return target

    @classmethod
    def load(cls, path: str | Path) -> SoftPrompt:
        """Read a prompt file from disk.

        Raises:
            PromptFileError: not there, damaged or foreign.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise PromptFileError(f"{str(path)!r} cannot be read: {error.strerror}; mend the path") from None
        return cls.from_bytes(data)

    def as_dtype(self, dtype: Dtype) -> SoftPrompt:
        """The same prompt stored as `float32`, `bfloat16`, `float16` or `int8` (one scale per virtual token; of a prefix one
        for each 64 of its numbers).

        Raises:
            PromptFileError: it holds larger numbers than the dtype can.
        """
        block = _block_of(self.card)
        vectors_PD = _restore(_store(self.vectors_PD.float().cpu(), dtype, block), dtype, block)
        if not torch.isfinite(vectors_PD).all():
            largest = float(self.vectors_PD.abs().max())
            raise PromptFileError(
                f"the prompt holds numbers up to {largest:.3g}, too large for {dtype}; use bfloat16 or int8"
            )
        return replace(self, vectors_PD=vectors_PD, card=self.card.model_copy(update={"dtype": dtype}))

    def check_base(self, base: FrozenBase) -> None:
        """Refuse a base that this prompt was not made for.

        Raises:
            FingerprintMismatch: with both names, both fingerprints and the mend; or it is that base, read as another kind of
                model.
        """
        card = self.card
        if card.fingerprint in base.fingerprints:
            # A fingerprint says nothing of that: a folder may be read as several kinds.
            if card.task_type != base.task_type:
                raise FingerprintMismatch(
                    f"the prompt of task {card.task!r} is for {base.shown} as {KINDS[card.task_type]} ({card.task_type}), "
                    f"and its config (`architectures`) makes it {KINDS[base.task_type]} ({base.task_type}); put its "
                    "config.json back as it was, or train the task again on this base"
                )
            return
        width = "" if card.token_dim == base.width else f" (and its width is {card.token_dim}, not {base.width})"
        if card.layers is not None:
            here, layers = base.model.config.get_text_config().num_hidden_layers, len(card.layers)
            width = "" if here == layers else f" (and it has keys and values of {plural(layers, 'layer')}, not {here})"
        raise FingerprintMismatch(
            f"the prompt of task {card.task!r} was made for base {card.exact_base} with fingerprint {card.fingerprint}, and "
            f"this base is {base.shown} with fingerprint {base.fingerprint}{width}{two_forms(card.base, base.name)}; load "
            f"{card.exact_base} as it was"
            f"{card.adapter_hint}, or train the task again on this base"
        )


def members_of(vectors_PD: torch.Tensor, lengths: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """The members of an ensemble, of these lengths, whose vectors lie end to end; all of it where there are no lengths."""
    return torch.split(vectors_PD, list(lengths)) if lengths else (vectors_PD,)


def _block_of(card: Card) -> int:
    """Numbers of a row that share a scale in int8."""
    return card.token_dim if card.prompt_type == "soft" else _BLOCK


def _store(vectors_PD: torch.Tensor, dtype: Dtype, block: int) -> dict[str, Stored]:
    """`block` numbers of a row share a scale; the last ones of a row may be fewer."""
    if dtype != "int8":
        return {TENSOR: _stored(vectors_PD.to(_NAMES[dtype][1]))}
    padded = torch.nn.functional.pad(vectors_PD, (0, -vectors_PD.shape[1] % block))
    scale_PB = (padded.reshape(len(padded), -1, block).abs().amax(dim=2) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    levels_PD = (vectors_PD / _spread_out(scale_PB, block, vectors_PD.shape[1])).round().clamp(-127, 127).to(torch.int8)
    return {TENSOR: _stored(levels_PD), SCALE: _stored(scale_PB)}


def _spread_out(scale_PB: torch.Tensor, block: int, width: int) -> torch.Tensor:
    return scale_PB.repeat_interleave(block, dim=1)[:, :width]


def _stored(tensor: torch.Tensor) -> Stored:
    name = next(name for name, dtype in _NAMES.values() if dtype == tensor.dtype)
    return Stored(name, tuple(tensor.shape), tensor.contiguous().view(torch.uint8).numpy().tobytes())


def _restore(stored: dict[str, Stored], dtype: Dtype, block: int) -> torch.Tensor:
    expected = {TENSOR, SCALE} if dtype == "int8" else {TENSOR}
    if set(stored) != expected or stored[TENSOR].dtype != _NAMES[dtype][0]:
        raise PromptFileError(
            f"the card says {dtype} and the file holds {', '.join(sorted(stored)) or 'no tensors'}; {_AGAIN}"
        )
    vectors_PD = _tensor(stored[TENSOR]).float()
    if dtype != "int8":
        return vectors_PD
    scale_PB = _tensor(stored[SCALE])
    if vectors_PD.ndim != 2 or scale_PB.shape != (len(vectors_PD), -(-vectors_PD.shape[1] // block)):
        raise PromptFileError(
            f"the file holds {len(vectors_PD)} virtual tokens and scales of shape {tuple(scale_PB.shape)}; {_AGAIN}"
        )
    return vectors_PD * _spread_out(scale_PB, block, vectors_PD.shape[1])


def _tensor(stored: Stored) -> torch.Tensor:
    dtypes = dict(_NAMES.values())
    try:
        return torch.frombuffer(bytearray(stored.data), dtype=dtypes[stored.dtype]).reshape(stored.shape)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError):  # forged entries have anything in them
        raise PromptFileError(
            f"the file holds {len(stored.data)} bytes for a tensor of {stored.dtype} and shape {stored.shape}; {_AGAIN}"
        ) from None
