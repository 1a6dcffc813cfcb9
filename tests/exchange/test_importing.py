"""Importing and exporting from Python: what the commands do, without them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from softprompt.errors import ConfigError, FingerprintMismatch, LibraryError, NameRefused, NotFound, PromptFileError
from softprompt.exchange.exporting import Format, export_prompt
from softprompt.exchange.importing import import_prompt
from softprompt.library.library import Library
from softprompt.prompts.file import read_card
from softprompt.prompts.prompt import SoftPrompt
from tests.library_data import make_prompt, scored
from tests.models import save_base, some_prompt


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library.open(tmp_path / "home") as library:
        yield library


def test_a_file_goes_out_and_comes_back_with_its_scores(library: Library, tmp_path: Path) -> None:
    data = make_prompt(labels=("yes", "no"), metrics=scored(0.8))
    library.publish(data, base="builtin/tiny")
    done = export_prompt(library, "trec6@1", tmp_path / "out", Format.SOFTPROMPT)
    assert done.version.ref == "trec6@1"
    assert done.path == tmp_path / "out" / "trec6@1.safetensors"
    assert done.path.read_bytes() == data
    assert os.listdir(tmp_path / "out") == ["trec6@1.safetensors"]
    version = import_prompt(library, done.path, tags=["back"])
    assert (version.number, version.digest, version.tags) == (2, done.version.digest, ("back",))
    renamed = import_prompt(library, str(done.path), task="other")
    assert (renamed.ref, renamed.card.metrics) == ("other@1", scored(0.8))


def test_scores_of_another_task_stay_behind(library: Library, tmp_path: Path) -> None:
    """Whatever changes the form: each of its fields, and a task to be like."""
    file = tmp_path / "file"
    file.write_bytes(make_prompt(labels=("yes", "no"), metrics=scored(0.8)))
    library.publish(make_prompt("like", labels=("a", "b"), metric="macro_f1", metrics=scored(0.9)), base="b")
    for change in ({"input": "Say: {text}"}, {"target": " is {label}"}, {"labels": ["ja", "nein"]}, {"like": "like"}):
        card = import_prompt(library, file, task="t", **change).card  # type: ignore[arg-type]
        assert card.metrics == {}, change
    assert (card.labels, card.metric) == (("a", "b"), "macro_f1")
    both = import_prompt(library, file, task="t", like="like", labels=("c", "d")).card
    assert (both.labels, both.metric) == (("c", "d"), "macro_f1")
    same = import_prompt(library, file, task="t", labels=("yes", "no"), input="{text}").card
    assert same.metrics == scored(0.8), "nothing that they depend on is changed"


def test_what_could_never_answer_is_refused(library: Library, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(make_prompt())
    (tmp_path / "folder").mkdir()
    for attempt, error in (
        (lambda: import_prompt(library, file, labels=["yes"]), ConfigError),
        (lambda: import_prompt(library, file, task="a b"), NameRefused),
        (lambda: import_prompt(library, file, like="none"), NotFound),
        (lambda: import_prompt(library, tmp_path / "none"), PromptFileError),
        (lambda: import_prompt(library, tmp_path / "folder"), ConfigError),
        (lambda: import_prompt(library, tmp_path / "folder", task="t"), PromptFileError),
        (lambda: import_prompt(library, file, base="builtin/tiny"), FingerprintMismatch),
        (lambda: export_prompt(library, "none", tmp_path / "out"), NotFound),
    ):
        with pytest.raises(error):
            attempt()
    assert library.registry.tasks() == []


@pytest.mark.parametrize("form", list(Format))
def test_a_folder_that_cannot_be_written_is_told(library: Library, tmp_path: Path, form: Format) -> None:
    prompt = some_prompt_on(tmp_path / "base")
    library.publish(prompt.to_bytes(), base=str(tmp_path / "base"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(LibraryError, match="choose another folder"):
        export_prompt(library, "colours", tmp_path / "file", form)


def test_a_peft_folder_goes_out_whole_and_comes_back(library: Library, tmp_path: Path) -> None:
    prompt = some_prompt_on(tmp_path / "base")
    published = library.publish(prompt.to_bytes(), base=str(tmp_path / "base"))
    for _ in range(2):  # over what is there, too
        done = export_prompt(library, "colours", tmp_path / "peft")
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors", "softprompt_card.json"]
    assert sorted(os.listdir(done.path)) == files
    back = import_prompt(library, done.path, task="colours")
    assert (back.number, back.digest, back.base) == (2, published.digest, str(tmp_path / "base"))
    changed = import_prompt(library, done.path, task="colours", labels=["ja", "nein"])
    assert (changed.card.labels, changed.card.metrics) == (("ja", "nein"), {})
    assert read_card(library.read(changed)) == changed.card


def some_prompt_on(folder: Path) -> SoftPrompt:
    from softprompt.bases.base import FrozenBase

    base = FrozenBase.load(str(save_base(folder)))
    return some_prompt(base, "colours", labels=("red", "blue"), metrics=scored(0.5))
