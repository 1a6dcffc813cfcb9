"""Our routes at the address of another server: which of the two a request is for, and what keeps ours from starting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from softprompt.bases.base import FrozenBase
from softprompt.errors import ConfigError, LibraryError, RegistryError, SoftPromptError
from softprompt.http.app import create_app
from softprompt.http.auth import Keyring
from softprompt.http.state import ServerState
from softprompt.library.library import Library
from softprompt.serving.service import AsyncService
from softprompt.vllm.middleware import SoftPrompts, serve_beside
from softprompt.vllm.routes import TwoServers
from tests.bases.test_outline import settings
from tests.fake_engine import FakeEngine
from tests.http_server import fill


@pytest.fixture(scope="module")
def base(base_folder: Path) -> FrozenBase:
    return FrozenBase.load(str(base_folder))


@pytest.fixture
def library(tmp_path: Path, base: FrozenBase) -> Iterator[Library]:
    with Library.open(tmp_path / "home") as made:
        fill(made, base)
        yield made


def other_server() -> FastAPI:
    """What stands for vLLM's: it says which route was asked, and what it was sent."""
    app = FastAPI()

    @app.post("/v1/completions")
    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Any:
        return {"vllm": request.url.path, "body": (await request.body()).decode()}

    @app.get("/v1/models")
    async def models(request: Request) -> Any:
        if request.headers.get("authorization") == "Bearer wrong":
            return JSONResponse({"error": "vllm wants its key"}, 401)
        return {"object": "list", "data": [{"id": "theirs", "object": "model"}]}

    @app.get("/health")
    async def health() -> Any:
        return {"vllm": "health"}

    return app


def ask(library: Library, base: FrozenBase, *requests: tuple[Any, ...], always: bool = False) -> list[httpx2.Response]:
    """Answers of both servers together to requests of method, path, body and headers."""

    async def run() -> list[httpx2.Response]:
        engine = FakeEngine(context=base.context)
        service = AsyncService(library, base, engine, fresh_s=0.05)
        state = ServerState(service=service, keyring=Keyring(library.registry, always=always))
        both = TwoServers(other_server(), create_app(state), lambda: {"theirs", "kind@2"})
        try:
            transport = httpx2.ASGITransport(app=both)
            async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                answers = []
                for method, path, *more in requests:
                    body, headers = (*more, None, None)[:2]
                    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
                    headers = {"content-type": "application/json", **(headers or {})}
                    answers.append(await client.request(method, path, content=content, headers=headers))
                return answers
        finally:
            engine.stop(drain=False, timeout=5)
            service.close()

    return asyncio.run(run())


def test_the_model_says_whose_a_request_is(library: Library, base: FrozenBase) -> None:
    body = {"model": "theirs", "prompt": "the red apple", "max_tokens": 3}
    theirs, chat, hidden, ours, version, under, none, broken, of_lists = ask(
        library, base,
        ("POST", "/v1/completions", body),
        ("POST", "/v1/chat/completions", body),
        ("POST", "/v1/completions", {**body, "model": "kind@2"}),
        ("POST", "/v1/completions", {**body, "model": "kind"}),
        ("POST", "/v1/completions", {**body, "model": "kind@1"}),
        ("POST", "/softprompt/v1/completions", {**body, "model": "kind@2"}),
        ("POST", "/v1/completions", {"prompt": "the red apple"}),
        ("POST", "/v1/completions", b'{"model": "kind", '),
        ("POST", "/v1/completions", b"[" * 100_000),
    )  # fmt: skip
    assert theirs.json() == {"vllm": "/v1/completions", "body": json.dumps(body)}, "to the letter"
    assert chat.json()["vllm"] == "/v1/chat/completions"
    assert hidden.json()["vllm"] == "/v1/completions", "a name that vLLM serves is vLLM's"
    assert [answer.json()["model"] for answer in (ours, version, under)] == ["kind@2", "kind@1", "kind@2"]
    for answer in (none, broken, of_lists):
        assert answer.json()["vllm"] == "/v1/completions", "what names no model is vLLM's to refuse"


