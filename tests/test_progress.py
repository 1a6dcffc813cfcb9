"""What people are told, as it was written."""

from __future__ import annotations

import re

import pytest
import rich.console

import softprompt.progress
from softprompt import plan
from softprompt.progress import Bars, Silent, loading, rate


def test_names_between_colons_are_no_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    bars.note("memory:train: 3 rows [bold]")
    bars.warn("the column a:heart: is empty")
    assert capsys.readouterr().err == "memory:train: 3 rows [bold]\nwarning: the column a:heart: is empty\n"


def test_a_warning_is_shown_where_the_users_own_code_called() -> None:
    with pytest.warns(UserWarning, match="an own one") as own:
        Silent().warn("an own one")
    with pytest.warns(UserWarning, match="little capacity") as deep:
        plan({"task": "t", "data": [{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(40)], "num_virtual_tokens": 2})
    assert {one.filename for one in (*own, *deep)} == {__file__}


@pytest.mark.parametrize(
    ("speed", "told"),
    [
        (None, ""),
        (0.0, ""),
        (12345.6, "12,346/s"),
        (12.34, "12/s"),
        (2.34, "2.3/s"),
        (0.5, "2.0 s each"),
        (0.05, "20 s each"),
    ],
)
def test_a_rate_is_told_by_the_larger_number(speed: float | None, told: str) -> None:
    assert rate(speed) == told


def test_on_a_terminal_a_bar_says_what_is_loaded_while_it_is_and_how_fast_steps_go(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    bars = Bars()
    bars.console = rich.console.Console(stderr=True, force_terminal=True, highlight=False)
    with loading(bars, "org/model"):
        assert bars._bars is not None
        bars._bars.refresh()
        assert "org/model" in capsys.readouterr().err
    with bars.stage("train", 40) as advance:
        for _ in range(20):
            advance(1, "accuracy 1.000")
        bars._bars.refresh()
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err).replace("\r", "\n")
    last = shown.splitlines()[-1]
    assert re.search(r"train .* 50% .*[\d,.]+/s accuracy 1\.000", last)
    assert len(last) <= 80


def test_a_bar_is_one_line_of_80_columns_whatever_it_tells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(softprompt.progress, "rate", lambda speed: "1.2 s each")
    bars = Bars()
    bars.console = rich.console.Console(stderr=True, force_terminal=True, highlight=False)
    with bars.stage("train", 40) as advance:
        advance(20, "3 of 3 done, mean 0.740")
        assert bars._bars is not None
        bars._bars.refresh()
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err).replace("\r", "\n")
    assert shown.splitlines()[-1].rstrip().endswith("1.2 s each 3 of 3 done, mean 0.740")
