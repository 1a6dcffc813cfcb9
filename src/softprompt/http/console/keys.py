"""API keys of the tenant: listed, made, revoked. A secret is shown once, in the answer that makes it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from softprompt.errors import NameRefused
from softprompt.http.auth import caller_of
from softprompt.http.console.pages import Admin, OwnLibrary, Page, go, problem_of, render
from softprompt.http.console.session import HOME, remember
from softprompt.library.library import Library
from softprompt.registry.keys import SCOPES, NewKey

router = APIRouter(prefix=HOME, route_class=Page)

MEANT = {
    "read": "see the library",
    "predict": "use prompts",
    "train": "make versions, review rows",
    "admin": "everything, keys and aliases among it",
}


@router.get("/keys")
def show(request: Request, library: OwnLibrary, _: Admin) -> Response:
    """The keys, never their secrets."""
    return _page(request, library)


@router.post("/keys")
def make(
    request: Request,
    library: OwnLibrary,
    _: Admin,
    name: Annotated[str, Form()] = "",
    scope: Annotated[list[str] | None, Form()] = None,
    users: Annotated[str, Form()] = "",
) -> Response:
    """Make a key. The first one that a library gets closes it, so the browser that made it is signed in with it."""
    try:
        made = library.registry.keys.create(name.strip(), scope or (), users.split() or None)
    except NameRefused as error:
        return _page(request, library, problem=problem_of(error), name=name, status=400)
    first = caller_of(request).key is None
    response = _page(request, library, made=made, first=first)
    if first:
        remember(request, response, made.secret)
    return response


@router.post("/keys/revoke")
def revoke(library: OwnLibrary, _: Admin, key: Annotated[int, Form()]) -> Response:
    """Revoke a key at once and for good."""
    library.registry.keys.revoke(str(key))
    return go("keys")


def _page(
    request: Request,
    library: Library,
    *,
    made: NewKey | None = None,
    first: bool = False,
    problem: str | None = None,
    name: str = "",
    status: int = 200,
) -> Response:
    keys = sorted(library.registry.keys.list(), key=lambda one: (one.revoked, -one.id))
    return render(
        request, "keys.html", status=status, keys=keys, scopes=[(one, MEANT[one]) for one in SCOPES], made=made, first=first,
        problem=problem, name=name,
    )  # fmt: skip
