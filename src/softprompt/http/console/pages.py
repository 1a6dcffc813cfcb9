"""What all pages have in common: how they are drawn, guarded and refused, and the headers that bind the browser."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from softprompt.errors import LibraryError, NameRefused, NotFound, RegistryError, StoreError
from softprompt.http.auth import Caller, caller_of, need
from softprompt.http.console import charts
from softprompt.http.console.session import HOME, SignInNeeded, check_origin, identify, sign_in_address
from softprompt.http.errors import ApiError, for_clients, invalid, refusal
from softprompt.http.routes.files import tenant_library
from softprompt.http.state import state_of
from softprompt.http.stream import ClientGone
from softprompt.library.library import Library
from softprompt.progress import Silent

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""The content security policy: scripts and styles are files of this server, and no address is another server's."""

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

STATIC = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""The files that pages load, and what they are."""

PLACES = (
    ("", "Library", "read"),
    ("map", "Map", "read"),
    ("playground", "Playground", "predict"),
    ("train", "Train", "train"),
    ("jobs", "Jobs", "train"),
    ("review", "Review", "train"),
    ("ab", "A/B", "read"),
    ("drift", "Drift", "read"),
    ("keys", "Keys", "admin"),
    ("audit", "Audit", "admin"),
)
"""The pages that the menu leads to, and the scope that each needs."""

PAGE_ROWS = 50
"""Rows of a list on one page."""

Reader = Annotated[Caller, Depends(need("read"))]
Predictor = Annotated[Caller, Depends(need("predict"))]
Trainer = Annotated[Caller, Depends(need("train"))]
Admin = Annotated[Caller, Depends(need("admin"))]


def _library(request: Request) -> Library:
    caller = caller_of(request)
    return tenant_library(state_of(request).service.residents.library, caller)


OwnLibrary = Annotated[Library, Depends(_library)]
"""The library as the caller sees it; what the caller changes is written down under the key's name."""


class Page(APIRoute):
    """A route that answers people: what is refused comes as a page, and all that comes has the headers."""

    open_to_all = False
    """Whether it can be seen without a key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, behind the door."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                check_origin(request)
                if not self.open_to_all:
                    request.state.caller = await identify(request)
                response = await handle(request)
            except SignInNeeded:
                response = _to_sign_in(request)
            except ClientGone:
                raise
            except Exception as error:
                response = refused(request, error)
            for name, value in HEADERS.items():
                response.headers[name] = value
            response.headers.setdefault("cache-control", "no-store")
            return response

        return guarded


class OpenPage(Page):
    """One that can be seen without a key."""

    open_to_all = True


class Said(Silent):
    """Keeps what is said on the way, for a page to show."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        """Keep a line."""
        self.said.append(message)

    def note(self, message: str) -> None:
        """Keep a line."""
        self.said.append(message)


def _to_sign_in(request: Request) -> Response:
    address = sign_in_address(request)
    if "hx-request" in request.headers:  # a part of a page cannot be replaced by another page
        return Response(status_code=401, headers={"hx-redirect": address})
    return RedirectResponse(address, 303)


def said_of(error: Exception) -> ApiError:
    """What people are told of an error: unlike clients of the API also what the library refuses to do, and why."""
    if isinstance(error, RequestValidationError):
        return invalid(error.errors())
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail))
    if isinstance(error, NotFound):
        return ApiError(404, str(error))
    if isinstance(error, LibraryError) and not isinstance(error, NameRefused | RegistryError | StoreError):
        return ApiError(409, str(error))
    return refusal(error)


def refused(request: Request, error: Exception) -> Response:
    """The page, or for htmx the part of one, that says why a request was refused."""
    told = said_of(error)
    part = "hx-request" in request.headers
    return render(
        request, "refused-part.html" if part else "refused.html", status=told.status, message=sentence(told.message),
        code=told.status, headers=told.headers,
    )  # fmt: skip


def sentence(message: str) -> str:
    """A message for people, without advice about commands."""
    told = for_clients(message)
    return told[:1].upper() + told[1:] if told.partition(" ")[0].isalpha() else told  # a file's name stays as it is


def problem_of(error: Exception) -> str:
    """What a form says above itself when what it was given is refused."""
    return sentence(said_of(error).message)


def render(
    request: Request, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
) -> HTMLResponse:
    """A page, or a part of one."""
    caller: Caller | None = getattr(request.state, "caller", None)
    state = state_of(request)
    common = {
        "caller": caller,
        "places": [(path, name) for path, name, scope in PLACES if caller is not None and caller.allows(scope)],
        "here": request.url.path.removeprefix(HOME).strip("/").partition("/")[0],
        "may": (lambda scope: caller is not None and caller.allows(scope)),
        "base": state.service.base_name,
        "version": version("softprompt"),
    }
    return HTMLResponse(environment().get_template(template).render(common | values), status, headers=headers)


def to(*parts: object, **query: object) -> str:
    """An address of the console; parts and values may hold any text."""
    path = "/".join((HOME, *(quote(str(part), safe="") for part in parts)))
    told = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(told)}" if told else path


def go(*parts: object, **query: object) -> Response:
    """Send the browser to another page, once a form was taken."""
    return RedirectResponse(to(*parts, **query), 303)


@cache
def environment() -> Environment:
    """The templates. Every value is escaped, but for charts, which escape what they draw."""
    made = Environment(
        loader=PackageLoader("softprompt.http.console"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.globals |= {"to": to, "static": static_address, "charts": charts}
    made.filters |= {"score": score, "when": when, "short": short_text, "sentence": sentence}
    return made


@cache
def static_file(name: str) -> bytes:
    """A file that pages load."""
    return files("softprompt.http.console").joinpath("static", name).read_bytes()


@cache
def static_address(name: str) -> str:
    """Its address, another one for each content, so that browsers may keep it."""
    return f"{HOME}/static/{name}?v={hashlib.sha256(static_file(name)).hexdigest()[:12]}"


def score(value: float | int | None, error: float | None = None) -> str:
    """A number for people; what there is not is a dash."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    told = f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
    return f"{told} ± {error:.4f}" if error else told


def when(at: str | None) -> str:
    """A time of the registry's for people."""
    return "–" if not at else at.replace("T", " ").removesuffix("Z")


def short_text(text: object, most: int = 160) -> str:
    """A text cut to a length."""
    told = str(text)
    return told if len(told) <= most else f"{told[: most - 1]}…"
