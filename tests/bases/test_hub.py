"""Bases of the hub: fetched over its HTTP by revision, told what is wrong, and found again when it is gone."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError, FingerprintMismatch
from softprompt.library.library import Library
from softprompt.serving.offline import Service
from softprompt.training.train import train
from tests.commands import Run
from tests.hub_server import Hub, Repo, commit, serve_hub
from tests.models import make_base, save_base
from tests.training.test_resume import make_task

OLD, NEW = commit(1), commit(2)


def point_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the hub's client take this for the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path: Path, base_folder: Path, other_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with two commits of `own/tiny`, the older one tagged, and a cache with nothing in it."""
    constants = huggingface_hub.constants
    with serve_hub() as hub:
        point_to(hub.endpoint, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        hub.repos["own/tiny"] = Repo({OLD: base_folder, NEW: other_folder}, {"main": NEW, "v1": OLD, "refs/pr/1": OLD})
        yield hub


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client waits between its tries."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def put(hub: Hub, folder: Path, name: str = "own/other", **fields: Any) -> Path:
    hub.repos[name] = Repo({OLD: folder}, {"main": OLD}, **fields)
    return folder


def refused(source: str) -> str:
    with pytest.raises(BaseModelError) as caught:
        FrozenBase.load(source)
    return str(caught.value)


# Revisions


@pytest.mark.parametrize(
    ("asked", "found"),
    [("", NEW), ("@main", NEW), ("@v1", OLD), ("@refs/pr/1", OLD), (f"@{OLD}", OLD), (f"@{NEW[:8]}", NEW)],
)
def test_a_revision_is_fetched_and_its_full_commit_told(asked: str, found: str, hub: Hub, tmp_path: Path, run: Run) -> None:
    base = FrozenBase.load(f"own/tiny{asked}")
    assert (base.name, base.address, base.revision) == ("own/tiny", f"own/tiny{asked}", found)
    assert base.fingerprint == FrozenBase.load(str(hub.repos["own/tiny"].commits[found])).fingerprint
    (row,) = run("base", "show", f"own/tiny{asked}", "--json").rows
    assert row["revision"] == found


def test_what_was_fetched_is_found_again_when_the_hub_is_gone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    prints = {source: FrozenBase.load(source).fingerprint for source in ("own/tiny", "own/tiny@v1", f"own/tiny@{OLD[:8]}")}
    hub.asked.clear()
    point_to("http://127.0.0.1:9", monkeypatch)
    assert {source: FrozenBase.load(source).fingerprint for source in prints} == prints
    assert hub.asked == []
    assert refused("own/tiny@v2") == (
        "revision 'v2' of 'own/tiny' is not in the local cache and the hub cannot be reached; "
        "connect once to fetch it, or give a folder, or builtin/tiny"
    )


def test_a_full_commit_that_is_in_the_cache_asks_the_hub_for_nothing(hub: Hub) -> None:
    FrozenBase.load(f"own/tiny@{OLD}")
    hub.asked.clear()
    FrozenBase.load(f"own/tiny@{OLD}")
    assert hub.asked == []


def test_a_prompt_of_a_branch_that_moved_is_told_with_both_commits(hub: Hub, tmp_path: Path, run: Run) -> None:
    repo = hub.repos["own/tiny"]
    repo.refs["main"] = OLD
    library = Library.open(tmp_path / "home")
    (tuned,) = train(make_task(tmp_path, "kind", base="own/tiny"), library=library)
    assert tuned.prompt.card.recipe["revision"] == OLD
    repo.refs["main"] = NEW
    with pytest.raises(FingerprintMismatch) as caught:
        Service(library).predict(["red"], "kind")
    assert OLD in str(caught.value)
    assert NEW in str(caught.value)
    assert f"own/tiny@{OLD}" in run("predict", "kind", "red", "--json").refused()
    (answer,) = Service(library, base=f"own/tiny@{OLD}").predict(["red"], "kind")
    assert answer.scores


# What is fetched


def test_of_several_formats_only_what_is_opened_is_fetched(hub: Hub, base_folder: Path, tmp_path: Path) -> None:
    folder = put(hub, Path(shutil.copytree(base_folder, tmp_path / "both")))
    for name in ("pytorch_model.bin", "consolidated.safetensors", "original/model.safetensors", "own.py", "model-q4.gguf"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"never looked at")
    base = FrozenBase.load("own/other")
    assert base.fingerprint == FrozenBase.load(str(base_folder)).fingerprint
    weights = {name for name in hub.fetched if not name.endswith((".json", ".jinja", ".txt", ".md"))}
    assert weights == {"model.safetensors"}


def test_shards_are_fetched_by_their_index(hub: Hub, base_folder: Path, tmp_path: Path) -> None:
    folder = put(hub, save_base(tmp_path / "sharded", shards="30KB"))
    shards = {file.name for file in folder.glob("*.safetensors")}
    assert len(shards) > 2
    assert FrozenBase.load("own/other").fingerprint == FrozenBase.load(str(base_folder)).fingerprint
    assert shards <= hub.fetched
    (folder / min(shards)).unlink()
    hub.repos["own/other"] = Repo({NEW: folder}, {"main": NEW})
    assert f"lacks {min(shards)}, which model.safetensors.index.json names; fetch it again" in refused("own/other")


def test_pickled_weights_are_fetched_where_there_are_no_others(hub: Hub, base_folder: Path, tmp_path: Path) -> None:
    import torch

    folder = put(hub, Path(shutil.copytree(base_folder, tmp_path / "pickled")))
    (folder / "model.safetensors").unlink()
    torch.save(make_base("llama").model.state_dict(), folder / "pytorch_model.bin")
    assert FrozenBase.load("own/other").revision == OLD
    assert "pytorch_model.bin" in hub.fetched


def test_a_model_of_another_kind_is_told_before_its_weights_are_fetched(hub: Hub, tmp_path: Path) -> None:
    folder = put(hub, tmp_path / "encoder")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertForTokenClassification"]}))
    (folder / "model.safetensors").write_bytes(b"x")
    assert "'own/other' is a token classifier" in refused("own/other")
    assert hub.fetched == {"config.json"}


def test_a_repository_of_gguf_files_is_told_how_to_get_one(hub: Hub, tmp_path: Path) -> None:
    folder = put(hub, tmp_path / "gguf")
    folder.mkdir()
    for name in ("tiny-Q4_0.gguf", "tiny-Q8_0.gguf", "README.md"):
        (folder / name).write_bytes(b"GGUF")
    expected = (
        "the hub has 'own/other' as GGUF only (tiny-Q4_0.gguf, tiny-Q8_0.gguf); "
        "download one of these files and give its path"
    )
    assert refused("own/other") == expected
    (folder / "config.json").write_text('{"model_type": "llama"}')
    hub.repos["own/other"] = Repo({NEW: folder}, {"main": NEW})
    assert refused("own/other@main") == expected
    assert not any(name.endswith(".gguf") for name in hub.fetched)


# What cannot be had


def test_a_revision_or_a_model_that_is_not_there_is_told(hub: Hub) -> None:
    assert refused("own/tiny@v9") == "'own/tiny' has no revision 'v9' on the hub; give a branch, a tag or a commit"
    assert "has no revision" in refused(f"own/tiny@{commit(9)}")
    assert refused("own/nothing") == "the hub has no model 'own/nothing' (or it is private); check the id"


def test_a_gated_model_is_told(hub: Hub, base_folder: Path) -> None:
    put(hub, base_folder, gated=True)
    assert refused("own/other") == ("'own/other' is gated; accept its terms on its hub page and log in with `hf auth login`")


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(("status", "answer"), [(500, "500 Internal Server Error"), (429, "429 Too Many Requests")])
def test_a_hub_that_fails_is_told_and_what_is_in_the_cache_serves(status: int, answer: str, hub: Hub) -> None:
    kept = FrozenBase.load("own/tiny").fingerprint
    hub.failing = status
    assert FrozenBase.load("own/tiny").fingerprint == kept
    assert refused("own/tiny@v1") == (
        f"revision 'v1' of 'own/tiny' is not in the local cache and the hub answers {answer}; "
        "try again later, or give a folder, or builtin/tiny"
    )


@pytest.mark.usefixtures("no_waiting")
def test_a_connection_that_is_cut_once_is_gone_on_with(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.cut["model.safetensors"] = 20_000
    hub.cuts = 1
    assert FrozenBase.load("own/tiny@v1").revision == OLD
    assert hub.ranges == ["bytes=20000-"]


@pytest.mark.usefixtures("no_waiting")
def test_a_connection_that_is_always_cut_is_told_and_the_next_time_goes_on_with_what_came(hub: Hub) -> None:
    hub.cut["model.safetensors"] = 20_000
    message = refused("own/tiny@v1")
    assert "'own/tiny' could not be fetched (" in message
    assert "files that came whole are kept: try again" in message
    assert len(message.splitlines()) == 1
    hub.cut.clear()
    hub.asked.clear()
    assert FrozenBase.load("own/tiny@v1").revision == OLD
    assert hub.fetched == {"model.safetensors"}


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_a_part_of_a_model_in_the_cache_is_no_model(name: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.cut[name] = 2_000
    refused("own/tiny@v1")
    point_to("http://127.0.0.1:9", monkeypatch)
    assert "revision 'v1' of 'own/tiny' is not in the local cache and the hub cannot be reached" in refused("own/tiny@v1")


def test_an_adapter_of_the_hub_is_told_how_to_take_it(hub: Hub, tmp_path: Path) -> None:
    folder = put(hub, tmp_path / "lora", "own/lora")
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "own/tiny"}))
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    message = refused("own/lora")
    assert "'own/lora' is no base: it is a LoRA adapter of the base 'own/tiny'; give that base, and its folder" in message
    assert "which `hf download own/lora` prints, with --base-adapter" in message
    assert "adapter_model.safetensors" not in hub.fetched
