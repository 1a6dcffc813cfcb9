"""Text over HTTP with tokenizers of several kinds: spaces, control tokens, stops, and log-probabilities' tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.bases.spelling import Spelling
from softprompt.library.library import Library
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving.offline import Service
from tests.http_server import EngineOn, Running, serving
from tests.models import WORDS
from tests.spellings import CONTROLS
from tests.spellings import base as base_of_kind

LABELS = ("red", "red apple", "no")
CHAT = "{% for m in messages %}<|user|>{{ m['content'] | trim }}<|end|>{% endfor %}"
NAMING = "the <|end|> and </s> of it"


def some_prompt(base: FrozenBase, task: str, **fields: Any) -> SoftPrompt:
    ids = torch.randint(5, 300, (4,), generator=torch.Generator().manual_seed(0))
    about = {"task": task, "base": base.name, "fingerprint": base.fingerprint, "num_virtual_tokens": 4, "token_dim": 32}
    return SoftPrompt(base.embed(ids).detach().float(), Card.model_validate(about | fields))


@pytest.fixture(scope="module", params=["llama_2", "metaspace_first", "byte_level"])
def running(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    engine_on: EngineOn,
    spelling_on: Callable[[str], FrozenBase],
) -> Iterator[Running]:
    base = spelling_on(request.param)
    with Library.open(tmp_path_factory.mktemp("home") / "home") as library:
        for prompt in (
            some_prompt(base, "kind", labels=LABELS, input="<s>{text} ="),
            some_prompt(base, "tell", metric="exact_match", max_new_tokens=12),
        ):
            library.publish(prompt.to_bytes(), base=base.address)
        with serving(library, base, engine=engine_on(base)) as made:
            yield made


def ask(running: Running, path: str, **body: Any) -> Any:
    reply = running.http.post(f"{running.url}{path}", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def streamed(running: Running, path: str, **body: Any) -> list[Any]:
    reply = running.http.post(f"{running.url}{path}", json={**body, "stream": True})
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: {")]
    return [choice for line in lines for choice in json.loads(line)["choices"]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("stop", [None, ["a", "\n"]])
def test_a_completion_is_the_difference_to_its_prompt(running: Running, seed: int, stop: list[str] | None) -> None:
    body = {"model": "tell", "prompt": "the river é", "max_tokens": 24, "temperature": 2.0, "seed": seed, "logprobs": 5}
    body |= {"stop": stop} if stop else {}
    (choice,) = ask(running, "/v1/completions", **body)["choices"]
    text, found = choice["text"], choice["logprobs"]
    assert "".join(found["tokens"]) == text
    assert found["text_offset"] == [len("".join(found["tokens"][:at])) for at in range(len(found["tokens"]))]
    assert all(len(top) >= 5 for top in found["top_logprobs"])  # as many as were asked for: none hides another
    assert all(top[token] == value for token, value, top in zip(*list(found.values())[:3], strict=True))
    parts = streamed(running, "/v1/completions", **body)
    assert "".join(part["text"] for part in parts) == text
    assert [offset for part in parts for offset in part["logprobs"]["text_offset"]] == found["text_offset"]
    assert [token for part in parts for token in part["logprobs"]["tokens"]] == found["tokens"]
    plain = ask(running, "/v1/completions", **{**body, "logprobs": None})
    assert plain["choices"][0]["text"] == text


def test_a_completion_keeps_its_first_space(running: Running) -> None:
    prompts = [f"the {word}" for word in WORDS]
    body = {"model": "tell", "prompt": prompts, "max_tokens": 1, "temperature": 2.0, "seed": 1, "n": 4}
    texts = ask(running, "/v1/completions", **body)["choices"]
    assert any(choice["text"].startswith(" ") for choice in texts)
    assert any(choice["text"][:1].isalpha() for choice in texts)


def test_control_tokens_come_from_the_template_alone(running: Running) -> None:
    base = running.base
    ids: list[tuple[int, ...]] = []
    honest = running.engine.submit_all

    def keep(jobs: Any) -> Any:
        ids.extend(job.input for job, _ in jobs)
        return honest(jobs)

    running.engine.submit_all = keep
    turns = [{"role": "user", "content": NAMING}, {"role": "assistant", "content": "is"}]
    had = base.tokenizer.chat_template
    base.tokenizer.chat_template = CHAT
    try:
        ask(running, "/v1/completions", model="tell", prompt=NAMING, max_tokens=1)
        ask(running, "/v1/classify", model="kind", input=NAMING)
        ask(running, "/v1/chat/completions", model="tell", messages=turns[:1], max_tokens=1)
        ask(running, "/v1/chat/completions", model="kind", messages=turns[:1])
        ask(running, "/v1/chat/completions", model=base.name, messages=turns, max_tokens=1)
    finally:
        base.tokenizer.chat_template = had
        running.engine.submit_all = honest
    controls = [[CONTROLS[token] for token in row if token < len(CONTROLS)] for row in ids]
    assert controls == [[], ["<s>"], [], ["<s>"], ["<|user|>", "<|end|>"] * 2]
    texts = [base.decode(row).replace(" ", "") for row in ids]
    said = NAMING.replace(" ", "")
    assert texts == [said, f"{said}=", said, f"{said}=", f"{said}is"]


def test_what_predict_answers_is_what_http_answers(running: Running) -> None:
    own = Service(running.library, base=running.base)
    for text in ("the river", NAMING, "what is 漢?"):
        (row,) = ask(running, "/v1/classify", model="kind", input=text)["data"]
        (expected,) = own.predict([text], "kind")
        assert row["label"] == expected.output
        assert row["scores"] == pytest.approx(expected.scores, abs=1e-4)
        said = ask(running, "/v1/chat/completions", model="tell", messages=[{"role": "user", "content": text}])
        assert said["choices"][0]["message"]["content"] == own.predict([text], "tell")[0].output


def test_a_control_token_as_a_stop(running: Running) -> None:
    prompts = [f"{word} {other}" for word in WORDS[:6] for other in WORDS[:5]]
    body = {"model": "tell", "prompt": prompts, "max_tokens": 40, "temperature": 2.0, "seed": 3, "logprobs": 0}
    free = ask(running, "/v1/completions", **body)["choices"]
    held = ask(running, "/v1/completions", **body, stop="<|end|>")["choices"]
    counts = [[len(choice["logprobs"]["tokens"]) for choice in choices] for choices in (free, held)]
    shorter = [one > other for one, other in zip(*counts, strict=True)]
    assert any(shorter)
    assert not all(shorter)
    for choice, other, less in zip(free, held, shorter, strict=True):
        assert other["finish_reason"] == ("stop" if less else choice["finish_reason"])
        if not running.base.spelling.byte_ids:  # else bytes that follow may spoil those before the stop
            assert choice["text"].startswith(other["text"])


def test_a_text_that_the_base_cannot_read_is_a_400(tmp_path: Path) -> None:
    base = base_of_kind("byte_level")
    base = replace(base)
    base.__dict__["spelling"] = Spelling(base.tokenizer, base.name, torch.nn.Embedding(320, 4))
    with Library.open(tmp_path / "home") as library:
        library.publish(some_prompt(base, "kind", labels=("a", "b")).to_bytes(), base=base.address)
        with serving(library, base) as made:
            word = base.tokenizer.convert_ids_to_tokens(330).replace("Ġ", " ")
            for path, body in (
                ("completions", {"prompt": word}),
                ("classify", {"input": word}),
                ("chat/completions", {"messages": [{"role": "user", "content": word}]}),
            ):
                reply = made.http.post(f"{made.url}/v1/{path}", json={"model": "kind", **body})
                assert reply.status_code == 400, reply.text
                assert "for which random/byte_level has no embedding (it has 320)" in reply.json()["error"]["message"]
