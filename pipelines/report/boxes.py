"""Boxes and arrows as SVG, laid out from left to right.

The layout is Sugiyama's (Sugiyama, Tagawa & Toda 1981): a rank is the longest path to a box, long
arrows get a bend in every rank they cross, and boxes of a rank are ordered by their neighbours'.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from deepstrata.pipelines.report.markup import Markup, tag

LINE, TITLE, PAD, GAP_X, GAP_Y = 16, 20, 11, 42, 16
CHARACTER = 7.0  #: mean width of a 12 px sans-serif character
FILLS = {"data": "#eef1f4", "train": "#e3eefb", "result": "#e2f3ec", "task": "#eef1f4"}
EDGE, INK, SOFT = "#8a939c", "#1d2125", "#5b6570"


class Drawing(NamedTuple):
    """An SVG picture that shows itself in a notebook; its size is in pixels."""

    svg: Markup
    width: int
    height: int

    def _repr_svg_(self) -> str:
        return self.svg

    def __str__(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<Drawing {self.width} x {self.height}: save(path) writes SVG>"

    def save(self, path: str | Path) -> Path:
        """Write the picture to an SVG file and return its path."""
        path = Path(path)
        path.write_text(self.svg, encoding="utf-8")
        return path


class Box(NamedTuple):
    """One box: what stands in it, what it depends on, and which of ``FILLS`` it has."""

    title: str
    lines: tuple[str, ...] = ()
    after: tuple[Hashable, ...] = ()
    kind: str = "task"

    @property
    def width(self) -> float:
        widest = max([1.15 * len(self.title), *map(len, self.lines)])
        return max(64.0, CHARACTER * widest + 2 * PAD)

    @property
    def height(self) -> float:
        return TITLE + LINE * len(self.lines) + PAD


class _Bend(NamedTuple):
    start: Hashable
    end: Hashable
    rank: int


class _Place(NamedTuple):
    x: float
    y: float
    width: float
    height: float


def _ranks(boxes: Mapping[Hashable, Box]) -> dict[Hashable, int]:
    ranks: dict[Hashable, int] = {}
    left = dict(boxes)
    while left:
        ready = [key for key, box in left.items() if not any(k in left for k in box.after)]
        if not ready:
            raise ValueError(f"boxes depend on each other in a circle: {sorted(map(str, left))}")
        for key in ready:
            above = [ranks[k] for k in left.pop(key).after if k in ranks]
            ranks[key] = 1 + max(above, default=-1)
    return ranks


def _columns(
    boxes: Mapping[Hashable, Box], ranks: dict[Hashable, int]
) -> tuple[list[list[Hashable]], list[list[Hashable]]]:
    """Return the keys of each rank, in order, and each arrow as the keys it passes."""
    columns: list[list[Hashable]] = [[] for _ in range(1 + max(ranks.values(), default=-1))]
    arrows: list[list[Hashable]] = []
    for key in boxes:
        columns[ranks[key]].append(key)
    for key, box in boxes.items():
        for start in (k for k in box.after if k in ranks):
            bends = [_Bend(start, key, r) for r in range(ranks[start] + 1, ranks[key])]
            for bend in bends:
                columns[bend.rank].append(bend)
            arrows.append([start, *bends, key])
    before: dict[Hashable, list[Hashable]] = {}
    after: dict[Hashable, list[Hashable]] = {}
    for a, b in (pair for arrow in arrows for pair in zip(arrow, arrow[1:], strict=False)):
        before.setdefault(b, []).append(a)
        after.setdefault(a, []).append(b)
    for _ in range(3):
        _untangle(columns, before)
        _untangle(columns[::-1], after)
    return columns, arrows


def _untangle(columns: list[list[Hashable]], neighbours: dict[Hashable, list[Hashable]]) -> None:
    position = {key: i / len(column) for column in columns for i, key in enumerate(column)}

    def middle(key: Hashable) -> float:
        near = [position[k] for k in neighbours.get(key, [])]
        return sum(near) / len(near) if near else position[key]

    for column in columns:
        column.sort(key=middle)
        position |= {key: i / len(column) for i, key in enumerate(column)}


def _places(
    boxes: Mapping[Hashable, Box], columns: Sequence[Sequence[Hashable]]
) -> tuple[dict[Hashable, _Place], float, float]:
    def height(key: Hashable) -> float:
        return boxes[key].height if key in boxes else 0.0

    tall = max((sum(map(height, c)) + GAP_Y * (len(c) - 1) for c in columns if c), default=0.0)
    places: dict[Hashable, _Place] = {}
    x = 1.0
    for column in columns:
        wide = max((boxes[k].width for k in column if k in boxes), default=0.0)
        y = 1 + (tall - sum(map(height, column)) - GAP_Y * (len(column) - 1)) / 2
        for key in column:
            places[key] = _Place(x, y, wide, height(key))
            y += height(key) + GAP_Y
        x += wide + GAP_X
    return places, max(x - GAP_X, 0) + 1, tall + 2


def _arrow(points: Sequence[_Place]) -> Markup:
    first = points[0]
    x, y = first.x + first.width, first.y + first.height / 2
    path = f"M{x:.1f} {y:.1f}"
    for place in points[1:]:
        to, end = place.y + place.height / 2, place.x - (6 if place is points[-1] else 0)
        half = (x + end) / 2
        path += f"C{half:.1f} {y:.1f} {half:.1f} {to:.1f} {end:.1f} {to:.1f}"
        x, y = end, to
        if place is not points[-1]:
            x = place.x + place.width
            path += f"H{x:.1f}"
    head = f"M{x:.1f} {y - 4:.1f}l6 4l-6 4z"
    return Markup(
        tag("path", d=path, fill="none", stroke=EDGE, stroke_width=1.4, class_="edge")
        + tag("path", d=head, fill=EDGE, class_="head")
    )


def _box(box: Box, place: _Place) -> Markup:
    x = place.x + PAD
    title = tag("text", box.title, x=x, y=place.y + TITLE, fill=INK, font_weight=600, font_size=13)
    lines = [
        tag("text", line, x=x, y=place.y + TITLE + LINE * i, fill=SOFT, class_="soft")
        for i, line in enumerate(box.lines, start=1)
    ]
    frame = tag(
        "rect", x=place.x, y=place.y, width=place.width, height=place.height, rx=6,
        fill=FILLS[box.kind], stroke=EDGE, stroke_width=1,
    )  # fmt: skip
    return tag("g", tag("title", box.title), frame, title, *lines, class_=f"box {box.kind}")


def draw(boxes: Mapping[Hashable, Box], label: str) -> Drawing:
    """Return a picture of boxes and of the arrows between them; ``label`` says what it shows.

    Raises
    ------
    ValueError
        The boxes depend on each other in a circle.
    """
    columns, arrows = _columns(boxes, _ranks(boxes))
    places, wide, high = _places(boxes, columns)
    width, height = round(wide), round(high)
    svg = tag(
        "svg",
        tag("title", label),
        *(_arrow([places[k] for k in arrow]) for arrow in arrows),
        *(_box(box, places[key]) for key, box in boxes.items()),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        font_family="system-ui, sans-serif",
        font_size=12,
        role="img",
        aria_label=label,
        class_="drawing",
    )
    return Drawing(svg, width, height)