def test_routes_that_some_versions_of_vllm_have(library: Library, base: FrozenBase) -> None:
    """For a task ours answers, whatever vLLM has; for vLLM's own model vLLM says that it has none."""
    question = {"type": "predicate", "instructions": "It is red"}
    bodies: dict[str, dict[str, Any]] = {
        "/v1/responses": {"input": "red"}, "/v1/decisions": {"input": "red", "questions": [question]},
        "/v1/embeddings": {"input": "red"},
    }  # fmt: skip
    requests = [("POST", path, {"model": model, **body}) for path, body in bodies.items() for model in ("kind", "theirs")]
    answers = ask(library, base, *requests)
    assert [answer.status_code for answer in answers] == [200, 404] * 3
    assert [answer.json().get("model") for answer in answers[::2]] == ["kind@2"] * 3
    assert all(answer.json() == {"detail": "Not Found"} for answer in answers[1::2])


def test_routes_that_one_of_them_has(library: Library, base: FrozenBase) -> None:
    classified, unknown, model, theirs, ours, wrong = ask(
        library, base,
        ("POST", "/v1/classify", {"model": "kind", "input": "red"}),
        ("POST", "/v1/chat/completions", {"model": "nobody", "messages": [{"role": "user", "content": "red"}]}),
        ("GET", "/v1/models/kind@1"),
        ("GET", "/health"),
        ("GET", "/softprompt/readyz"),
        ("GET", "/softprompt/nowhere"),
    )  # fmt: skip
    assert classified.json()["data"][0]["label"] in ("yes", "no", "the river")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert model.json()["task"] == "kind"
    assert theirs.json() == {"vllm": "health"}
    assert ours.json()["status"] == "ready"
    assert wrong.status_code == 404


def test_the_models_of_both(library: Library, base: FrozenBase) -> None:
    (open_,) = ask(library, base, ("GET", "/v1/models"))
    assert [model["id"] for model in open_.json()["data"]] == ["theirs", "kind", "tell"], "each base once"
    secret = library.registry.keys.create("k", ["read", "predict"]).secret
    without, with_ours, neither = ask(
        library, base,
        ("GET", "/v1/models"),
        ("GET", "/v1/models", None, {"authorization": f"Bearer {secret}"}),
        ("GET", "/v1/models", None, {"authorization": "Bearer wrong"}),
    )  # fmt: skip
    assert [model["id"] for model in without.json()["data"]] == ["theirs"]
    assert [model["id"] for model in with_ours.json()["data"]] == ["theirs", "kind", "tell"]
    assert (neither.status_code, neither.json()) == (401, {"error": "vllm wants its key"})


def test_keys_and_tenants_are_those_of_the_library(library: Library, base: FrozenBase) -> None:
    secret = library.registry.keys.create("k", ["read", "predict"]).secret
    other = library.for_tenant("other").registry.keys.create("o", ["read", "predict"]).secret
    body = {"model": "kind", "prompt": "red", "max_tokens": 2}
    refused, answered, foreign, theirs = ask(
        library, base,
        ("POST", "/v1/completions", body),
        ("POST", "/v1/completions", body, {"authorization": f"Bearer {secret}"}),
        ("POST", "/v1/completions", body, {"authorization": f"Bearer {other}"}),
        ("POST", "/v1/completions", {**body, "model": "theirs"}),
    )  # fmt: skip
    assert refused.status_code == 401
    assert answered.status_code == 200
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (404, "model_not_found")
    assert theirs.status_code == 200, "vLLM's own models go by vLLM's own keys"


def vllm_state(folder: Path, **fields: Any) -> Any:
    """The state of an application of vLLM's, as far as it is looked at."""
    config = settings(folder, enable_prompt_embeds=True, logprobs_mode="raw_logprobs", max_logprobs=20)
    cache = SimpleNamespace(block_size=16, enable_prefix_caching=True)
    usual: dict[str, Any] = {
        "engine_client": SimpleNamespace(
            generate=None, errored=False, model_config=config, vllm_config=SimpleNamespace(cache_config=cache)
        ),
        "openai_serving_models": SimpleNamespace(base_model_paths=[], lora_requests={}),
        "args": SimpleNamespace(host="127.0.0.1", api_key=None, uds=None),
    }  # fmt: skip
    return SimpleNamespace(**usual | fields)


def refusal(state: Any) -> SoftPromptError:
    with pytest.raises(SoftPromptError) as caught:
        asyncio.run(serve_beside(other_server(), state))
    return caught.value


