"""The console in a real Chromium: how it looks, what it asks for, who can use it, and a prompt's life in it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.console.conftest import AXE, OUT, Seen
from tests.console.story import HOSTILE, MARKS

pytestmark = [pytest.mark.console, pytest.mark.filterwarnings("default")]

PAGES = {
    "library": "", "map": "/map",
    "task": "/tasks/remarks?version=2&against=1", "odd": "/tasks/odd", "refused": "/tasks/none",
    "promote": "/tasks/remarks/promote?version=3", "rollback": "/tasks/remarks/rollback", "playground": "/playground",
    "train": "/train", "jobs": "/jobs", "review": "/review", "review-task": "/review/remarks", "ab": "/ab",
    "ab-task": "/ab/remarks", "drift": "/drift", "drift-task": "/drift/remarks?version=2", "keys": "/keys",
    "audit": "/audit",
}  # fmt: skip
SIZES = {"wide": (1280, 800), "phone": (390, 844)}
ROWS = "id,text,label\n" + "".join(f"{at},the red apple {at},good\n{at + 40},the blue stone {at},bad\n" for at in range(40))


def faults(page: Any) -> list[str]:
    """What axe finds that keeps people from using a page."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    grave = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {one['help']}: {[node['target'] for node in one['nodes'][:3]]}" for one in grave]


