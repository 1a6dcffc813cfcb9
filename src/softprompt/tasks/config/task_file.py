"""A task file as it is written: YAML without its surprises. What its keys mean is `config.py`'s. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from softprompt.errors import ConfigError, reason_of
from softprompt.rows.tables import kind_of
from softprompt.rows.values import kind_of_json, short

_TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx")
"""Files that are given for a task file by mistake."""


class TaskLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice, which the library would let pass, and tells where a value cannot be read."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A value such as 2024-13-01 looks like a date and is none: Python refuses it, and not the library."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise ConfigError(
                f"line {node.start_mark.line + 1}: {str(node.value)[:40]!r} cannot be read ({error}); put a text in quotes"
            ) from None


def _keep_words(labels: yaml.Node) -> None:
    """Labels are texts as they are written: yes is no truth value, 01 no number and 2024-01-31 no date."""
    for node in () if isinstance(labels, yaml.ScalarNode) else labels.value:
        for one in node if isinstance(node, tuple) else (node,):  # of a mapping the nodes are pairs
            _keep_words(one)
    if labels.tag != "tag:yaml.org,2002:null" and isinstance(labels, yaml.ScalarNode):
        labels.tag = "tag:yaml.org,2002:str"


def _mapping(loader: TaskLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise ConfigError(
                f"line {key_node.start_mark.line + 1}: the key {short(key)} is no plain name; write `key: value`"
            )
        if key in seen:
            raise ConfigError(f"line {key_node.start_mark.line + 1}: the key {short(key)} is given twice; leave one out")
        if key in ("labels", "id2label"):
            _keep_words(value_node)
        if key == "class_weights" and isinstance(value_node, yaml.MappingNode):
            for label_node, _ in value_node.value:
                _keep_words(label_node)
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


TaskLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_text(file: Path, name: str) -> str:
    """The text of a file, which messages call `name`.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}; mend the path") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 text ({error.reason} at byte {error.start}); save it so") from None


def read_task_file(path: str | Path, kind: str = "task file") -> dict[str, Any]:
    """The keys of a task file, or of what messages call its `kind`, and their values; nothing of them is checked.

    Raises:
        ConfigError: it is not there, not YAML, or no mapping.
    """
    file = Path(path)
    if kind_of(file) in _TABLES and file.is_file():
        init = f"`softprompt init {shlex.quote(str(path))}` writes one for it" if kind == "task file" else "name a .yaml"
        raise ConfigError(f"{path} is a table of rows and no {kind}; {init}")
    text = read_text(file, f"the {kind} {str(path)!r}")
    try:
        raw = yaml.load(text, Loader=TaskLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        told = getattr(error, "problem", None) or reason_of(error)
        where = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}: not valid YAML{where}: {told}; mend it, or put texts in quotes") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid YAML: brackets inside brackets, too deep to read; mend it") from None
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path}: this file holds {'nothing' if raw is None else kind_of_json(raw)}; write `key: value` lines"
        )
    return raw
