"""A page of charts: a version's rows beside its reference. It needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.evaluation.reference import SKETCH, Sample, Tally, bin_start, sure_start
from softprompt.evaluation.statistics.drift_tests import CONFIDENCE, INPUTS, LENGTH, OUTPUTS, Verdict
from softprompt.files import write_whole
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.lifecycle.drift.drift import Look

_COLOURS = {"reference": "#8a94a6", "now": "#c2571a"}
_MOST_LABELS = 30
KINDS = ((INPUTS, "directions"), (LENGTH, "tokens"), (OUTPUTS, "answers"), (CONFIDENCE, "confidence"))
"""What is drawn, each with the name of its axis."""


def write_page(file: Path, found: Look) -> Path:
    """Write where inputs lie, how long they are, what they are answered and how surely, then and now.

    Raises:
        OSError: the file cannot be written.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    now = found.tally
    verdicts = {one.what: one for one in found.verdicts}
    titles = [_title(what, verdicts.get(what)) for what, _ in KINDS]
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles, vertical_spacing=0.16)
    for place, (what, axis) in enumerate(KINDS):
        row, column = 1 + place // 2, 1 + place % 2
        own = sample_of(found, verdicts.get(what)).tally
        for name, tally in (("reference", own), ("now", now)):
            names, heights = bars(what, own, now, tally)
            named = {"name": name, "legendgroup": name, "showlegend": place == 0, "marker_color": _COLOURS[name]}
            bar = go.Bar(x=[escape(one) for one in names], y=heights, **named)
            figure.add_trace(bar, row=row, col=column)
        figure.update_xaxes(title_text=axis, type="category", row=row, col=column)
        figure.update_yaxes(
            title_text="mean, in standard deviations" if what == INPUTS else "share of rows", row=row, col=column
        )
    since = f", since {found.since}" if found.since else ""
    title = f"{found.version.ref}: {plural(now.rows, 'row')} of {found.source}{since}, beside those that it was tuned for"
    figure.update_layout(title=escape(title), height=820, template="plotly_white", barmode="group", bargap=0.15)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, figure.to_html(include_plotlyjs=True).encode())
    return file


def _title(what: str, verdict: Verdict | None) -> str:
    if verdict is None:
        return f"{what}: not judged"
    against = "" if verdict.threshold is None else f" against {verdict.threshold:.3g}"
    said = "<b>drifted</b>" if verdict.drifted else "no drift"
    return f"{what}: {said} ({verdict.statistic} {verdict.value:.3g}{against}, {verdict.beside})"


def sample_of(found: Look, verdict: Verdict | None) -> Sample:
    """The sample that rows were tested against."""
    samples = found.reference.samples
    return next((one for one in samples if verdict is not None and one.name == verdict.beside), samples[0])


def bars(what: str, own: Tally, now: Tally, tally: Tally) -> tuple[list[str], list[float]]:
    """Names and heights of one tally's bars, over the bins that either has."""
    if what == INPUTS:
        return [str(place + 1) for place in range(SKETCH)], (tally.point / max(1, tally.rows)).tolist()
    counts, total = _of(what, tally)
    keys = {*_of(what, own)[0], *_of(what, now)[0]}
    if what == OUTPUTS and own.confidence:  # labels
        shown = sorted(keys, key=lambda key: -(own.answers[key] + now.answers[key]))[:_MOST_LABELS]
        names = [key or "(none)" for key in shown]
    else:
        shown = sorted(keys, key=int)
        names = [f"{sure_start(int(key)):.3f}" if what == CONFIDENCE else f"{bin_start(int(key)):.0f}" for key in shown]
    return names, [counts.get(key, 0) / max(1, total) for key in shown]


def _of(what: str, tally: Tally) -> tuple[Mapping[Any, int], int]:
    if what == LENGTH:
        return tally.lengths, tally.rows
    if what == OUTPUTS:
        return tally.answers, tally.answered
    return tally.confidence, tally.confidence.total()
