"""Who gets in: keys in a cookie, scopes and tenants, and no other site's pages."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from softprompt.http.console.session import own_address
from tests.http_server import LABELS, Running
from tests.models import some_prompt

from .pages import Browser, read

FRESH_S = 1.1
"""Longer than the registry's last word holds."""


def make_key(running: Running, name: str, *scopes: str, tenant: str = "default") -> str:
    return running.library.for_tenant(tenant).registry.keys.create(name, scopes).secret


@pytest.fixture
def keyed(running: Running) -> dict[str, Browser]:
    """A browser for each scope."""
    browsers = {scope: Browser(running, make_key(running, scope, scope)) for scope in ("read", "predict", "train", "admin")}
    time.sleep(FRESH_S)
    return browsers


def test_without_keys_this_machine_alone_is_answered(running: Running, browser: Browser) -> None:
    assert browser.page().all("h1")
    for headers in ({"host": "prompts.example"}, {"origin": "https://prompts.example"}):
        assert browser.get(headers=headers).status_code == 403
    assert browser.get("/sign-in?next=/console/audit").headers["location"] == "/console/audit"


def test_a_key_is_asked_for_and_kept_where_no_script_sees_it(keyed: dict[str, Browser], running: Running) -> None:
    stranger = Browser(running)
    asked = stranger.get("/tasks/kind?version=2")
    assert (asked.status_code, asked.headers["location"]) == (
        303, "/console/sign-in?next=%2Fconsole%2Ftasks%2Fkind%3Fversion%3D2"
    )  # fmt: skip
    part = stranger.get("/jobs", headers={"hx-request": "true"})
    assert (part.status_code, part.text) == (401, "")
    assert part.headers["hx-redirect"].startswith("/console/sign-in?next=")
    assert stranger.post("/keys", {"name": "x", "scope": ["admin"]}).headers["location"] == "/console/sign-in"
    for wrong in ("", "sp-nothing", "kéy", "a b"):
        refused = stranger.post("/sign-in", {"key": wrong})
        assert refused.status_code == 401
        assert "set-cookie" not in refused.headers
        assert wrong == "" or wrong not in refused.text
    secret = keyed["read"].key or ""
    answer = stranger.post("/sign-in", {"key": f" {secret} ", "next": "/console/ab"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/ab")
    cookie = answer.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/console"))
    assert "max-age" not in cookie
    assert "secure" not in cookie
    secured = stranger.post("/sign-in", {"key": secret}, headers={"x-forwarded-proto": "https"})
    assert "secure" in secured.headers["set-cookie"].lower()
    assert Browser(running, secret).page().all("h1")
    out = Browser(running, secret).post("/sign-out")
    assert 'softprompt_key=""' in out.headers["set-cookie"]


def test_a_revoked_key_is_shown_the_door(running: Running) -> None:
    make_key(running, "other", "admin")
    browser = Browser(running, make_key(running, "gone", "read"))
    time.sleep(FRESH_S)
    assert browser.get().status_code == 200
    running.library.registry.keys.revoke("gone")
    time.sleep(FRESH_S)
    assert browser.get().status_code == 303


@pytest.mark.parametrize(
    "address",
    ["https://evil.example", "//evil.example", "/\\evil.example", "/consoles", "/console\n/x", "", None, "/v1/models"],
)
def test_nobody_is_sent_elsewhere_by_a_link_to_the_sign_in(address: str | None) -> None:
    assert own_address(address) == "/console"


def test_an_address_of_the_console_is_kept() -> None:
    for address in ("/console", "/console/tasks/kind?version=2", "/console?q=x"):
        assert own_address(address) == address


ALLOWED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "GET": {
        "": ("read",), "/tasks/kind": ("read",), "/ab": ("read",), "/drift": ("read",), "/map": ("read",),
        "/playground": ("predict",),
        "/train": ("train",), "/jobs": ("train",), "/review": ("train",), "/keys": (), "/audit": (),
        "/tasks/kind/promote?version=2": (), "/review/kind/rows.jsonl": ("train",),
    },
    "POST": {
        "/tasks/kind/promote": (), "/tasks/kind/rollback": (), "/keys": (), "/keys/revoke": (), "/ab": (),
        "/ab/kind/stop": (), "/ab/kind/weight": (), "/playground": ("predict",), "/playground/stream": ("predict",),
        "/train": ("train",),
        "/review/kind": ("train",), "/jobs/x/stop": ("train",), "/train/x": ("train",), "/review/kind/erase": ("train",),
    },
}  # fmt: skip
"""Which scopes, beside `admin`, may see or do what."""


def test_a_key_may_do_what_its_scopes_say_and_no_more(keyed: dict[str, Browser]) -> None:
    for method, paths in ALLOWED.items():
        for path, scopes in paths.items():
            for name, browser in keyed.items():
                send = browser.get if method == "GET" else browser.post
                body: Any = {} if method == "GET" else {"data": {"version": "1", "key": "999", "row": "999"}}
                status = send(path, **body).status_code
                assert (status == 403) == (name not in (*scopes, "admin")), (method, path, name, status)
    seen = {"read": "", "predict": "/playground", "admin": ""}
    links = {name: {one["href"] for one in keyed[name].page(path).all("a")} for name, path in seen.items()}
    assert "/console/keys" in links["admin"]
    assert not {"/console/keys", "/console/train", "/console/playground"} & links["read"]
    assert "/console/playground" in links["predict"]


def test_every_route_that_can_be_asked_is_in_the_table_of_scopes(running: Running) -> None:
    from softprompt.http.console.pages import OpenPage
    from softprompt.http.console.routes import families

    unlisted = {
        (method, route.path)
        for family in families
        for route in family.router.routes
        if not isinstance(route, OpenPage)
        for method in route.methods
    }
    listed = {(method, path.partition("?")[0]) for method, paths in ALLOWED.items() for path in paths}
    for method, path in sorted(unlisted):
        told = path.removeprefix("/console").rstrip("/")
        for name, value in {"{task}": "kind", "{job}": "x", "{file}": "x"}.items():
            told = told.replace(name, value)
        looks = method == "GET" and told.count("/") > 1  # at what a page of the table leads to
        assert looks or (method, told) in listed, (method, path)


def test_a_tenant_sees_and_changes_its_own(running: Running) -> None:
    base = running.base
    theirs = running.library.for_tenant("river", "bob")
    theirs.publish(some_prompt(base, "theirs", seed=8, labels=LABELS).to_bytes(), base=base.address)
    ours, other = (Browser(running, make_key(running, "a", "admin", tenant=name)) for name in ("default", "river"))
    time.sleep(FRESH_S)
    assert "theirs" not in ours.page().text
    assert "kind" not in other.page().text.split()
    assert other.get("/tasks/kind").status_code == 404
    assert ours.get("/tasks/theirs").status_code == 404
    assert other.post("/tasks/kind/promote", {"version": "2"}).status_code == 404
    assert other.post("/tasks/theirs/promote", {"version": "1"}).status_code == 303
    (entry,) = [one for one in theirs.registry.audit("theirs") if one.action == "promote"]
    assert entry.actor == "key:a"
    (own,) = running.library.registry.keys.list()
    assert other.post("/keys/revoke", {"key": str(own.id)}).status_code == 404
    assert not running.library.registry.keys.list()[0].revoked


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "origin": "OWN"},
        {},
    ],
)
def test_a_form_of_another_page_changes_nothing(running: Running, headers: dict[str, str]) -> None:
    sent = {name: running.url if value == "OWN" else value for name, value in headers.items()}
    for path, data in (
        ("/tasks/kind/promote", {"version": "2", "force": "true", "reason": "x"}),
        ("/keys", {"name": "x", "scope": "admin"}),
        ("/playground/stream", {"model": "kind", "text": "x"}),
        ("/sign-in", {"key": "x"}),
    ):
        answer = running.http.post(f"{running.url}/console{path}", data=data, headers=sent)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    assert running.library.registry.aliases.of("kind") == {"production": 1}
    assert not running.library.registry.keys.list()


def test_a_browser_says_where_a_form_comes_from(running: Running) -> None:
    for headers in ({"sec-fetch-site": "same-origin"}, {"origin": running.url}):
        answer = running.http.post(
            f"{running.url}/console/playground", data={"model": "kind", "text": "red"}, headers=headers
        )
        assert answer.status_code == 200
        assert "kind@1" in read(answer.text).text
