"""The library's pages: searched as the listing searches, a page at a time; a task, its gate, its history."""

from __future__ import annotations

import json

import pytest

from softprompt.http.console.library import pattern
from softprompt.http.console.pages import PAGE_ROWS
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.listing import Filters
from tests.http_server import LABELS, Running
from tests.models import some_prompt

from .pages import Browser, Html


def scored(running: Running, value: float, *, seed: int, rows: int = 100) -> SoftPrompt:
    """A prompt of the task `kind` with a score."""
    prompt = some_prompt(running.base, "kind", seed=seed, rows=3, labels=LABELS)
    card = prompt.card.model_copy(update={"metrics": {"value": value, "rows": rows}})
    return SoftPrompt(prompt.vectors_PD, card)


def names(page: Html) -> list[str]:
    """The tasks that are listed."""
    found = [one["href"].partition("?")[0] for one in page.all("a") if one.get("href", "").startswith("/console/tasks/")]
    return [address.rpartition("/")[2] for address in found]


def test_the_list_is_what_the_listing_finds(running: Running, browser: Browser) -> None:
    registry = running.library.registry
    for query, filters in (
        ("", Filters()),
        ("?q=i", Filters(task="*i*")),
        ("?q=k*", Filters(task="k*")),
        ("?q=none", Filters(task="none")),
        ("?every=true", Filters(every=True)),
        ("?tag=language:en", Filters(tag="language:en")),
        ("?metric=exact_match", Filters(metric="exact_match")),
        ("?q=%20", Filters()),
    ):
        assert names(browser.page(query)) == [entry.task for entry in registry.tasks(filters)], query
    assert "cannot be read" in browser.page("?metric=accuracy%3E%3Dx").text
    assert "Nothing passes" in browser.page("?q=none").text


def test_a_search_is_a_part_of_a_name_or_a_pattern() -> None:
    assert [pattern(text) for text in ("", "  ", "a", " a ", "a*", "?a")] == [None, None, "*a*", "*a*", "a*", "?a"]


def test_htmx_gets_the_list_alone(browser: Browser) -> None:
    part = browser.get("?q=kind", headers={"hx-request": "true"}).text
    assert "<html" not in part
    assert "/console/tasks/kind" in part


def test_pages_hold_every_task_once(running: Running, browser: Browser) -> None:
    data = [some_prompt(running.base, f"many-{at:03}", seed=at, rows=1).to_bytes() for at in range(PAGE_ROWS + 5)]
    running.library.publish_all(data, base=running.base.address)
    whole = [entry.task for entry in running.library.registry.tasks()]
    assert names(browser.page("?page=1")) + names(browser.page("?page=2")) == whole
    assert names(browser.page("?page=99")) == names(browser.page("?page=2"))
    forward = [one["href"] for one in browser.page("?q=many").all("a") if "page=" in one.get("href", "")]
    assert forward == ["/console?page=2&q=many"]


def test_versions_beside_each_other(running: Running, browser: Browser) -> None:
    running.library.publish(scored(running, 0.9, seed=3).to_bytes(), base=running.base.address)
    page = browser.page("/tasks/kind?version=3&against=2")
    assert "What changed from kind@2" in page.text
    assert "metrics.value" in page.text
    assert "num_virtual_tokens 7 3" in page.text
    assert "What changed" not in browser.page("/tasks/kind?version=3&against=0").text
    assert "kind@1" in browser.page("/tasks/kind").text  # the bare name means production


def test_curves_are_those_of_the_training(running: Running, browser: Browser) -> None:
    assert "Training loss" not in browser.page("/tasks/kind?version=2").text
    running.library.runs.mkdir(parents=True, exist_ok=True)
    rows = [{"step": step, "loss": 2 / step, "value": step / 10, "learning_rate": 0.1} for step in (2, 4, 8)]
    (running.library.histories / "kind@2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = browser.page("/tasks/kind?version=2")
    assert len(page.all("circle")) == 6
    assert "Training loss" in page.text
    (running.library.histories / "kind@2.jsonl").write_text("{")
    assert "Training loss" not in browser.page("/tasks/kind?version=2").text


def test_a_promotion_is_confirmed_and_kept_in_the_audit(running: Running, browser: Browser) -> None:
    asked = browser.page("/tasks/kind/promote?version=2")
    assert "production points to version 1 now, and will point to version 2" in asked.text
    assert running.library.registry.aliases.of("kind") == {"production": 1}
    answer = browser.post("/tasks/kind/promote", {"version": "2", "reason": "it is better"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/tasks/kind?version=2")
    assert running.library.registry.aliases.of("kind") == {"production": 2}
    assert running.library.registry.audit("kind")[-1].reason == "it is better"
    back = browser.page("/tasks/kind/rollback?alias=production")
    assert "points to version 2 now, and will point to version 1 again" in back.text
    assert browser.post("/tasks/kind/rollback", {"alias": "production", "reason": "no"}).status_code == 303
    assert running.library.registry.aliases.of("kind") == {"production": 1}
    assert "nothing to go back to" in browser.page("/tasks/kind/rollback?alias=production", status=404).text


def test_what_the_gate_refuses_is_shown_and_forced_with_a_reason_alone(running: Running, browser: Browser) -> None:
    library = running.library
    for value, seed in ((0.9, 3), (0.2, 4)):
        library.publish(scored(running, value, seed=seed).to_bytes(), base=running.base.address)
    library.promote("kind@3")
    assert "The gate will refuse this" in browser.page("/tasks/kind/promote?version=4").text
    for form in ({}, {"force": "true"}, {"force": "true", "reason": " "}):
        answer = browser.post("/tasks/kind/promote", {"version": "4"} | form)
        assert answer.status_code == 409
        assert "The gate refuses" in answer.text
        assert "--force" not in answer.text
        assert library.registry.aliases.of("kind") == {"production": 3}
    assert browser.post("/tasks/kind/promote", {"version": "4", "force": "true", "reason": "I know"}).status_code == 303
    assert library.registry.aliases.of("kind") == {"production": 4}


@pytest.mark.parametrize(("alias", "status"), [("<b>", 400), ("ok", 303), ("", 303)])
def test_an_alias_is_a_name(running: Running, browser: Browser, alias: str, status: int) -> None:
    assert browser.post("/tasks/kind/promote", {"version": "2", "alias": alias}).status_code == status


def test_what_a_form_lacks_is_told(browser: Browser) -> None:
    answer = browser.post("/tasks/kind/promote", {})
    assert answer.status_code == 400
    assert "version is missing" in answer.text.lower()


def test_a_deleted_version_is_shown_as_one(running: Running, browser: Browser) -> None:
    running.library.registry.delete("kind@2")
    page = browser.page("/tasks/kind?version=2")
    assert "deleted" in page.text
    assert "Promote…" not in page.text
    running.library.registry.delete("kind@1", force=True)
    assert "All versions are deleted" in browser.page("/tasks/kind").text
    assert browser.get("/tasks/kind/promote?version=2").status_code == 404
