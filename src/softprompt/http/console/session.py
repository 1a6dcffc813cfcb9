"""Who looks at the console: a key kept in a cookie, and requests that only its own pages may make."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import Request
from starlette.responses import Response

from softprompt.http.auth import Caller
from softprompt.http.errors import ApiError
from softprompt.http.state import state_of

HOME = "/console"
COOKIE = "softprompt_key"

_SAFE = ("GET", "HEAD")


class SignInNeeded(Exception):
    """The server has keys, and the browser shows none that is live."""


def check_origin(request: Request) -> None:
    """Raises `ApiError` 403 for a request that changes something and comes from another page than one of this server's.

    Browsers say where a request comes from, in `sec-fetch-site` or, where the page is not in a secure context, in `origin`;
    no page can change either. The cookie goes with no request of another site, so this is the second lock, and without keys
    the only one.
    """
    if request.method in _SAFE:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        own = site in ("same-origin", "none")
    else:
        own = origin is not None and origin.rpartition("://")[2] == request.headers.get("host")
    if not own:
        raise ApiError(
            403, "this was not sent by a page of the console; open the page here and send it again", code="cross_site"
        )


async def identify(request: Request) -> Caller:
    """Who sends a request to the console.

    Raises:
        SignInNeeded: a key is needed, and the cookie has none that is live.
        RegistryError: the registry cannot be asked.
    """
    keyring, secret = state_of(request).keyring, request.cookies.get(COOKIE)
    try:
        return await keyring.identify(None if secret is None else f"Bearer {secret}")
    except ApiError:
        raise SignInNeeded from None


def remember(request: Request, response: Response, secret: str) -> None:
    """Keep a key in the browser until it is closed, where no script can read it and no other site can use it."""
    secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    response.set_cookie(COOKIE, secret, path=HOME, httponly=True, samesite="strict", secure=secure)


def forget(response: Response) -> None:
    """Take the key out of the browser."""
    response.delete_cookie(COOKIE, path=HOME, httponly=True, samesite="strict")


def sign_in_address(request: Request) -> str:
    """Where to sign in, and come back to what was asked for."""
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return f"{HOME}/sign-in?next={quote(back, safe='')}" if request.method in _SAFE else f"{HOME}/sign-in"


def own_address(address: str | None) -> str:
    """An address of the console as it is, and its first page for any other: nobody is sent elsewhere by a link to it."""
    plain = address is not None and address.isprintable() and not {"\\", " "} & set(address)
    return address if address and plain and (address == HOME or address.startswith((f"{HOME}/", f"{HOME}?"))) else HOME
