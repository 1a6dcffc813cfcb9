"""Prompts by name on an unmodified vLLM: the middleware that `vllm serve --middleware` puts before its routes.

    SOFTPROMPT_HOME=... vllm serve BASE --enable-prompt-embeds --middleware softprompt.vllm.middleware.SoftPrompts \\
        --worker-extension-cls softprompt.vllm.worker.PromptHolder

Of vLLM it uses: `--middleware`, which makes the class and has it see the server start and end (ASGI's lifespan);
`app.state.engine_client`, `.openai_serving_models` and `.args`; of the client `generate`, `errored`, `model_config` and
`vllm_config`; and prompts as `prompt_embeds`. Where one of them is missing the server does not start, and says which.
Without the last option, or where workers cannot, vectors go with each request, and it says that.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softprompt.errors import ConfigError, SoftPromptError, reason_of
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.http.state import ServerState
    from softprompt.library.library import Library
    from softprompt.vllm.engine import VllmEngine
    from softprompt.vllm.routes import TwoServers

# Under a name of vLLM's, so that it goes where vLLM's own lines go.
log = logging.getLogger("vllm.softprompt")

GRACE_S = 30.0
"""Seconds that running requests may go on when the server is told to end."""


class SoftPrompts:
    """Serves a library's prompts at the address of vLLM's own server."""

    def __init__(self, app: ASGIApp) -> None:
        """`app` is what vLLM would answer with."""
        self._vllm = app
        self._served: _Served | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http" and self._served is not None:
            await self._served.servers(scope, receive, send)
        else:
            await self._vllm(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin when vLLM's own server has begun, and end before it does."""

        async def hear() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown" and self._served is not None:
                await self._served.close()
            return message

        async def say(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                try:
                    self._served = await serve_beside(self._vllm, scope["app"].state)
                except SoftPromptError as error:
                    log.error("softprompt: %s", error)
                    message = {"type": "lifespan.startup.failed", "message": f"softprompt: {error}"}
                except Exception as error:
                    log.exception("softprompt cannot start")
                    message = {"type": "lifespan.startup.failed", "message": f"softprompt: {reason_of(error)}"}
            await send(message)

        await self._vllm(scope, hear, say)


class _Served:
    """What runs beside vLLM's own server."""

    def __init__(self, servers: TwoServers, state: ServerState, engine: VllmEngine, library: Library) -> None:
        self.servers, self._state, self._engine, self._library = servers, state, engine, library

    async def close(self) -> None:
        """Let what runs finish, and stop."""
        self._state.draining = True
        await self._engine.drained(GRACE_S)
        self._state.service.close()
        self._library.close()


async def serve_beside(vllm: ASGIApp, state: Any) -> _Served:
    """Open the library that the environment names, and serve it by the engine that vLLM runs.

    Args:
        vllm: what answers for vLLM's own models.
        state: of vLLM's application.

    Raises:
        SoftPromptError: of any kind; nothing is served then.
    """
    from softprompt.vllm.seam import most_logprobs, part

    client, models, args = (part(state, name) for name in ("engine_client", "openai_serving_models", "args"))
    for name in ("generate", "errored", "model_config", "vllm_config"):
        part(client, name)
    for name in ("base_model_paths", "lora_requests"):
        part(models, name)
    from softprompt.http.app import create_app
    from softprompt.http.auth import Keyring, is_loopback
    from softprompt.http.opening import refuse_open_doors
    from softprompt.http.state import ServerState
    from softprompt.library.library import Library
    from softprompt.library.passages import Passages
    from softprompt.serving.service import AsyncService
    from softprompt.vllm.check import check_vectors
    from softprompt.vllm.engine import VllmEngine
    from softprompt.vllm.outline import load_outline
    from softprompt.vllm.routes import PREFIX, TwoServers

    most_logprobs(client.model_config)
    tenant = os.environ.get("SOFTPROMPT_TENANT") or "default"
    library = await asyncio.to_thread(Library.open, tenant=tenant, create=False)
    try:
        here = getattr(args, "uds", None) is not None or is_loopback(args.host or "0.0.0.0")
        if not here:
            refuse_open_doors(library, args.host or "0.0.0.0")
        locked = bool([key for key in (args.api_key or [os.environ.get("VLLM_API_KEY")]) if key])
        if locked and not library.registry.keys.any_live():
            raise ConfigError(
                "vLLM asks for a key (--api-key), and requests for prompts would need none: they go by the keys of the "
                "library, which has none yet; make one first (`softprompt keys create NAME`)"
            )
        base = await asyncio.to_thread(load_outline, client.model_config)
        engine = VllmEngine(client, base, asyncio.get_running_loop())
        await check_vectors(engine)
        service = AsyncService(library, base, engine, passages=Passages(None, log.warning))
    except BaseException:
        library.close()
        raise
    ours = ServerState(service=service, keyring=Keyring(library.registry, always=not here or locked))

    def own_names() -> set[str]:
        return {path.name for path in models.base_model_paths} | set(models.lora_requests)

    rows = await service.models(tenant)
    _tell(library, base.shown, len(rows) - 1, client.vllm_config.cache_config)
    log.info("softprompt: %s and %s; all of its routes are under %s", base.name, plural(len(rows) - 1, "task"), PREFIX)
    return _Served(TwoServers(vllm, create_app(ours), own_names), ours, engine, library)


def _tell(library: Library, base: str, tasks: int, cache: Any) -> None:
    """Say what may not be as it was meant."""
    if not tasks:
        log.warning(
            "softprompt: the library in %s has no prompts for %s; tasks are served as soon as they are published there",
            library.home, base,
        )  # fmt: skip
    if not cache.enable_prefix_caching:
        log.warning("softprompt: without --enable-prefix-caching prompts are run anew for each request")
    elif cache.block_size > 16:
        log.warning(
            "softprompt: vLLM keeps keys and values in blocks of %d tokens; what of a prompt fills no whole block, and so "
            "all of a shorter one, is run anew for each request (a smaller --block-size keeps more)", cache.block_size,
        )  # fmt: skip
