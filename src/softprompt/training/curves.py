"""A page of learning curves: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softprompt.files import write_whole


def write_page(
    file: Path, task: str, candidates: Sequence[Mapping[str, Any]], histories: Sequence[Sequence[Mapping[str, float]]]
) -> Path:
    """Write validation score and training loss against steps, a line for each candidate."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, subplot_titles=("validation score", "training loss"))
    palette = [f"hsl({360 * index // max(1, len(candidates))},60%,45%)" for index in range(len(candidates))]
    for candidate, history, colour in zip(candidates, histories, palette, strict=True):
        changes = {k: v for k, v in candidate.items() if k not in ("steps", "validation", "dropped")}
        name = ", ".join(f"{key} {value}" for key, value in changes.items()) + (" (dropped)" if candidate["dropped"] else "")
        steps = [row["step"] for row in history]
        for place, key in ((1, "value"), (2, "loss")):
            figure.add_trace(
                go.Scatter(
                    x=steps,
                    y=[row[key] for row in history],
                    name=name,
                    legendgroup=name,
                    showlegend=place == 1,
                    mode="lines+markers",
                    line={"color": colour, "dash": "dot" if candidate["dropped"] else "solid"},
                ),
                row=place,
                col=1,
            )
    figure.update_layout(title=f"Sweep of {task}: {len(candidates)} candidates", height=760, template="plotly_white")
    figure.update_xaxes(title_text="step", row=2, col=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, figure.to_html(include_plotlyjs=True).encode())
    return file
