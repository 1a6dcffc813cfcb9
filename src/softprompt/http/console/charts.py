"""Charts as SVG, drawn here: the content security policy of the console lets no script write styles into a page.

Colours and sizes are the style sheet's, by class. What is drawn is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 38
COLOURS = 6
"""Series have classes `s0` to `s5`, and then again."""

Point = tuple[float, float]


def curves(series: Mapping[str, Iterable[tuple[float, float | None]]], *, title: str, x: str = "step") -> Markup:
    """Lines over one axis, with a legend where there are several; points that are no numbers are left out."""
    lines = {
        name: [(float(at), float(y)) for at, y in points if y is not None and math.isfinite(y)]
        for name, points in series.items()
    }
    drawn = [point for points in lines.values() for point in points]
    if not drawn:
        return _empty(title)
    plot = _Plot([at for at, _ in drawn], [y for _, y in drawn])
    body = []
    for place, (name, points) in enumerate(lines.items()):
        path = " ".join(f"{plot.x(at):.1f},{plot.y(y):.1f}" for at, y in points)
        body.append(f'<polyline class="line s{place % COLOURS}" points="{path}"/>')
        body += [
            f'<circle class="dot s{place % COLOURS}" cx="{plot.x(at):.1f}" cy="{plot.y(y):.1f}" r="2.6">'
            f"<title>{escape(name)}: {y:.4g} at {escape(x)} {at:g}</title></circle>"
            for at, y in points
        ]
    told = f"{title}: " + "; ".join(f"{name} from {p[0][1]:.4g} to {p[-1][1]:.4g}" for name, p in lines.items() if p)
    return _figure(title, told, plot.axes(x) + "".join(body), list(lines) if len(lines) > 1 else [])


def groups(names: Sequence[str], series: Mapping[str, Sequence[float]], *, title: str) -> Markup:
    """Bars side by side, those of one place together."""
    if not names:
        return _empty(title)
    values = [value for heights in series.values() for value in heights]
    plot = _Plot([0, len(names)], [0.0, *values])
    body = []
    width = (WIDTH - _LEFT - _RIGHT) / len(names)
    bar = max(1.0, width * 0.8 / len(series))
    for place, (name, heights) in enumerate(series.items()):
        for at, value in enumerate(heights):
            top, low = sorted((plot.y(value), plot.y(0)))
            body.append(
                f'<rect class="fill s{place % COLOURS}" x="{_LEFT + at * width + width * 0.1 + place * bar:.1f}" '
                f'y="{top:.1f}" width="{bar:.1f}" height="{low - top:.1f}">'
                f"<title>{escape(names[at])}, {escape(name)}: {value:.4g}</title></rect>"
            )
    every = max(1, math.ceil(len(names) / 8))
    for at in range(0, len(names), every):
        middle = _LEFT + (at + 0.5) * width
        body.append(f'<text class="tick mid" x="{middle:.1f}" y="{HEIGHT - _BOTTOM + 15}">{escape(_cut(names[at]))}</text>')
    return _figure(title, title, plot.axes(None) + "".join(body), list(series))


def bar(share: float, kind: str = "") -> Markup:
    """A share as a bar as wide as its place."""
    width = 100 * min(1.0, max(0.0, share if math.isfinite(share) else 0.0))
    return Markup(
        f'<svg class="bar {escape(kind)}" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="rail" width="100" height="8"/><rect class="fill" width="{width:.2f}" height="8"/></svg>'
    )


def interval(low: float, rate: float | None, high: float) -> Markup:
    """Bounds of a rate, and the rate, between 0 and 1."""
    ends = [100 * min(1.0, max(0.0, one)) for one in (low, high)]
    mark = "" if rate is None else f'<rect class="mark" x="{100 * rate - 0.6:.2f}" y="0" width="1.2" height="8"/>'
    return Markup(
        f'<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="rail" width="100" height="8"/>'
        f'<rect class="span" x="{ends[0]:.2f}" y="1.5" width="{max(0.4, ends[1] - ends[0]):.2f}" height="5"/>{mark}</svg>'
    )


class _Plot:
    """Where values stand in a chart, and its axes."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.xs = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 1, max(xs) + 1)
        self.ticks = _ticks(min(ys), max(ys))
        self.ys = (min(min(ys), self.ticks[0]), max(max(ys), self.ticks[-1]))

    def x(self, at: float) -> float:
        return _LEFT + (at - self.xs[0]) / (self.xs[1] - self.xs[0]) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.ys[0]) / (self.ys[1] - self.ys[0]) * (HEIGHT - _TOP - _BOTTOM)

    def axes(self, label: str | None) -> str:
        """Lines across with their values, and below, where it has a name, the axis."""
        parts = []
        for tick in self.ticks:
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y + 4:.1f}">{tick:g}</text>')
        if label is not None:
            for tick in _ticks(*self.xs):
                if self.xs[0] <= tick <= self.xs[1]:
                    at = f'x="{self.x(tick):.1f}" y="{HEIGHT - _BOTTOM + 15}"'
                    parts.append(f'<text class="tick mid" {at}>{tick:g}</text>')
            parts.append(f'<text class="tick mid" x="{(WIDTH + _LEFT) / 2:.0f}" y="{HEIGHT - 5}">{escape(label)}</text>')
        return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Round values around a range, a handful."""
    if high <= low:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(step * at, 12) for at in range(first, last + 1)]


def _figure(title: str, told: str, body: str, legend: Sequence[str]) -> Markup:
    keys = "".join(f'<li><i class="key s{at % COLOURS}"></i>{escape(name)}</li>' for at, name in enumerate(legend))
    listed = f'<ul class="legend">{keys}</ul>' if keys else ""
    return Markup(
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}">{body}</svg>{listed}</figure>'
    )


def _empty(title: str) -> Markup:
    return Markup(
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption><p class="quiet">Nothing to draw yet.</p></figure>'
    )


def _cut(name: str) -> str:
    return name if len(name) <= 9 else f"{name[:8]}…"
