"""The router: where tasks lie is a property of their own rows and the base, and stays when others join."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.protocol import EmbedJob, Sampling
from softprompt.errors import ConfigError, NotFound, PromptFileError, RegistryError, StoreError
from softprompt.exchange.peft import WEIGHTS, load_peft, save_peft
from softprompt.exchange.peft_matrix import TENSOR
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.model.centroid import centroid_of, raw_text
from softprompt.model.embedding import shorten, single_tokens
from softprompt.names import AUTO
from softprompt.progress import Mute
from softprompt.prompts.card import Card
from softprompt.prompts.file import Stored, read_file, write_file
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.registry import Registry
from softprompt.serving.routing.router import Centroids, Floats, Router, direction_of, read_centroid
from softprompt.serving.service import AsyncService
from softprompt.stores import FolderStore
from softprompt.stores.memory import MemoryStore
from softprompt.tasks.task import Task
from softprompt.training.publish import CENTROID_ROWS, spread
from softprompt.training.train import train
from tests.engine_jobs import Inbox
from tests.models import ARCHITECTURES, make_base, some_prompt

WORDS = {"colours": ["red", "green", "blue"], "answers": ["yes", "no", "true"]}


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base("llama")


def unit(*numbers: float) -> Floats:
    vector = np.asarray(numbers, np.float32)
    return vector / np.float32(np.linalg.norm(vector))


def with_centroid(base: FrozenBase, task: str, centroid: torch.Tensor | None, seed: int = 0) -> SoftPrompt:
    prompt = some_prompt(base, task, seed=seed, labels=("yes", "no"))
    return SoftPrompt(prompt.vectors_PD, prompt.card, centroid)


def test_the_nearest_task_is_by_cosine_less_the_tasks_own_spread() -> None:
    router = Router({"wide": 0.5 * unit(1, 0, 0), "narrow": 0.9 * unit(0, 1, 0)})
    assert router.nearest([unit(1, 0, 0)]).task == "wide"
    assert router.nearest([unit(1, 0, 0)]).score == pytest.approx(0.5)
    assert router.nearest([unit(0, 1, 0)]).score == pytest.approx(0.1)
    between = router.nearest([unit(1, 1, 0)])
    assert (between.task, between.score) == ("wide", pytest.approx(0.5**0.5 - 0.5))
    several = [unit(0, 1, 0), unit(0, 1, 0), unit(1, 0, 0)]  # of one request: their mean decides
    assert router.nearest(several).task == "wide"  # 1/3 - 0.5 is more than 2/3 - 0.9
    with pytest.raises(NotFound, match=r"the nearest is 'wide' with -0\.500, and -0\.200 is needed"):
        router.choose([unit(0, 0, 1)])
    assert router.choose([unit(0, 0, 1)], threshold=-0.6).task == "wide"
    with pytest.raises(NotFound, match="none has a centroid"):
        Router({}).nearest([unit(1, 0, 0)])
    with pytest.raises(NotFound, match="no task is near enough"):  # a base that overflows tells nothing
        router.choose([np.full(3, np.nan, np.float32)])


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
def test_scores_equal_those_of_each_task_alone_whoever_joins(tasks: int, more: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    centroids = {f"t{place}": draw.normal(size=8).astype(np.float32) * np.float32(0.3) for place in range(tasks + more)}
    some = {task: centroids[task] for task in list(centroids)[:tasks]}
    inputs = [unit(*draw.normal(size=8)) for _ in range(3)]
    alone = {task: Router({task: centroid}).nearest(inputs).score for task, centroid in centroids.items()}
    for known in (some, centroids):
        best = max(known, key=lambda task: alone[task])
        found = Router(known).nearest(inputs)
        assert found.task == best
        assert found.score == pytest.approx(alone[best], abs=1e-5)
    mean = np.mean(inputs, axis=0)
    for task, centroid in centroids.items():
        length = float(np.linalg.norm(centroid))
        assert alone[task] == pytest.approx(float(mean @ centroid) / length - length, abs=1e-5)


def test_directions_are_unit_vectors_from_the_origin() -> None:
    assert direction_of([3.0, 4.0], np.asarray([0, 0], np.float32)).tolist() == pytest.approx([0.6, 0.8])
    assert direction_of([1.0, 1.0], np.asarray([1, 0], np.float32)).tolist() == [0, 1]
    assert direction_of([1.0, 1.0], np.asarray([1, 1], np.float32)).tolist() == [0, 0]
    with pytest.raises(ConfigError, match="3 numbers and the base's origin 2"):
        direction_of([1, 2, 3], np.asarray([1, 1], np.float32))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embeddings_are_means_of_last_hidden_states_alone_or_together_here_or_in_the_engine(architecture: str) -> None:
    base = make_base(architecture)
    inputs = base.encode(["red", "what is a river of the stone", "an apple is good", "true " * 20])
    together = architecture_of(base).embed(inputs)
    engine = ContinuousEngine(architecture_of(base))
    try:
        for ids, embedding_D in zip(inputs, together, strict=True):
            with torch.no_grad():
                states = base.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
            assert torch.allclose(embedding_D, states[0].mean(0), atol=1e-4)
            assert torch.allclose(embedding_D, architecture_of(base).embed([ids])[0], atol=1e-4)
            inbox = Inbox()
            engine.submit(EmbedJob(tuple(ids)), inbox)
            assert torch.allclose(torch.tensor(inbox.last.values), embedding_D, atol=1e-4)  # type: ignore[union-attr]
    finally:
        engine.stop()


def test_a_centroid_is_the_mean_direction_from_what_the_base_makes_of_nothing(base: FrozenBase) -> None:
    texts = ["red green", "blue", "a red apple " * 60]
    centroid_D = centroid_of(architecture_of(base), texts)
    assert centroid_D is not None
    singles = single_tokens(base)
    assert len(singles) == len({ids[0] for ids in singles}) == 160  # every second of 320
    origin_D = torch.stack([architecture_of(base).embed([ids])[0] for ids in singles]).mean(0)
    rows = [architecture_of(base).embed([shorten(base, base.encode([text])[0])])[0] - origin_D for text in texts]
    expected = torch.stack([row / row.norm() for row in rows]).mean(0)
    assert torch.allclose(centroid_D, expected, atol=1e-4)
    assert float(centroid_D.norm()) <= 1
    assert torch.equal(centroid_D, centroid_of(architecture_of(base), texts))  # type: ignore[arg-type]
    assert centroid_of(architecture_of(base), ["", ""]) is None
    assert torch.equal(centroid_of(architecture_of(base), ["", *texts]), centroid_D)  # type: ignore[arg-type]
    assert raw_text(["one", "two"], {"two": 2, "one": "red", "more": "x"}) == "red\n2"


def test_a_centroid_travels_in_the_file_and_files_without_one_stay_as_they_were(base: FrozenBase) -> None:
    plain = some_prompt(base, "t")
    old = write_file(plain.card, {TENSOR: Stored("F32", tuple(plain.vectors_PD.shape), plain.vectors_PD.numpy().tobytes())})
    assert plain.to_bytes() == old
    assert SoftPrompt.from_bytes(old).centroid_D is None
    assert read_centroid(old) is None
    centroid_D = torch.linspace(-0.1, 0.1, 32)
    prompt = with_centroid(base, "t", centroid_D)
    again = SoftPrompt.from_bytes(prompt.to_bytes(), digest=prompt.digest)
    assert again.centroid_D is not None
    assert torch.equal(again.centroid_D, centroid_D)
    assert torch.equal(again.vectors_PD, plain.vectors_PD)
    assert again.digest == prompt.digest != plain.digest
    found = read_centroid(prompt.to_bytes())
    assert found is not None
    assert found.tolist() == centroid_D.tolist()
    assert load(prompt.to_bytes())["centroid"].tolist() == centroid_D.tolist()
    for dtype in ("bfloat16", "int8"):
        small = SoftPrompt.from_bytes(prompt.as_dtype(dtype).to_bytes())  # type: ignore[arg-type]
        assert small.centroid_D is not None
        assert torch.equal(small.centroid_D, centroid_D)


def test_the_export_for_peft_has_the_centroid_beside_what_peft_reads(base: FrozenBase, tmp_path: Path) -> None:
    prompt = with_centroid(base, "t", torch.ones(32))
    folder = save_peft(prompt, tmp_path / "peft", "somewhere")
    assert list(load((folder / WEIGHTS).read_bytes())) == [TENSOR]
    centroid_D = load_peft(folder, task="t", base=base).centroid_D
    assert centroid_D is not None
    assert torch.equal(centroid_D, torch.ones(32))


def test_a_centroid_that_is_none_is_refused(base: FrozenBase) -> None:
    for wrong in (torch.ones(31), torch.ones(1, 32), torch.full((32,), torch.nan)):
        with pytest.raises(PromptFileError, match="centroid"):
            with_centroid(base, "t", wrong)
    plain = some_prompt(base, "t")
    tensors = read_file(plain.to_bytes())[1]
    for stored in (
        Stored("F32", (31,), b"\0" * 124),
        Stored("F16", (32,), b"\0" * 64),
        Stored("F32", (32,), b"\xff" * 128),
        Stored("F32", (32,), b"\0" * 64),
    ):
        data = write_file(plain.card, {**tensors, "centroid": stored})
        with pytest.raises(PromptFileError):
            read_centroid(data)
        if stored.dtype == "F32":
            with pytest.raises(PromptFileError):
                SoftPrompt.from_bytes(data)


class Counted(FolderStore):
    """A folder that remembers what was read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[str] = []

    def get(self, digest: str) -> bytes:
        self.reads.append(digest)
        return super().get(digest)


