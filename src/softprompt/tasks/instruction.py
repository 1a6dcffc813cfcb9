"""The instruction of a task: a text prompt in a file of its own. No torch."""

from __future__ import annotations

from pathlib import Path

from softprompt.errors import ConfigError
from softprompt.rows.sources import find_file
from softprompt.tasks.config import TaskConfig


def read_instruction(file: Path, name: str) -> str:
    """The text of an instruction file, which messages call `name`, without the newline at its end.

    Raises:
        ConfigError: it cannot be read, is not UTF-8, or holds no text.
    """
    try:
        text = file.read_text(encoding="utf-8").removesuffix("\n")
    except OSError as error:
        raise ConfigError(f"the instruction file {name!r} cannot be read: {error.strerror}; mend the path") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the instruction file {name!r} is not UTF-8 text ({error.reason} at byte {error.start}); save it so"
        ) from None
    if not text.strip():
        raise ConfigError(f"the instruction file {name!r} is empty; write the instruction into it")
    return text


def with_instruction(config: TaskConfig, folder: Path) -> TaskConfig:
    """A config with the text of its instruction file, which is looked for as data are, in the place of the file's name.

    Raises:
        ConfigError: it is not there, or is no text.
    """
    if (file := config.instruction_file) is None:
        return config
    text = read_instruction(find_file(file, folder), file)
    return config.model_copy(update={"instruction": text, "instruction_file": None})
