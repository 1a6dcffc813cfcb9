"""How a base is found and loaded: one frozen object from command line, task file, Python and HTTP to the loader. No torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

DEFAULT_BASE = "builtin/tiny"


@dataclass(frozen=True, kw_only=True)
class BaseOptions:
    """What to load, and how."""

    source: str | None = None
    """A hub id, a folder, or `builtin/tiny`; None where a task or a version names it."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    adapter: str | None = None
    """Folder of a LoRA adapter to merge into the base; part of the fingerprint."""
    dtype: str = "auto"
    """`float32`, `bfloat16`, `float16`, or `auto`: as stored where the device is quick at that."""
    device: str | None = None
    """`cpu`, `cuda:0`, ...; by default the first GPU, else the CPU."""
    quantization: str | None = None
    """Of the linear layers: `int8`, or on a GPU `4bit`."""
    trust_remote_code: bool = False
    """Whether to run code that comes with the model."""

    def over(self, other: BaseOptions) -> BaseOptions:
        """These options, and those of `other` where these say nothing."""
        said: dict[str, Any] = {
            field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name) != field.default
        }
        return replace(other, **said)
