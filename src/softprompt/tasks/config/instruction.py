"""The instruction of a task: a text prompt in a file of its own. No torch."""

from __future__ import annotations

from pathlib import Path

from softprompt.errors import ConfigError, DataError
from softprompt.rows.sources import find_file
from softprompt.tasks.config.config import TaskConfig
from softprompt.tasks.config.task_file import read_text


def read_instruction(file: Path, name: str) -> str:
    """The text of an instruction file, which messages call `name`, without the newline at its end.

    Raises:
        ConfigError: it cannot be read, is not UTF-8, or holds no text.
    """
    text = read_text(file, f"the instruction file {name!r}").removesuffix("\n")
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
    try:
        found = find_file(file, folder)
    except DataError:
        raise ConfigError(f"there is no instruction file {file!r} beside the task file; mend the path") from None
    text = read_instruction(found, file)
    return config.model_copy(update={"instruction": text, "instruction_file": None})
