"""What a GGUF file is unpacked to is kept, taken again, and made anew when it is not what it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.bases.files.fingerprint import fingerprint_of_folder
from softprompt.bases.gguf import cache
from softprompt.bases.gguf.file import read_gguf
from softprompt.errors import BaseModelError
from softprompt.files import cache_folder
from tests.gguf_files import make_model, save_gguf
from tests.models import save_base, weights_digest


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF file, and a cache with nothing in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return save_gguf(tmp_path / "m.gguf")


def load(file: Path, dtype: str = "float32") -> FrozenBase:
    return FrozenBase.load(str(file), device="cpu", dtype=dtype)


def folders() -> list[Path]:
    return sorted(path for path in cache_folder("gguf").iterdir() if path.is_dir())


def unpack(file: Path) -> Path:
    return cache.folder_of_gguf(file, file.name, lambda: fingerprint_of_folder(file), torch.float32)


def no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing may be unpacked."""
    monkeypatch.setattr(cache, "_write", lambda *_: pytest.fail("it was unpacked again"))


def test_the_second_load_takes_what_the_first_one_made(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(file)
    (folder,) = folders()
    assert folder.name.startswith(f"{first.fingerprint}-float32-")
    no_more(monkeypatch)
    second = load(file)
    assert (second.fingerprint, weights_digest(second)) == (first.fingerprint, weights_digest(first))
    moved = file.rename(file.with_name("other.gguf"))
    assert load(moved).fingerprint == first.fingerprint  # it is the bytes that count


def test_each_dtype_has_a_folder_of_its_own(file: Path) -> None:
    wide, narrow = load(file), load(file, "bfloat16")
    assert narrow.fingerprint == wide.fingerprint
    assert [folder.name.split("-")[1] for folder in folders()] == ["bfloat16", "float32"]
    for name, weight in narrow.model.state_dict().items():
        assert torch.equal(weight, wide.model.state_dict()[name].bfloat16())


def shorten(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.truncate(1000)


def turn_a_bit(folder: Path) -> None:
    """Keeps size and time of change of the contents."""
    weights = folder / "model.safetensors"
    before = weights.stat()
    with weights.open("r+b") as handle:
        handle.seek(-3, os.SEEK_END)
        handle.write(b"\x7f")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut short": shorten,
    "a bit turned": turn_a_bit,
    "a file gone": lambda folder: (folder / "tokenizer.json").unlink(),
    "a file too many": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "never finished": lambda folder: (folder / "whole.json").unlink(),
    "nonsense": lambda folder: (folder / "whole.json").write_text("{"),
    "nothing there": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_is_not_as_it_was_made_is_made_anew(damage: str, file: Path) -> None:
    whole = weights_digest(load(file))
    (folder,) = folders()
    DAMAGES[damage](folder)
    assert weights_digest(load(file)) == whole
    assert folders() == [folder]


def test_what_is_called_whole_is_on_the_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[tuple[int, int]] = set()
    stamp = cache._stamps

    def sync(handle: int) -> None:
        state = os.fstat(handle)
        synced.add((state.st_ino, state.st_size))

    def stamps(folder: Path) -> Any:
        made = {(path.stat().st_ino, path.stat().st_size) for path in [folder, *folder.iterdir()]}
        assert len(made) > 4
        assert made <= synced
        return stamp(folder)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(cache, "_stamps", stamps)
    unpack(file)


def test_a_file_with_other_bytes_is_another_base(file: Path) -> None:
    first = load(file)
    save_gguf(file, model=make_model("llama", seed=1))
    second = load(file)
    assert second.fingerprint != first.fingerprint
    assert weights_digest(second) != weights_digest(first)


def test_what_other_versions_of_the_packages_made_is_made_anew(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(file)
    (old,) = folders()
    monkeypatch.setattr(cache, "_RULE", 0)
    load(file)
    (new,) = folders()
    assert new != old


def test_what_fails_leaves_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("strange")

    monkeypatch.setattr(cache, "tokenizer_of", fail)
    with pytest.raises(BaseModelError, match="cannot be read: KeyError: 'strange'"):
        load(file)
    assert folders() == []


def test_a_cache_that_cannot_be_written_is_told(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a-file"))
    with pytest.raises(BaseModelError, match=r"cannot be unpacked to .*a-file.*set XDG_CACHE_HOME"):
        load(file)


def test_a_user_without_a_home_is_told_or_needs_none(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does where a user has none
    save_base(tmp_path / "folder")
    assert FrozenBase.load(str(tmp_path / "folder"), device="cpu").name == "folder"
    with pytest.raises(BaseModelError, match=r"cannot be unpacked: this user has no home; set XDG_CACHE_HOME"):
        load(file)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert load(file).name == "m.gguf"


def test_what_a_killed_process_left_does_no_harm(file: Path) -> None:
    load(file)
    (folder,) = folders()
    left = folder.rename(folder.with_name(f".{folder.name}"))
    (left / "model.safetensors").write_bytes(b"half")
    load(file)
    assert folders() == [folder]


def test_two_at_once_make_it_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, write = [], cache._write

    def count(*arguments: Any) -> None:
        made.append(1)
        write(*arguments)

    monkeypatch.setattr(cache, "_write", count)
    with ThreadPoolExecutor(2) as pool:
        found = {*pool.map(lambda _: unpack(file), range(2))}
    assert (len(found), made) == (1, [1])


def test_a_file_that_changes_while_it_is_read_leaves_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other, first = save_gguf(tmp_path / "other.gguf", model=make_model("llama", seed=1)), file.read_bytes()
    write = cache._write

    def change(*arguments: Any) -> None:
        write(read_gguf(other), *arguments[1:])
        file.write_bytes(other.read_bytes())

    monkeypatch.setattr(cache, "_write", change)
    with pytest.raises(BaseModelError, match="was changed while it was read; load it again"):
        load(file)
    assert folders() == []
    monkeypatch.setattr(cache, "_write", write)
    file.write_bytes(first)  # whose digest the other one's weights would have been kept under
    weight = load(file).embedding.weight
    assert torch.equal(weight, make_model("llama").get_input_embeddings().weight)


def test_what_nothing_in_the_folder_says_is_told_at_each_load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = save_gguf(tmp_path / "m.gguf", metadata={"tokenizer.ggml.pre": "viking"})
    for _ in range(2):
        caplog.clear()
        load(file)
        assert [record.args and record.args[1] for record in caplog.records] == ["viking"]
