"""What the rows of `quality.py` say together: means and spreads, and tables of them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.row import Row

GROUP = ("base", "dtype", "device", "max_steps", "few", "task")
"""Rows that differ in nothing but method and seed agree in these."""

FIGURES = {"trainable": "trainable", "seconds": "s", "peak_mb": "MB", "latency_ms": "ms"}
"""What a table says of a method, of the last of its tasks, with their heads."""


def summaries(rows: Iterable[Row]) -> list[Row]:
    """A row for each base, method, task and number of rows: mean and spread (standard deviation) over the seeds. Of rows of
    one seed the last one counts, whose settings are the newest."""
    found: dict[tuple[Any, ...], dict[int, Row]] = defaultdict(dict)
    for row in rows:
        method = " ".join([row["method"], *(f"{key}={value}" for key, value in row["set"].items())])
        found[(*(row[name] for name in GROUP), method)][row["seed"]] = row
    return [dict(zip((*GROUP, "method"), key, strict=True)) | _mean(list(own.values())) for key, own in found.items()]


def _mean(rows: Sequence[Row]) -> Row:
    values = [row["value"] for row in rows]
    spread = round(statistics.stdev(values), 4) if len(values) > 1 else None
    figures = {name: round(statistics.fmean(row[name] for row in rows), 1) for name in FIGURES if name != "trainable"}
    kept = {name: rows[-1][name] for name in ("metric", "trainable", "bytes")}
    return kept | {"mean": round(statistics.fmean(values), 4), "spread": spread, "seeds": len(values)} | figures


def tables(rows: Iterable[Row]) -> Iterator[str]:
    """Lines of Markdown: for each base a table of methods by tasks, and for each task of a curve one of methods by rows."""
    groups: dict[tuple[str, bool], dict[tuple[str, str], Row]] = defaultdict(dict)
    for row in rows:
        head, curve = f"{row['base']}, {row['dtype']}, {row['device']}, {row['max_steps']} steps", row["few"] is not None
        if curve:
            head += f", {row['task']} by training rows"
        groups[head, curve][row["method"], str(row["few"]) if curve else row["task"]] = row
    for (head, curve), cells in groups.items():
        yield f"{head}\n"
        yield from _table(cells, {} if curve else FIGURES)
        yield ""


def _table(cells: dict[tuple[str, str], Row], figures: dict[str, str]) -> Iterator[str]:
    columns = list(dict.fromkeys(column for _, column in cells))
    lines = [["method", *columns, *figures.values()]]
    for method in dict.fromkeys(method for method, _ in cells):
        last = [row for (other, _), row in cells.items() if other == method][-1]
        values = [_value(cells.get((method, column))) for column in columns]
        lines.append([method, *values, *(f"{last[name]:,.0f}" for name in figures)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        yield f"| {' | '.join(text.ljust(width) for text, width in zip(line, widths, strict=True))} |"


def _value(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row['mean']:.3f}" if row["spread"] is None else f"{row['mean']:.3f} ± {row['spread']:.3f} ({row['seeds']})"
