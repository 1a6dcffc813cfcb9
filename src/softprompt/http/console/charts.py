"""Charts as SVG, drawn here: the content security policy of the console lets no script write styles into a page.

Colours and sizes are the style sheet's, by class. What is drawn is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 38
_MAP_WIDTH, _MAP_HEIGHT, _MAP_EDGE = 560, 330, 34
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


def scatter(points: Sequence[Mapping[str, Any]], *, title: str) -> Markup:
    """Points of a plane, each with its `name`, `x` and `y`, in one scale both ways. A name stands beside its point where no
    other name is in the way."""
    spread = [max(one[axis] for one in points) - min(one[axis] for one in points) for axis in "xy"]
    middle = [(max(one[axis] for one in points) + min(one[axis] for one in points)) / 2 for axis in "xy"]
    room = (_MAP_WIDTH - 2 * _MAP_EDGE, _MAP_HEIGHT - 2 * _MAP_EDGE)
    scale = min((have / need for have, need in zip(room, spread, strict=True) if need > 0), default=0.0)
    body = [f'<rect class="frame" x="0.5" y="0.5" width="{_MAP_WIDTH - 1}" height="{_MAP_HEIGHT - 1}"/>']
    taken: list[tuple[float, float, float, float]] = []
    drawn = [
        (_MAP_WIDTH / 2 + (one["x"] - middle[0]) * scale, _MAP_HEIGHT / 2 - (one["y"] - middle[1]) * scale) for one in points
    ]
    taken += [(x - 5, y - 5, x + 5, y + 5) for x, y in drawn]
    for one, (x, y) in zip(points, drawn, strict=True):
        told = f"{escape(one['name'])}: {one['x']:.3g} across, {one['y']:.3g} upwards"
        body.append(f'<circle class="dot s0" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{told}</title></circle>')
    for one, (x, y) in zip(points, drawn, strict=True):
        name = str(one["name"])
        half = 4.2 * len(name)
        for down in (-11, 20):
            box = (x - half, y + down - 9, x + half, y + down + 2)
            inside = box[0] > 0 and box[2] < _MAP_WIDTH
            if inside and not any(
                box[0] < to and at < box[2] and box[1] < low and top < box[3] for at, top, to, low in taken
            ):
                taken.append(box)
                body.append(f'<text class="tick mid" x="{x:.1f}" y="{y + down:.1f}">{escape(name)}</text>')
                break
    told = f"{title}: {len(points)} points; the table below has where they lie"
    return _figure(title, told, "".join(body), [], (_MAP_WIDTH, _MAP_HEIGHT))


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


def _figure(title: str, told: str, body: str, legend: Sequence[str], size: tuple[int, int] = (WIDTH, HEIGHT)) -> Markup:
    keys = "".join(f'<li><i class="key s{at % COLOURS}"></i>{escape(name)}</li>' for at, name in enumerate(legend))
    listed = f'<ul class="legend">{keys}</ul>' if keys else ""
    return Markup(
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(told)}">{body}</svg>{listed}</figure>'
    )


def _empty(title: str) -> Markup:
    return Markup(
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption><p class="quiet">Nothing to draw yet.</p></figure>'
    )


def _cut(name: str) -> str:
    return name if len(name) <= 9 else f"{name[:8]}…"
