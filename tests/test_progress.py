"""What people are told, as it was written."""

from __future__ import annotations

import pytest

from softprompt import plan
from softprompt.progress import Bars, Silent


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
