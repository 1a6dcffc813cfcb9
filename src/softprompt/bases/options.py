"""How a base is found and loaded: one frozen object, from commands, task files, Python and HTTP to the loader. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from softprompt.bases.files.locate import split_revision
from softprompt.errors import BaseModelError, nearest

DEFAULT_BASE = "builtin/tiny"
DTYPE_NAMES = ("float32", "bfloat16", "float16")
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
QUANTIZATIONS = {"int8": "torchao", "4bit": "bitsandbytes"}
"""The ways to quantise, and the package that each needs."""


def full_dtype(name: str) -> str:
    """The name of a dtype in full, or `auto`.

    Raises:
        BaseModelError: no such dtype.
    """
    full = _SHORT.get(name, name)
    if full not in (*DTYPE_NAMES, "auto"):
        raise BaseModelError(f"dtype {name!r} is unknown; use auto, {', '.join(DTYPE_NAMES)}")
    return full


def check_quantization_name(name: str) -> None:
    """Raises `BaseModelError` where there is no such way to quantise."""
    if name not in QUANTIZATIONS:
        raise BaseModelError(f"quantization {name!r} is unknown{nearest(name, QUANTIZATIONS)}")


@dataclass(frozen=True)
class CommandOption:
    """A field as an option of commands."""

    flag: str
    help: str


def _option(default: Any, flag: str, text: str) -> Any:
    return field(default=default, metadata={"option": CommandOption(flag, text)})


@dataclass(frozen=True, kw_only=True)
class BaseOptions:
    """What to load, and how."""

    source: str | None = None
    """A hub id, `id@revision`, a folder, a GGUF file, or `builtin/tiny`; None where a task or a version names it."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: str = _option(
        "auto", "--dtype", "Of the base: auto (as stored where that is quick), float32, bfloat16 or float16."
    )
    """`float32`, `bfloat16`, `float16`, or `auto`: as stored (of few bits in a GGUF file: `bfloat16`) where the device is
    quick at that, which a CPU without AMX is not at 16 bits; it gets float32."""
    device: str | None = _option(None, "--device", "cpu, cuda:0, ...; by default the first GPU, else the CPU.")
    """`cpu`, `cuda:0`, ...; by default the first GPU, else the CPU."""
    quantization: str | None = _option(None, "--quantization", "Of the base's linear layers: int8, or on a GPU 4bit.")
    """Of the linear layers: `int8`, or on a GPU `4bit`."""
    adapter: str | None = _option(None, "--base-adapter", "Folder of a LoRA adapter to merge into the base (extra peft).")
    """Folder of a LoRA adapter to merge into the base; part of the fingerprint."""
    trust_remote_code: bool = _option(False, "--trust-remote-code", "Run code that comes with the base.")
    """Whether to run code that comes with the model."""
    batch_invariant: bool = _option(
        False, "--batch-invariant", "Same answers to the last bit whatever else is in the batch; slower."
    )
    """Whether what a row gives, and what a prompt becomes in training, is to be the same to the last bit whatever else is
    run beside it; slower."""

    @classmethod
    def of(cls, options: BaseOptions | str | None, **changes: Any) -> BaseOptions:
        """Options from themselves, from a source or from nothing, with some fields changed."""
        return replace(options if isinstance(options, BaseOptions) else cls(source=options), **changes)

    @property
    def address(self) -> str:
        """Source and revision in one: what a task file or `--base` would say."""
        source = self.source or DEFAULT_BASE
        return f"{split_revision(source)[0]}@{self.revision}" if self.revision else source

    @property
    def shown(self) -> str:
        """What is loaded, for messages."""
        adapter = f" with the adapter {self.adapter}" if self.adapter is not None else ""
        return f"{self.address}{adapter}{' with its own code' if self.trust_remote_code else ''}"

    def over(self, other: BaseOptions) -> BaseOptions:
        """These options, and those of `other` where these say nothing. A source brings its own revision, adapter and code:
        where these name one, those of the other's are left behind."""
        if self.source is not None:
            other = replace(other, revision=None, adapter=None, trust_remote_code=False)
        elif self.revision is not None and other.source is not None:
            other = replace(other, source=split_revision(other.source)[0])
        given: dict[str, Any] = {
            field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name) != field.default
        }
        return replace(other, **given)

    def arguments(self) -> list[str]:
        """The options of a command that say the same, source and revision apart."""
        words: list[str] = []
        for name, option in COMMAND_OPTIONS.items():
            value = getattr(self, name)
            if value != _DEFAULTS[name]:
                words += [option.flag] if value is True else [option.flag, str(value)]
        return words


_DEFAULTS = {field.name: field.default for field in fields(BaseOptions)}

COMMAND_OPTIONS: dict[str, CommandOption] = {
    field.name: field.metadata["option"] for field in fields(BaseOptions) if "option" in field.metadata
}
"""The fields that are options of commands, in the order of help."""
