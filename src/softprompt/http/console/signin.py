"""Signing in and out, and the files that pages load."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from softprompt.http.auth import Caller
from softprompt.http.console.pages import STATIC, OpenPage, render, sentence, static_file
from softprompt.http.console.session import HOME, forget, own_address, remember
from softprompt.http.errors import ApiError
from softprompt.http.state import state_of

router = APIRouter(prefix=HOME, route_class=OpenPage)


@router.get("/sign-in")
async def ask(request: Request, next: str | None = None) -> Response:
    """Ask for a key; where none is needed, go on."""
    if not await state_of(request).keyring.needed():
        return RedirectResponse(own_address(next), 303)
    return render(request, "sign-in.html", back=own_address(next), problem=None)


@router.post("/sign-in")
async def sign_in(request: Request, key: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "") -> Response:
    """Take a key that is live, and keep it in the browser."""
    back = own_address(next)
    try:
        caller: Caller = await state_of(request).keyring.identify(f"Bearer {key.strip()}")
    except ApiError as error:
        told = sentence(error.message) if key.strip() else "Give a key."
        return render(request, "sign-in.html", status=401, back=back, problem=told)
    response = RedirectResponse(back, 303)
    if caller.key is not None:
        remember(request, response, key.strip())
    return response


@router.post("/sign-out")
async def sign_out() -> Response:
    """Take the key out of the browser."""
    response = RedirectResponse(f"{HOME}/sign-in", 303)
    forget(response)
    return response


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """A script, a style sheet or the icon. The address changes with the content, so it is kept for good."""
    if name not in STATIC:
        raise ApiError(404, f"there is no file {name!r}; load the page again")
    headers = {"cache-control": "public, max-age=31536000, immutable"}
    return Response(static_file(name), headers=headers, media_type=STATIC[name])
