"""A map of a library's soft prompts as a page, and what a look into one of them found. It needs no network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.errors import ConfigError
from softprompt.evaluation.inside.likeness import Drawn, compared, positions
from softprompt.evaluation.page import write_html
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.evaluation.inside.look_inside import Inspected

_COLOURS = {"own": "#c2571a", "other": "#4c6a92", "bar": "#4c6a92"}
_FIGURES = {
    "distance": "distance to the nearest token",
    "relative_norm": "length over the usual one",
    "attention": "attention paid to it",
    "lost": "lost without it",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d232b; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.45em; } h2 { font-size: 1.15em; margin-top: 1.6em; } .small { color: #5b6673; font-size: 13px; }
"""


def write_map(file: Path, prompts: Sequence[Drawn], vectors: Sequence[Inspected] = ()) -> Path:
    """Write a map for each base of the prompts, and the vectors that were looked into, whose prompt is the first one.

    Raises:
        ConfigError: there is nothing to draw: no base has two prompts, and no vectors are given.
        OSError: the file cannot be written.
    """
    groups: dict[str, list[Drawn]] = defaultdict(list)
    for prompt in prompts:
        groups[prompt.version.fingerprint].append(prompt)
    drawn = [own for own in groups.values() if len(own) > 1]
    if not drawn and not vectors:
        raise ConfigError(
            f"a map is of two soft prompts of one base at least, and the library has {plural(len(prompts), 'soft prompt')} "
            f"on {plural(len(groups), 'base')}; train more, or name a task to look into"
        )
    own = prompts[0].version if vectors else None
    title = f"Inside {own.ref}" if own is not None else "A map of the library"
    figures: list[tuple[str, str, Any]] = []
    if own is not None:
        rows = vectors[0].rows
        told = f"Judged on {plural(rows, 'row')}." if rows else "Nothing was asked of it: no rows were given."
        figures.append((f"The vectors of {own.ref}", told, _vectors(vectors)))
    for group in drawn:
        _, shares = positions([prompt.directions_D for prompt in group])
        words = (
            f"Each point is the mean of a prompt's vectors, each made as long as 1; the plane keeps {sum(shares):.0%} of "
            "their variance. Beside it the mean cosine of all pairs of their vectors. Near is alike in start or in task; it "
            "does not say which."
        )
        figures.append((f"{plural(len(group), 'prompt')} on {group[0].version.base}", words, _map(group, own)))
    body = [f"<h1>{escape(title)}</h1>"]
    for place, (head, words, figure) in enumerate(figures):
        html = figure.to_html(full_html=False, include_plotlyjs=place == 0)
        body.append(f'<h2>{escape(head)}</h2><p class="small">{escape(words)}</p>{html}')
    return write_html(file, title, _STYLE, body)


def _map(group: Sequence[Drawn], own: Any) -> Any:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    points_N2, shares = positions([prompt.directions_D for prompt in group])
    names = [escape(prompt.version.ref) for prompt in group]
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.17)
    x, y = points_N2.T.tolist()
    colours = [_COLOURS["own" if own is not None and one.version.ref == own.ref else "other"] for one in group]
    points = go.Scatter(
        x=x, y=y, mode="markers+text", text=names, textposition="top center", marker={"size": 11, "color": colours},
        showlegend=False, cliponaxis=False,
    )  # fmt: skip
    alike = [[compared(one, other)[1] for other in group] for one in group]
    colour = {"coloraxis": "coloraxis", "texttemplate": "%{z:.2f}" if len(group) <= 12 else None}
    figure.add_trace(points, row=1, col=1)
    figure.add_trace(go.Heatmap(z=alike, x=names, y=names, **colour), row=1, col=2)
    for axis, share in zip((figure.update_xaxes, figure.update_yaxes), shares, strict=True):
        axis(title_text=f"{share:.0%} of the variance", row=1, col=1)
    figure.update_yaxes(autorange="reversed", row=1, col=2)
    height = max(460, 180 + 22 * len(group))
    figure.update_layout(
        height=height, template="plotly_white", coloraxis={"colorscale": "Blues"}, margin={"t": 20, "b": 60}
    )
    return figure


def _vectors(vectors: Sequence[Inspected]) -> Any:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    shown = [name for name in _FIGURES if getattr(vectors[0], name) is not None]
    figure = make_subplots(rows=len(shown), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for place, name in enumerate(shown, 1):
        errors = [one.lost_stderr for one in vectors] if name == "lost" and vectors[0].lost_stderr is not None else None
        bar = go.Bar(
            x=[one.position for one in vectors], y=[getattr(one, name) for one in vectors], marker_color=_COLOURS["bar"],
            customdata=[escape(one.nearest) for one in vectors], showlegend=False,
            hovertemplate="%{x} near %{customdata}: %{y:.4g}<extra></extra>",
            error_y=None if errors is None else {"array": errors, "color": "#1d232b", "thickness": 1},
        )  # fmt: skip
        figure.add_trace(bar, row=place, col=1)
        figure.update_yaxes(title_text=_FIGURES[name], row=place, col=1)
    figure.update_xaxes(title_text="position", row=len(shown), col=1)
    figure.update_layout(height=120 + 190 * len(shown), template="plotly_white", margin={"t": 20, "b": 50})
    return figure
