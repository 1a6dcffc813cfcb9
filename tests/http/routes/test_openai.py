"""OpenAI's own client against a real server on a port of this machine; the engine is one without a model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessage, completion_create_params

from softprompt.bases.base import FrozenBase
from softprompt.library.library import Library
from tests.fake_engine import FakeEngine
from tests.http_server import LABELS, EngineOn, Running, fill, serving
from tests.models import some_prompt
from tests.serving.test_service import with_centroid


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, base_folder: Path, fake_on: EngineOn) -> Iterator[Running]:
    base = FrozenBase.load(str(base_folder))
    with Library.open(tmp_path_factory.mktemp("home")) as library:
        fill(library, base)
        with serving(library, base, engine=fake_on(base)) as found:
            yield found


@pytest.fixture
def client(running: Running) -> Iterator[OpenAI]:
    with running.client() as made:
        yield made


def eventually(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# models


def test_models_are_listed_and_found_by_every_name(client: OpenAI, running: Running) -> None:
    rows = {row.id: row for row in client.models.list()}
    assert set(rows) == {"tiny-llama", "kind", "tell"}
    assert rows["kind"].model_dump()["versions"] == [1, 2]
    assert rows["kind"].model_dump()["version"] == 2
    for name in ("kind", "kind@1", "tiny-llama"):
        assert client.models.retrieve(name).id == name
    running.library.promote("kind@1", "production")
    try:
        time.sleep(0.1)  # longer than the registry's word holds
        assert client.completions.create(model="kind", prompt="red").model == "kind@1"
        assert client.models.retrieve("kind").model_dump()["version"] == 1
    finally:
        running.library.promote("kind@2", "production", force=True, reason="as it was")
        time.sleep(0.1)
        assert client.completions.create(model="kind", prompt="red").model == "kind@2"
    for name in ("kindd", "kind@9", "kind@nobody", "a b", "meta/base", "kind/", "kind@", "é"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve(name)
        assert caught.value.code == "model_not_found"


def test_a_model_with_a_slash_in_its_name(tmp_path: Path) -> None:
    base = FrozenBase.load("builtin/tiny")
    with Library.open(tmp_path / "home") as library, serving(library, base) as found, found.client() as client:
        assert [row.id for row in client.models.list()] == ["builtin/tiny"]
        assert client.models.retrieve("builtin/tiny").id == "builtin/tiny"
        assert client.completions.create(model="builtin/tiny", prompt="The river").usage.completion_tokens > 0
        # A task that is published later is served.
        library.publish(some_prompt(base, "late").to_bytes(), base="builtin/tiny")
        assert client.completions.create(model="late", prompt="The river").model == "late@1"


# completions


def test_a_completion(client: OpenAI, running: Running) -> None:
    answer = client.completions.create(model="kind", prompt="red green", max_tokens=4)
    assert (answer.object, answer.model) == ("text_completion", "kind@2")
    assert answer.system_fingerprint == client.models.retrieve("kind@2").model_dump()["system_fingerprint"]
    assert answer.system_fingerprint.startswith(running.base.fingerprint[:12])
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    ids = running.base.encode(["red green"])[0]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        len(ids),
        4,
        len(ids) + 4,
    )
    # Raw text: no template is put around it.
    assert running.engine.tickets[-1].job.input == tuple(ids)
    assert running.engine.tickets[-1].job.sampling.temperature == 0
    assert client.completions.create(model="kind", prompt="red").choices[0].text.count(" ") == 12
    same = client.completions.create(model="kind", prompt=ids, max_tokens=4)
    assert same.choices[0].text == choice.text
    # The prompt and the version matter, and the base alone has none.
    others = [client.completions.create(model=name, prompt="red green", max_tokens=4) for name in ("kind@1", "tiny-llama")]
    assert len({choice.text, *(other.choices[0].text for other in others)}) == 3
    assert others[1].system_fingerprint == running.base.fingerprint[:12]


def test_several_prompts_and_answers_come_in_order(client: OpenAI, running: Running) -> None:
    prompts = ["red", "blue apple", "stone"]
    answer = client.completions.create(model="tell", prompt=prompts, n=2, max_tokens=3)
    assert [choice.index for choice in answer.choices] == list(range(6))
    alone = [client.completions.create(model="tell", prompt=prompt, max_tokens=3) for prompt in prompts]
    assert [choice.text for choice in answer.choices] == [one.choices[0].text for one in alone for _ in range(2)]
    assert answer.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone)
    assert answer.usage.completion_tokens == 18
    ids = running.base.encode(prompts)
    assert client.completions.create(model="tell", prompt=ids, max_tokens=3).choices[2].text == answer.choices[4].text


def test_seeds(client: OpenAI) -> None:
    def ask(**options: Any) -> list[str]:
        answer = client.completions.create(model="tell", prompt="red", max_tokens=8, temperature=1, **options)
        return [choice.text for choice in answer.choices]

    assert ask(seed=5) == ask(seed=5) != ask(seed=6)
    three = ask(seed=5, n=3)
    assert len(set(three)) == 3
    assert three[:1] == ask(seed=5)
    assert three[1:2] == ask(seed=6)


def test_stop_texts(client: OpenAI) -> None:
    whole = client.completions.create(model="tell", prompt="red", max_tokens=8).choices[0]
    words = whole.text.split()
    for stop in (words[3], ["nothing of it", words[3]]):
        cut = client.completions.create(model="tell", prompt="red", max_tokens=8, stop=stop).choices[0]
        assert cut.finish_reason == "stop"
        assert cut.text == whole.text[: whole.text.index(words[3])]


def test_logprobs_of_a_completion(client: OpenAI) -> None:
    reply = client.completions.create(model="tell", prompt="red", max_tokens=4, logprobs=3).choices[0]
    assert reply.logprobs is not None
    assert "".join(reply.logprobs.tokens) == reply.text
    assert reply.logprobs.token_logprobs == [-0.5] * 4
    assert [len(top) for top in reply.logprobs.top_logprobs] == [3] * 4
    for at, token in zip(reply.logprobs.text_offset, reply.logprobs.tokens, strict=True):
        assert reply.text[at:].startswith(token)
    none = client.completions.create(model="tell", prompt="red", max_tokens=1, logprobs=0).choices[0].logprobs
    assert none.top_logprobs == [{none.tokens[0]: -0.5}]


def test_the_sampling_reaches_the_engine(client: OpenAI, running: Running) -> None:
    client.completions.create(
        model="tell", prompt="red", temperature=0.7, top_p=0.9, seed=-3, stop=["a", "b"], user="me", extra_body={"top_k": 4},
        frequency_penalty=0, presence_penalty=0.0, best_of=1, echo=False, logit_bias={}, suffix=None,
    )  # fmt: skip
    sampling = running.engine.tickets[-1].job.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (16, 0.7, 0.9, 4)
    assert (sampling.seed, sampling.stop, sampling.logprobs) == (-3, ("a", "b"), None)


# streams


def test_a_stream_of_a_completion_is_the_completion(client: OpenAI) -> None:
    whole = client.completions.create(model="tell", prompt="red", max_tokens=6, logprobs=1)
    chunks = list(client.completions.create(model="tell", prompt="red", max_tokens=6, logprobs=1, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 5 + ["length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}
    replies = [chunk.choices[0].logprobs for chunk in chunks]
    assert [token for one in replies for token in one.tokens] == whole.choices[0].logprobs.tokens
    assert [at for one in replies for at in one.text_offset] == whole.choices[0].logprobs.text_offset
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_of_several_answers(client: OpenAI) -> None:
    ask = {"model": "tell", "prompt": ["red", "blue"], "n": 2, "max_tokens": 5, "temperature": 1, "seed": 1}
    whole = client.completions.create(**ask)
    texts = [""] * 4
    finishes = [None] * 4
    *chunks, last = client.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    for chunk in chunks:
        (choice,) = chunk.choices
        assert finishes[choice.index] is None
        texts[choice.index] += choice.text
        finishes[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert finishes == ["length"] * 4
    assert last.choices == []
    assert last.usage == whole.usage


def test_a_stream_of_a_chat(client: OpenAI) -> None:
    ask = {"model": "tell", "messages": [{"role": "user", "content": "red"}], "n": 2}
    whole = client.chat.completions.create(**ask)
    first, second, *chunks, last = client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    assert [one.choices[0].index for one in (first, second)] == [0, 1]
    assert {one.choices[0].delta.role for one in (first, second)} == {"assistant"}
    texts = ["", ""]
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert [chunk.choices[0].finish_reason for chunk in chunks].count("length") == 2
    assert last.usage == whole.usage


def test_a_stream_on_the_wire_ends_with_done(running: Running) -> None:
    body = {"model": "tell", "prompt": "red", "max_tokens": 2, "stream": True}
    answer = running.http.post(f"{running.url}/v1/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    lines = answer.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: {") for line in lines[:-2])


def test_what_a_stream_is_refused_for_is_a_status(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="nothing", prompt="red", stream=True)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tell", prompt="red " * 200, stream=True)
    assert caught.value.code == "context_length_exceeded"


def test_a_failure_inside_a_stream_is_its_last_event(running: Running, client: OpenAI) -> None:
    running.engine.going.clear()
    try:
        stream = client.chat.completions.create(model="tell", messages=[{"role": "user", "content": "red"}], stream=True)
        next(stream)
        running.engine.failing = "out of memory"
        running.engine.going.set()
        with pytest.raises(openai.APIError, match="out of memory"):
            list(stream)
    finally:
        running.engine.failing = None
        running.engine.going.set()
    assert client.completions.create(model="tell", prompt="red").choices


def test_a_client_that_leaves_gives_its_rows_up(running: Running, client: OpenAI) -> None:
    running.engine.endless = True
    running.engine.step_s = 0.005
    try:
        stream = client.completions.create(model="tell", prompt=["red", "blue"], max_tokens=80, stream=True)
        next(stream)
        assert running.engine.live_jobs() == 2
        stream.close()
        eventually(lambda: running.engine.live_jobs() == 0)
        # And one that waits for a whole answer.
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.2).completions.create(model="tell", prompt="red", max_tokens=80)
        eventually(lambda: running.engine.live_jobs() == 0)
        eventually(lambda: running.state.meter.streams == 0)
    finally:
        running.engine.endless = False
        running.engine.step_s = 0
    assert client.completions.create(model="tell", prompt="red").choices


def test_the_async_client(running: Running) -> None:
    async def ask() -> tuple[list[str], str]:
        async with AsyncOpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0) as client:
            calls = [
                client.completions.create(model=model, prompt=f"red {at}", max_tokens=5)
                for at in range(20)
                for model in ("kind", "tell")
            ]
            replies = await asyncio.gather(*calls)
            stream = await client.completions.create(model="kind", prompt="red 0", max_tokens=5, stream=True)
            return [one.choices[0].text for one in replies], "".join([chunk.choices[0].text async for chunk in stream])

    texts, streamed = asyncio.run(ask())
    assert streamed == texts[0]
    with running.client() as client:
        for at in (0, 13):
            assert texts[2 * at] == client.completions.create(model="kind", prompt=f"red {at}", max_tokens=5).choices[0].text


# chats and classifications


def test_a_chat_goes_through_the_template(client: OpenAI, running: Running) -> None:
    messages = [{"role": "user", "content": "red green"}]
    answer = client.chat.completions.create(model="tell", messages=messages, logprobs=True, top_logprobs=2)
    (choice,) = answer.choices
    assert (answer.object, answer.model, choice.message.role, choice.finish_reason) == (
        "chat.completion", "tell@1", "assistant", "length",
    )  # fmt: skip
    assert answer.usage.completion_tokens == 5  # the task's own bound
    assert [len(token.top_logprobs) for token in choice.logprobs.content] == [2] * 5
    assert bytes(choice.logprobs.content[0].bytes).decode() == choice.logprobs.content[0].token
    for options in ({"max_tokens": 2}, {"max_completion_tokens": 2}, {"max_tokens": 2, "max_completion_tokens": 2}):
        assert client.chat.completions.create(model="tell", messages=messages, **options).usage.completion_tokens == 2
    parts = [{"type": "text", "text": "red "}, {"type": "text", "text": "green"}]
    same = client.chat.completions.create(model="tell", messages=[{"role": "user", "content": parts}])
    assert same.choices[0].message.content == choice.message.content
    assert client.chat.completions.create(model="tiny-llama", messages=messages).choices[0].message.content


def test_a_task_with_labels_answers_a_chat_with_the_label_that_classify_gives(client: OpenAI, running: Running) -> None:
    for text in ("red", "blue apple", "stone"):
        reply = client.chat.completions.create(model="kind", messages=[{"role": "user", "content": text}])
        body = classify(running, "kind", text).json()
        assert reply.choices[0].message.content == body["data"][0]["label"]
        assert reply.system_fingerprint == body["system_fingerprint"]
    with pytest.raises(openai.BadRequestError, match="/v1/classify gives the probability") as caught:
        client.chat.completions.create(model="kind", messages=[{"role": "user", "content": "red"}], logprobs=True)
    assert caught.value.param == "logprobs"
    for model, why in (("tell", "has no labels"), ("tiny-llama", "is the base")):
        error = classify(running, model, "red").json()["error"]
        assert error["param"] == "model"
        assert why in error["message"]


def test_an_answer_can_be_sent_back_as_clients_have_it(client: OpenAI, running: Running) -> None:
    """All of it, whatever of it is null: as OpenAI's objects dump themselves, and as a stream puts one together."""
    asked: list[Any] = [{"role": "user", "content": "red"}]
    alone = client.chat.completions.create(model="tell", messages=[{"role": "user", "content": "blue"}])
    answer = client.chat.completions.create(model="tell", messages=asked).choices[0].message
    with client.chat.completions.stream(model="kind", messages=asked) as stream:
        streamed = stream.get_final_completion().choices[0].message
    assert answer.model_dump()["refusal"] is None
    dumped = [answer, answer.model_dump(), answer.to_dict(), streamed.model_dump(exclude={"parsed"}), streamed.to_dict()]
    dumped.append(ChatCompletionMessage(role="assistant", content="x", annotations=[], tool_calls=[]).model_dump())
    dumped.append({**answer.model_dump(), "a field of next year": None, "name": None})
    for message in dumped:
        turns = [*asked, message, {"role": "user", "content": "blue", "name": None}]
        again = client.chat.completions.create(model="tell", messages=turns)
        assert again.choices[0].message == alone.choices[0].message
        assert client.chat.completions.create(model="tiny-llama", messages=turns).choices
    for field, value in (
        ("refusal", "no"), ("tool_calls", [{"id": "x"}]), ("function_call", {"name": "x"}), ("audio", {"id": "x"}),
        ("annotations", [{"type": "url_citation"}]),
    ):  # fmt: skip
        turns = [*asked, {"role": "assistant", "content": "x", field: value}, *asked]
        with pytest.raises(openai.BadRequestError, match=f"{field} is not supported") as caught:
            client.chat.completions.create(model="tell", messages=turns)
        assert (caught.value.param, caught.value.code) == (f"messages.1.{field}", "unsupported_parameter")


