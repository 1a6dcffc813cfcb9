"""vLLM started by us, in the place of our own engine: what `softprompt serve --engine vllm` serves on."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from softprompt.bases.files.locate import locate
from softprompt.bases.options import DEFAULT_BASE, BaseOptions
from softprompt.errors import BaseModelError, ConfigError, EngineError, nearest, reason_of
from softprompt.vllm.arguments import OURS, check_vllm
from softprompt.vllm.check import check_vectors
from softprompt.vllm.engine import VllmEngine
from softprompt.vllm.held import EXTENSION
from softprompt.vllm.outline import OutlineBase, load_outline
from softprompt.vllm.seam import part, unlike


class _Ended:
    """Stands where a client stood that has been shut down: kept until the interpreter ends, it would fail there."""

    errored = True


class StartedVllm(VllmEngine):
    """An engine whose vLLM ends with it."""

    def stop(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Take no more jobs; finish those there are, within `timeout` seconds, or end each; and end vLLM."""
        super().stop(drain=drain)
        if not self.loop.is_closed() and self.loop.is_running():
            with self._lock:
                left = [ticket.future for ticket in self._tickets]
            concurrent.futures.wait(left, timeout)
            if (handler := getattr(self.client, "output_handler", None)) is not None:
                self.loop.call_soon_threadsafe(handler.cancel)  # or it tells of an engine that ends as of one that is lost
            self.client.shutdown()
            self.client, self.held = _Ended(), None
            self.loop.call_soon_threadsafe(self.loop.stop)


def start_vllm(options: BaseOptions, arguments: Mapping[str, Any], *, max_waiting: int = 1024) -> StartedVllm:
    """Start vLLM on a base, on an event loop and a thread of its own, and wait until it can answer.

    Args:
        options: what to run; of how, dtype, revision and trust_remote_code.
        arguments: vLLM's own, by the names of its `AsyncEngineArgs`.
        max_waiting: jobs that may be under way.

    Raises:
        ConfigError: vLLM is not installed, or has no such argument, or prompts cannot be served so.
        BaseModelError: the base cannot be found, or vLLM cannot run it.
    """
    check_vllm(options)
    known, make_config, make_client = _parts()
    source = options.source or DEFAULT_BASE
    if wrong := sorted(arguments.keys() - known.keys()):
        raise ConfigError(f"vLLM has no argument {wrong[0]!r} (--engine-args){nearest(wrong[0], known)}")
    path = locate(source, revision=options.revision, code=options.trust_remote_code)
    if path.is_file():
        raise BaseModelError(f"{source!r} is a GGUF file, whose prompts are not served by vLLM; give it a folder or an id")
    told = {"disable_log_stats": True, **arguments, "enable_prompt_embeds": True}
    if "worker_extension_cls" in known:
        told.setdefault("worker_extension_cls", EXTENSION)
    told |= {"model": str(path), "dtype": options.dtype, "trust_remote_code": options.trust_remote_code}
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=_live, args=(loop,), name="softprompt-vllm", daemon=True)
    thread.start()
    making = _start(lambda: make_config(**told), make_client, options, loop, max_waiting)
    starting = asyncio.run_coroutine_threadsafe(making, loop)
    try:
        return starting.result()
    except BaseException:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        raise


def _live(loop: asyncio.AbstractEventLoop) -> None:
    """Run an event loop until it is stopped, and let what is left on it end."""
    try:
        loop.run_forever()
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=5))
        loop.close()


def _parts() -> tuple[Mapping[str, Any], Callable[..., Any], Callable[[Any], Any]]:
    """The arguments that vLLM takes, what makes a configuration of them, and a client of that.

    Not where the client is made: vLLM keeps errors of its imports, which hold all that their callers know to the end.
    """
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # on stdout are our own rows alone
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # threads run already, which a fork would lose
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except Exception as error:  # also what its own packages fail with where their versions do not go together
        raise unlike(error) from error
    make_config, make_client = part(AsyncEngineArgs, "create_engine_config"), part(AsyncLLM, "from_vllm_config")
    known = part(AsyncEngineArgs, "__dataclass_fields__")
    if lacking := sorted(OURS - known.keys()):
        raise unlike(TypeError(f"AsyncEngineArgs takes no {lacking[0]}"))
    return known, lambda **told: make_config(AsyncEngineArgs(**told)), make_client


async def _start(
    make_config: Callable[[], Any],
    make_client: Callable[[Any], Any],
    options: BaseOptions,
    loop: asyncio.AbstractEventLoop,
    max_waiting: int,
) -> StartedVllm:
    try:
        config = make_config()
        base: OutlineBase = load_outline(config.model_config, options.source or DEFAULT_BASE)
        client = make_client(config)
    except (BaseModelError, ConfigError):
        raise
    except Exception as error:  # vLLM says in many ways what it cannot run
        raise BaseModelError(
            f"vLLM cannot run {options.shown!r}: {type(error).__name__}: {reason_of(error)}; give another base, or other "
            "--engine-args"
        ) from error
    try:
        engine = StartedVllm(client, base, loop, max_waiting=max_waiting)
        await check_vectors(engine)
    except BaseException as error:
        client.shutdown()
        if isinstance(error, EngineError):
            raise BaseModelError(
                f"vLLM cannot run {options.shown!r}: {error}; give another base, or other --engine-args"
            ) from None
        raise
    return engine
