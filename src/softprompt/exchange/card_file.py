"""Our card beside an exported PEFT adapter, in a file of its own that PEFT ignores. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from softprompt.errors import PromptFileError

if TYPE_CHECKING:
    from softprompt.prompts.card import Card

CARD = "softprompt_card.json"


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
