"""`/v1/decisions` by OpenAI's own client, on a server with a real engine; and what is refused, with the field."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.lib.decisions_tool_runner import DecisionsToolRunner
from openai.types.decision import Decision

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuous import ContinuousEngine
from softprompt.http.auth import Keyring
from softprompt.http.limits import Limits
from softprompt.library.library import Library
from softprompt.model.architecture import architecture_of
from tests.http_server import LABELS, EngineOn, Running, fill, serving
from tests.models import some_prompt

BASE = "tiny-llama"
RED: Any = {"type": "predicate", "name": "red", "instructions": "It is red"}
KIND: Any = {"type": "choice", "name": "kind", "instructions": "Which?", "choices": [{"value": one} for one in LABELS]}
GOOD: Any = {
    "type": "score", "instructions": "How good?", "levels": [{"label": "bad"}, {"label": "good", "description": "Not bad"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, base_folder: Path, engine_on: EngineOn) -> Iterator[Running]:
    base = FrozenBase.load(str(base_folder))
    with Library.open(tmp_path_factory.mktemp("home")) as library:
        fill(library, base)
        recipe = {"decision": {key: RED[key] for key in ("type", "instructions")}, "temperature": 2.0}
        library.publish(some_prompt(base, "red", labels=("yes", "no"), recipe=recipe).to_bytes(), base=base.address)
        with serving(library, base, engine=engine_on(base)) as found:
            yield found


def test_the_base_answers_any_question(client: OpenAI, running: Running) -> None:
    both: Any = {
        "type": "choice",
        "instructions": "Is it?",
        "choices": [{"value": True}, {"value": "true"}, {"value": False}],
    }
    decision = client.decisions.create(model=BASE, input="the red apple", questions=[RED, KIND, GOOD, both])
    assert isinstance(decision, Decision)
    predicate, choice, score, typed = decision.answers
    assert predicate.type == "predicate"
    assert (predicate.name, 0 < predicate.probability < 1) == ("red", True)
    assert choice.type == "choice"
    assert [one.value for one in choice.probabilities] == list(LABELS)
    assert sum(one.probability for one in choice.probabilities) == pytest.approx(1)
    best = max(choice.probabilities, key=lambda one: one.probability)
    assert (choice.choice, choice.confidence, choice.name) == (best.value, best.probability, "kind")
    assert score.type == "score"
    assert [(one.label, one.value) for one in score.probabilities] == [("bad", 0), ("good", 1)]
    assert score.score == pytest.approx(score.probabilities[1].probability)
    assert score.confidence == max(one.probability for one in score.probabilities)
    assert score.name is None
    assert typed.type == "choice"
    assert [(type(one.value), one.value) for one in typed.probabilities] == [(bool, True), (str, "true"), (bool, False)]
    assert type(typed.choice) is type(max(typed.probabilities, key=lambda one: one.probability).value)
    usage = decision.usage
    assert (usage.output_tokens, usage.output_tokens_details.reasoning_tokens) == (0, 0)
    assert usage.input_tokens == usage.total_tokens > len(running.base.encode(["the red apple"])[0])
    assert decision.model == BASE
    assert decision.model_dump()["system_fingerprint"] == running.base.fingerprint[:12]


def test_a_task_answers_its_own_question_and_refuses_others(client: OpenAI) -> None:
    kind = client.decisions.create(model="kind", input="the red apple", questions=[KIND, RED])
    choice, refused = kind.answers
    assert kind.model == "kind@2"
    assert choice.type == "choice"
    scores = {one.value: one.probability for one in choice.probabilities}
    classified = client.post("/classify", body={"model": "kind", "input": "the red apple"}, cast_to=object)
    assert scores == pytest.approx(classified["data"][0]["scores"], abs=1e-6)  # type: ignore[index]
    assert refused.type == "refusal"
    assert refused.name == "red"
    assert "ask for a choice among" in refused.model_dump()["reason"]
    red = client.decisions.create(model="red", input="the red apple", questions=[RED, KIND])
    assert [answer.type for answer in red.answers] == ["predicate", "refusal"]
    classified = client.post("/classify", body={"model": "red", "input": "the red apple"}, cast_to=object)
    own = classified["data"][0]["scores"]  # type: ignore[index]
    odds = (math.log(own["yes"]) - math.log(own["no"])) / 2.0  # at its temperature
    assert red.answers[0].probability == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-5)  # type: ignore[union-attr]


def test_four_hundred_questions_come_back_in_order(client: OpenAI) -> None:
    questions: Any = [{**RED, "name": str(number), "instructions": f"It is {number}"} for number in range(400)]
    decision = client.decisions.create(model=BASE, input="red", questions=questions)
    assert [answer.name for answer in decision.answers] == [str(number) for number in range(400)]
    (alone,) = client.decisions.create(model=BASE, input="red", questions=[questions[137]]).answers
    assert alone.probability == pytest.approx(decision.answers[137].probability, abs=1e-5)  # type: ignore[union-attr]
    with pytest.raises(openai.BadRequestError) as caught:
        client.decisions.create(model=BASE, input="red", questions=[*questions, RED])
    assert caught.value.param == "questions"


def test_inputs_of_many_kinds_are_one_text(client: OpenAI) -> None:
    def asked(given: Any, instructions: Any = "It is red") -> float:
        question: Any = {**RED, "instructions": instructions}
        (answer,) = client.decisions.create(model=BASE, input=given, questions=[question]).answers
        return answer.probability  # type: ignore[union-attr, return-value]

    def user(*parts: Any) -> Any:
        return [{"role": "user", "content": list(parts)}]

    text = {"type": "input_text", "text": "red", "prompt_cache_breakpoint": {"mode": "explicit"}}
    assert asked(user(text)) == asked([{"type": "message", "role": "user", "content": "red"}]) == asked("red")
    data = {"b": [1, None], "a": "é"}
    assert asked(user(text, {"type": "input_json", "data": data})) == asked('red\n{"b":[1,null],"a":"é"}')
    assert asked("red", [{"type": "input_json", "data": [{"a": 1}]}]) == asked("red", '[{"a":1}]')
    talk: Any = [
        {"role": "system", "content": "be"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "so"}, {"type": "refusal", "refusal": "no"}]},
    ]
    assert asked(talk) == asked("system: be\nassistant: so\nno")
    calls: Any = [
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}", "status": "completed"},
        {"type": "function_call_output", "call_id": "1", "output": "red"},
    ]
    assert asked(calls) == asked("assistant: f({})\ntool: red")
    calls = [
        {"type": "custom_tool_call", "call_id": "1", "name": "f", "input": "it"},
        {"type": "custom_tool_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "blue"}]},
    ]
    assert asked(calls) == asked("assistant: f(it)\ntool: blue")


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"questions": []}, "questions", "at least 1"),
    ({"input": []}, "input", "at least 1"),
    ({"input": " "}, "input", "empty"),
    ({"input": 3}, "input", "list"),
    ({"model": "none"}, "model", "none"),
    ({"temperature": 1}, "temperature", "unknown field"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input.0.content.0.type",
     "input_image is not supported"),
    ({"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]}, "input.0.content",
     "has no output_text"),
    ({"input": [{"role": "system", "content": [{"type": "input_json", "data": {}}]}]}, "input.0.content",
     "has no input_json"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role", "'user'"),
    ({"input": [{"role": "user"}]}, "input.0.content", "needs it"),
    ({"input": [{"role": "user", "content": "x", "call_id": "1"}]}, "input.0.call_id", "has none"),
    ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, "input.0.call_id", "no call '1'"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input.0.content.0.text", "needs it"),
    ({"input": [{"role": "user", "content": [{"type": "input_json", "data": [1]}]}]}, "input.0.content.0.data", "an object"),
    ({"questions": [{**RED, "type": "rank"}]}, "questions.0.type", "'score'"),
    ({"questions": [{**RED, "instructions": ""}]}, "questions.0.instructions", "empty"),
    ({"questions": [{**RED, "choices": []}]}, "questions.0.choices", "has none"),
    ({"questions": [RED, {**GOOD, "levels": None}]}, "questions.1.levels", "needs them"),
    ({"questions": [{**KIND, "choices": [{"value": "a"}]}]}, "questions.0.choices", "2 to 255"),
    ({"questions": [{**KIND, "choices": [{"value": "a"}] * 2}]}, "questions.0.choices", "more than once"),
    ({"questions": [{**KIND, "choices": [{"value": str(n)} for n in range(256)]}]}, "questions.0.choices", "2 to 255"),
    ({"questions": [{**KIND, "choices": [{"value": 1}, {"value": 2}]}]}, "questions.0.choices.0.value", "true or false"),
    ({"questions": [{**GOOD, "level": 1}]}, "questions.0.level", "did you mean 'levels'"),
    ({"questions": [{**KIND, "choices": [{"value": str(n)} for n in range(250)]}] * 41}, "questions", "10250 options"),
    ({"input": "red " * 200}, "input", "shorten the input"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "param", "said"), WRONG)
def test_what_is_wrong_is_named(client: OpenAI, changes: dict[str, Any], param: str, said: str) -> None:
    body: Any = {"model": BASE, "input": "red", "questions": [RED]} | changes
    with pytest.raises(openai.APIStatusError) as caught:
        client.post("/decisions", body=body, cast_to=object)
    assert caught.value.status_code == (404 if param == "model" else 400)
    assert (caught.value.param, said in caught.value.message) == (param, True), caught.value.message


def test_json_in_an_input_is_bounded(client: OpenAI) -> None:
    deep: dict[str, Any] = {}
    for _ in range(32):
        deep = {"a": deep}
    for data, said in (({"a": "é" * (128 << 10)}, "bytes"), ({"a": [0] * 10_000}, "values"), (deep, "levels")):
        given: Any = [{"role": "user", "content": [{"type": "input_json", "data": data}]}]
        with pytest.raises(openai.BadRequestError, match=said) as caught:
            client.decisions.create(model=BASE, input=given, questions=[RED])
        assert caught.value.param == "input.0.content.0.data"


def test_the_asynchronous_client_and_its_hints(running: Running) -> None:
    async def ask() -> Decision:
        async with AsyncOpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0) as asking:
            return await asking.decisions.create(
                model="kind", input="red", questions=[KIND], prompt_cache_key="a", safety_identifier="b",
                prompt_cache_options={"mode": "implicit", "ttl": "30m"},
            )  # fmt: skip

    assert asyncio.run(ask()).answers[0].type == "choice"


def test_the_clients_runner_of_tools_selects_by_decisions(tmp_path: Path) -> None:
    base, done = FrozenBase.load("builtin/tiny"), list[str]()

    def candidates(_: Any) -> list[Any]:
        go: Any = {"id": "open", "description": "Open the door", "execute": lambda: done.append("open")}
        return [go, {"id": "done", "description": "The door is open", "done": True}][bool(done) :]

    runner = DecisionsToolRunner(observe=lambda: "The door is shut", candidates=candidates, verify=lambda _: True)
    with (
        Library.open(tmp_path / "home") as library,
        serving(library, base, engine=ContinuousEngine(architecture_of(base))) as found,
        found.client() as client,
    ):
        result = runner.run(client, {"model": "builtin/tiny", "input": "Open the door"}, max_steps=3)
    assert result["status"] == "verified"
    assert result["attempted_candidate_ids"] == done
    (first, *_) = result["decisions"]
    assert first.answers[0].type == "choice"


def test_keys_rates_and_tenants_count_as_elsewhere(tmp_path: Path, base_folder: Path) -> None:
    base = FrozenBase.load(str(base_folder))
    with Library.open(tmp_path / "home") as library:
        fill(library, base)
        theirs = library.for_tenant("other").registry.keys.create("theirs", ["predict"])
        admin = library.registry.keys.create("admin", ["train"])
        limits = Limits(tokens_per_minute=60)
        with serving(library, base, limits=limits, keyring=Keyring(library.registry)) as running:
            with running.client(theirs.secret) as client:
                with pytest.raises(openai.NotFoundError):
                    client.decisions.create(model="kind", input="red", questions=[KIND])
                client.decisions.create(model=BASE, input="red " * 30, questions=[RED])
                with pytest.raises(openai.RateLimitError):
                    client.decisions.create(model=BASE, input="red", questions=[RED])
            with running.client(admin.secret) as client, pytest.raises(openai.PermissionDeniedError):
                client.decisions.create(model=BASE, input="red", questions=[RED])


def test_a_decision_is_counted(running: Running, client: OpenAI) -> None:
    client.decisions.create(model="kind", input="red", questions=[KIND])
    text = running.http.get(f"{running.url}/metrics").text
    assert 'task="kind"' in text
    assert json.loads(running.http.get(f"{running.url}/openapi.json").text)["paths"]["/v1/decisions"]["post"]["summary"]
