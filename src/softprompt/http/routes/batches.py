"""Routes for batches, `/v1/batches`, and what answers them: each request of an uploaded file as if it came by itself."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from pydantic import BaseModel, Field, StrictStr, ValidationError
from starlette.responses import Response

from softprompt.errors import Denied, LibraryError, RegistryError, SoftPromptError
from softprompt.http.auth import Caller, need
from softprompt.http.body import StrictRoute
from softprompt.http.errors import ApiError, for_clients, invalid, refusal
from softprompt.http.routes import chat, completions, embeddings, moderations, responses
from softprompt.http.routes.files import (
    After,
    Id,
    Identified,
    ListPage,
    Time,
    TimeOrNone,
    refusals_of,
    tenant_library,
    training_answer,
)
from softprompt.http.schemas import Body, ModelBody, Unsupported, refuse_unsupported
from softprompt.http.state import state_of
from softprompt.jobs.batches import (
    CANCELLED,
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    OPEN,
    VALIDATING,
    Answers,
    Batch,
    Batches,
    Ended,
    Line,
    next_batch,
    partials,
)
from softprompt.locks import lock_file
from softprompt.registry.records import now

if TYPE_CHECKING:
    from softprompt.library.library import Library

log = logging.getLogger("softprompt.http")

AT_ONCE = 16
"""Requests of a batch that are under way together; those of clients are in the same queue of the engine."""
LOOK_S = 1.0
"""Between two looks for a batch, and for whether it was cancelled; so often its counts are kept."""
ASIDE_S = 30.0
"""So long a batch waits that cannot be answered now; others are answered meanwhile."""
TRIES = 5
"""Of a request that fails through no fault of its own; one that comes too fast is tried until it is let in."""

Asker = Annotated[Caller, Depends(need("predict"))]

ROUTES: dict[str, tuple[type[ModelBody], Callable[[Request, Any], Awaitable[Response]]]] = {
    "/v1/chat/completions": (chat.ChatRequest, chat.chat),
    "/v1/completions": (completions.CompletionRequest, completions.complete),
    "/v1/embeddings": (embeddings.EmbeddingRequest, embeddings.embed),
    "/v1/moderations": (moderations.ModerationRequest, moderations.moderate),
    "/v1/responses": (responses.ResponseRequest, responses.respond_to),
}
"""What a batch may ask, with the body that it takes."""


class BatchRequest(Body):
    """Answer the requests of an uploaded file."""

    input_file_id: StrictStr = Field(description="Of a file uploaded with purpose `batch`: a request on each line.")
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/moderations", "/v1/responses"]
    completion_window: Literal["24h"] = Field(description="Taken as OpenAI's clients send it; a batch is answered at once.")
    metadata: dict[StrictStr, StrictStr] | None = Field(None, description="For the client's own book-keeping.")
    output_expires_after: Unsupported


class RequestCounts(BaseModel):
    """Requests of a batch; those that failed are in its error file."""

    total: int
    completed: int
    failed: int


class BatchErrors(BaseModel):
    """Why a batch failed as a whole."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]


class BatchObject(Identified):
    """A batch and how it stands."""

    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str = "24h"
    status: str = Field(description="`validating`, `in_progress`, `completed`, `failed`, `cancelling` or `cancelled`.")
    output_file_id: str | None
    error_file_id: str | None
    created_at: Time
    in_progress_at: TimeOrNone
    expires_at: None = None
    finalizing_at: None = None
    completed_at: TimeOrNone
    failed_at: TimeOrNone
    expired_at: None = None
    cancelling_at: TimeOrNone
    cancelled_at: TimeOrNone
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchList(ListPage[BatchObject]):
    """A page of batches."""


