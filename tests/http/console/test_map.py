"""The map: where its points lie, and what the table beside it says, against the vectors themselves."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
import torch

from softprompt.evaluation.inside.likeness import likenesses, positions
from softprompt.http.console import map as page_of_map
from softprompt.http.console.charts import scatter
from softprompt.prompts.prompt import SoftPrompt
from tests.http_server import Running
from tests.models import some_prefix, some_prompt

from .pages import Browser, read

TASKS = ("kind", "odd", "tell")


def cells(browser: Browser, path: str = "/map") -> list[list[str]]:
    text = browser.get(path).text
    rows = re.findall(r"<tr>(<td.*?)</tr>", text)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", row)] for row in rows]


def test_it_is_the_projection_that_inspect_draws(running: Running, browser: Browser) -> None:
    library = running.library
    versions = [library.registry.resolve(task) for task in TASKS]
    vectors = [SoftPrompt.from_bytes(library.read(one)).vectors_PD.float() for one in versions]
    points, shares = positions([torch.nn.functional.normalize(one, dim=1).mean(0) for one in vectors])
    rows = cells(browser)
    assert [row[0] for row in rows] == [one.ref for one in versions]
    assert versions[0].ref == "kind@1"  # what the name means, which is not the newest
    for row, point in zip(rows, points.tolist(), strict=True):
        assert [float(cell) for cell in row[4:]] == pytest.approx(point, abs=1e-3)
    pairs = {(pair.task, pair.other): pair for pair in likenesses(library=library)}
    pairs |= {(other, task): pair for (task, other), pair in pairs.items()}
    for row, version in zip(rows, versions, strict=True):
        best = max((pairs[version.task, other] for other in TASKS if other != version.task), key=lambda pair: pair.per_token)
        other = best.other if best.task == version.task else best.task
        assert row[1].startswith(f"{other}@")
        assert [float(cell) for cell in row[2:4]] == pytest.approx([best.per_token, best.cosine], abs=1e-4)
    page = browser.page("/map")
    assert f"{100 * shares[0]:.0f}% lies across and {100 * shares[1]:.0f}% upwards" in page.text
    (svg,) = page.all("svg", role="img")
    assert "3 points" in svg["aria-label"]
    assert {f"/console/tasks/{task}?version=1" for task in TASKS} <= {one["href"] for one in page.all("a")}


def test_points_lie_in_the_chart_in_one_scale(running: Running, browser: Browser) -> None:
    page = browser.page("/map")
    drawn = [(float(one["cx"]), float(one["cy"])) for one in page.all("circle")]
    given = [(float(row[4]), float(row[5])) for row in cells(browser)]
    assert all(0 < x < 560 and 0 < y < 330 for x, y in drawn)
    ratios = []
    for one, other in itertools.combinations(range(len(TASKS)), 2):
        apart = [drawn[one][axis] - drawn[other][axis] for axis in (0, 1)]
        own = [given[one][axis] - given[other][axis] for axis in (0, 1)]
        ratios += [apart[0] / own[0], -apart[1] / own[1]]
    assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=0.05)
    assert ratios[0] > 0


def test_what_is_on_it(running: Running, browser: Browser) -> None:
    library, base = running.library, running.base
    library.publish(some_prefix(base, "ahead", metric="exact_match").to_bytes(), base=base.address)
    page = browser.page("/map")
    assert "ahead@1" in page.text
    assert "no single soft prompts: ahead@1" in page.text
    assert [row[0] for row in cells(browser)] == ["kind@1", "odd@1", "tell@1"]
    assert [row[0] for row in cells(browser, "/map?q=*d*")] == ["kind@1", "odd@1"]
    one = browser.page("/map?q=tell").text
    assert "Alone on their base, and so beside nothing: tell@1" in one
    assert "No soft prompts here" in browser.page("/map?q=nothing").text
    assert browser.page("/map?q=%20").all("table")
    other = some_prompt(replace(base, fingerprint="0" * 32), "far")
    library.publish(other.to_bytes(), base=base.address)
    assert "beside nothing: far@1" in browser.page("/map").text


def test_a_large_library_is_drawn_in_part_and_says_so(
    running: Running, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_of_map, "MOST", 2)
    page = browser.page("/map")
    assert "3 tasks; the first 2 are on the map" in page.text
    assert [row[0] for row in cells(browser)] == ["kind@1", "odd@1"]


def test_names_that_would_hide_each_other_are_left_to_the_table() -> None:
    near = [{"name": f"task-{at}@1", "x": at / 1000, "y": 0.0} for at in range(9)] + [{"name": "far<b>", "x": 9.0, "y": 5.0}]
    page = read(str(scatter(near, title="t")))
    assert len(page.all("circle")) == 10
    assert 2 <= len(page.all("text")) < 10
    assert "<b>" not in scatter(near, title="<b>")
    same = [{"name": "a", "x": 1.0, "y": 1.0}, {"name": "b", "x": 1.0, "y": 1.0}]
    assert [(one["cx"], one["cy"]) for one in read(str(scatter(same, title="t"))).all("circle")] == [("280.0", "165.0")] * 2
