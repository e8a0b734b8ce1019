"""Line charts as SVG: axes with round numbers, series that a style sheet colours."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deepstrata.pipelines.report.markup import Markup, tag
from deepstrata.pipelines.report.numbers import number
from deepstrata.schemas.trees import Array

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 12, 38
BINS = 300  #: more points than two a bin are drawn as the least and the greatest of each bin
MARKED = 60  #: up to so many points get a dot that names its value


class Series(NamedTuple):
    """One line: ``style`` is its class (``train``, ``validation``, ``rounds``)."""

    name: str
    style: str
    x: Array
    y: Array
    dots: bool = True


class Chart(NamedTuple):
    """Lines over a common axis."""

    title: str
    unit: str
    series: tuple[Series, ...]
    across: str = "epoch"
    percent: bool = False
    zero: bool = False
    """Draw a line at zero, and let the axis reach it."""


class _Axes(NamedTuple):
    x: tuple[float, float]
    y: tuple[float, float]

    def points(self, x: Array, y: Array) -> Array:
        """Return pixels, (N, 2), within the plot's area."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)
        up = (y - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)
        return np.stack([across, HEIGHT - TOP - BOTTOM - up], axis=1)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Return about so many round numbers from ``low`` to ``high``: multiples of 1, 2 or 5."""
    step = (high - low) / max(about, 1)
    magnitude = 10.0 ** math.floor(math.log10(step))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= step * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def thin(x: Array, y: Array) -> tuple[Array, Array]:
    """Keep the least and the greatest value of each of ``BINS`` bins: spikes stay visible."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= 2 * BINS:
        return x, y
    keep = []
    for part in np.array_split(np.arange(len(x)), BINS):
        keep += sorted({part[y[part].argmin()], part[y[part].argmax()]})
    return x[keep], y[keep]


def line_chart(chart: Chart) -> Markup:
    """Return a chart as a figure; empty if no series has a finite value."""
    scale = 100.0 if chart.percent else 1.0
    thinned = [
        (s, *thin(np.asarray(s.x, float), scale * np.asarray(s.y, float))) for s in chart.series
    ]
    drawn = [(s, x, y) for s, x, y in thinned if len(x)]
    if not drawn:
        return Markup("")
    axes = _axes(chart, drawn)
    plot = tag(
        "svg", *(_series(axes, *each) for each in sorted(drawn, key=_depth)),
        x=LEFT, y=TOP, width=WIDTH - LEFT - RIGHT, height=HEIGHT - TOP - BOTTOM,
    )  # fmt: skip
    label = f"{chart.title}, {chart.unit}: " + "; ".join(
        f"{s.name} ends at {number(y[-1])}" for s, _, y in drawn
    )
    picture = tag(
        "svg", *_grid(chart, axes), plot,
        viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="chart", role="img", aria_label=label,
    )  # fmt: skip
    legend = tag("span", *(tag("span", s.name, class_=s.style) for s, _, _ in drawn), class_="key")
    caption = tag("figcaption", tag("b", chart.title), tag("i", chart.unit), legend)
    return tag("figure", caption, picture, class_="curve")


def _depth(drawn: tuple[Series, Array, Array]) -> int:
    """Order what is drawn: training, a thin line, above validation, so that both are seen."""
    return drawn[0].style == "train"


def _axes(chart: Chart, drawn: Sequence[tuple[Series, Array, Array]]) -> _Axes:
    xs = np.concatenate([x for _, x, _ in drawn])
    # The first rounds of a training are far off; a fiftieth of them may leave the picture.
    ends = [np.quantile(y, (0.02, 0.98)) if len(y) > MARKED else (y.min(), y.max())
            for _, _, y in drawn]  # fmt: skip
    low, high = float(min(e[0] for e in ends)), float(max(e[1] for e in ends))
    if chart.zero or 0 <= low < 0.35 * high:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    margin = 0.06 * (high - low)
    # A curve may stand on zero; a line that is drawn there needs room on both sides.
    floor = low if low == 0 and not chart.zero else low - margin
    ceiling = high if high == 0 and not chart.zero else high + margin
    left, right = min(0.0, float(xs.min())), float(xs.max())
    pad = 0.015 * (right - left) or 0.5
    return _Axes((left - pad, right + pad), (floor, ceiling))


def _series(axes: _Axes, series: Series, x: Array, y: Array) -> Markup:
    points = axes.points(x, y)
    path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
    line = tag("path", d=path, class_=f"line {series.style}")
    if not series.dots or len(x) > MARKED:
        return line
    dots = [
        tag("circle", tag("title", f"{series.name}, {number(a)}: {number(b)}"),
            cx=float(px), cy=float(py), r=2.4, class_=f"dot {series.style}")
        for a, b, (px, py) in zip(x, y, points, strict=True)
    ]  # fmt: skip
    return tag("g", line, *dots)


def _labels(values: Sequence[float]) -> list[str]:
    if not values:
        return []
    step = values[1] - values[0] if len(values) > 1 else abs(values[0]) or 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 5 or max(map(abs, values)) >= 1e7:
        return [f"{value:.3g}" for value in values]
    return [f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}") for value in values]


def _grid(chart: Chart, axes: _Axes) -> list[Markup]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    ys, xs = ticks(*axes.y, 4), ticks(*axes.x, 6)
    parts = []
    for value, text in zip(ys, _labels(ys), strict=True):
        y = TOP + float(axes.points(np.zeros(1), np.array([value]))[0, 1])
        kind = "zero" if chart.zero and value == 0 else "grid"
        parts.append(tag("line", x1=LEFT, x2=right, y1=y, y2=y, class_=kind))
        parts.append(tag("text", text, x=LEFT - 7, y=y + 4, class_="tick left"))
    for value, text in zip(xs, _labels(xs), strict=True):
        x = LEFT + float(axes.points(np.array([value]), np.zeros(1))[0, 0])
        parts.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(tag("text", text, x=x, y=bottom + 17, class_="tick"))
    parts.append(tag("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    parts.append(tag("text", chart.across, x=(LEFT + right) / 2, y=HEIGHT - 4, class_="tick name"))
    return parts
