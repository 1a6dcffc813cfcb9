"""Prompts as tokens of a base, in a vLLM that knows nothing of ours: by text alone it answers as we do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.exchange.tokens.export import export_tokens
from softprompt.exchange.tokens.wording import text_of
from softprompt.library.library import Library
from softprompt.serving.offline import Service
from tests.real_models.conftest import find
from tests.vllm.server import BLOCK, Vllm, running
from tests.worded import LABELS, TEXTS, WORDED, publish_worded

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

HOT = 2.0
"""The highest temperature that vLLM takes."""


@dataclass
class Exported:
    """A base with prompts as tokens, served by vLLM, and what they were made from."""

    vllm: Vllm
    library: Library
    base: FrozenBase
    known: dict[str, Any]

    @property
    def first(self) -> int:
        """The first id that is a prompt's."""
        return int(self.known["vocabulary"])

    def prompt(self, task: str, text: str) -> str:
        """The whole text that a client sends."""
        return text_of(self.known["tasks"][task]["input"], {"text": text})

    def complete(self, prompt: str | list[int], **fields: Any) -> Any:
        answer = self.vllm.post("/v1/completions", {"model": "it", "prompt": prompt, "temperature": 0, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ids(self, text: str) -> list[int]:
        """As vLLM reads it."""
        found: list[int] = self.vllm.post("/tokenize", {"model": "it", "prompt": text}).json()["tokens"]
        return found


@pytest.fixture(scope="module", params=["builtin/tiny", "smollm2.gguf"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    place, address = tmp_path_factory.mktemp("tokens"), request.param
    if address.endswith(".gguf"):
        address = str(find(address))
    base = FrozenBase.load(address, dtype="float32", device="cpu")
    with Library.open(place / "home") as library:
        publish_worded(library, base, address)
        export_tokens(library, [*WORDED, "choice"], place / "out", base=BaseOptions(source=address, dtype="float32"))
        known = json.loads((place / "out" / "softprompt_tokens.json").read_text())
        options = ("--served-model-name", "it", "--max-model-len", "256", "--max-num-seqs", "8")
        with running(place / "out", place / "vllm.log", *options, environment={}, prompts=()) as vllm:
            yield Exported(vllm, library, base, known)


def test_texts_become_the_tokens(exported: Exported) -> None:
    for task, told in exported.known["tasks"].items():
        tokens = [*range(told["tokens"]["first"], told["tokens"]["first"] + told["tokens"]["count"])]
        for text in TEXTS:
            read = exported.ids(exported.prompt(task, text))
            assert [token for token in read if token >= exported.first] == tokens, task


@pytest.mark.parametrize("task", [*WORDED])
def test_greedy_answers_are_ours(exported: Exported, task: str) -> None:
    """Without any setting that keeps it from saying a prompt's token."""
    answers = Service(exported.library, base=exported.base).predict(TEXTS, task)
    for text, answer in zip(TEXTS, answers, strict=True):
        (said,) = exported.complete(exported.prompt(task, text), max_tokens=12, return_token_ids=True)["choices"]
        assert said["text"].strip() == answer.output
        assert max(said["token_ids"]) < exported.first
    assert len({answer.output for answer in answers}) > 1, "all answers are one"


def test_chats_are_the_same_prompt(exported: Exported) -> None:
    plain = exported.complete(exported.prompt("sums", "12 + 30"), max_tokens=8)["choices"][0]["text"]
    messages = [{"role": "system", "content": "sums"}, {"role": "user", "content": "12 + 30"}]
    body = {"model": "it", "messages": messages, "max_tokens": 8, "temperature": 0}
    chat = exported.vllm.post("/v1/chat/completions", body).json()
    assert chat["choices"][0]["message"]["content"] == plain


def test_scores_of_labels(exported: Exported) -> None:
    """Of the tokens of each label, as vLLM tells them of a prompt that it reads; and the answer of a choice."""
    told = exported.known["tasks"]["choice"]
    answers = Service(exported.library, base=exported.base).predict(TEXTS, "choice")
    for text, answer in zip(TEXTS, answers, strict=True):
        read, sums = exported.ids(exported.prompt("choice", text)), []
        for ids in told["labels"].values():
            (row,) = exported.complete([*read, *ids], max_tokens=0, echo=True, logprobs=1)["choices"]
            sums.append(sum(row["logprobs"]["token_logprobs"][-len(ids) :]))
        assert answer.scores is not None
        assert torch.tensor(sums).softmax(0).tolist() == pytest.approx([*answer.scores.values()], abs=1e-3)
        choice = {"choice": [f" {label}" for label in LABELS]}
        said = exported.complete(exported.prompt("choice", text), max_tokens=8, structured_outputs=choice)
        assert said["choices"][0]["text"].strip() in LABELS


@pytest.mark.parametrize("means", ["logit_bias", "bad_words"])
def test_they_are_never_drawn(exported: Exported, means: str) -> None:
    """By either of the settings that the README names. Among few tokens they would be, without it."""
    tokens = [token for told in exported.known["tasks"].values() for token in _tokens(told)]
    names = [name for told in exported.known["tasks"].values() for name in _names(told)]
    setting: dict[str, Any] = {"logit_bias": {str(token): -100 for token in tokens}}
    if means == "bad_words":
        setting = {"bad_words": names}

    def drawn(**fields: Any) -> set[int]:
        asked = {"max_tokens": 100, "n": 4, "temperature": HOT, "seed": 1, "ignore_eos": True, "return_token_ids": True}
        answer = exported.complete(exported.prompt("sums", "12 + 30"), **asked, **fields)
        return {token for choice in answer["choices"] for token in choice["token_ids"]}

    rare = [exported.first - 1, exported.first - 2]
    few = {"allowed_token_ids": [*rare, *tokens]}
    assert max(drawn(**few)) >= exported.first, "they would have been drawn"
    assert drawn(**few, **setting) <= set(rare)
    assert max(drawn(**setting)) < exported.first


def test_a_prompt_is_run_once(exported: Exported) -> None:
    """vLLM's cache knows the tokens of a prompt as any others: two requests have its whole blocks in common."""
    read = exported.ids(exported.prompt("placed", "one"))
    other = exported.ids(exported.prompt("placed", "quite another"))
    shared = next(at for at, pair in enumerate(zip(read, other, strict=False)) if pair[0] != pair[1])
    exported.complete(read, max_tokens=1)
    before = exported.vllm.metric("vllm:prefix_cache_hits_total")
    exported.complete(other, max_tokens=1)
    assert exported.vllm.metric("vllm:prefix_cache_hits_total") - before == shared // BLOCK * BLOCK


def _tokens(told: dict[str, Any]) -> range:
    return range(told["tokens"]["first"], told["tokens"]["first"] + told["tokens"]["count"])


def _names(told: dict[str, Any]) -> list[str]:
    """The text of a prompt's tokens, one by one."""
    return [f"{name}|>" for name in told["tokens"]["text"].split("|>")[:-1]]
