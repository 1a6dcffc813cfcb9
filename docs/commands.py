"""Write docs/commands.md from the help of every command: `python docs/commands.py`. With --check only compare."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGE = Path(__file__).with_suffix(".md")

STATUS = """
# Exit status

| | |
|---|---|
| 0 | done |
| 1 | an error, with a line on stderr that says what was wrong and what to do |
| 2 | an option or an argument is unknown, missing or of the wrong kind |
| 70 | a bug: please report it |
| 130 | stopped by Ctrl-C (SIGINT) |
| 143 | told to end (SIGTERM) |
"""


def render() -> str:
    """The page, from the commands as they are."""
    import typer.main
    from typer.cli import get_docs_for_click

    from softprompt.cli.app import app

    command = typer.main.get_command(app)
    context = command.make_context("softprompt", [], resilient_parsing=True)
    page: str = get_docs_for_click(obj=command, ctx=context, name="softprompt", title="Commands")
    page = re.sub(r"^(\* `[A-Z]\S*) <\S+>`", r"\1`", page, flags=re.MULTILINE)  # of arguments, their types in Python
    return page.strip() + "\n" + STATUS


def main() -> int:
    """Write or compare; 1 when the page is old."""
    page = render()
    if "--check" in sys.argv:
        return int(PAGE.read_text(encoding="utf-8") != page)
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
