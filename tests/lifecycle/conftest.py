"""A library whose task its base has learnt, and its data."""

from __future__ import annotations

from pathlib import Path

import pytest

from softprompt.library.library import Library
from softprompt.progress import Mute
from softprompt.training.train import train
from tests.lifecycle.rows import a_task
from tests.models import steerable_base, tokenizer


@pytest.fixture(scope="module")
def old_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that a prompt can steer, as a folder."""
    folder = tmp_path_factory.mktemp("bases") / "steerable"
    steerable_base().model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def library(tmp_path: Path, old_folder: Path) -> Library:
    library = Library.open(tmp_path / "home")
    (tuned,) = train(a_task(tmp_path, base=str(old_folder)), library=library, progress=Mute())
    assert tuned.report.value == 1.0
    return library
