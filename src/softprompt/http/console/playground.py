"""The playground: one input, or the rows of a file, answered by several tasks or versions side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from starlette.responses import Response

from softprompt.errors import DataError, NameRefused, SoftPromptError
from softprompt.http.auth import Caller, caller_of
from softprompt.http.call import Call
from softprompt.http.console import tables
from softprompt.http.console.pages import (
    OwnLibrary,
    Page,
    Predictor,
    environment,
    problem_of,
    render,
    said_of,
    sentence,
)
from softprompt.http.console.session import HOME
from softprompt.http.errors import ApiError
from softprompt.http.routes.chat import CHAT_TOKENS, ChatRequest
from softprompt.http.routes.classify import ClassifyRequest
from softprompt.http.state import state_of
from softprompt.http.stream import ClientGone, EventStream, event, together, while_connected
from softprompt.library.library import Library
from softprompt.names import AUTO
from softprompt.rows.tables import Table
from softprompt.serving.answers import Head, Message
from softprompt.serving.inputs import text_of_input
from softprompt.tasks.form import Form as TaskForm
from softprompt.text import plural

router = APIRouter(prefix=HOME, route_class=Page)

MOST_MODELS = 4
"""Side by side."""
MOST_SCORES = 12
"""Labels of one answer whose scores are drawn, the likeliest."""

Tell = Callable[[str], Awaitable[None]]


@dataclass(kw_only=True)
class Panel:
    """What one model says."""

    place: int
    model: str
    form: TaskForm | None
    """None for the base, and where the input chooses."""
    text: str = ""
    label: str | None = None
    scores: list[tuple[str, float]] = field(default_factory=list)
    left_out: int = 0
    """Labels whose scores are not drawn."""
    head: Head | None = None
    truncated: bool = False
    problem: str | None = None
    done: bool = False

    @property
    def chooses(self) -> bool:
        """Whether it answers with labels or a number, and not with text that comes in pieces."""
        return self.form is not None and (self.form.labels is not None or self.form.is_number)


@dataclass(frozen=True)
class _Asked:
    """What the form asks for."""

    models: list[str]
    text: str
    max_tokens: int | None


@router.get("/playground")
async def show(request: Request, _: Predictor, model: str = "", text: str = "") -> Response:
    """The form, without an answer."""
    return await _page(request, [one for one in model.split(",") if one], text)


@router.post("/playground")
async def answer(
    request: Request,
    library: OwnLibrary,
    _: Predictor,
    model: Annotated[list[str] | None, Form()] = None,
    text: Annotated[str, Form()] = "",
    max_tokens: Annotated[str, Form()] = "",
    file: Annotated[UploadFile | None, File()] = None,
) -> Response:
    """The answers in one page: to a text, or to the rows of a file."""
    models = _given(model)
    try:
        if file is not None and file.filename:
            read = await asyncio.to_thread(tables.read, file, state_of(request).limits.upload_bytes)
            table = await _table(request, library, models, read)
            return await _page(request, models, text, table=table)
        asked = _asked(models, text, max_tokens)
        panels = await asyncio.to_thread(_panels, request, library, asked.models)
        state_of(request).meter.admit(caller_of(request).name)
        async with while_connected(request.receive):
            await together([_fill(request, panel, asked, None) for panel in panels])
        return await _page(request, models, text, panels=panels, max_tokens=max_tokens)
    except (SoftPromptError, ApiError) as error:
        return await _page(request, models, text, problem=problem_of(error), max_tokens=max_tokens, status=400)


@router.post("/playground/stream")
async def stream(
    request: Request,
    library: OwnLibrary,
    _: Predictor,
    model: Annotated[list[str] | None, Form()] = None,
    text: Annotated[str, Form()] = "",
    max_tokens: Annotated[str, Form()] = "",
) -> Response:
    """The answers as they come: events with a whole panel as `html`, or a piece of its `text`."""
    try:
        asked = _asked(_given(model), text, max_tokens)
        panels = await asyncio.to_thread(_panels, request, library, asked.models)
        state_of(request).meter.admit(caller_of(request).name)
    except (SoftPromptError, ApiError) as error:
        return render(request, "refused-part.html", status=said_of(error).status, message=problem_of(error))
    return EventStream(_events(request, panels, asked), _nothing)


async def _nothing() -> None:
    """All that runs ends with the events."""


async def _events(request: Request, panels: Sequence[Panel], asked: _Asked) -> AsyncGenerator[bytes, None]:
    for panel in panels:
        yield event({"panel": panel.place, "html": _drawn(panel)})
    arrived: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def run(panel: Panel) -> None:
        async def tell(piece: str) -> None:
            arrived.put_nowait({"panel": panel.place, "text": piece})

        try:
            await _fill(request, panel, asked, tell)
            arrived.put_nowait({"panel": panel.place, "html": _drawn(panel)})
        finally:
            arrived.put_nowait(None)

    tasks = [asyncio.create_task(run(panel)) for panel in panels]
    try:
        left = len(tasks)
        while left:
            told = await arrived.get()
            if told is None:
                left -= 1
            else:
                yield event(told)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _drawn(panel: Panel) -> str:
    return environment().get_template("playground-panel.html").render(panel=panel)


async def _fill(request: Request, panel: Panel, asked: _Asked, tell: Tell | None) -> None:
    """Let a model answer, as the API would; what it refuses is said in its panel."""
    try:
        if panel.chooses:
            await _choose(request, panel, asked.text)
        else:
            await _write(request, panel, asked, tell)
    except ClientGone:
        raise
    except Exception as error:
        panel.problem = sentence(said_of(error).message)
    panel.done = True


async def _choose(request: Request, panel: Panel, text: str) -> None:
    call = Call(request, ClassifyRequest(model=panel.model, input=[text], user=None), "input")
    with call.asking(0):
        found = await call.service.classify(call.tenant, panel.model, [text], **call.asker)
        call.settle([found.head], 0)
    (row,) = found.rows
    panel.head, panel.truncated = found.head, row.truncated
    panel.text, panel.label = row.said.output or "(none)", row.label
    ranked = sorted(row.scores.items(), key=lambda one: -one[1])
    panel.scores, panel.left_out = ranked[:MOST_SCORES], max(0, len(ranked) - MOST_SCORES)


async def _write(request: Request, panel: Panel, asked: _Asked, tell: Tell | None) -> None:
    body = ChatRequest.model_validate({"model": panel.model, "messages": [{"role": "user", "content": asked.text}]})
    call = Call(request, body, "messages")
    bound = asked.max_tokens
    if bound is not None:
        call.limits.check_max_tokens(bound)
    (sampling,) = body.draws(bound or min(CHAT_TOKENS, call.limits.max_tokens), None)
    with call.state.meter.stream(), call.asking(bound or 0):
        opening = call.service.stream_chat(
            call.tenant, panel.model, [Message("user", asked.text)], sampling, own_bound=bound is None, **call.asker
        )
        async with aclosing(await opening) as pieces:
            panel.head, tokens = pieces.head, 0
            async for piece in pieces:
                panel.text += piece.text
                tokens = piece.count or tokens + 1
                if tell is not None and piece.text:
                    await tell(piece.text)
        call.settle([panel.head], tokens)


async def _table(request: Request, library: Library, models: Sequence[str], table: Table) -> dict[str, Any]:
    """Each row's answers, model by model."""
    state = state_of(request)
    state.limits.check_rows(len(table.rows), "file")
    panels = await asyncio.to_thread(_panels, request, library, models)
    state.meter.admit(caller_of(request).name)
    columns: list[list[tuple[str, float | None]]] = []
    shown: list[str] = []
    async with while_connected(request.receive):
        for panel in panels:
            texts = [_text(panel.form, row, at) for at, row in enumerate(table.rows, start=1)]
            shown = shown or texts
            columns.append(await _column(request, panel, texts))
    agree = [len({cell[0] for cell in cells}) == 1 for cells in zip(*columns, strict=True)]
    return {
        "panels": panels,
        "rows": list(zip(shown, zip(*columns, strict=True), agree, strict=True)),
        "told": plural(len(table.rows), "row"),
        "agree": sum(agree) if len(panels) > 1 else None,
    }


