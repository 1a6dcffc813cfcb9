"""What a request is refused with: every error in OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from softprompt.errors import (
    ConfigError,
    ContextError,
    Denied,
    EngineBusy,
    EngineError,
    FieldError,
    FingerprintMismatch,
    NameRefused,
    NotFound,
    ReadOnly,
    RegistryError,
    SoftPromptError,
    StoreError,
)

log = logging.getLogger("softprompt.http")

RETRY_SOON_S = 1.0
"""What a client is told to wait where nobody knows better."""

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
}


_ASIDE = re.compile(r" \([^()]*(?:`softprompt |--[a-z])[^()]*\)")
_COMMAND = re.compile(r"`softprompt |`library |(?<![\w-])--[a-z]")


def for_clients(message: str) -> str:
    """A message without the advice that is for whoever runs the server: commands and their options, which clients have not.
    What was wrong, its first part, always stays."""
    what, *advice = _ASIDE.sub("", message).split("; ")
    kept = (re.sub(r"`softprompt [^`]*` or ", "", part) for part in advice)
    return "; ".join([what, *(part for part in kept if not _COMMAND.search(part))])


class ErrorDetail(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """A refusal."""

    error: ErrorDetail


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in (
        ("default", "Another refusal."),
        (400, "The request is wrong; `param` names the field."),
        (401, "A key is needed."),
        (403, "The key lacks the scope."),
        (404, "No such model."),
        (408, "The body did not come."),
        (413, "The body is too long."),
        (429, "Too much at once; `retry-after` says when to come again."),
        (503, "The server is stopping, or its library cannot be reached."),
    )
}
"""What any route may answer instead, for the server's description of itself."""


class ApiError(Exception):
    """A refusal with its status: raised by routes and dependencies, answered in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`param` names the field of the request that is wrong; `retry_after` is in seconds."""
        super().__init__(message)
        self.status = status
        self.message = for_clients(message)
        self.code = code or _CODES.get(status)
        self.param = param
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(retry_after)))

    @property
    def type(self) -> str:
        """The kind of error, as OpenAI's clients know it."""
        return _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """The error as clients see it."""
        detail = ErrorDetail(message=self.message, type=self.type, param=self.param, code=self.code)
        return ErrorAnswer(error=detail).model_dump()

    def response(self) -> Response:
        """The answer to a request."""
        # Escaped to ASCII: a message may quote half characters that a client sent, which UTF-8 cannot carry.
        body = json.dumps(self.body()).encode("ascii")
        return Response(body, self.status, headers=self.headers, media_type="application/json")


def unknown_model(error: SoftPromptError, *, lists: bool = True) -> ApiError:
    """The refusal of a `model` that this tenant does not have. It names those there are only to a caller who may list them,
    whose key has the scope `read`."""
    message = for_clients(error.parts[0] if isinstance(error, NotFound) and not lists else str(error))
    mark = "" if message.endswith("?") else ";"
    mend = "GET /v1/models lists those there are" if lists else "a key with the scope 'read' lists those there are"
    return ApiError(404, f"{message}{mark} {mend}", code="model_not_found", param="model")


def context_too_short(error: ContextError, param: str | None = None) -> ApiError:
    """The refusal of an input, in the field `param`, that does not fit the context."""
    return ApiError(400, str(error), code="context_length_exceeded", param=param)


def stopping() -> ApiError:
    """The refusal of what comes, or is cut, while the server ends."""
    return ApiError(503, "the server is stopping; try again", code="stopping", retry_after=RETRY_SOON_S)


def refusal(error: Exception, *, lists: bool = True) -> ApiError:
    """What a client gets for an error of ours, who may list models or not. What it need not know, such as where the library
    is, goes to the log."""
    match error:
        case ApiError():
            return error
        case NotFound() | FingerprintMismatch():
            return unknown_model(error, lists=lists)
        case ContextError():
            return context_too_short(error)
        case FieldError():
            return ApiError(400, str(error), code="invalid_value", param=error.field)
        case NameRefused() | ConfigError():
            return ApiError(400, str(error), code="invalid_value")
        case Denied():
            return ApiError(403, str(error), code="insufficient_permissions")
        case EngineBusy():
            return ApiError(429, str(error), code="engine_busy", retry_after=RETRY_SOON_S)
        case EngineError():
            log.error("engine: %s", error)
            return ApiError(503, str(error), code="engine_error", retry_after=RETRY_SOON_S)
        case ReadOnly():
            log.error("library: %s", error)
            return ApiError(
                403, "the library of this server can only be read; nothing was changed", code="library_read_only"
            )
        case RegistryError() | StoreError():
            log.error("library: %s", error)
            return ApiError(
                503,
                "the library cannot be reached just now; try again",
                code="library_unavailable",
                retry_after=RETRY_SOON_S,
            )
        case SoftPromptError():
            log.error("%s: %s", type(error).__name__, error)
            return ApiError(500, "the prompt cannot be served; the server's log says why", code="prompt_unusable")
        case _:
            return bug(error)


def bug(error: BaseException) -> ApiError:
    """The refusal for an error that nobody foresaw; its traceback goes to the log."""
    log.error("a bug: %s", error, exc_info=error)
    return ApiError(500, "the server failed on this request, through no fault of yours; its log says why", code="internal")


def install(app: FastAPI) -> None:
    """Answer everything that routes raise, and FastAPI's own refusals, in OpenAI's shape."""

    async def answer(request: Request, error: Exception) -> Response:
        caller = getattr(request.state, "caller", None)  # of a request to /v1/
        return refusal(error, lists=caller is None or caller.allows("read")).response()

    async def answer_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return invalid(error.errors()).response()

    async def answer_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = str(error.detail)
        if error.status_code == 404:
            message = f"no route {request.method} {request.url.path}; GET /openapi.json lists them"
            if request.url.path == "/":  # as somebody asks who opens the address in a browser
                message += ", and /console has the pages for people"
        elif error.status_code == 405:
            message = f"{request.url.path} does not take {request.method}; GET /openapi.json says what it takes"
        return ApiError(error.status_code, message, headers=error.headers).response()

    app.add_exception_handler(ApiError, answer)
    app.add_exception_handler(SoftPromptError, answer)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, answer_http)


def invalid(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """The refusal of a body or a parameter that is not what the route takes, from pydantic's list of problems."""
    problem = problems[0]
    context = problem.get("ctx", {})
    if problem["type"] == "json_invalid":
        return ApiError(
            400, f"the body is not JSON: {context['error']} (character {problem['loc'][-1]}); mend it", code="invalid_json"
        )
    name = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query", "path", "header"))
    if not name and problem["type"] != "refused":
        return ApiError(
            400, "the body is no JSON object; send one, with content-type: application/json", code="invalid_json"
        )
    if problem["type"] == "missing":
        return ApiError(400, f"{name} is missing; give it", code="missing_required_parameter", param=name)
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").replace(" after validation, not", ", not")
    field = context.get("param") if problem["type"] == "refused" else None
    where = ".".join(part for part in (name, field) if part)
    if not field:
        message = f"{name}: {message[:1].lower()}{message[1:]}"
    return ApiError(400, message, code=context.get("code", "invalid_value"), param=where or None)
