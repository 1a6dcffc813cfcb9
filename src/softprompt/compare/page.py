"""A comparison as a page: quality against what it costs, the decision and all figures. It needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from softprompt.evaluation.page import write_html
from softprompt.prompts.card import goodness
from softprompt.text import plural

COSTS = {
    "bytes": ("bytes kept beside the base", True),
    "seconds": ("seconds of training", True),
    "peak_mb": ("peak memory of training, MiB", False),
    "added_latency_ms": ("added to the latency of an answer, ms", False),
}
"""What quality is drawn against, by the keys of rows: its words, and whether the axis is logarithmic."""
_COLOURS = {"front": "#1b6e53", "other": "#8a94a6", "line": "#9cc4b4"}
_COLUMNS = {
    "method": "method", "value": "value", "trainable": "trained numbers", "bytes": "bytes", "steps": "steps",
    "seconds": "seconds", "search_seconds": "search, s", "peak_mb": "peak MiB", "latency_ms": "latency, ms",
    "added_latency_ms": "added, ms", "rates": "learning rates tried",
}  # fmt: skip
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d232b; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.45em; } p.said { border-left: 4px solid #1b6e53; padding: .4em 1em; background: #f2f8f5; }
table { border-collapse: collapse; font-size: 13px; } th, td { padding: .3em .7em; text-align: right; }
th { border-bottom: 1px solid #1d232b; vertical-align: bottom; } td { border-bottom: 1px solid #e3e7ec; }
td:not(:last-child) { white-space: nowrap; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
tr.taken td { background: #f2f8f5; font-weight: 600; } .small { color: #5b6673; font-size: 13px; }
"""


def front_of(rows: Sequence[Mapping[str, Any]], cost: str) -> list[Mapping[str, Any]]:
    """The rows of the Pareto front, from the cheapest: none is as good for less, or better for as much."""
    front: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row[cost], -goodness(row["metric"], row["value"]))):
        if not front or goodness(row["metric"], row["value"]) > goodness(row["metric"], front[-1]["value"]):
            front.append(row)
    return front


def write_page(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the page of a comparison's rows, at least one.

    Raises:
        OSError: the file cannot be written.
    """
    first, last = rows[0], rows[-1]
    title = f"{first['task']} on {first['base']}: {plural(len(rows), 'method')} compared"
    trained = ", ".join(
        (f"{plural(first['train_rows'], 'training row')}", f"{plural(first['rows'], 'test row')}", first["dtype"])
    )
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(trained)}, seed {first['seed']}. {escape(first['metric'])} on the same test rows, with its standard "
        "error. Green points are on the Pareto front: nothing costs less and is as good.</p>",
        _figure(rows).to_html(full_html=False, include_plotlyjs=True),
        "<h2>What to take</h2>",
        f'<p class="said">{escape(last["decision"] or "")}</p>',
        '<p class="small">The rule: a text prompt where it is the best; else prompt tuning, then prefix tuning, then LoRA: '
        "the first that on these rows is no worse than the best, one-sided at 95 %.</p>",
        "<h2>Figures</h2>",
        _table(rows),
        '<p class="small">Latency: the median of one answer alone, nothing kept from row to row; a server keeps the keys '
        "and values of a prompt. Rates: each was tried for a quarter of the steps on validation rows; the chosen one is "
        "marked, and its search is not in the seconds.</p>",
    ]
    return write_html(file, title, _STYLE, body)


def _figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, cols=2, vertical_spacing=0.13, horizontal_spacing=0.08)
    for place, (cost, (words, logarithmic)) in enumerate(COSTS.items()):
        at: dict[str, int] = {"row": 1 + place // 2, "col": 1 + place % 2}
        least = min((row[cost] for row in rows if row[cost] > 0), default=1.0)
        front = front_of(rows, cost)

        def where(row: Mapping[str, Any], cost: str = cost, floor: Any = least if logarithmic else None) -> Any:
            return row[cost] if floor is None else max(row[cost], floor / 2)  # nothing has no logarithm

        line = {"color": _COLOURS["line"], "shape": "hv"}
        known = {"showlegend": False, "hoverinfo": "skip"}
        figure.add_trace(
            go.Scatter(x=[*map(where, front)], y=[row["value"] for row in front], mode="lines", line=line, **known), **at
        )
        figure.add_trace(
            go.Scatter(
                x=[*map(where, rows)],
                y=[row["value"] for row in rows],
                error_y={"array": [row["stderr"] or 0 for row in rows], "thickness": 1, "color": "#c3c9d2"},
                mode="markers+text",
                text=[escape(row["method"]) for row in rows],
                textposition=["top center" if n % 2 else "bottom center" for n in _ranks(rows, where)],
                textfont={"size": 11},
                marker={
                    "size": 10,
                    "color": [_COLOURS["front" if any(row is one for one in front) else "other"] for row in rows],
                },
                customdata=[f"{row[cost]:,.4g}" for row in rows],
                hovertemplate="%{text}: %{y:.3f}, %{customdata}<extra></extra>",
                showlegend=False,
                cliponaxis=False,
            ),
            **at,
        )
        figure.update_xaxes(title_text=words, type="log" if logarithmic else "linear", **at)
        figure.update_yaxes(title_text=escape(rows[0]["metric"]), **at)
    figure.update_layout(height=860, template="plotly_white", margin={"t": 30, "l": 60, "r": 30, "b": 50})
    return figure


def _ranks(rows: Sequence[Mapping[str, Any]], where: Any) -> list[int]:
    """Each row's place from left to right, so that names above and below points take turns."""
    order = sorted(range(len(rows)), key=lambda place: where(rows[place]))
    return [order.index(place) for place in range(len(rows))]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    taken = ' class="taken"'
    heads = "".join(f"<th>{escape(words)}</th>" for words in _COLUMNS.values())
    lines = [
        f"<tr{taken * (row['method'] == rows[-1]['take'])}>"
        + "".join(f"<td>{escape(_cell(row, name))}</td>" for name in _COLUMNS)
        + "</tr>"
        for row in rows
    ]
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if name == "value":
        return f"{value:.3f}" + (f" ± {row['stderr']:.3f}" if row["stderr"] is not None else "")
    if name == "rates":
        return told_rates(row)
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def told_rates(row: Mapping[str, Any]) -> str:
    """The learning rates of a row in words, with what each scored; the one that was taken is marked."""
    if not row["rates"]:
        return "" if row["learning_rate"] is None else f"{row['learning_rate']:g}"
    tried = (
        f"{one['rate']:g}: {one['value']:.3f}{'*' * bool(one.get('chosen'))}" if "rate" in one else "failed"
        for one in row["rates"]
    )
    return ", ".join(tried)
