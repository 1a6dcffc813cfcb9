"""One option has one name on every command, and one word for its value."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from softprompt.cli.app import app
from softprompt.cli.options import _VALUES
from softprompt.exchange.exporting import Format

NUMBERS = (
    "--bank-size --drift-level --engine-queue --engine-rows --events --examples --hours --level --limit --max-body-kb "
    "--max-job-rows --max-outcomes --max-replicas --max-rows --max-steps --max-streams --max-tokens --max-upload-mb "
    "--min-replicas --port --prefix-cache-mb --processes --prompt-cache-mb --prompt-cache-size --rates --replica-cpus "
    "--replica-gpus --requests-per-minute --review-below --row --samples --steps --subsets --target-requests "
    "--tokens-per-minute --weight --worker-cpus --worker-gpus --workers"
).split()


def options_of(command: Any, path: str = "") -> list[tuple[str, Any]]:
    own = [(path, parameter) for parameter in command.params if any(name.startswith("--") for name in parameter.opts)]
    inner = getattr(command, "commands", {}).items()
    return own + [found for name, each in inner for found in options_of(each, f"{path} {name}".strip())]


def test_an_option_has_one_word_for_its_value_on_every_command() -> None:
    words = defaultdict(set)
    for _, option in options_of(typer.main.get_command(app)):
        if not option.is_flag and not option.hidden:
            words[next(name for name in option.opts if name.startswith("--"))].add(option.metavar)
    assert {name: found for name, found in words.items() if len(found) > 1} == {}
    assert sorted(name for name, found in words.items() if found == {"N"}) == sorted(NUMBERS), (
        "others need a word of their own"
    )
    assert set(_VALUES) <= set(words), "words for options that are no more"


def test_old_names_are_taken_and_not_shown() -> None:
    hidden = {
        (path, name) for path, option in options_of(typer.main.get_command(app)) if option.hidden for name in option.opts
    }
    assert hidden == {("init", "--name"), ("import", "--label")}


def test_a_choice_shows_its_words() -> None:
    shown = {path: option.metavar for path, option in options_of(typer.main.get_command(app)) if "--format" in option.opts}
    assert shown == dict.fromkeys(("export", "push"), "|".join(Format))


def commands_of(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands_of(each, (*path, name))


COMMANDS = {" ".join(path) or "softprompt": (path, one) for path, one in commands_of(typer.main.get_command(app))}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_is_whole_in_80_columns(name: str) -> None:
    """No word is cut, none is taken for markup, and no type of Python's stands where a person looks for a word."""
    path, command = COMMANDS[name]
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80", "TERM": "dumb"}).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert not re.search(r"<\w", shown)
    words = set(re.sub("[│╭╮╰╯─]", " ", shown).split())
    for parameter in command.params:
        if parameter.help and not parameter.hidden:
            assert set(parameter.help.split()) <= words, parameter.name
