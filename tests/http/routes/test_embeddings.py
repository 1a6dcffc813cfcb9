"""`/v1/embeddings` by OpenAI's own client: the mean of the base's last hidden states, behind a prompt or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from openai import OpenAI

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.engines.protocol import EmbedJob, Vectors
from softprompt.errors import ConfigError
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from softprompt.prompts.prompt import SoftPrompt
from tests.engine_jobs import Inbox, some_vectors
from tests.http_server import Running, fill, serving
from tests.models import ARCHITECTURES, make_base, make_masked, some_prefix

TEXTS = ["red green blue", "a", "the stone is a river and so what"]


@torch.no_grad()
def alone(base: FrozenBase, prompt_PD: torch.Tensor | None, ids: Sequence[int]) -> list[float]:
    """By the model's own forward over vectors and embeddings, of one row."""
    embeds_LD = base.embed(torch.tensor(ids))
    before = 0 if prompt_PD is None else len(prompt_PD)
    if prompt_PD is not None:
        embeds_LD = torch.cat([prompt_PD.to(base.dtype), embeds_LD])
    states = base.model.base_model(inputs_embeds=embeds_LD[None]).last_hidden_state[0, before:]
    found: list[float] = states.float().mean(0).tolist()
    return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Iterator[Running]:
    base = FrozenBase.load(str(base_folder))
    with Library.open(tmp_path_factory.mktemp("home")) as library:
        fill(library, base)
        prefix = some_prefix(base, "ahead", metric="exact_match")
        library.publish(prefix.to_bytes(), base=base.address)
        with serving(library, base, engine=ContinuousEngine(architecture_of(base))) as found:
            yield found


@pytest.mark.parametrize("model", ["tiny-llama", "tell", "kind@2"])
def test_they_are_the_mean_of_the_last_states(client: OpenAI, running: Running, model: str) -> None:
    prompt_PD = None
    if model != "tiny-llama":
        prompt_PD = SoftPrompt.from_bytes(running.library.read(running.library.registry.resolve(model))).vectors_PD
    answer = client.embeddings.create(model=model, input=TEXTS)  # the client asks for base64 by itself
    ids = running.base.encode(TEXTS)
    for place, row in enumerate(answer.data):
        assert row.index == place
        assert row.embedding == pytest.approx(alone(running.base, prompt_PD, ids[place]), abs=1e-4)
    plain = client.embeddings.create(model=model, input=ids, encoding_format="float", dimensions=running.base.width)
    for one, other in zip(answer.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    tokens = sum(map(len, ids))
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)
    assert answer.model == running.library.registry.resolve(model).ref if prompt_PD is not None else "tiny-llama"
    one = client.embeddings.create(model=model, input=TEXTS[0]).data[0].embedding
    assert one == pytest.approx(answer.data[0].embedding, abs=1e-4)
    assert client.embeddings.create(model=model, input=ids[0], encoding_format="float").data[0].embedding == pytest.approx(
        one, abs=1e-4
    )


@pytest.mark.parametrize(
    ("more", "param", "why"),
    [
        ({"dimensions": 8}, "dimensions", "have 32, and are not cut to 8"),
        ({"encoding_format": "int8"}, "encoding_format", ""),
        ({"input": []}, "input", "none of them empty"),
        ({"input": "red " * 300}, "input", "do not fit the context"),
        ({"model": "auto"}, "model", "instead of 'auto'"),
        ({"model": "ahead"}, None, "is a prefix"),
        ({"extra_body": {"truncate": True}}, "truncate", "unknown field"),
    ],
)
def test_what_is_wrong_is_refused_by_name(client: OpenAI, more: dict[str, Any], param: str | None, why: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**{"model": "tell", "input": "red", **more})
    assert why in str(caught.value)
    assert caught.value.param == param


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("invariant", [False, True])
def test_rows_of_different_prompts_share_a_pass(architecture: str, invariant: bool) -> None:
    base = make_base(architecture)
    if invariant:
        base = FrozenBase.wrap(base.model, base.tokenizer, name="x", batch_invariant=True)
    engine = ContinuousEngine(architecture_of(base))
    asked = [(some_vectors(base, rows, rows), tuple(range(5, 7 + 2 * rows)), Inbox()) for rows in (0, 3, 1, 6)]
    engine.submit_all([(EmbedJob(ids, prompt), inbox) for prompt, ids, inbox in asked])
    for prompt, ids, inbox in asked:
        assert inbox.last.values == pytest.approx(alone(base, prompt.vectors_PD, ids), abs=1e-4)
    engine.stop()


def test_an_encoder_has_them_without_a_prompt() -> None:
    base = make_masked("bert")
    engine = ContinuousEngine(architecture_of(base))
    with pytest.raises(ConfigError, match="whose embeddings are without a prompt"):
        engine.submit(EmbedJob((5, 6), Vectors("x", torch.zeros(2, base.width))), Inbox())
    inbox = Inbox()
    engine.submit(EmbedJob((5, 6)), inbox)
    assert len(inbox.last.values) == base.width
    engine.stop()
