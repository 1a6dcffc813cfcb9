"""Every page: that it comes, that nothing in it is inline or from elsewhere, and that what people wrote is only shown."""

from __future__ import annotations

import re
from typing import Any

import pytest

from softprompt.http.console.charts import bar, curves, groups, interval
from softprompt.http.console.pages import STATIC
from softprompt.registry.traffic.reviews import Review
from tests.http_server import Running

from .conftest import HOSTILE, SCRIPT
from .pages import Browser, Html, read

PAGES = (
    "", "/", "?q=ki&every=true", "?page=7", "/tasks/kind", "/tasks/kind?version=2&against=1", "/tasks/odd",
    "/tasks/kind/promote?version=2", "/tasks/kind/promote?version=2&alias=%3Cb%3E", "/playground",
    "/playground?model=odd&text=%3Cscript%3Ealert(1)%3C/script%3E", "/train", "/jobs", "/review", "/review/odd",
    "/review/kind?every=true", "/ab", "/ab/kind", "/drift", "/drift/kind?version=2",
    "/map", "/map?q=%3Cscript%3E", "/map?q=k*", "/keys", "/audit", "/audit?task=kind",
)  # fmt: skip
GONE = ("/nowhere", "/tasks/none", "/tasks/%3Cscript%3E", "/tasks/kind@1", "/review/none", "/ab/none", "/drift/none",
        "/jobs/ftjob-none", "/train/file-none", "/tasks/kind?version=9")  # fmt: skip


def check(page: Html) -> None:
    """That a page holds nothing that the policy would refuse, and nothing of another server."""
    for element in page.elements:
        assert "style" not in element.attributes, element
        assert not [name for name in element.attributes if name.startswith("on")], element
        assert element.name not in ("style", "iframe", "object", "embed", "base"), element
        if element.name == "script":
            assert element.attributes["src"].startswith("/console/static/"), element
        for name in ("src", "href", "action", "hx-get", "hx-post", "data-stream"):
            address = element.attributes.get(name, "/")
            assert address.startswith(("/console", "#", "/")), element
            assert not address.startswith("//"), element


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_whole_and_holds_nothing_inline(browser: Browser, path: str) -> None:
    page = browser.page(path)
    check(page)
    assert len(page.all("h1")) == 1
    assert len(page.all("main")) == 1
    assert page.all("html", lang="en")
    ids = [one.attributes["id"] for one in page.elements if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    labels = {one["for"] for one in page.all("label")}
    for name in ("input", "select", "textarea"):
        assert all(one.get("type") == "hidden" or one["id"] in labels for one in page.all(name))


@pytest.mark.parametrize("path", GONE)
def test_what_is_not_there_is_a_page_that_says_so(browser: Browser, path: str) -> None:
    page = browser.page(path, status=404)
    check(page)
    assert "Not here" in page.text
    assert "`" not in page.text  # no advice about commands


@pytest.mark.parametrize("path", ["", "/nowhere", "/sign-in", "/static/console.css", "/keys"])
def test_all_that_comes_has_the_policy(browser: Browser, path: str) -> None:
    headers = browser.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert ("immutable" in headers["cache-control"]) == ("static" in path)
    assert ("no-store" in headers["cache-control"]) == ("static" not in path)


def test_files_are_served_from_the_package(browser: Browser) -> None:
    loaded = {one["src"] for one in browser.page().all("script")} | {one["href"] for one in browser.page().all("link")}
    assert {re.split(r"[/?]", address)[3] for address in loaded} | {"icon.svg"} == set(STATIC)
    for address in loaded:
        answer = browser.running.http.get(browser.running.url + address)
        assert answer.status_code == 200
        assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org", "")
    for name in ("nothing.js", "..%2Fpages.py", "htmx.LICENSE.txt"):
        assert browser.get(f"/static/{name}").status_code == 404


def fill_with_marks(running: Running) -> None:
    rows = [Review(0, "odd", 1, SCRIPT, HOSTILE[0], 0.4), Review(0, "kind", 1, "'\"><img src=x>", "yes", 0.5)]
    for row in rows:
        running.library.registry.reviews.add(row.task, [row])


def test_what_people_wrote_is_shown_and_never_read_as_html(running: Running, browser: Browser) -> None:
    fill_with_marks(running)
    answers: list[Any] = [browser.get(path) for path in PAGES]
    data = {"model": ["odd", SCRIPT], "text": SCRIPT}
    answers.append(browser.post("/playground", data))
    answers.append(browser.post("/playground/stream", data | {"model": ["odd"]}))
    answers.append(browser.post("/playground", {"model": ["odd", "kind"], "text": SCRIPT}))
    answers.append(browser.post("/ab", {"task": SCRIPT, "weight": SCRIPT}))
    answers.append(browser.post("/keys", {"name": SCRIPT, "scope": ["read"]}))
    answers.append(browser.get(f"?q={SCRIPT}&tag={SCRIPT}&metric={SCRIPT}"))
    answers.append(browser.get(f"/audit?task={SCRIPT}"))
    rows = f'text,label\n"{SCRIPT} 1",<b>\n"{SCRIPT} 2",<i>\n' * 8
    answers.append(browser.post("/train", files={"file": (f"{SCRIPT}.csv", rows.encode())}, follow_redirects=True))
    assert answers[-1].status_code == 200
    for answer in answers:
        assert SCRIPT not in answer.text
        assert "<img" not in answer.text.replace('<img src="/console/static/icon.svg', "")
        check(read(answer.text))
        assert not any(mark in answer.text for mark in HOSTILE[:2]), answer.url
        assert "49" not in read(answer.text).text.split()
    page = browser.page("/tasks/odd")
    assert all(label in page.text for label in HOSTILE)
    assert f"{{text}} {SCRIPT}" in page.text
    assert f"because {SCRIPT}" in browser.page("/audit").text
    assert SCRIPT in browser.page("/review/odd").text


def test_charts_escape_and_leave_out_what_is_no_number() -> None:
    drawn = curves({SCRIPT: [(1, 0.5), (2, float("nan")), (3, None), (4, 0.25)]}, title=SCRIPT)
    assert SCRIPT not in drawn
    page = read(str(drawn))
    assert len(page.all("circle")) == 2
    assert "nan" not in drawn
    assert "Nothing to draw yet" in curves({"a": []}, title="t")
    assert SCRIPT not in groups([SCRIPT], {SCRIPT: [1.0]}, title=SCRIPT)
    assert "Nothing to draw yet" in groups([], {}, title="t")
    (_, fill) = read(str(bar(0.25))).all("rect")
    assert fill["width"] == "25.00"
    assert [read(str(bar(share))).all("rect")[1]["width"] for share in (-1, 2, float("nan"))] == ["0.00", "100.00", "0.00"]
    assert [one["x"] for one in read(str(interval(0.2, 0.5, 0.9))).all("rect")[1:]] == ["20.00", "49.40"]


def test_points_stand_where_their_numbers_are() -> None:
    """The axis is linear, and runs upwards."""
    page = read(str(curves({"a": [(0, 0.0), (50, 0.5), (100, 1.0)]}, title="t")))
    places = [(float(one["cx"]), float(one["cy"])) for one in page.all("circle")]
    assert places[0][0] < places[1][0] < places[2][0]
    assert places[1][0] - places[0][0] == pytest.approx(places[2][0] - places[1][0], abs=0.2)
    assert places[0][1] - places[1][1] == pytest.approx(places[1][1] - places[2][1], abs=0.2)
    assert places[0][1] > places[2][1]
    flat = read(str(curves({"a": [(5, 2.0)]}, title="t")))
    assert len(flat.all("circle")) == 1
