"""`softprompt diagnose`: why a prompt does not do what it should."""

from __future__ import annotations

from typing import Annotated

import typer

from softprompt.cli.options import Json, Location, library_options
from softprompt.cli.output import emit, say

COLUMNS = ("mode", "evidence", "mend")


@library_options
def diagnose(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="TASK|RUN|TASK.yaml",
            help="A version, as TASK, TASK@N or TASK@ALIAS; a run, by its id, or while it has not ended by its checkpoint; "
            "or a task file.",
        ),
    ],
    *,
    probe: Annotated[
        bool, typer.Option("--probe", help="Load the base too: rows as tokens, answers in a batch beside answers alone.")
    ] = False,
    where: Location,
    as_json: Json = False,
) -> None:
    """Name the failure modes that show in a prompt, a run, or the rows of a task file: the evidence, and what mends it."""
    from softprompt.lifecycle.diagnosis.diagnose import diagnose as look
    from softprompt.progress import Bars

    of_file = ref.endswith((".yaml", ".yml"))
    found = look(ref, library=None if of_file else where.open(), probe=probe, progress=Bars())
    if found or as_json:
        emit([one.row() for one in found], as_json, f"What shows in {ref}", COLUMNS)
    else:
        say(f"{ref}: no known failure mode shows")
