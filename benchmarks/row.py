"""A row of figures, as every benchmark prints it."""

from __future__ import annotations

import json
from typing import Any

Row = dict[str, Any]


def print_row(row: Row, as_json: bool) -> None:
    """Print a row at once: a JSON line for machines, names and values for people."""
    line = json.dumps(row, separators=(",", ":")) if as_json else "  ".join(f"{name} {value}" for name, value in row.items())
    print(line, flush=True)