def test_a_vllm_that_cannot_serve_prompts_is_refused_by_name(
    library: Library, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTPROMPT_HOME", str(library.home))
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    for name, value, why in (
        ("enable_prompt_embeds", False, "this vLLM takes no vectors; start it with --enable-prompt-embeds"),
        ("logprobs_mode", "processed_logits", "gives processed_logits in the place of log-probabilities"),
        ("hf_overrides", {"rope_theta": 1}, "with --hf-overrides {'rope_theta': 1}"),
    ):
        state = vllm_state(base_folder)
        setattr(state.engine_client.model_config, name, value)
        assert why in str(refusal(state))
    state = vllm_state(base_folder)
    state.args.host = None
    assert "serving on 0.0.0.0 lets others in, and no API key exists" in str(refusal(state))
    state.args.host, state.args.api_key = "127.0.0.1", ["vllm-key"]
    assert "they go by the keys of the library, which has none yet" in str(refusal(state))
    monkeypatch.setenv("SOFTPROMPT_HOME", str(library.home / "nowhere"))
    error = refusal(vllm_state(base_folder))
    assert isinstance(error, LibraryError)
    assert "there is no library in" in str(error)


def test_a_vllm_without_the_seam_is_refused_by_name(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="9.9"))
    for part, name in (
        ("", "engine_client"), ("", "openai_serving_models"), ("engine_client", "generate"),
        ("openai_serving_models", "lora_requests"),
    ):  # fmt: skip
        state = vllm_state(base_folder)
        delattr(getattr(state, part) if part else state, name)
        error = refusal(state)
        assert isinstance(error, ConfigError)
        assert f"vLLM 9.9 has no SimpleNamespace.{name}, by which prompts are served" in str(error)


def test_a_library_that_is_away_keeps_the_server_from_starting(
    library: Library, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTPROMPT_HOME", str(library.home))
    monkeypatch.setenv("SOFTPROMPT_REGISTRY", "postgresql://nobody:secret@127.0.0.1:1/none")
    error = refusal(vllm_state(base_folder))
    assert isinstance(error, LibraryError)
    assert "127.0.0.1:1/none" in str(error)
    assert "secret" not in str(error)


def test_a_registry_that_goes_away_leaves_what_is_known(
    library: Library, base: FrozenBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts in memory go on answering, a name that was never asked for is told to come again, vLLM's own are untouched."""
    known = {"model": "kind@1", "prompt": "red", "max_tokens": 2}
    asked: list[str] = []
    honest = type(library.registry).resolve

    def resolve(registry: Any, ref: str, *args: Any, **more: Any) -> Any:
        asked.append(ref)
        if asked[:1] != [ref]:
            raise RegistryError("postgresql://secret-host/db is away")
        return honest(registry, ref, *args, **more)

    monkeypatch.setattr(type(library.registry), "resolve", resolve)
    first, again, new, theirs = ask(
        library, base,
        ("POST", "/v1/completions", known),
        ("POST", "/v1/completions", known),
        ("POST", "/v1/completions", {**known, "model": "tell@1"}),
        ("POST", "/v1/completions", {**known, "model": "theirs"}),
    )  # fmt: skip
    assert (first.status_code, again.status_code) == (200, 200)
    assert (new.status_code, new.json()["error"]["code"]) == (503, "library_unavailable")
    assert "secret-host" not in new.text
    assert theirs.json()["vllm"] == "/v1/completions"


def test_a_server_that_cannot_serve_prompts_does_not_start(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is half served: the server's start fails, with the reason."""
    monkeypatch.setenv("SOFTPROMPT_HOME", str(tmp_path / "nowhere"))
    app = other_server()
    app.state.engine_client = vllm_state(base_folder).engine_client
    app.state.openai_serving_models = SimpleNamespace(base_model_paths=[], lora_requests={})
    app.state.args = SimpleNamespace(host="127.0.0.1", api_key=None, uds=None)
    app.add_middleware(SoftPrompts)
    said: list[Any] = []

    async def run() -> None:
        heard = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Any:
            return next(heard)

        async def send(message: Any) -> None:
            said.append(message)

        await app({"type": "lifespan", "app": app, "state": {}}, receive, send)

    asyncio.run(run())
    assert said[0]["type"] == "lifespan.startup.failed"
    assert said[0]["message"].startswith("softprompt: there is no library in")
