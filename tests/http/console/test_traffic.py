"""What comes back of serving: rows for review, experiments, drift; and keys, and the audit."""

from __future__ import annotations

import json
import time

from softprompt.evaluation.reference import Reference, Seen
from softprompt.http.console.pages import PAGE_ROWS
from softprompt.lifecycle import experiments, feedback
from softprompt.registry.records import now
from softprompt.registry.traffic.reviews import Review
from softprompt.registry.traffic.windows import Window, key_of
from tests.http_server import Running

from .pages import Browser, read
from .test_session import FRESH_S


def review(running: Running, *texts: str, task: str = "kind") -> list[Review]:
    rows = [Review(0, task, 1, text, "yes", 0.5 - at / 100) for at, text in enumerate(texts)]
    running.library.registry.reviews.add(task, rows)
    return running.library.registry.reviews.of(task)


def test_rows_are_labelled_with_answers_that_the_task_has(running: Running, browser: Browser) -> None:
    first, second = review(running, "red", "blue")
    assert "kind 2 0" in browser.page("/review").text
    page = browser.page("/review/kind")
    assert page.text.index("blue") < page.text.index("red")  # the least sure first
    assert [one["value"] for one in page.all("button", name="answer")][:3] == ["yes", "no", "the river"]
    refused = browser.post("/review/kind", {"row": str(first.id), "answer": "maybe"})
    assert refused.status_code == 400
    assert "maybe" in refused.text
    assert browser.post("/review/kind", {"row": str(first.id), "answer": "no"}).status_code == 303
    assert [one.answer for one in running.library.registry.reviews.of("kind")] == ["no", None]
    left = browser.page("/review/kind")
    assert "red" not in left.text.split()
    assert "1 of 2 labelled" in left.text
    part = browser.post("/review/kind", {"row": str(second.id), "answer": "yes"}, headers={"hx-request": "true"})
    assert "<html" not in part.text
    assert "Nothing is left" in part.text
    lines = browser.get("/review/kind/rows.jsonl")
    assert [json.loads(line) for line in lines.text.splitlines()] == [
        {"text": "red", "label": "no"}, {"text": "blue", "label": "yes"},
    ]  # fmt: skip
    assert "attachment" in lines.headers["content-disposition"]


def test_the_counts_are_those_of_the_rows(running: Running) -> None:
    review(running, "red", "blue", "green")
    review(running, "stone", task="odd")
    reviews = running.library.registry.reviews
    reviews.label("kind", {reviews.of("kind")[0].id: "yes"})
    counts = {one.task: (one.rows, one.labelled) for one in reviews.counts()}
    assert counts == {
        task: (len(rows), sum(row.answer is not None for row in rows))
        for task in ("kind", "odd")
        if (rows := reviews.of(task))
    }
    assert [one.task for one in reviews.counts()] == ["kind", "odd"]
    assert not running.library.for_tenant("river").registry.reviews.counts()


def test_a_row_is_erased_for_good(running: Running, browser: Browser) -> None:
    first, _ = review(running, "red", "blue")
    assert browser.post("/review/kind/erase", {"row": str(first.id)}).status_code == 303
    assert [one.text for one in running.library.registry.reviews.of("kind")] == ["blue"]
    assert browser.post("/review/kind/erase", {"row": str(first.id)}).status_code == 404


