"""Prompts to the hub and from there, over its HTTP: what lies there, who may write, what is refused by name."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import yaml

from softprompt.bases.base import FrozenBase
from softprompt.bases.files.adapter import CONFIG, WEIGHTS
from softprompt.errors import ConfigError, LibraryError, NotFound, PromptFileError
from softprompt.exchange.card_file import CARD
from softprompt.exchange.exporting import Format
from softprompt.exchange.hub import FILE, pull, push
from softprompt.library.library import Library
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from tests.bases.test_hub import point_to
from tests.commands import Run
from tests.hub_server import Hub, Repo, commit, serve_hub
from tests.library_data import make_prompt, scored

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the hub's client, by its own

TOKEN = "hf_writes"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with nothing on it, and a token that may write there."""
    constants = huggingface_hub.constants
    with serve_hub() as hub:
        point_to(hub.endpoint, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        hub.writers.add(TOKEN)
        yield hub


@pytest.fixture
def library(tmp_path: Path, base_folder: Path) -> Library:
    """A library with a prompt of the task `one` on the tiny base."""
    library = Library.open(tmp_path / "home", actor="tester")
    publish(library, base_folder, 0)
    return library


def publish(library: Library, folder: Path, seed: int, task: str = "one", **fields: object) -> None:
    base = FrozenBase.load(str(folder))
    ids = base.model.get_input_embeddings().weight.new_tensor([5 + seed, 6, 7]).long()
    said = {"labels": ("good", "bad"), "input": "Say: {text}\n", "metrics": scored(0.75, majority=0.5)}
    card = Card(
        task=task, base=base.name, fingerprint=base.fingerprint, num_virtual_tokens=3, token_dim=base.width, **said | fields
    )
    library.publish(SoftPrompt(base.embed(ids).detach().float(), card).to_bytes(), base=base.address)


def files_of(hub: Hub, repo: str) -> dict[str, bytes]:
    there = hub.repos[repo]
    folder = there.commits[there.refs["main"]]
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def put(hub: Hub, folder: Path, name: str = "other/thing", **files: bytes | str) -> None:
    """Lay a repository there."""
    folder.mkdir()
    for path, data in files.items():
        (folder / path.replace("__", ".")).write_bytes(data.encode() if isinstance(data, str) else data)
    hub.repos[name] = Repo({commit(1): folder}, {"main": commit(1)})


# There and back


def test_what_is_pushed_is_an_adapter_our_file_and_a_card_and_comes_back(
    hub: Hub, library: Library, base_folder: Path, tmp_path: Path
) -> None:
    done = push(library, "one", "me/one", private=True)
    assert (done.created, done.url, hub.repos["me/one"].private) == (True, f"{hub.endpoint}/me/one", True)
    assert done.commit == hub.repos["me/one"].refs["main"]
    files = files_of(hub, "me/one")
    assert set(files) == {FILE, CONFIG, WEIGHTS, CARD, "README.md"} == set(done.files)
    assert files[FILE] == library.read("one")
    assert str(base_folder) not in b"".join(files.values()).decode("utf-8", "replace")
    head, _, text = files["README.md"].decode().removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(head) == {
        "library_name": "peft", "pipeline_tag": "text-classification", "tags": ["softprompt", "prompt-tuning"],
    }  # fmt: skip
    for told in ("# one: a soft prompt for tiny-llama", "| this prompt | 0.75 |", "| the most frequent answer | 0.5 |"):
        assert told in text
    assert "softprompt pull me/one" in text
    assert "`PATH/TO/tiny-llama` stands for where you have it" in text
    assert 'base = "PATH/TO/tiny-llama"\n' in text  # the hub may have another of that name
    with Library.open(tmp_path / "other") as other:
        back = pull(other, "me/one", base=str(base_folder), tags=["hub"])
        assert (back.version.ref, back.version.digest, back.file) == ("one@1", library.registry.resolve("one").digest, FILE)
        assert back.commit == done.commit
        assert pull(other, f"me/one@{done.commit}", task="mine", base=str(base_folder)).version.task == "mine"


def test_again_it_is_another_commit_and_the_old_one_is_pulled_by_its_revision(
    hub: Hub, library: Library, base_folder: Path
) -> None:
    first = push(library, "one", "me/one")
    publish(library, base_folder, 1)
    second = push(library, "one@2", "me/one", form=Format.SOFTPROMPT)
    assert (second.created, set(files_of(hub, "me/one"))) == (False, {FILE, "README.md"})
    assert first.commit != second.commit
    digests = [version.digest for version in library.registry.versions("one")]
    assert pull(library, f"me/one@{first.commit}").version.digest == digests[0]
    assert pull(library, "me/one@main").version.digest == digests[1]


def test_an_adapter_of_elsewhere_is_pulled_by_the_name_of_its_repository(
    hub: Hub, library: Library, base_folder: Path, tmp_path: Path
) -> None:
    push(library, "one", "me/one")
    files = {name.replace(".", "__"): data for name, data in files_of(hub, "me/one").items() if name in (CONFIG, WEIGHTS)}
    put(hub, tmp_path / "elsewhere", "you/theirs", **files, training_args__bin=b"pickled", optimizer__pt=b"pickled")
    told: list[str] = []
    done = pull(library, "you/theirs", base=str(base_folder), warn=told.append)
    assert (done.version.ref, done.file) == ("theirs@1", CONFIG)
    assert not {name for name in hub.fetched if name.endswith((".bin", ".pt"))}


# Refused


def test_without_a_token_nothing_is_pushed(hub: Hub, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(LibraryError, match=r"no token says who pushes to 'me/one'; put one .* into HF_TOKEN"):
        push(library, "one", "me/one")
    assert hub.asked == []


def test_a_token_that_may_not_write_is_told(hub: Hub, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_reads")
    with pytest.raises(LibraryError, match="the hub answers 403: the token may not write to 'me/one'"):
        push(library, "one", "me/one")
    assert hub.repos == {}


def test_what_is_not_ours_is_not_written_over(hub: Hub, library: Library, base_folder: Path, tmp_path: Path) -> None:
    put(hub, tmp_path / "base", "me/model", model__safetensors=b"weights", README__md="mine")
    with pytest.raises(LibraryError, match=r"is there and holds 'README.md', which softprompt did not push"):
        push(library, "one", "me/model")
    assert files_of(hub, "me/model")["README.md"] == b"mine"
    assert push(library, "one", "me/model", force=True).created is False
    assert files_of(hub, "me/model")["model.safetensors"] == b"weights"
    publish(library, base_folder, 1, "two")
    with pytest.raises(LibraryError, match="is there and holds task 'one'"):
        push(library, "two", "me/model")
    with pytest.raises(LibraryError, match="is there and public, and --private is for a new one"):
        push(library, "one", "me/model", private=True)


@pytest.mark.parametrize("repo", ["one", "a/b/c", ""])
def test_a_name_that_is_no_repository_is_refused(hub: Hub, library: Library, repo: str) -> None:
    with pytest.raises(LibraryError, match="names no repository of the hub; write owner/name"):
        push(library, "one", repo)


def test_ids_that_the_hub_would_not_take_are_refused(hub: Hub, library: Library) -> None:
    for call in (lambda: push(library, "one", "me/b--c"), lambda: pull(library, "me/b--c")):
        with pytest.raises(LibraryError, match="is no valid id of a repository"):
            call()


def test_a_repository_or_a_revision_that_is_not_there(hub: Hub, library: Library) -> None:
    with pytest.raises(NotFound, match="the hub has no 'me/none', or it is not yours to see"):
        pull(library, "me/none")
    push(library, "one", "me/one")
    with pytest.raises(NotFound, match="'me/one' has no revision 'v9' on the hub"):
        pull(library, "me/one@v9")


def test_a_pickle_alone_is_refused_and_never_fetched(hub: Hub, library: Library, tmp_path: Path) -> None:
    put(hub, tmp_path / "pickle", adapter_config__json="{}", adapter_model__bin=b"pickled")
    with pytest.raises(PromptFileError, match=r"its adapter in 'adapter_model.bin', a pickle, which may run anything"):
        pull(library, "other/thing")
    put(hub, tmp_path / "nothing", "other/none", README__md="hello")
    with pytest.raises(PromptFileError, match="holds no prompt: it has neither"):
        pull(library, "other/none")
    assert hub.fetched == set()


def test_a_file_that_is_altered_or_too_large_is_refused(
    hub: Hub, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(library.read("one"))
    data[-1] ^= 1
    put(hub, tmp_path / "altered", softprompt__safetensors=bytes(data))
    with pytest.raises(PromptFileError, match="this prompt file is damaged"):
        pull(library, "other/thing")
    monkeypatch.setattr("softprompt.exchange.hub.MOST_BYTES", 10)
    with pytest.raises(PromptFileError, match=f"has {len(data)} bytes, and a prompt at most 10"):
        pull(library, "other/thing")
    assert [entry.task for entry in library.registry.tasks()] == ["one"]


def test_a_hub_that_is_away_or_fails_or_offline(hub: Hub, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.failing = 400
    for call in (lambda: push(library, "one", "me/one"), lambda: pull(library, "me/one")):
        with pytest.raises(LibraryError, match="the hub answers 400 for 'me/one'"):
            call()
    hub.failing = None
    point_to("http://127.0.0.1:9", monkeypatch)
    for call in (lambda: push(library, "one", "me/one"), lambda: pull(library, "me/one")):
        with pytest.raises(LibraryError, match=r"the hub cannot be reached for 'me/one' .*; check the network"):
            call()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LibraryError, match="HF_HUB_OFFLINE is set; unset it"):
        pull(library, "me/one")


def test_what_was_pushed_meanwhile_is_not_lost(hub: Hub, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    push(library, "one", "me/one")
    add = huggingface_hub.HfApi.create_commit

    def after_another(self: huggingface_hub.HfApi, *args: object, **named: object) -> object:
        repo = hub.repos["me/one"]
        sha = commit(77)
        repo.commits[sha] = Path(shutil.copytree(repo.commits[repo.refs["main"]], hub.folder / sha))  # type: ignore[operator]
        repo.refs["main"] = sha
        return add(self, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", after_another)
    with pytest.raises(LibraryError, match="'me/one' was changed meanwhile, by another; push again"):
        push(library, "one", "me/one")


def test_a_prompt_that_peft_cannot_say_goes_as_our_file(hub: Hub, library: Library) -> None:
    library.publish(make_prompt("masked", task_type="MASKED_LM", labels=("a", "b")), base="builtin/tiny")
    with pytest.raises(PromptFileError, match="PEFT has no prompts for; use --format softprompt"):
        push(library, "masked", "me/masked")
    assert hub.repos == {}
    push(library, "masked", "me/masked", form=Format.SOFTPROMPT)
    text = files_of(hub, "me/masked")["README.md"].decode()
    assert 'library_name: "softprompt"' in text
    assert 'template `"{text}"` and the labels "a", "b"' in text


@pytest.mark.parametrize(
    ("address", "name", "code", "named"),
    [
        ("/models/small.gguf", "small.gguf", 'base = "PATH/TO"\n', None),
        ("builtin/tiny", "builtin/tiny", 'base = "PATH/TO/tiny"\n', None),
        ("org/small@main", "org/small", 'base = "org/small"\n', "org/small"),
    ],
)
def test_the_card_of_a_repository_loads_what_is_there(
    hub: Hub, library: Library, address: str, name: str, code: str, named: str | None
) -> None:
    library.publish(make_prompt("own", base=name), base=address)
    push(library, "own", "me/own")
    _, head, text = files_of(hub, "me/own")["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(head).get("base_model") == named
    assert code in text
    assert ('gguf_file="small.gguf"' in text) == address.endswith(".gguf")
    assert ("stands for where you have it" in text) == (named is None)


def test_the_hub_takes_no_model_of_mlflow(hub: Hub, library: Library) -> None:
    with pytest.raises(ConfigError, match="the hub takes no MLflow model; push with --format peft or softprompt"):
        push(library, "one", "me/one", form=Format.MLFLOW)


def test_the_commands(hub: Hub, run: Run, library: Library, home: Path, base_folder: Path) -> None:
    assert library.home == home
    (row,) = run("push", "one", "me/one", "--json").rows
    assert (row["task"], row["version"], row["created"], row["repo"]) == ("one", 1, True, "me/one")
    (row,) = run("pull", "me/one@main", "--task", "mine", "--json").rows
    assert (row["task"], row["version"], row["file"]) == ("mine", 1, FILE)
    done = run("pull", "me/one")
    assert (done.code, max(map(len, done.out.splitlines())) <= 80) == (0, True)
    assert "the hub has no 'me/none'" in run("pull", "me/none").refused()
