"""A request's user: who has a prompt of their own gets it, a stranger the shared one, and a key says for whom it may ask."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from softprompt.library import personal, tenants
from softprompt.library.library import Library
from tests.http_server import LABELS, Running, fill, serving
from tests.models import make_base, some_prompt


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    base, library = make_base("llama"), Library.open(tmp_path / "home")
    fill(library, base)
    files = [
        (user, some_prompt(base, "kind", seed=seed, rows=3, labels=LABELS).to_bytes())
        for user, seed in (("ann", 8), ("bob", 9))
    ]
    personal.publish(library, "kind", files, base=base.address)
    with serving(library, base) as running:
        yield running


def bodies(user: str | None, model: str = "kind") -> dict[str, dict[str, Any]]:
    said = {"model": model} | ({} if user is None else {"user": user})
    return {
        "/v1/classify": said | {"input": "a text"},
        "/v1/completions": said | {"prompt": "a text", "max_tokens": 2},
        "/v1/chat/completions": said | {"messages": [{"role": "user", "content": "a text"}]},
    }


def answer(server: Running, path: str, body: dict[str, Any], key: str | None = None) -> Any:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return server.http.post(f"{server.url}{path}", json=body, headers=headers).json()


def prints(server: Running, user: str | None, model: str = "kind") -> set[tuple[str, str]]:
    answers = [answer(server, path, body) for path, body in bodies(user, model).items()]
    return {(one["model"], one["system_fingerprint"].partition("-")[2]) for one in answers}


def test_two_users_get_their_own_and_a_stranger_the_shared_one(server: Running) -> None:
    shared = server.library.registry.resolve("kind")
    for user in ("ann", "bob"):
        own = server.library.registry.personal.resolve("kind", user)
        assert prints(server, user) == {(f"kind~{user}@1", own.digest[:12])}
    for stranger in (None, "eve", "", "Frau M\u00fcller~/"):
        assert prints(server, stranger) == {("kind@2", shared.digest[:12])}
    assert prints(server, "ann", "kind@2") == {("kind@2", shared.digest[:12])}
    for name in ("kind~ann", "kind~ann@1"):
        for path, body in bodies(None, name).items():
            assert answer(server, path, body)["error"]["code"] == "model_not_found"
    models = server.http.get(f"{server.url}/v1/models").json()["data"]
    assert not [one for one in models if "~" in one["id"]]


def test_once_erased_the_shared_one_answers_and_nothing_stays_in_memory(server: Running) -> None:
    assert prints(server, "ann") != prints(server, "eve")
    before = server.service.residents.status().prompts
    personal.erase(server.library, "kind", "ann")
    time.sleep(0.1)  # as long as the registry's last word holds, and more
    assert prints(server, "ann") == prints(server, "eve")
    assert server.service.residents.status().prompts == before - 1


def test_of_a_tenant_that_is_erased_nothing_is_answered_with(server: Running) -> None:
    assert prints(server, "ann") != prints(server, "eve")
    other = server.library.for_tenant("other")
    other.publish(server.library.read("kind"), base=server.base.address)
    tenants.erase(server.library, "default")
    time.sleep(0.1)
    for user in ("ann", "eve"):
        for path, body in bodies(user).items():
            assert answer(server, path, body)["error"]["code"] == "model_not_found"
    assert server.http.get(f"{server.url}/v1/models").json()["data"][1:] == []
    assert other.read("kind")


def test_a_key_may_ask_for_its_users_alone(server: Running) -> None:
    keys = server.library.registry.keys
    some, every = keys.create("some", ["predict"], ["ann"]).secret, keys.create("every", ["predict"]).secret
    for path, body in bodies("bob").items():
        error = answer(server, path, body, some)["error"]
        assert (error["code"], error["param"]) == ("insufficient_permissions", "user")
        assert error["message"].startswith("key 'some' may not ask for user 'bob' (it may for ann)")
        assert answer(server, path, body, every)["model"] == "kind~bob@1"
    for user, model in (("ann", "kind~ann@1"), (None, "kind@2")):
        assert answer(server, "/v1/classify", bodies(user)["/v1/classify"], some)["model"] == model
