"""`softprompt report`: the report card of a version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.options import Json, Location, library_options
from softprompt.cli.output import emit, say, scored, warn
from softprompt.cli.places import check_new

COLUMNS = ("suite", "check", "value", "against", "rows", "fell")


@library_options
def report(
    ref: Annotated[str, typer.Argument(metavar="TASK", help="A version, as TASK, TASK@N or TASK@ALIAS.")],
    against: Annotated[
        str | None, typer.Option(metavar="TASK@N", help="Another version of it to compare with, as N, TASK@N or TASK@ALIAS.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a page that needs nothing else.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Changed answers of each suite that are shown at most.")] = 100,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --html names.")] = False,
    *,
    where: Location,
    as_json: Json = False,
) -> None:
    """Show what is known of a version: its card, what suites found, and beside another version what has changed."""
    from softprompt.evaluation.suites.report import report as report_of
    from softprompt.files import write_whole

    check_new(html, "--html", force=force)
    card = report_of(ref, against, library=where.open(), examples=examples)
    if html is not None:
        from softprompt.evaluation.suites.page import page_of

        write_whole(html, page_of(card).encode())
    if as_json:
        emit([card.row()], as_json, "Report")
        return
    for note in card.notes:
        warn(note)
    rows = [
        {
            "suite": suite["suite"],
            "check": f"{check['check']}{' ↓' if check['lower_is_better'] else ''}",
            "value": scored(check["value"], check["stderr"]),
            "against": check.get("against"),
            "rows": check["rows"],
            "fell": check.get("refused"),
        }
        for suite in card.suites
        for check in suite["checks"]
    ]
    score = f", {card.metric} {scored(card.value, card.stderr)} on {card.rows} test rows" if card.value is not None else ""
    beside = f", beside {card.task}@{card.against['version']}" if card.against else ""
    if rows:
        emit(rows, as_json, f"{card.ref}{score}{beside} (↓: less is better)", COLUMNS)
    else:
        say(f"{card.ref}{score}{beside}: no suite to tell of")
    for suite in card.suites:
        if suite["changed"]:
            count = f"{suite['changed']} of {suite['rows']} answers changed"
            say(f"suite {suite['suite']!r}: {count}; --html FILE or --json has them")
    if html is not None:
        say(f"written to {html}")
