"""What the files of a tokenizer tell, beside the tokenizer that transformers makes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from softprompt.bases.files.vocabulary import CONFIG, chat_templates
from softprompt.bases.options import BaseOptions
from softprompt.bases.reading import read_tokenizer
from tests.gguf_files import save_gguf

ONE, OTHER = "{{ messages }}", "{{ messages[0].content }}"


def by_name(tokenizer: Any) -> dict[str, str]:
    """The chat templates that a tokenizer has."""
    told = tokenizer.chat_template
    return {} if told is None else told if isinstance(told, dict) else {"default": told}


@pytest.mark.parametrize(
    ("configured", "files"),
    [
        (None, {}),
        (ONE, {}),
        ([{"name": "default", "template": ONE}, {"name": "tool_use", "template": OTHER}], {}),
        (None, {"chat_template.jinja": ONE}),
        (OTHER, {"chat_template.jinja": ONE}),
        (None, {"chat_template.jinja": ONE, "additional_chat_templates/tool_use.jinja": OTHER}),
    ],
)
def test_chat_templates_are_those_of_the_tokenizer(
    base_folder: Path, tmp_path: Path, configured: Any, files: dict[str, str]
) -> None:
    folder = shutil.copytree(base_folder, tmp_path / "base")
    told = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(told | ({} if configured is None else {"chat_template": configured})))
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    assert chat_templates(folder) == by_name(transformers.AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("metadata", [{}, {"tokenizer.chat_template": ONE}])
def test_chat_templates_are_those_of_a_gguf_file(tmp_path: Path, metadata: dict[str, Any]) -> None:
    save_gguf(tmp_path / "m.gguf", metadata=metadata)
    made = read_tokenizer(BaseOptions(source=str(tmp_path / "m.gguf")))
    assert chat_templates(tmp_path / "m.gguf") == by_name(made)