async def _column(request: Request, panel: Panel, texts: Sequence[str]) -> list[tuple[str, float | None]]:
    """What one model says to each text, and how likely the likeliest label is."""
    if panel.chooses:
        call = Call(request, ClassifyRequest(model=panel.model, input=list(texts), user=None), "input")
        with call.asking(0):
            found = await call.service.classify(call.tenant, panel.model, texts, **call.asker)
            call.settle([found.head], 0)
        panel.head = found.head
        return [(row.said.output or "(none)", max(row.scores.values(), default=None)) for row in found.rows]
    calls = [Panel(place=panel.place, model=panel.model, form=panel.form) for _ in texts]
    await together([_write(request, one, _Asked([], text, None), None) for one, text in zip(calls, texts, strict=True)])
    panel.head = calls[0].head
    return [(one.text, None) for one in calls]


def _text(form: TaskForm | None, row: dict[str, Any], at: int) -> str:
    if form is not None:
        return text_of_input(form, row, f"row {at}")
    if len(row) == 1 or "text" in row:
        return str(row.get("text", next(iter(row.values()))))
    raise DataError(f"row {at} has the columns {', '.join(map(str, row))}; without a task the input is the column text")


def _given(models: Sequence[str] | None) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in models or () if name.strip()))


def _asked(models: list[str], text: str, max_tokens: str) -> _Asked:
    if not text.strip():
        raise DataError("the input is empty; write something, or choose a file")
    bound = max_tokens.strip()
    if bound and not (bound.isascii() and bound.isdigit() and int(bound[:9]) > 0):
        raise DataError(f"{bound!r} is no number of tokens; give 1 or more, or leave it empty")
    return _Asked(models, text, int(bound[:9]) if bound else None)


def _panels(request: Request, library: Library, models: Sequence[str]) -> list[Panel]:
    """A panel for each model."""
    if not models:
        raise NameRefused("no task is named; name one")
    if len(models) > MOST_MODELS:
        raise NameRefused(f"{len(models)} tasks are named, and {MOST_MODELS} may be side by side; name fewer")
    base = state_of(request).service.base_name
    return [
        Panel(
            place=place,
            model=name,
            form=None if name in (base, AUTO) else TaskForm.of_card(library.registry.resolve(name).card),
        )
        for place, name in enumerate(models)
    ]


async def _page(request: Request, models: Sequence[str], text: str, *, status: int = 200, **more: Any) -> Response:
    """The form as it was sent, and what came of it."""
    caller: Caller = caller_of(request)
    known = await state_of(request).service.models(caller.tenant)
    names = [name for row in known for name in (row.id, *(f"{row.task}@{one}" for one in (*row.versions, *row.aliases)))]
    values = {"panels": None, "table": None, "problem": None, "max_tokens": ""} | more
    fields = [*models, *[""] * MOST_MODELS][: max(MOST_MODELS, len(models))]
    if not models:
        fields[0] = next((row.id for row in known if row.task is not None), known[0].id)
    return render(
        request, "playground.html", status=status, fields=fields, text=text, known=dict.fromkeys([*names, AUTO]),
        kinds=tables.KINDS, **values,
    )  # fmt: skip