def test_an_experiment_from_its_beginning_to_its_end(running: Running, browser: Browser) -> None:
    assert "No experiment, and there was none" in browser.page("/ab/kind").text
    answer = browser.post("/ab", {"task": "kind", "candidate": "2", "weight": "0.25", "max_outcomes": "90"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/ab/kind")
    made = running.library.registry.experiments.latest("kind")
    assert made is not None
    assert (made.control, made.candidate, made.weight, made.max_outcomes, made.shadow) == (1, 2, 0.25, 90, False)
    for at in range(8):
        feedback.take(running.library, model="kind", user=f"user-{at}", outcome=1.0)
    page = browser.page("/ab/kind")
    rows = experiments.status(running.library, "kind")
    assert all(f"{row['successes']:g} of {row['outcomes']} outcomes" in page.text for row in rows)
    assert "hx-trigger" in browser.get("/ab/kind", headers={"hx-request": "true"}).text
    assert "kind running" in browser.page("/ab").text
    assert "Change the weight" in browser.page("/ab/kind").text
    assert browser.post("/ab/kind/weight", {"weight": "0.4"}).status_code == 303
    assert "40 % of the users" in browser.page("/ab/kind").text
    wrong = browser.post("/ab/kind/weight", {"weight": "most"})
    assert wrong.status_code == 409
    assert "is no number" in read(wrong.text).text
    again = browser.post("/ab", {"task": "kind", "weight": "0.5"})
    assert again.status_code == 400
    assert "has an experiment that runs" in again.text
    assert browser.post("/ab/kind/stop", {"winner": "candidate"}).status_code == 303
    assert running.library.registry.aliases.of("kind")["production"] == 2
    assert browser.post("/ab/kind/stop").status_code == 409
    assert "Decision: candidate" in browser.page("/ab/kind").text


def test_what_is_wrong_with_an_experiment_is_told(browser: Browser) -> None:
    for form, told in (
        ({"task": "none"}, "No task 'none'"),
        ({"task": "kind", "weight": "2"}, "no share"),
        ({"task": "kind", "weight": "half"}, "is no number"),
        ({"task": "kind", "candidate": "1"}, "compared with itself"),
        ({"task": "tell"}, "no other version"),
        ({"task": "kind", "max_outcomes": "0"}, "decides nothing"),
    ):
        answer = browser.post("/ab", {"weight": "0.5"} | form)
        assert answer.status_code == 400, form
        assert told in read(answer.text).text


def test_the_newest_experiments_are_listed_and_those_that_run_first(running: Running) -> None:
    library = running.library
    experiments.start(library, "kind", candidate="2")
    library.publish(library.read("odd"), base=running.base.address)
    experiments.start(library, "odd", control="1", candidate="2")
    experiments.stop(library, "odd")
    found = library.registry.experiments.newest(10)
    assert [(one.task, one.state) for one in found] == [("kind", "running"), ("odd", "stopped")]
    assert found[0] == library.registry.experiments.latest("kind")
    assert len(library.registry.experiments.newest(1)) == 1
    assert not library.for_tenant("river").registry.experiments.newest(10)


def test_drift_is_what_the_look_finds(running: Running, browser: Browser) -> None:
    base, windows = running.base, running.library.registry.windows
    assert "has no reference" in browser.page("/drift/kind").text
    version = running.library.registry.resolve("kind@1")

    def seen(word: str) -> list[Seen]:
        return [Seen(ids, ("yes",), 0.9) for ids in base.encode([f"{word} {at % 7}" for at in range(60)])]

    made = Reference.of(base, {"given": ([row.ids for row in seen("red")], seen("red"))})
    windows.set_reference(version, made.told(), "then.jsonl")
    assert "had no traffic" in browser.page("/drift/kind?version=1").text
    told = windows.reference(version)
    tally = made.count(base, seen("what is the"))
    window = Window("a", tally.rows, tally.told() | {"reference": key_of(told)}, now(), now())
    windows.store("a", {("kind", 1): window})
    windows.store("b", {("kind", 1): window})
    assert [(one.task, one.version, one.rows) for one in windows.seen(5)] == [("kind", 1, 120)]
    assert not running.library.for_tenant("river").registry.windows.seen(5)
    assert "kind@1 120" in browser.page("/drift").text
    page = browser.page("/drift/kind?version=1")
    assert "Drifted: inputs" in page.text
    assert len(page.all("figure")) == 4
    assert "where nothing did, a look says so at a rate of 0.001" in page.text
    assert browser.get("/drift/kind?hours=0").status_code == 400


def test_a_key_is_shown_once_and_the_first_closes_the_door(running: Running, browser: Browser) -> None:
    assert "No keys" in browser.page("/keys").text
    for form, told in (({"name": "a b", "scope": "read"}, "a b"), ({"name": "x"}, "needs a scope"),
                       ({"name": "x", "scope": "root"}, "root")):  # fmt: skip
        refused = browser.post("/keys", form)
        assert (refused.status_code, told in read(refused.text).text) == (400, True)
    made = browser.post("/keys", {"name": "desk", "scope": ["read", "admin"], "users": "ann bob"})
    (secret,) = [word for word in read(made.text).text.split() if word.startswith("sp-") and len(word) > 20]
    assert made.headers["cache-control"] == "no-store"
    assert secret in made.headers["set-cookie"]  # this browser made the first one, and stays
    (key,) = running.library.registry.keys.list()
    assert (key.scopes, key.users) == ({"read", "admin"}, ("ann", "bob"))
    time.sleep(FRESH_S)
    assert browser.get("/keys").status_code == 303
    signed = Browser(running, secret)
    listed = signed.get("/keys").text
    assert secret not in listed
    assert key.hint in listed
    second = signed.post("/keys", {"name": "other", "scope": "read"})
    assert "set-cookie" not in second.headers
    twice = signed.post("/keys", {"name": "other", "scope": "read"})
    assert "has a live key" in twice.text
    other = running.library.registry.keys.list()[1]
    assert signed.post("/keys/revoke", {"key": str(other.id)}).status_code == 303
    assert running.library.registry.keys.list()[1].revoked
    assert running.library.registry.audit()[-1].actor == "key:desk"


def test_the_audit_holds_every_line_once(running: Running, browser: Browser) -> None:
    registry = running.library.registry
    for at in range(PAGE_ROWS):
        registry.tag("kind@1", **{"add" if at % 2 == 0 else "remove": ["x"]})
    whole = registry.audit()
    rows = [len(browser.page(f"/audit?page={page}").all("tr")) - 1 for page in (1, 2)]
    assert sum(rows) == len(whole)
    assert rows[0] == PAGE_ROWS
    assert "Older" not in browser.page("/audit?page=2").text
    own = browser.page("/audit?task=tell")
    assert len(own.all("tr")) - 1 == len(registry.audit("tell"))
    assert browser.get("/audit?task=none").status_code == 404
    assert browser.get("/audit?page=0").status_code == 400
