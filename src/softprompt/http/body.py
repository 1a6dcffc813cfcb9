"""JSON bodies: read more strictly than Python does by itself, and written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response

from softprompt.errors import nearest
from softprompt.http.errors import ApiError
from softprompt.rows.tables import unique_keys
from softprompt.text import lone_surrogate

_CHARSET = re.compile(r"""charset\s*=\s*["']?([^"';\s]+)""", re.IGNORECASE)
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""Halves of characters beyond 16 bits, in escapes. They come in pairs, or else no text can be made of them."""


def read_json(body: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        json.JSONDecodeError: it is none, is not UTF-8, is nested too deeply, has a number that JSON has not (NaN, Infinity)
            or that is too long, half a character, or a key twice.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_constant=lambda constant: _refuse(f"{constant} is no number in JSON"),
            object_pairs_hook=_unique_keys,
        )
        if _HALF.search(body) and lone_surrogate(value):
            _refuse("a \\u escape stands for half a character")
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("this is not UTF-8", "", error.start) from None
    except RecursionError:
        _refuse("it is nested too deeply")
    except ValueError:  # Python's own bound on digits
        _refuse("a number in it is too long")
    return value


def _refuse(problem: str) -> NoReturn:
    raise json.JSONDecodeError(problem, "", 0) from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    try:
        return unique_keys(pairs)
    except ValueError as error:
        _refuse(str(error))


def respond(body: BaseModel, status: int = 200) -> Response:
    """An answer that is sent in one."""
    return Response(body.model_dump_json(), status, media_type="application/json")


class _StrictRequest(Request):
    async def json(self) -> Any:
        return read_json(await self.body())


def _check_encoding(request: Request) -> None:
    """Raises `ApiError` where headers say that a body is to be read otherwise than it is."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise ApiError(
            400, f"content-encoding: a body in {coding[:40]!r} is not read; send it as it is, without this header",
            code="unsupported_parameter", param="content-encoding",
        )  # fmt: skip
    charset = _CHARSET.search(request.headers.get("content-type", ""))
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise ApiError(
            400, f"content-type: a body in {charset[1][:40]!r} is not read; send it in UTF-8", code="unsupported_parameter",
            param="content-type",
        )  # fmt: skip


def _check_no_body(body: bytes, path: str) -> None:
    """Raises `ApiError` where something was sent to a route that takes nothing, which some clients say as `{}`."""
    try:
        value = read_json(body) if body.strip() else {}
    except json.JSONDecodeError:
        value = None
    if value == {}:
        return
    if isinstance(value, dict):
        name = next(iter(value))
        raise ApiError(400, f"unknown field {name!r}; {path} takes no body", code="unknown_parameter", param=name)
    raise ApiError(400, f"{path} takes no body; send it without", code="invalid_value")


class StrictRoute(APIRoute):
    """A route that reads its body by `read_json`, and takes no query but what it names, and no body where it reads none:
    nothing sent is passed over."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, given a request of the stricter kind."""
        handle = super().get_route_handler()
        known = {field.alias for field in self.dependant.query_params}

        async def strict(request: Request) -> Response:
            for name in request.query_params:
                if name not in known:
                    mend = nearest(name, known) if known else f"; {self.path_format} takes none, and reads its body"
                    raise ApiError(400, f"unknown query parameter {name!r}{mend}", code="unknown_parameter", param=name)
            _check_encoding(request)
            given = _StrictRequest(request.scope, request.receive)
            if self.body_field is None:
                _check_no_body(await given.body(), self.path_format)
            return await handle(given)

        return strict
