"""A prompt as another tool kept it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Taken:
    """What a tool's files say of a prompt."""

    tool: str
    """Whose files they are, as a card's recipe says `imported`."""
    vectors_PD: torch.Tensor
    """P x D, float32."""
    task_type: str | None = None
    """What it is for; None where the files do not say."""
    base: str | None = None
    """The base as the files name it."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of a card: the templates of its task."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """What a card's recipe keeps of how it was made."""