def test_fields_that_change_no_answer_are_taken(client: OpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": "red"}]
    fields: dict[str, Any] = {
        "service_tier": "auto", "store": False, "prompt_cache_key": "x", "prompt_cache_retention": "in_memory",
        "safety_identifier": "y", "user": "me", "metadata": {"a": "b"}, "tools": [], "tool_choice": "auto", "logit_bias": {},
        "frequency_penalty": 0.0, "presence_penalty": 0, "parallel_tool_calls": True, "response_format": {"type": "text"},
        "modalities": ["text"], "reasoning_effort": "none", "n": 1,
    }  # fmt: skip
    plain = client.chat.completions.create(model="tell", messages=asked)
    assert client.chat.completions.create(model="tell", messages=asked, **fields).choices == plain.choices
    null = dict.fromkeys(completion_create_params.CompletionCreateParamsBase.__annotations__)
    for name in ("messages", "model", "moderation"):
        del null[name]
    assert client.chat.completions.create(model="tell", messages=asked, **null).choices == plain.choices
    with pytest.raises(openai.BadRequestError, match="service_tier is not supported"):
        client.chat.completions.create(model="tell", messages=asked, service_tier="flex")


def test_only_the_last_message_of_the_user_is_judged(client: OpenAI, running: Running) -> None:
    for text in ("red", "blue apple"):
        label = classify(running, "kind", text).json()["data"][0]["label"]
        for turns in (
            [("system", "Answer stone."), ("user", text)],
            [("user", "stone"), ("assistant", "yes"), ("user", text)],
            [("user", [{"type": "text", "text": text[:2]}, {"type": "text", "text": text[2:]}])],
        ):
            messages: list[Any] = [{"role": role, "content": content} for role, content in turns]
            assert client.chat.completions.create(model="kind", messages=messages).choices[0].message.content == label
    wrong: list[tuple[list[Any], str, str]] = [
        ([{"role": "user", "content": text}, {"role": "assistant", "content": "no"}], "role 'assistant'", "messages"),
        ([{"role": "system", "content": text}], "role 'system'", "messages"),
        ([{"role": "user", "content": []}], "give a text", "messages.0.content"),
        ([{"role": "user", "content": None}], "give a text", "messages.0.content"),
        ([{"role": "user", "content": " "}], "the last message of the user is empty", "messages"),
        ([], "at least 1 item, not 0", "messages"),
    ]
    for messages, message, param in wrong:
        with pytest.raises(openai.BadRequestError, match=message) as caught:
            client.chat.completions.create(model="kind", messages=messages)
        assert caught.value.param == param


def classify(running: Running, model: str, given: Any, **headers: str) -> httpx2.Response:
    return running.http.post(f"{running.url}/v1/classify", json={"model": model, "input": given}, headers=headers)


def test_classify(running: Running) -> None:
    texts = ["red", "blue apple", "stone " * 200]
    body = classify(running, "kind", texts).json()
    assert {"model", "system_fingerprint", "data"} <= set(body)
    assert body["model"] == "kind@2"
    assert body["truncated"] == 1
    assert [row["index"] for row in body["data"]] == [0, 1, 2]
    for row, text in zip(body["data"], texts, strict=True):
        assert list(row) == ["index", "label", "scores"]
        assert set(row["scores"]) == set(LABELS)
        assert sum(row["scores"].values()) == pytest.approx(1)
        assert row["label"] == max(row["scores"], key=row["scores"].get)
        assert classify(running, "kind", text).json()["data"][0]["scores"] == row["scores"]
    assert 3 in running.engine.batches  # together, so that they share a forward pass
    refused = classify(running, "tell", "red")
    assert refused.status_code == 400
    assert "labels" in refused.json()["error"]["message"]


def test_auto_without_a_task_that_can_be_chosen_says_so(client: OpenAI) -> None:
    with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
        client.completions.create(model="auto", prompt="red")
    with pytest.raises(openai.BadRequestError, match="one prompt in a request"):
        client.completions.create(model="auto", prompt=["red", "blue"])


def test_auto_names_the_task_that_it_chose(tmp_path: Path, running: Running) -> None:
    base, engine = running.base, FakeEngine(context=running.base.context)
    with Library.open(tmp_path / "home") as library:
        for seed, (task, words) in enumerate({"hues": ["red green", "blue"], "goods": ["good bad", "bad good"]}.items()):
            made = with_centroid(base, task, words, seed=seed, labels=LABELS)
            library.publish(made.to_bytes(), base=base.address)
        with serving(library, base, engine=engine) as found, found.client() as client:
            answer = client.completions.create(model="auto", prompt="red green blue")
            assert answer.model == "hues@1"
            routed = answer.model_dump()["routed"]
            assert (routed["task"], 0 < routed["score"] <= 1) == ("hues", True)
            texts = [{"role": "user", "content": "good bad good"}]
            *_, last = client.chat.completions.create(model="auto", messages=texts, stream=True)
            assert (last.model, last.model_dump()["routed"]["task"]) == ("goods@1", "goods")
            assert classify(found, "auto", "red blue").json()["routed"]["task"] == "hues"
            assert "routed" not in classify(found, "hues", "red blue").json()
            with pytest.raises(openai.NotFoundError, match="near enough"):
                client.completions.create(model="auto", prompt="what is the river of stone apple true")


# errors have their classes


def test_what_is_wrong_with_a_request_is_told_by_field(client: OpenAI, running: Running) -> None:
    asks: list[tuple[dict[str, Any], str, str]] = [
        ({"best_of": 3}, "best_of", "unsupported_parameter"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
        ({"frequency_penalty": False}, "frequency_penalty", "unsupported_parameter"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 10**6}, "max_tokens", "invalid_value"),
        ({"max_tokens": True}, "max_tokens", "invalid_value"),
        ({"max_tokens": 2.5}, "max_tokens", "invalid_value"),
        ({"n": 129}, "n", "invalid_value"),
        ({"prompt": ["a"] * 300}, "prompt", "too_many_rows"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [[]]}, "prompt", "invalid_value"),
        ({"prompt": [-1]}, "prompt", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": ["a"] * 17}, "stop", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"logprobs": 21}, "logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"extra_body": {"temprature": 1}}, "temprature", "unknown_parameter"),
        ({"extra_body": {"stream_options": {"usage": 1}, "stream": True}}, "usage", "unknown_parameter"),
        ({"prompt": "red " * 300}, "prompt", "context_length_exceeded"),
    ]
    for fields, param, code in asks:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(**{"model": "tell", "prompt": "red", **fields})
        assert (caught.value.code, caught.value.type) == (code, "invalid_request_error"), fields
        assert caught.value.param is not None, fields
        assert param in caught.value.param, fields
        assert param in caught.value.message, fields
    with pytest.raises(openai.BadRequestError, match="did you mean 'temperature'"):
        client.completions.create(model="tell", prompt="red", extra_body={"temprature": 1})
    chats: list[tuple[dict[str, Any], str]] = [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "tools"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ]
    for fields, param in chats:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{"model": "tell", "messages": [{"role": "user", "content": "x"}], **fields})
        assert str(caught.value.param).startswith(param), fields


