"""`softprompt diagnose`: why a prompt does not do what it should."""

from __future__ import annotations

from typing import Annotated

import typer

from softprompt.cli.options import Json, Location, library_options
from softprompt.cli.output import emit, say

COLUMNS = ("mode", "evidence", "mend")


@library_options
def diagnose(
    ref: Annotated[str, typer.Argument(metavar="TASK", help="A version, as TASK[@N|@ALIAS]; or a task file, for its rows.")],
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Name the failure modes that show in a prompt, or in the rows of a task file: the evidence, and what mends it."""
    from softprompt.lifecycle.diagnose import diagnose as look

    of_file = ref.endswith((".yaml", ".yml"))
    found = look(ref, library=None if of_file else where.open())
    if found or as_json:
        emit([one.row() for one in found], as_json, f"What shows in {ref}", COLUMNS)
    else:
        say(f"{ref}: no known failure mode shows")
