"""What people are told, as it was written."""

from __future__ import annotations

import pytest

from softprompt.progress import Bars


def test_names_between_colons_are_no_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    bars.note("memory:train: 3 rows [bold]")
    bars.warn("the column a:heart: is empty")
    assert capsys.readouterr().err == "memory:train: 3 rows [bold]\nwarning: the column a:heart: is empty\n"
