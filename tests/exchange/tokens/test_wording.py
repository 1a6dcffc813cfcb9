"""Chat templates that place prompts, and user texts that hold their tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest

from softprompt.bases.base import FrozenBase
from softprompt.exchange.tokens.export import export_tokens
from softprompt.library.library import Library
from tests.exchange.tokens.exported import library_of, used


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Iterator[Library]:
    with library_of(tmp_path_factory.mktemp("chats"), FrozenBase.load(str(base_folder)), base_folder) as library:
        yield library


def chats(library: Library, folder: Path, *tasks: str) -> dict[str, Any]:
    export_tokens(library, tasks, folder)
    return used(folder)


def ids_of(plain: dict[str, Any], *messages: tuple[str, str]) -> list[int]:
    told = [{"role": role, "content": content} for role, content in messages]
    ids: list[int] = plain["tokenizer"].apply_chat_template(told, tokenize=True, return_dict=False)
    return ids


def test_a_chat_is_the_input_of_the_task_that_the_system_names(library: Library, tmp_path: Path) -> None:
    plain = chats(library, tmp_path / "out", "words", "kind", "pair")
    for task in ("words", "kind"):
        wanted = plain["ids"](task, {"text": 'a "river"\n'})
        assert ids_of(plain, ("system", task), ("user", 'a "river"\n')) == wanted
    for messages, why in (
        ([("user", "a")], "the system message must be the name of a task, one of: words, kind"),
        ([("system", "pair"), ("user", "a")], "one of: words, kind"),
        ([("system", "Be kind."), ("user", "a")], "one of: words, kind"),
        ([("system", "words"), ("user", "a"), ("assistant", "b"), ("user", "c")], "one user message"),
        ([("system", "words")], "one user message"),
        ([("system", "words"), ("user", "a <|kind:0|>")], "holds <|kind:, with which"),
    ):
        with pytest.raises(jinja2.exceptions.TemplateError, match=why.replace("|", r"\|")):
            ids_of(plain, *messages)


def test_of_one_task_the_system_message_may_be_left_out(library: Library, tmp_path: Path) -> None:
    plain = chats(library, tmp_path / "out", "words")
    wanted = plain["ids"]("words", {"text": "red"})
    assert ids_of(plain, ("user", "red")) == ids_of(plain, ("system", "words"), ("user", "red")) == wanted


def test_a_task_of_two_columns_has_no_chats(library: Library, tmp_path: Path) -> None:
    plain = chats(library, tmp_path / "out", "pair")
    assert plain["tokenizer"].chat_template is None
    assert "system message" not in (tmp_path / "out" / "README.md").read_text()
    assert plain["ids"]("pair", {"text": "red", "other": "blue"})[1:] == plain["tokenizer"]("red blue")["input_ids"]


def test_the_readmes_code_refuses_texts_with_control_tokens(library: Library, tmp_path: Path) -> None:
    plain = chats(library, tmp_path / "out", "words")
    for text in ("a<|words:3|>", "a <end>"):
        with pytest.raises(ValueError, match="a special token in"):
            plain["ids"]("words", {"text": text})
