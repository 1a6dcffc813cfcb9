"""What is no base is called what it is, before torch is loaded."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers

from softprompt.bases.base import FrozenBase
from softprompt.bases.folder import check_options
from softprompt.bases.options import BaseOptions
from softprompt.errors import BaseModelError, reason_of
from softprompt.library.library import Library
from tests.bases.files.test_adapter import make_adapter, pytestmark  # noqa: F401
from tests.commands import Run
from tests.library_data import make_prompt
from tests.models import make_base
from tests.test_import_speed import heavy_after


def with_config(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").touch()


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda f: None, "it is empty"),
    "a LoRA adapter": (
        lambda f: (f / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "own/llama"}'),
        "it is a LoRA adapter of the base 'own/llama'; give that base, and this folder with --base-adapter",
    ),
    "a prompt": (
        lambda f: (f / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}'),
        "it is an adapter (PROMPT_TUNING); give that base; take it in with `softprompt import`",
    ),
    "a GGUF file": (lambda f: (f / "model.gguf").touch(), "it holds a GGUF file; give that file, "),
    "an empty cache": (
        lambda f: (f / "snapshots").mkdir(),
        "it is the hub's cache of own/llama, and no model is in it; give the id own/llama once with a network",
    ),
    "a cache": (
        lambda f: with_config(f / "snapshots" / "abc"),
        "it is the hub's cache of own/llama; give the id own/llama, or the folder '",
    ),
    "a training": (
        lambda f: with_config(f / "checkpoint-5"),
        "it has no config.json, but checkpoint-5 in it has one; give such a folder",
    ),
    "something else": (lambda f: (f / "rows.csv").touch(), "it has no config.json, so it holds no model"),
}


def refused(source: Path, **options: Any) -> str:
    """What both say that look at a base: the check of its files, and loading it."""
    with pytest.raises(BaseModelError) as early:
        check_options(BaseOptions(source=str(source), **options))
    with pytest.raises(BaseModelError) as late:
        FrozenBase.load(str(source), device="cpu", **options)
    assert str(early.value) == str(late.value)
    return str(early.value)


@pytest.mark.parametrize("what", list(FOLDERS))
def test_a_folder_that_is_no_model_is_called_what_it_is(what: str, tmp_path: Path) -> None:
    make, expected = FOLDERS[what]
    folder = tmp_path / "models--own--llama"
    folder.mkdir()
    make(folder)
    assert f"the folder {str(folder)!r} is no base: {expected}" in refused(folder)


def test_a_snapshot_that_lost_its_config_and_files_in_the_place_of_folders_are_told(tmp_path: Path) -> None:
    (tmp_path / "snapshots" / "abc").mkdir(parents=True)
    assert "a folder of the hub's cache from which config.json is gone" in refused(tmp_path / "snapshots" / "abc")
    for name, expected in (
        ("model.gguf", "is no GGUF file: it is empty"),
        ("config.json", f"is a file and no folder, and no GGUF file; give the folder that it lies in, {str(tmp_path)!r}"),
    ):
        (tmp_path / name).touch()
        assert expected in refused(tmp_path / name)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights: neither model.safetensors nor pytorch_model.bin"),
        (
            lambda f: ((f / "model.safetensors").unlink(), (f / "model-q4.gguf").touch()),
            "holds no weights: there is a GGUF file; give that as the base, ",
        ),
        (
            lambda f: (f / "model.safetensors").rename(f / "consolidated.safetensors"),
            "consolidated.safetensors is none that transformers would open",
        ),
        (
            lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").symlink_to(f / "gone")),
            "model.safetensors is a link to a file that is gone; fetch the model again",
        ),
        (
            lambda f: [file.unlink() for file in f.glob("tokenizer*")],
            "has no tokenizer: neither tokenizer.json nor the files of a vocabulary are there",
        ),
    ],
)
def test_a_model_without_all_its_parts_is_told_which(
    spoil: Callable[[Path], object], expected: str, base_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(base_folder, tmp_path / "model"))
    spoil(folder)
    message = refused(folder)
    assert expected in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("installed", [True, False])
def test_an_adapter_among_the_files_of_a_base_is_refused_whether_peft_is_there_or_not(
    installed: bool, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(base_folder, tmp_path / "model"))
    make_adapter(folder)
    if not installed:
        monkeypatch.setitem(sys.modules, "peft", None)
    message = refused(folder)
    assert (
        "has an adapter among its own files, adapter_config.json, which transformers adds to the model where peft" in message
    )
    assert "--base-adapter FOLDER or `base_adapter`" in message


def test_a_librarys_error_keeps_the_lines_that_decide(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reason_of(ValueError("Could not load it from one of:\n  (1) a file,\n  (2) a word.\n")).endswith("(2) a word.")
    assert reason_of(ValueError()) == "ValueError"
    long = reason_of(ValueError("begin " + "x" * 5000 + " end"))
    assert (len(long) < 700, long[:5], long[-3:]) == (True, "begin", "end")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("Cannot build a tokenizer from one of:\n\n- a tokenizer.json\n- the package sentencepiece")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(
        BaseModelError, match=r"from one of: - a tokenizer\.json - the package sentencepiece; fetch it again"
    ):
        FrozenBase.load(str(base_folder))
    assert reason_of(OSError("a\nb")) == "a b"


@pytest.mark.parametrize(
    "command",
    [
        ["base", "show", "{lora}"],
        ["base", "verify", "{lora}"],
        ["train", "{task}"],
        ["sweep", "{task}", "learning_rate=0.1,0.2"],
        ["predict", "a", "text", "--base", "{lora}"],
        ["serve", "--base", "{lora}", "--port", "0"],
        ["import", "{prompt}", "--task", "b", "--base", "{lora}"],
        ["library", "rebind", "{lora}"],
    ],
    ids=" ".join,
)
def test_an_adapter_in_the_place_of_a_base_is_called_what_it_is_wherever_a_base_is_named(
    command: list[str], tmp_path: Path, run: Run
) -> None:
    places = {name: tmp_path / name for name in ("lora", "prompt")}
    make_adapter(places["lora"])
    peft.get_peft_model(
        make_base("llama").model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    ).save_pretrained(places["prompt"])
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"red {n},yes\nblue {n},no\n" for n in range(20)))
    places["task"] = tmp_path / "task.yaml"
    places["task"].write_text(json.dumps({"base": "lora", "data": "rows.csv", "labels": ["yes", "no"]}))
    with Library.open(tmp_path / "home") as library:
        library.publish(make_prompt("a"), base=str(tmp_path / "gone"))
    message = run(*(word.format(**places) for word in command)).refused()
    said = " ".join(message.split())
    assert "is no base: it is a LoRA adapter; give that base, and this folder with --base-adapter or `base_adapter`" in said


@pytest.mark.parametrize(
    "command",
    [
        ["base", "show", "{none}"],
        ["base", "show", "{gguf}"],
        ["base", "show", "{cut}"],
        ["serve", "--base", "{cut}", "--port", "0"],
        ["base", "show", "{encoder}"],
        ["base", "verify", "{none}"],
        ["serve", "--base", "{encoder}", "--port", "0"],
        ["predict", "a", "text"],
        ["predict", "a", "text", "--base", "{encoder}"],
        ["evaluate", "a", "--data", "rows.csv"],
        ["evaluate", "a", "--data", "rows.csv", "--base", "{none}"],
        ["import", "{none}", "--task", "a", "--base", "{none}"],
        ["library", "rebind", "{encoder}"],
    ],
    ids=" ".join,
)
def test_a_wrong_base_is_told_before_torch_is_loaded(command: list[str], tmp_path: Path) -> None:
    with Library.open(tmp_path / "home") as library:
        library.publish(make_prompt("a"), base=str(tmp_path / "gone"))
    (tmp_path / "model.gguf").touch()
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "config.json").write_text(json.dumps({"architectures": ["BertForMaskedLM"]}))
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\3\0\0\0" + b"\1" + bytes(30))
    places = {name: tmp_path / name for name in ("none", "encoder")}
    places |= {"gguf": tmp_path / "model.gguf", "cut": tmp_path / "cut.gguf"}
    words = ["softprompt", "--home", str(tmp_path / "home"), *(word.format(**places) for word in command)]
    code = (
        f"import sys; sys.argv = {words!r}\n"
        "from softprompt.cli import main\n"
        "try: main()\n"
        "except SystemExit as done: assert done.code == 1, done.code\n"
        "else: raise AssertionError('it went well')"
    )
    light = ("sqlalchemy", "alembic", "obstore", "fastapi", "uvicorn", "prometheus_client", "numpy")
    assert heavy_after(code, light) == []
