"""An experiment as clients meet it: who gets which version, ids that tell it, and what they say of answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from openai import OpenAI

from softprompt.bases.base import FrozenBase
from softprompt.engines.protocol import ScoreJob
from softprompt.library import personal
from softprompt.library.library import Library
from softprompt.lifecycle import experiments
from softprompt.registry import tables
from softprompt.registry.traffic.experiments import CANDIDATE, Experiment
from softprompt.serving.routing.split import arm_of
from tests.http_server import LABELS, Running, fill, serving
from tests.library_data import state_of
from tests.models import some_prompt

USERS = [f"user-{number}" for number in range(16)]
FRESH_S = 0.1
"""Longer than the registry's last word holds."""


@pytest.fixture
def running(tmp_path: Path, base_folder: Path) -> Iterator[Running]:
    base = FrozenBase.load(str(base_folder))
    with Library.open(tmp_path / "home") as library:
        fill(library, base)
        library.promote("kind@1")
        with serving(library, base) as found:
            yield found


@pytest.fixture
def client(running: Running) -> Iterator[OpenAI]:
    with running.client() as made:
        yield made


def begin(running: Running, **options: Any) -> Experiment:
    made = experiments.start(running.library, "kind", **options)
    time.sleep(FRESH_S)
    return made


def chat(client: OpenAI, model: str = "kind", **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": "red"}], **options)


def post(running: Running, body: dict[str, Any], path: str = "/v1/feedback", key: str | None = None, **headers: str) -> Any:
    sent = headers | ({} if key is None else {"authorization": f"Bearer {key}"})
    return running.http.post(f"{running.url}{path}", json=body, headers={k.replace("_", "-"): v for k, v in sent.items()})


def arms(running: Running) -> dict[str, Any]:
    return {row["arm"]: row for row in experiments.status(running.library, "kind")}


def test_a_bare_name_is_split_by_user_and_nothing_else_is(running: Running, client: OpenAI) -> None:
    assert {chat(client, user=user).model for user in USERS} == {"kind@1"}
    made = begin(running)
    got = {user: chat(client, user=user).model for user in USERS}
    assert got == {user: made.ref_of(arm_of(made, user)) for user in USERS}
    assert set(got.values()) == {"kind@1", "kind@2"}
    for user in USERS[:4]:  # by every route, and again
        said = {"model": "kind", "user": user}
        assert post(running, said | {"input": "red"}, "/v1/classify").json()["model"] == got[user]
        assert client.completions.create(model="kind", prompt="red", user=user).model == got[user]
        chunks = list(chat(client, user=user, stream=True))
        assert {chunk.model for chunk in chunks} == {got[user]}
        for name in ("kind@1", "kind@2"):
            assert chat(client, name, user=user).model == name
        assert chat(client, "kind@production", user=user).model == "kind@1"
    files = [("user-0", some_prompt(running.base, "kind", seed=8, rows=3, labels=LABELS).to_bytes())]
    personal.publish(running.library, "kind", files, base=running.base.address)
    time.sleep(FRESH_S)
    assert chat(client, user="user-0").model == "kind~user-0@1"
    experiments.stop(running.library, "kind")
    time.sleep(FRESH_S)
    assert {chat(client, user=user).model for user in USERS[1:]} == {"kind@1"}


def test_without_a_user_a_key_tells_requests_apart_and_without_one_each_is_alone(running: Running) -> None:
    made = begin(running)
    ask = {"model": "kind", "input": "red"}
    models = {post(running, ask, "/v1/classify").json()["model"] for _ in range(40)}
    assert models == {"kind@1", "kind@2"}
    for number in range(6):
        name = f"mine-{number}"
        answer = post(running, ask, "/v1/classify", x_request_id=name)
        assert answer.headers["x-request-id"] == name
        arm = arm_of(made, name)
        assert answer.json()["model"] == made.ref_of(arm)
        said = post(running, {"id": name, "model": "kind", "outcome": True}).json()
        assert (said["arm"], said["counted"]) == (arm, True)
    keys = [running.library.registry.keys.create(f"k{number}", ["predict"]) for number in range(6)]
    time.sleep(1.1)  # as long as the server believes that there is none
    for made_key in keys:
        got = {post(running, ask, "/v1/classify", made_key.secret).json()["model"] for _ in range(3)}
        assert got == {made.ref_of(arm_of(made, f"key-{made_key.key.id}"))}
        said = post(running, {"model": "kind", "outcome": 1}, key=made_key.secret).json()
        assert (said["model"], said["counted"]) == (*got, True)


def test_an_outcome_comes_by_the_id_of_the_answer_once(running: Running, client: OpenAI) -> None:
    made = begin(running)
    for user in USERS:
        answer = chat(client, user=user)
        arm = arm_of(made, user)
        first = client.post("/feedback", body={"id": answer.id, "outcome": True}, cast_to=object)
        assert first == {
            "id": first["id"], "object": "feedback", "model": answer.model, "experiment": made.id, "arm": arm,
            "recorded": True, "counted": True,
        }  # fmt: skip
        # The request's own id means the same answer.
        again = post(running, {"id": answer._request_id, "outcome": False}).json()
        assert (again["id"], again["recorded"], again["counted"]) == (first["id"], False, False)
    stream = list(chat(client, user="user-1", stream=True))
    assert post(running, {"id": stream[0].id, "outcome": 0.5}).json()["counted"]
    classified = post(running, {"model": "kind", "input": ["red"], "user": "user-2"}, "/v1/classify").json()
    assert post(running, {"id": classified["id"], "outcome": 0}).json()["counted"]
    completed = client.completions.create(model="kind", prompt="red", user="user-3")
    assert post(running, {"id": completed.id, "outcome": True}).json()["counted"]
    rows = arms(running)
    assert sum(row["outcomes"] for row in rows.values()) == len(USERS) + 3
    assert sum(row["successes"] for row in rows.values()) == len(USERS) + 1.5


def test_a_server_that_did_not_answer_takes_the_outcome(running: Running, client: OpenAI) -> None:
    made = begin(running)
    answers = {user: chat(client, user=user) for user in USERS[:6]}
    with (
        Library.open(running.library.home) as library,
        serving(library, running.base) as other,
        other.client() as other_client,
    ):
        for user, answer in answers.items():
            assert chat(other_client, user=user).model == answer.model
            said = post(other, {"id": answer.id, "outcome": True}).json()
            assert (said["arm"], said["counted"]) == (arm_of(made, user), True)
    assert sum(row["outcomes"] for row in arms(running).values()) == 6


def test_the_better_one_is_in_place_a_moment_later(running: Running, client: OpenAI) -> None:
    made = begin(running, auto=True)
    for number in range(400):
        user = f"u{number}"
        said = {"model": "kind", "user": user, "outcome": arm_of(made, user) == CANDIDATE}
        if post(running, said).json()["counted"] is False:
            break
    assert number < 100
    time.sleep(FRESH_S)
    assert {chat(client, user=user).model for user in USERS} == {"kind@2"}
    assert chat(client, user="user-1").id.count("-") == 1  # no part of an experiment any more


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"outcome": True}, "id", "id is missing"),
        ({"id": "mine-1", "outcome": True}, "model", "does not say what answered"),
        ({"model": "kind"}, "outcome", "nothing is said"),
        ({"model": "kind", "outcome": 1.5}, "outcome", "a number from 0 to 1"),
        ({"model": "kind", "outcome": "good"}, "outcome", "a number from 0 to 1"),
        ({"model": "kind", "outcome": True, "good": 1}, "good", "unknown field"),
        ({"id": f"req_{'0' * 24}-e1a{'0' * 16}", "outcome": True}, "id", "that of no answer"),
        ({"model": "kind", "correct": {"input": "red", "answer": "perhaps"}}, "correct.answer", "perhaps"),
        ({"model": "kind", "correct": {"input": " ", "answer": "yes"}}, "correct.input", "empty"),
        ({"model": "kind", "correct": {"input": {"word": "red"}, "answer": "yes"}}, "correct.input", "text"),
        ({"model": "kind", "correct": {"input": "red"}}, "correct.answer", "missing"),
    ],
)
def test_what_says_nothing_or_nonsense_is_refused(running: Running, body: dict[str, Any], param: str, words: str) -> None:
    answer = post(running, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert words in error["message"]
    assert "softprompt ab" not in error["message"]
    assert running.library.registry.feedback.corrections("kind") == []


def test_feedback_without_an_experiment_is_kept(running: Running, client: OpenAI) -> None:
    answer = chat(client)
    kept = post(running, {"id": answer.id, "model": answer.model, "outcome": False, "comment": "no",
                          "correct": {"input": "red", "answer": "no"}}).json()  # fmt: skip
    assert (kept["model"], kept["experiment"], kept["counted"], kept["recorded"]) == ("kind@1", None, False, True)
    assert post(running, {"model": "kind@2", "correct": {"input": {"text": "blue"}, "answer": "yes"}}).json()["recorded"]
    rows = [one.row for one in running.library.registry.feedback.corrections("kind")]
    assert rows == [{"text": "red", "label": "no"}, {"text": "blue", "label": "yes"}]
    assert post(running, {"model": "nobody", "outcome": True}).status_code == 404


def test_tenants_and_users_of_a_key_are_kept_apart(running: Running, client: OpenAI) -> None:
    made = begin(running)
    answer = chat(client, user="ann")
    registry = running.library.registry
    mine = registry.keys.create("mine", ["predict"], ["ann"]).secret
    other = registry.for_tenant("other").keys.create("other", ["predict"]).secret
    readers = registry.keys.create("reader", ["read"]).secret
    time.sleep(1.1)
    assert post(running, {"id": answer.id, "outcome": True}, key=other).json()["error"]["param"] == "id"
    assert post(running, {"model": "kind", "outcome": True}, key=other).status_code == 404
    assert post(running, {"model": "kind", "user": "bob", "outcome": True}, key=mine).status_code == 403
    assert post(running, {"id": answer.id, "outcome": True}, key=readers).status_code == 403
    assert post(running, {"id": answer.id, "outcome": True}).status_code == 401
    assert arms(running)["control"]["outcomes"] + arms(running)["candidate"]["outcomes"] == 0
    assert post(running, {"id": answer.id, "user": "ann", "outcome": True}, key=mine).json()["arm"] == arm_of(made, "ann")


def compared(running: Running, count: int) -> dict[str, Any]:
    end = time.monotonic() + 10
    while (row := arms(running)["control"])["compared"] < count:
        assert time.monotonic() < end
        time.sleep(0.02)
    return dict(row)


def test_in_the_shadow_all_get_the_control_and_the_candidate_is_compared(running: Running, client: OpenAI) -> None:
    begin(running, shadow=True)
    engine = running.engine
    said = {(user, chat(client, user=user).model) for user in USERS[:5]}
    assert {model for _, model in said} == {"kind@1"}
    right = {"kind@1": None, "kind@2": None}
    for name in right:
        right[name] = chat(client, name).choices[0].message.content
    row = compared(running, 5)
    assert row["agreed"] == (5 if right["kind@1"] == right["kind@2"] else 0)
    words = ["red", "green", "blue", "apple"]
    labels = [
        [one["label"] for one in post(running, {"model": name, "input": words}, "/v1/classify").json()["data"]]
        for name in right
    ]
    post(running, {"model": "kind", "input": words}, "/v1/classify")
    more = compared(running, 9)
    assert more["agreed"] - row["agreed"] == sum(one == two for one, two in zip(*labels, strict=True))
    client.completions.create(model="kind", prompt="red", temperature=1, seed=3)  # what is drawn is not compared
    client.completions.create(model="kind", prompt="red", max_tokens=3)
    assert compared(running, 10)["compared"] == 10
    digests = [ticket.job.prompt.digest for ticket in engine.tickets if isinstance(ticket.job, ScoreJob)]
    assert len(set(digests)) == 2
    assert "apple" not in "".join(map(str, state_of(running.library.home)["registry.db"]))  # as it came in


def test_answers_that_are_one_and_the_same_are_compared_once(running: Running, client: OpenAI) -> None:
    """`n` greedy answers to a prompt are one, each prompt of several counts, and a label is never drawn."""
    begin(running, shadow=True)
    greedy = {"model": "kind", "n": 4, "max_tokens": 3}
    chat(client, n=4)
    assert compared(running, 1)["compared"] == 1
    list(chat(client, n=4, seed=7, stream=True))
    client.completions.create(prompt=["red", "blue"], **greedy)
    list(client.completions.create(prompt="red", stream=True, **greedy))
    assert compared(running, 5)["compared"] == 5
    chat(client, n=3, temperature=1)
    client.completions.create(prompt="red", temperature=1, **greedy)
    chat(client)
    assert compared(running, 7)["compared"] == 7
    chat(client)
    assert compared(running, 8)["compared"] == 8


def test_a_candidate_that_is_slow_in_the_shadow_delays_nobody(running: Running, client: OpenAI) -> None:
    begin(running, shadow=True)
    chat(client)
    compared(running, 1)
    control = running.library.registry.resolve("kind@1").digest
    score = running.engine.score

    def slow(digest: str, *more: Any) -> float:
        if digest != control:
            time.sleep(0.2)  # three labels: 0.6 s
        return float(score(digest, *more))

    running.engine.score = slow
    began = time.monotonic()
    chat(client)
    assert time.monotonic() - began < 0.5
    compared(running, 2)


def test_what_is_said_of_a_users_own_version_is_that_users(running: Running, client: OpenAI) -> None:
    """By the name that the answer had, or by task and user; and no correction of it is learnt by what all others share."""
    files = [("ann", some_prompt(running.base, "kind", seed=8, rows=3, labels=LABELS).to_bytes())]
    personal.publish(running.library, "kind", files, base=running.base.address)
    time.sleep(FRESH_S)
    answer = chat(client, user="ann")
    assert answer.model == "kind~ann@1"
    for said in ({"model": answer.model}, {"model": "kind", "user": "ann"}, {"model": answer.model, "user": "ann"}):
        kept = post(running, said | {"id": f"id-{len(said)}-{said['model']}", "outcome": False}).json()
        assert (kept["model"], kept["experiment"], kept["recorded"]) == ("kind~ann@1", None, True)
        refused = post(running, said | {"outcome": False, "correct": {"input": "red", "answer": "no"}})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "correct")
        assert "kind~ann@1 answered, which is that user's own" in refused.json()["error"]["message"]
        assert "kind@1" in refused.json()["error"]["message"]
    assert running.library.registry.feedback.corrections("kind") == []
    shared = {"model": "kind@1", "user": "ann", "correct": {"input": "red", "answer": "no"}}
    assert post(running, shared).json()["model"] == "kind@1"
    wrong = {"kind~ann@2": 404, "kind~bob@1": 404, "kind~ann": 400, "kind~ann@production": 400, "~ann@1": 400}
    for model, status in wrong.items():
        assert post(running, {"model": model, "outcome": True}).status_code == status
    mixed = post(running, {"model": "kind~ann@1", "user": "bob", "outcome": True})
    assert (mixed.status_code, mixed.json()["error"]["param"]) == (400, "user")

    def kept_of() -> list[str | None]:
        with running.library.registry.database.read() as connection:
            return list(connection.execute(sa.select(tables.feedback.c.person)).scalars())

    assert sorted(map(str, kept_of())) == ["None", "ann", "ann", "ann"]
    personal.erase(running.library, "kind", "ann")
    assert kept_of() == [None]
    secret = running.library.registry.keys.create("bobs", ["predict"], ["bob"]).secret
    time.sleep(1.1)
    assert post(running, {"model": "kind~ann@1", "outcome": True}, key=secret).status_code == 403


def test_a_comment_that_no_registry_keeps_is_the_clients_fault(running: Running, client: OpenAI) -> None:
    answer = post(running, {"id": chat(client).id, "model": "kind", "comment": "a\0b"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
    assert "holds the character NUL" in answer.json()["error"]["message"]
