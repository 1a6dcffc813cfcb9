"""Where the inputs of a task lie in the frozen base's own space.

Shapes: N inputs, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from softprompt.errors import DataError
from softprompt.model.architecture import Architecture
from softprompt.model.embedding import shorten


def centroid_of(architecture: Architecture, texts: Sequence[str]) -> Tensor | None:
    """Where texts lie: the mean of their directions from the base's origin, D float32. None where no text has tokens.

    Without the origin all directions are much alike. Each text counts as a unit vector, so the length of the mean tells how
    alike the texts are. A text that the base cannot read is left out: in its template it may be spelled otherwise.
    """
    base = architecture.base
    encoded: list[list[int]] = []
    for text in texts:
        with suppress(DataError):
            encoded += base.encode([text])
    inputs = [shorten(base, ids) for ids in encoded if ids]
    if not inputs:
        return None
    offsets_ND = architecture.embed(inputs) - architecture.origin_D
    return torch.nn.functional.normalize(offsets_ND, dim=1).mean(0)


def raw_text(fields: Sequence[str], row: Mapping[str, Any]) -> str:
    """A row as a request without a template would say it: its columns, joined by newlines."""
    return "\n".join(str(row[field]) for field in fields)
