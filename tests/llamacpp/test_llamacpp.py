"""Prompts as tokens in llama.cpp itself: a GGUF file of ours answers there, by text alone, as ours does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.bases.gguf.file import read_gguf
from softprompt.bases.gguf.numbers import read_numbers
from softprompt.bases.options import BaseOptions
from softprompt.exchange.tokens.export import export_tokens
from softprompt.exchange.tokens.wording import text_of
from softprompt.library.library import Library
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving.offline import Service
from tests.real_models.conftest import find
from tests.worded import TEXTS, WORDED, publish_worded

pytestmark = [pytest.mark.llamacpp, pytest.mark.filterwarnings("default")]


def unpacked(source: Path, target: Path) -> Path:
    """The same model with all its numbers as float32: of fewer bits llama.cpp rounds what it multiplies them with."""
    old = read_gguf(source)
    writer = gguf.GGUFWriter(target, old.architecture)
    for key, value in old.metadata.items():
        if key != "general.architecture" and value != []:
            kind, inner = old.kinds[key]
            writer.add_key_value(key, value, gguf.GGUFValueType(kind), None if inner is None else gguf.GGUFValueType(inner))
    for tensor in old.tensors:
        writer.add_tensor(tensor.name, read_numbers(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Library, FrozenBase, Path]]:
    place = tmp_path_factory.mktemp("llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        file = unpacked(find("smollm2.gguf"), place / "smollm2-f32.gguf")
        base = FrozenBase.load(str(file), device="cpu", dtype="float32")
        with Library.open(place / "home") as library:
            publish_worded(library, base, str(file))
            export_tokens(library, [*WORDED, "choice"], place / "out", base=BaseOptions(dtype="float32"), gguf_alone=True)
            yield library, base, place / "out"


@pytest.fixture(scope="module")
def llama(made: tuple[Library, FrozenBase, Path]) -> Any:
    import llama_cpp

    return llama_cpp.Llama(str(made[2] / "model.gguf"), n_ctx=512, logits_all=True, n_threads=1, seed=0, verbose=False)


@pytest.fixture(scope="module")
def known(made: tuple[Library, FrozenBase, Path]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((made[2] / "softprompt_tokens.json").read_text())
    return told


def ids_in(llama: Any, text: str) -> list[int]:
    ids: list[int] = llama.tokenize(text.encode(), add_bos=True, special=True)  # and none is added
    return ids


def test_texts_become_the_same_tokens(made: tuple[Library, FrozenBase, Path], llama: Any, known: dict[str, Any]) -> None:
    _, base, _ = made
    for task, told in known["tasks"].items():
        tokens = range(told["tokens"]["first"], told["tokens"]["first"] + told["tokens"]["count"])
        for text in TEXTS:
            parts = [(before.partition(told["tokens"]["text"]), column) for before, column in told["input"]]
            behind = [(after if sep else before, text if column else "") for (before, sep, after), column in parts]
            front = [parts[0][0][0]] if parts[0][0][1] else [""]
            before, after = base.encode([[(front[0], "")], behind])
            assert ids_in(llama, text_of(told["input"], {"text": text})) == [*before, *tokens, *after], task


@pytest.mark.parametrize("task", [*WORDED])
def test_greedy_answers_are_ours(
    made: tuple[Library, FrozenBase, Path], llama: Any, known: dict[str, Any], task: str
) -> None:
    answers = Service(made[0], base=made[1]).predict(TEXTS, task)
    for text, answer in zip(TEXTS, answers, strict=True):
        prompt = text_of(known["tasks"][task]["input"], {"text": text})
        said = llama.create_completion(prompt, max_tokens=12, temperature=0)["choices"][0]["text"]
        assert said.strip() == answer.output
    assert len({answer.output for answer in answers}) > 1, "all answers are one"


def test_chats_are_the_same_prompt(made: tuple[Library, FrozenBase, Path], llama: Any, known: dict[str, Any]) -> None:
    prompt = text_of(known["tasks"]["sums"]["input"], {"text": "12 + 30"})
    plain = llama.create_completion(prompt, max_tokens=8, temperature=0)["choices"][0]["text"]
    messages = [{"role": "system", "content": "sums"}, {"role": "user", "content": "12 + 30"}]
    chat = llama.create_chat_completion(messages, max_tokens=8, temperature=0)["choices"][0]["message"]["content"]
    assert chat == plain


def test_scores_of_labels_and_logits(made: tuple[Library, FrozenBase, Path], llama: Any, known: dict[str, Any]) -> None:
    library, base, _ = made
    told, first = known["tasks"]["choice"], known["vocabulary"]
    answers = Service(library, base=base).predict(TEXTS[:2], "choice")
    vectors = SoftPrompt.from_bytes(library.read(library.registry.resolve("choice"))).vectors_PD
    for text, answer in zip(TEXTS[:2], answers, strict=True):
        read = ids_in(llama, text_of(told["input"], {"text": text}))
        scores = []
        for ids in told["labels"].values():
            llama.reset()
            llama.eval([*read, *ids])
            logits = torch.from_numpy(np.array(llama.scores[: len(read) + len(ids)]))
            assert int(logits.argmax(1).max()) < first, "a token of a prompt is the best answer"
            shares = logits.softmax(1)[:, first:]
            assert float(shares.max()) < 1 / first
            tail = logits[len(read) - 1 : -1, :first].log_softmax(1)
            scores.append(tail[range(len(ids)), ids].sum())
        assert answer.scores is not None
        found = torch.stack(scores).softmax(0).tolist()
        assert found == pytest.approx([*answer.scores.values()], abs=5e-3)
        embeds = torch.cat([vectors, base.embed(torch.tensor(read[len(vectors) :]))])[None]
        ours = base.model(inputs_embeds=embeds).logits[0]
        gap = float((ours - logits[: len(read), :first]).abs().max())
        assert gap < 0.05, gap
        assert (ours.argmax(1) == logits[: len(read), :first].argmax(1)).all()


def test_nothing_is_said_of_them_when_it_samples(
    made: tuple[Library, FrozenBase, Path], llama: Any, known: dict[str, Any]
) -> None:
    prompt = text_of(known["tasks"]["capitals"]["input"], {"text": "France"})
    done = llama.create_completion(prompt, max_tokens=64, temperature=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=1)
    assert "<|" not in done["choices"][0]["text"]
    said = llama._input_ids[len(ids_in(llama, prompt)) :]
    assert int(said.max()) < known["vocabulary"]