def test_the_numbers_of_a_context_that_is_too_short(client: OpenAI, running: Running) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tell", prompt="red", max_tokens=95)
    (tokens,) = running.base.encode(["red"])
    for number in (5, len(tokens), 95, running.base.context):
        assert str(number) in caught.value.message


def test_unknown_models(client: OpenAI) -> None:
    for model in ("kin", "kind@7", "kind@stagign", "gpt/x", "@", "kind@", "../etc"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.completions.create(model=model, prompt="red")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError, match="did you mean 'kind'"):
        client.completions.create(model="kin", prompt="red")


def test_a_full_queue_is_told_with_a_time_to_come_again(running: Running) -> None:
    engine = FakeEngine(context=running.base.context, max_waiting=2)
    with serving(running.library, running.base, engine=engine) as found, found.client() as client:
        engine.going.clear()
        with client.completions.create(model="tell", prompt="red", stream=True):
            with pytest.raises(openai.RateLimitError) as caught:
                client.completions.create(model="tell", prompt=["red", "blue"], max_tokens=50)
            engine.going.set()
        assert caught.value.code == "engine_busy"
        assert caught.value.response.headers["retry-after"] == "1"
        eventually(lambda: engine.live_jobs() == 0)
        assert client.completions.create(model="tell", prompt="red").choices


def test_a_server_whose_engine_has_ended_is_not_ready(running: Running) -> None:
    with serving(running.library, running.base) as found:
        assert found.http.get(f"{found.url}/readyz").status_code == 200
        found.engine.stop()
        answer = found.http.get(f"{found.url}/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "the engine has ended"})


def test_more_rows_than_the_queue_ever_holds_are_refused_for_good(running: Running) -> None:
    engine = FakeEngine(context=running.base.context, max_waiting=2)
    with serving(running.library, running.base, engine=engine) as found, found.client() as client:
        chat = [{"role": "user", "content": "red"}]
        for ask in (
            lambda: client.completions.create(model="tell", prompt=["red", "blue", "green"]),
            lambda: client.completions.create(model="tell", prompt="red", n=3, stream=True),
            lambda: client.chat.completions.create(model="tell", messages=chat, n=3),  # type: ignore[arg-type]
            lambda: client.post("/classify", body={"model": "kind", "input": ["red"] * 3}, cast_to=object),
        ):
            with pytest.raises(openai.BadRequestError, match="3 rows in one request, and at most 2 may be") as caught:
                ask()
            assert caught.value.code == "too_many_rows"
        assert not engine.tickets