def count(page: Any, selector: str, number: int) -> None:
    """Wait until so many elements are there. No script is evaluated for it, which the policy forbids."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_count(number, timeout=60_000)


def shoot(page: Any, name: str) -> None:
    page.screenshot(path=str(OUT / f"{name}.png"), full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_page_wide_and_on_a_phone_light_and_dark(chromium: Any, server: str, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, base_url=server)
    seen, page = Seen(server), context.new_page()
    seen.watch(page)
    for name, path in PAGES.items():
        page.goto(f"/console{path}")
        shoot(page, f"{name}-{size}-{scheme}")
        assert faults(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        places = "[...document.querySelectorAll('nav a')].map(one => one.getBoundingClientRect().right)"
        assert page.evaluate(f"Math.max(...{places}) <= innerWidth"), name
    grounds = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, re.findall(r"\d+", grounds)[:3])) < 200
    assert dark == (scheme == "dark")
    seen.check(refusals=1)  # the page that is not there
    context.close()


def test_a_search_finds_as_one_types(page: Any, seen: Seen) -> None:
    page.goto("/console")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.get_by_label("Task", exact=True).press_sequentially("odd")
    page.wait_for_url("**q=odd**")
    count(page, "#list tbody tr", 1)
    page.get_by_role("link", name="odd").press("Enter")
    page.wait_for_selector("h1:has-text('odd@1')")
    seen.check()


def test_what_people_wrote_runs_nowhere(page: Any, seen: Seen) -> None:
    alerts: list[str] = []
    page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    for path in ("/tasks/odd", "/review/odd", "/review/remarks"):
        page.goto(f"/console{path}")
    assert MARKS in page.inner_text("main")
    page.goto("/console/tasks/odd")
    page.get_by_text("Form and recipe").click()
    assert all(label in page.inner_text("main") for label in HOSTILE)
    assert not alerts
    seen.check()


def test_answers_side_by_side_in_pieces(page: Any, seen: Seen) -> None:
    page.goto("/console/playground")
    # By its number: an experiment shares the requests to the bare name out between two versions.
    for at, name in enumerate(("remarks@2", "remarks@3", "headword", "odd"), start=1):
        page.get_by_label(f"Model {at}").fill(name)
    page.get_by_label("Input", exact=True).fill(f"It was not bad at all {MARKS}")
    page.get_by_role("button", name="Answer").press("Enter")
    count(page, ".scores", 3)
    page.wait_for_selector(".panel h2:has-text('headword@1')")
    assert [one.inner_text() for one in page.query_selector_all(".panel h2")][:2] == ["remarks@2", "remarks@3"]
    assert any(label in page.inner_text("#answers") for label in HOSTILE)
    shoot(page, "playground-answered")
    assert faults(page) == []
    page.get_by_label("Model 1").fill("nobody")
    page.get_by_role("button", name="Answer").click()
    page.wait_for_selector("[role=alert]:has-text('nobody')")
    seen.check(refusals=1)


def test_rows_of_a_file_are_answered_side_by_side(page: Any, seen: Seen) -> None:
    page.goto("/console/playground")
    page.get_by_label("Model 1").fill("remarks@1")
    page.get_by_label("Model 2").fill("remarks@3")
    rows = {"name": "rows.csv", "mimeType": "text/csv", "buffer": b"text\nvery good\nnot good\nI am not sure\n"}
    page.get_by_label("or rows of a file").set_input_files(rows)
    page.get_by_role("button", name="Answer").click()
    page.wait_for_selector("h2:has-text('3 rows')")
    shoot(page, "playground-rows")
    assert faults(page) == []
    seen.check()


def test_the_gate_refuses_and_an_alias_goes_there_and_back_by_keyboard(page: Any, seen: Seen) -> None:
    page.goto("/console/tasks/remarks/promote?version=3")
    page.wait_for_selector("text=3 of 5 checks fall")
    page.get_by_role("button", name="Promote remarks@3").press("Enter")
    page.wait_for_selector("text=The gate refuses.")
    shoot(page, "promote-refused")
    assert faults(page) == []
    page.goto("/console/tasks/remarks?version=1")
    page.get_by_role("link", name="Promote…").press("Enter")
    page.get_by_label("Alias").fill("canary")
    page.get_by_role("button", name="Look again").press("Enter")
    page.wait_for_selector("text=canary is new")
    page.get_by_label("Reason").fill("to be tried")
    page.get_by_role("button", name="Promote remarks@1").press("Enter")
    page.wait_for_selector(".lead .alias:has-text('canary')")
    page.goto("/console/tasks/remarks/promote?version=2&alias=canary")
    page.get_by_role("button", name="Promote remarks@2").press("Enter")
    page.wait_for_selector("h1:has-text('remarks@2')")
    page.goto("/console/tasks/remarks/rollback?alias=canary")
    page.get_by_role("button", name="Roll back to version 1").press("Enter")
    page.wait_for_selector("h1:has-text('remarks@1')")
    assert "to be tried" in page.inner_text("main")
    seen.check(refusals=1)


def test_a_table_becomes_trainings_that_are_watched_changed_and_stopped(page: Any, seen: Seen) -> None:
    page.goto("/console/train")
    page.get_by_label("Table").set_input_files({"name": "fruit.csv", "mimeType": "text/csv", "buffer": ROWS.encode()})
    page.get_by_role("button", name="Upload").click()
    page.wait_for_selector("h1:has-text('Train on fruit.jsonl')")
    shoot(page, "train-form")
    assert faults(page) == []
    page.get_by_label("Steps", exact=True).fill("5000")
    page.get_by_label("Virtual tokens").fill("8")
    page.get_by_role("button", name="Start the training").click()
    page.wait_for_selector("h1:has-text('Training of fruit')")
    long = page.url
    page.wait_for_selector("#live .state.running", timeout=120_000)
    first = page.wait_for_selector("#live circle", state="attached", timeout=180_000)
    assert first
    drawn = page.locator("#live circle").count()
    page.wait_for_selector(f"#live svg circle >> nth={drawn}", state="attached", timeout=180_000)  # by itself
    shoot(page, "job-running")
    assert faults(page) == []

    page.goto("/console/jobs")  # a list that is drawn anew every two seconds
    link = page.locator("#jobs tbody a").first
    link.focus()
    page.wait_for_timeout(2600)
    assert page.evaluate("document.activeElement.id").startswith("to-ftjob")
    link.hover()
    page.mouse.down()
    page.wait_for_timeout(2600)
    page.mouse.up()
    page.wait_for_url(long)

    page.get_by_role("link", name="Clone and change…").click()  # while it goes on
    assert page.get_by_label("Steps", exact=True).input_value() == "5000"
    page.get_by_label("Steps", exact=True).fill("8")
    page.get_by_label("Name of the task").fill("fruit-short")
    page.get_by_role("button", name="Start the training").click()
    page.wait_for_selector("#live .state.succeeded", timeout=900_000)  # the other one goes on beside it
    shoot(page, "job-done")
    assert "fruit-short@1" in page.inner_text("#live")

    page.goto(long)
    page.get_by_text("Stop…").click()
    page.get_by_role("button", name="Stop the training").click()
    page.wait_for_selector("#live .state.cancelled")
    page.goto("/console/jobs")
    shoot(page, "jobs-done")
    assert "fruit-short@1" in page.inner_text("main")
    seen.check()


def test_rows_are_labelled_one_after_the_other(page: Any, seen: Seen) -> None:
    page.goto("/console/review/remarks")
    assert page.locator(".review").count() == 4
    page.get_by_role("button", name="negative").first.press("Enter")
    page.wait_for_selector("text=1 of 4 labelled")
    assert page.locator(".review").count() == 3
    seen.check()


def test_keys_close_the_door_and_open_it(chromium: Any, server: str, page: Any, seen: Seen) -> None:
    """The last one, as the server asks for a key from here on."""
    page.goto("/console/keys")
    page.get_by_label("Name", exact=True).fill("desk")
    page.get_by_label("admin").check()
    page.get_by_role("button", name="Make the key").click()
    secret = page.inner_text("#secret")
    assert secret.startswith("sp-")
    page.wait_for_timeout(1500)
    page.goto("/console/keys")  # this browser is in
    assert secret not in page.content()
    assert page.evaluate("document.cookie") == ""
    seen.check()

    context = chromium.new_context(viewport={"width": 390, "height": 844}, base_url=server)
    other = context.new_page()
    other.goto("/console/audit")
    other.wait_for_selector("h1:has-text('Sign in')")
    shoot(other, "sign-in-phone")
    assert faults(other) == []
    other.get_by_label("API key").fill("sp-wrong")
    other.get_by_role("button", name="Sign in").press("Enter")
    other.wait_for_selector("[role=alert]")
    other.get_by_label("API key").fill(secret)
    other.get_by_role("button", name="Sign in").press("Enter")
    other.wait_for_selector("h1:has-text('Audit')")
    (cookie,) = context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/console")
    other.get_by_role("button", name="Sign out").click()
    other.wait_for_selector("h1:has-text('Sign in')")
    context.close()