def batch_routes(library: Library) -> APIRouter:
    """The routes for the batches of a library's tenants; while the server runs it answers those of its home."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runner = asyncio.create_task(Runner(library, app).run())
        yield
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)

    router = APIRouter(lifespan=lifespan, route_class=StrictRoute, tags=["answers"])

    def batches_of(caller: Caller) -> Batches:
        return Batches(tenant_library(library, caller))

    @router.post("/v1/batches", summary="Answer a file of requests", response_model=BatchObject)
    def create_batch(caller: Asker, body: BatchRequest) -> Response:
        """Queue the requests of a file; a line that is none, or is for another route, is refused with its number. Answers
        go on behind the last one where the server is started again."""
        try:
            refuse_unsupported(body, {"output_expires_after": ()})
        except ValueError as error:
            raise ApiError(400, str(error), code="unsupported_parameter", param="output_expires_after") from None
        batches = batches_of(caller)
        with refusals_of("input_file_id"):
            for line in batches.read(body.input_file_id, body.endpoint):
                user = line.body.get("user")
                caller.require_user(user if isinstance(user, str) else None)
            key_id = None if caller.key is None else caller.key.id
            batch, _ = batches.create(body.input_file_id, body.endpoint, body.metadata, key_id=key_id)
        return training_answer(_shown(batch))

    @router.get("/v1/batches", summary="List batches", response_model=BatchList)
    def list_batches(caller: Asker, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> Response:
        """Newest first."""
        with refusals_of("after"):
            page = batches_of(caller).page(after=after, limit=limit)
        return training_answer(BatchList.of([_shown(batch) for batch in page.rows], page.more))

    @router.get("/v1/batches/{batch_id}", summary="One batch", response_model=BatchObject)
    def get_batch(caller: Asker, batch_id: Id) -> Response:
        """How it stands; its files are there once it has ended."""
        with refusals_of("batch_id"):
            return training_answer(_shown(batches_of(caller).get(batch_id)))

    @router.post("/v1/batches/{batch_id}/cancel", summary="Cancel a batch", response_model=BatchObject)
    def cancel_batch(caller: Asker, batch_id: Id) -> Response:
        """Answer no more of it; what is answered by then is in its files."""
        with refusals_of("batch_id"):
            return training_answer(_shown(batches_of(caller).cancel(batch_id)))

    return router


def _shown(batch: Batch) -> BatchObject:
    ended = {status: batch.finished_at if batch.status == status else None for status in (COMPLETED, FAILED, CANCELLED)}
    errors = None
    if batch.error is not None:
        said = {"code": "failed", "message": for_clients(batch.error), "param": None, "line": None}
        errors = BatchErrors(data=[said])
    return BatchObject.model_validate(
        vars(batch)
        | {
            "id": batch.name,
            "errors": errors,
            "input_file_id": batch.input_file,
            "output_file_id": batch.output_file,
            "error_file_id": batch.error_file,
            "completed_at": ended[COMPLETED],
            "failed_at": ended[FAILED],
            "cancelled_at": ended[CANCELLED],
            "request_counts": RequestCounts(total=batch.total, completed=batch.completed, failed=batch.failed),
            "metadata": batch.request_metadata,
        }
    )


class Runner:
    """Answers the batches of a home, one after the other, in the server that has the home's lock."""

    def __init__(self, library: Library, app: FastAPI) -> None:
        self._library, self._app = library, app

    async def run(self) -> None:
        """Until it is cancelled."""
        handle: int | None = None
        aside: dict[str, float] = {}
        try:
            while True:
                aside = {name: until for name, until in aside.items() if time.monotonic() < until}
                batch = None
                try:
                    batch = await asyncio.to_thread(next_batch, self._library, aside)
                    if batch is not None and handle is None:
                        handle = await asyncio.to_thread(self._lock)
                    if batch is not None and handle is not None:
                        await self._answer(batch)
                        continue
                except (LibraryError, OSError) as error:
                    log.warning("batches wait: %s", error)
                except Exception:
                    log.exception("a bug; batches wait")
                if batch is not None and handle is not None:  # those behind it need not wait for what it waits for
                    aside[batch.name] = time.monotonic() + ASIDE_S
                await asyncio.sleep(LOOK_S)
        finally:
            if handle is not None:
                os.close(handle)

    def _lock(self) -> int | None:
        """The lock of a home's batches, where no other server has it; what is left of batches that are gone goes."""
        handle = os.open(self._library.home / "batches.lock", os.O_RDWR | os.O_CREAT, 0o644)
        if not lock_file(handle, wait=False):
            os.close(handle)
            return None
        partials(self._library)
        return handle

    async def _answer(self, batch: Batch) -> None:
        batches = Batches(self._library.for_tenant(batch.tenant))
        await asyncio.to_thread(batches.change, batch.name, (VALIDATING,), status=IN_PROGRESS, in_progress_at=now())
        try:
            lines = await asyncio.to_thread(batches.read, batch.input_file, batch.endpoint)
        except RegistryError:
            raise
        except SoftPromptError as error:  # the file was deleted meanwhile, or its bytes are gone or damaged
            how = {"status": FAILED, "error": str(error), "finished_at": now()}
            await asyncio.to_thread(batches.change, batch.name, OPEN, **how)
            return
        answers = await asyncio.to_thread(Answers, self._library, batch.name)
        try:
            done = {row["custom_id"] for row in answers.rows}
            why = None
            try:
                left = [line for line in lines if line.custom_id not in done]
                status = CANCELLED if await self._go_on(batches, batch, left, answers) else COMPLETED
            except Denied as refused:
                status, why = FAILED, str(refused)
            await asyncio.to_thread(batches.finish, batch.name, status, in_order(answers.rows, lines), why)
            await asyncio.to_thread(answers.delete)
        except Ended:
            await asyncio.to_thread(answers.delete)
        finally:
            answers.close()

    async def _go_on(self, batches: Batches, batch: Batch, lines: Sequence[Line], answers: Answers) -> bool:
        """Answer what is left; whether it was cancelled meanwhile.

        Raises:
            Denied: whoever made it may ask no more.
        """
        waiting, running = iter(lines), set[asyncio.Task[dict[str, Any]]]()
        told = -math.inf
        try:
            while True:
                if time.monotonic() - told >= LOOK_S:
                    if await asyncio.to_thread(batches.tell, batch.name, answers):
                        return True
                    caller = await asyncio.to_thread(self._caller, batch)
                    told = time.monotonic()
                while len(running) < AT_ONCE and (line := next(waiting, None)) is not None:
                    running.add(asyncio.create_task(self._one(batch.endpoint, line, caller)))
                if not running:
                    return False
                done, running = await asyncio.wait(running, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    answers.add(task.result())
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _caller(self, batch: Batch) -> Caller:
        """Who asks: the key that made the batch, as it stands now. Raises `Denied` where it is revoked."""
        if batch.key_id is None:
            return Caller(batch.tenant, in_batch=True)
        key = self._library.registry.for_tenant(batch.tenant).keys.get(batch.key_id)
        if key is None or key.revoked:
            raise Denied(
                "the key that made the batch is revoked; what was answered by then is kept, make another for the rest"
            )
        return Caller(batch.tenant, key, in_batch=True)

    async def _one(self, endpoint: str, line: Line, caller: Caller) -> dict[str, Any]:
        """The answer to one request, or its refusal, as a line of the output."""
        core = secrets.token_hex(12)
        tries = 0
        while True:
            status, body = await self._ask(endpoint, line, caller, core)
            tries += status >= 500
            if status != 429 and (status != 503 or tries >= TRIES):
                break
            await asyncio.sleep(min(30, 2**tries))
        answer = {"status_code": status, "request_id": f"req_{core}", "body": body}
        return {"id": f"batch_req_{core}", "custom_id": line.custom_id, "response": answer, "error": None}

    async def _ask(self, endpoint: str, line: Line, caller: Caller, core: str) -> tuple[int, Any]:
        kind, route = ROUTES[endpoint]
        notes = {"request_id": f"req_{core}", "core": core, "mark": "", "model": "-", "tokens": 0}
        scope = {
            "type": "http", "method": "POST", "path": endpoint, "headers": [], "query_string": b"", "app": self._app,
            "state": {"notes": notes, "caller": caller},
        }  # fmt: skip

        async def stays() -> Any:
            await asyncio.Event().wait()

        request = Request(scope, stays)
        try:
            if line.body.get("stream"):
                raise ApiError(400, "stream is not supported in a batch; leave it out", param="stream")
            body = kind.model_validate(line.body)
            state_of(request).meter.admit(caller.account)
            response = await route(request, body)
        except ValidationError as error:
            response = invalid(error.errors()).response()
        except Exception as error:
            response = refusal(error, lists=caller.allows("read")).response()
        return response.status_code, json.loads(bytes(response.body))


def in_order(rows: Sequence[dict[str, Any]], lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Answers in the order of their requests."""
    places = {line.custom_id: place for place, line in enumerate(lines)}
    return sorted(rows, key=lambda row: places[row["custom_id"]])
