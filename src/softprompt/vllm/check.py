"""What is found out of a vLLM before prompts are served: what it makes of vectors, and whether its workers can hold them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from softprompt.engines.protocol import NO_PROMPT, ScoreJob, Vectors
from softprompt.errors import BaseModelError, SoftPromptError, reason_of
from softprompt.vllm.held import EXTENSION, ROOM, HeldPrompts, room_for_prompts
from softprompt.vllm.seam import unlike

if TYPE_CHECKING:
    from softprompt.vllm.engine import VllmEngine

# Under a name of vLLM's, so that it goes where vLLM's own lines go.
_log = logging.getLogger("vllm.softprompt")


async def check_vectors(engine: VllmEngine) -> None:
    """Find out, on a few tokens, whether vLLM makes the same of vectors as of the tokens whose embeddings they are, and have
    its workers hold prompts where they can.

    Raises:
        BaseModelError: it does not, so that no prompt would answer as it was tuned to.
        ConfigError: it cannot be asked.
        EngineError: it failed.
    """
    room = room_for_prompts()
    try:
        apart = await _apart(engine, "check")
    except SoftPromptError:
        raise
    except (ImportError, AttributeError, TypeError, KeyError, IndexError) as error:
        raise unlike(error) from error
    except Exception as error:
        raise engine.failure(error) from error
    if not apart <= _close(engine):
        raise BaseModelError(
            f"on {engine.base.name} this vLLM makes something else of vectors than of tokens with those embeddings: "
            f"log-probabilities lie {apart:.3g} apart, so prompts would not answer as they were tuned to; serve them "
            "with `softprompt serve`"
        )
    why_not = await _hold_prompts(engine, room)
    if why_not is None:
        _log.info("softprompt: vLLM's workers hold prompts, %g MB of them at most (%s)", room / 1e6, ROOM)
    else:
        _log.warning("softprompt: vectors go to vLLM with each request, which costs more: %s", why_not)


async def _hold_prompts(engine: VllmEngine, room: int) -> str | None:
    """Have workers hold prompts from now on, if the same tokens show that it comes to the same; else why they do not."""
    parallel = getattr(engine.client.vllm_config, "parallel_config", None)
    if getattr(parallel, "worker_extension_cls", None) != EXTENSION:
        return f"it was not started with --worker-extension-cls {EXTENSION}"
    if getattr(parallel, "enable_elastic_ep", False):
        return "with --enable-elastic-ep workers come later that hold none"
    if not room:
        return f"{ROOM} is 0"
    held = HeldPrompts(engine.client, engine.base, room)
    try:
        await held.begin()
        engine.held = held
        apart = await _apart(engine, "check-held")
    except Exception as error:  # whatever the workers of this version are like
        engine.held = None
        if engine.client.errored:
            raise engine.failure(error) from error
        return f"its workers cannot hold them ({type(error).__name__}: {reason_of(error)})"
    if not len(held):
        engine.held = None
        return f"{ROOM} leaves no room for a prompt of a few tokens"
    if not apart <= _close(engine):
        engine.held = None
        return f"with vectors that its workers hold log-probabilities lie {apart:.3g} apart"
    return None


def _close(engine: VllmEngine) -> float:
    """How far log-probabilities of the same may lie apart."""
    return 1e-2 if engine.base.dtype == torch.float32 else 0.5


async def _apart(engine: VllmEngine, name: str) -> float:
    """How far log-probabilities behind a few tokens lie from those behind their embeddings."""
    base = engine.base
    usable = [token for token in range(len(base.embedding.weight)) if token not in base.spelling.unusable]
    ids = usable[:: max(1, len(usable) // 12)][:12]
    front, behind, labels = ids[:6], tuple(ids[6:]), ((ids[0],), (ids[1], ids[2]))
    rows_TD = base.embed(torch.tensor(front, device=base.device))
    told = await engine.score(ScoreJob(NO_PROMPT, (*front, *behind), labels))
    given = await engine.score(ScoreJob(Vectors(f"{name}-{engine.name}", rows_TD), behind, labels))
    return max(abs(one - two) for one, two in zip(told, given, strict=True))
