"""Which tool a source is of, and the prompt in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from softprompt.bases.files.adapter import CONFIG as PEFT

if TYPE_CHECKING:
    from softprompt.exchange.elsewhere.taken import Taken

_CAIKIT = ("decoder.pt", "encoder.pt", "config.yml")
_NEMO = ("model_config.yaml", "model_weights.ckpt", "mp_rank_00")
_SUFFIX = ".nemo"


def tool_of(source: Path) -> str | None:
    """`caikit` or `nemo` by the names of what is there; None for PEFT's folders, our files, and what is neither."""
    if not source.is_dir():
        return "nemo" if source.suffix.lower() == _SUFFIX else None
    if (source / PEFT).is_file():
        return None
    if any((source / name).exists() for name in _CAIKIT):
        return "caikit"
    return "nemo" if any((source / name).exists() for name in _NEMO) else None


def read_elsewhere(source: Path, task: str) -> Taken:
    """The prompt of a source that :func:`tool_of` knows.

    Args:
        source: a folder, or a file.
        task: what it becomes; of several prompts in a source the one of that name is taken.

    Raises:
        PromptFileError: it cannot be read, or is more or less than a prompt.
    """
    if tool_of(source) == "nemo":
        from softprompt.exchange.elsewhere.nemo import read_nemo

        return read_nemo(source, task)
    from softprompt.exchange.elsewhere.caikit import read_caikit

    return read_caikit(source)