def test_centroids_are_read_once_and_damaged_ones_left_out(
    base: FrozenBase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = Library.open(tmp_path / "home")
    store = Counted(opened.home / "blobs")
    library = Library(opened.home, opened.registry, store)
    prompts = {name: with_centroid(base, name, torch.rand(32), seed) for seed, name in enumerate("abc")}
    prompts["plain"] = with_centroid(base, "plain", None, 9)
    for prompt in prompts.values():
        library.publish(prompt.to_bytes(), base=base.address)
    far = make_base("llama", seed=5)
    library.publish(with_centroid(far, "far", torch.rand(32)).to_bytes(), base=far.address)
    reads = store.reads
    (blob,) = (library.home / "blobs").rglob(prompts["b"].digest)
    whole = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(whole[:-1] + b"\x77")
    centroids = Centroids(library, base.fingerprints)
    assert centroids.refresh().tasks == ["a", "c"]
    assert "auto leaves out task 'b'" in caplog.text
    assert sorted(reads) == sorted(prompt.digest for prompt in prompts.values())
    before = centroids.refresh()
    assert centroids.router is before
    assert len(reads) == 4
    blob.write_bytes(whole)
    new = with_centroid(base, "d", torch.rand(32), 7)
    library.publish(new.to_bytes(), base=base.address)
    after = centroids.refresh()
    assert after.tasks == ["a", "b", "c", "d"]
    assert sorted(reads[4:]) == sorted([prompts["b"].digest, new.digest])
    for task in "ac":  # who was there before lies where it lay
        old, now = before.tasks.index(task), after.tasks.index(task)
        assert np.array_equal(before._directions_KD[old], after._directions_KD[now])


class Remote(MemoryStore):
    """A store that is worth a cache, and may be away."""

    remote = True
    away = False

    def __init__(self) -> None:
        super().__init__("remote")
        self.reads: list[str] = []

    def get(self, digest: str) -> bytes:
        self.reads.append(digest)
        if self.away:
            raise StoreError("the store is away")
        return super().get(digest)


def test_centroids_come_from_the_cache_and_are_looked_for_again_after_a_store_was_away(
    base: FrozenBase, tmp_path: Path
) -> None:
    store = Remote()
    opened = Library.open(tmp_path / "home")
    library = Library(opened.home, opened.registry, store)
    prompt = with_centroid(base, "a", torch.rand(32))
    library.publish(prompt.to_bytes(), base=base.address)
    library.read("a")
    assert Centroids(library, base.fingerprints).refresh().tasks == ["a"]
    assert store.reads == [prompt.digest]  # by the reading before; then the copy was there
    library.publish(with_centroid(base, "b", torch.rand(32), 1).to_bytes(), base=base.address)
    store.away = True
    centroids = Centroids(library, base.fingerprints)
    assert centroids.refresh().tasks == ["a"]
    store.away = False
    assert centroids.refresh().tasks == ["a"]  # not every time
    store.away = True
    centroids = Centroids(library, base.fingerprints, retry_s=0.0)
    library.publish(with_centroid(base, "c", torch.rand(32), 2).to_bytes(), base=base.address)
    assert centroids.refresh().tasks == ["a"]
    store.away = False
    assert centroids.refresh().tasks == ["a", "b", "c"]
    assert centroids.refresh() is centroids.router


def test_a_registry_that_fails_leaves_the_router_as_it_was(
    base: FrozenBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library.open(tmp_path / "home")
    library.publish(with_centroid(base, "a", torch.rand(32)).to_bytes(), base=base.address)
    centroids = Centroids(library, base.fingerprints)
    before = centroids.refresh()
    library.publish(with_centroid(base, "b", torch.rand(32), 1).to_bytes(), base=base.address)

    def down(*_: Any, **__: Any) -> Any:
        raise RegistryError("the registry is down")

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "resolve", down)
        with pytest.raises(RegistryError):
            centroids.refresh()
    assert centroids.router is before
    assert centroids.refresh().tasks == ["a", "b"]


def rows_of(words: list[str]) -> list[dict[str, Any]]:
    return [
        {"text": f"{one} {other} {third}", "label": "yes" if one == other else "no"}
        for one in words
        for other in words
        for third in words
    ]


def test_training_leaves_a_centroid_that_auto_finds_the_task_by(base: FrozenBase, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    tasks = []
    for name, words in WORDS.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows_of(words)))
        recipe = {"num_virtual_tokens": 2, "max_steps": 1, "labels": ["yes", "no"], "input": "Said: {text}\nSame:"}
        tasks.append(Task(task=name, data={"train": str(file), "validation": 0.2, "test": 0.2}, **recipe))
    first = train(tasks, base=base, library=library, progress=Mute())
    alone = train(tasks[1], base=base, progress=Mute())
    again = train(tasks, base=base, progress=Mute())
    for tuned, task in zip(first, tasks, strict=True):
        rows = task.train
        assert len(rows) < CENTROID_ROWS
        expected = centroid_of(architecture_of(base), [row["text"] for row in rows])
        assert expected is not None
        assert tuned.prompt.centroid_D is not None
        assert torch.equal(tuned.prompt.centroid_D, expected)
    assert alone[0].prompt.centroid_D is not None
    assert torch.equal(alone[0].prompt.centroid_D, first[1].prompt.centroid_D)  # type: ignore[arg-type]
    assert [tuned.prompt.digest for tuned in again] == [tuned.prompt.digest for tuned in first]
    engine = ContinuousEngine(architecture_of(base))
    live = AsyncService(library, base, engine)

    async def ask(text: str) -> str | None:
        return (await live.complete("default", AUTO, text, Sampling(max_tokens=1))).head.task

    try:
        for name, words in WORDS.items():
            for row in rows_of(words)[::5]:
                assert asyncio.run(ask(row["text"])) == name
    finally:
        engine.stop()
        live.close()


def test_at_most_so_many_rows_say_where_a_task_lies() -> None:
    for count in (1, 199, 200, 201, 1000, 5452):
        rows = [{"text": str(place)} for place in range(count)]
        some = spread(rows)
        assert len(some) == len({row["text"] for row in some})
        assert min(count, 100) <= len(some) <= CENTROID_ROWS
        assert int(some[-1]["text"]) >= count * 0.98 - 1  # spread to the end


def test_a_card_knows_nothing_of_centroids() -> None:
    assert "centroid" not in Card.model_fields
