"""What stands beside the matrix of a PEFT adapter: its config, and our card and centroid in files that PEFT ignores. No
torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.files.adapter import CONFIG
from softprompt.bases.files.locate import BUILTIN, is_local
from softprompt.errors import PromptFileError

if TYPE_CHECKING:
    from softprompt.prompts.card import Card

CARD = "softprompt_card.json"
CENTROID = "softprompt_centroid.safetensors"
"""Where inputs of the task lie, of a prompt that was trained here."""


def read_card_file(file: Path) -> Card:
    """The card in a file.

    Raises:
        PromptFileError: it is not there, or is no card.
    """
    from softprompt.prompts.card import Card

    try:
        return Card.parse(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PromptFileError(f"{str(file)!r} cannot be read ({error}); export the prompt again") from None


def commit_of(card: Card, base: str) -> str | None:
    """The commit that a prompt was tuned at, where its base goes by the id that the card has: a branch moves on."""
    return card.recipe.get("revision") if base == card.base else None


def name_of(base: str) -> str:
    """What a card calls a base that others name: an id as it is, of a path the last part; it has no path of a machine."""
    return Path(base).name if is_local(base) and base not in BUILTIN else base


def read_adapter_file(folder: str | Path) -> Any:
    """What the config of a PEFT adapter holds.

    Raises:
        PromptFileError: it is not there, or not JSON.
    """
    file = Path(folder) / CONFIG
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PromptFileError(
            f"{str(folder)!r} is no PEFT folder: {CONFIG} cannot be read ({error.strerror}); give one that PEFT has saved"
        ) from None
    except (ValueError, RecursionError) as error:
        raise PromptFileError(f"{str(file)!r} is not JSON ({error}); save the adapter again") from None
