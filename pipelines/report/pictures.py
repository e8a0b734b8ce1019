"""Pictures of weights and samples: tiles of an image grid as PNG, or small line plots.

K pictures of shape ``(K, y, x)`` become tiles; ``(K, n)`` become lines. Weights get a diverging
colour map centred at zero, one for a light and one for a dark page.
"""

import base64
import io
from typing import Any, NamedTuple

import numpy as np

from deepstrata.pipelines.report.markup import Markup, tag
from deepstrata.pipelines.report.numbers import number
from deepstrata.schemas.trees import Array

TILE = 64  #: least height of a tile in the PNG, in pixels
COLUMNS = 16
GAP = 4
DIVERGING = ("RdBu_r", "berlin")  #: for a light page, and for a dark one
SEQUENTIAL = ("gray", "gray")
LINE_WIDTH, LINE_HEIGHT = 96, 48


class Colours(NamedTuple):
    """Colour maps for a light and a dark page, and the values at their ends."""

    maps: tuple[str, str]
    low: float
    high: float


def centred(values: Array) -> Colours:
    """Return diverging colours from minus to plus the largest usual weight."""
    high = float(np.nanquantile(np.abs(values), 0.998)) or 1.0
    return Colours(DIVERGING, -high, high)


def colours_for(*samples: Array) -> Colours:
    """Return grey levels for data that is never negative, diverging colours for other data."""
    low = min(float(np.nanmin(s)) for s in samples)
    if low < 0:
        return centred(np.concatenate([np.ravel(s) for s in samples]))
    return Colours(SEQUENTIAL, 0.0, max(float(np.nanmax(s)) for s in samples) or 1.0)


def as_tiles(pictures: Array) -> Array:
    """Return (K, y, x): the last dimension runs across, all between it and the first run down."""
    pictures = np.asarray(pictures, dtype=np.float32)
    return pictures.reshape(len(pictures), -1, pictures.shape[-1])


def image_grid(tiles: Array, colours: Colours, label: str, columns: int = COLUMNS) -> Markup:
    """Return K pictures side by side, ``columns`` in a row, as one image for light and dark."""
    grid, shown = _mosaic(as_tiles(tiles), columns)
    light, dark = (_png(_paint(grid, shown, name, colours)) for name in colours.maps)
    height, width = grid.shape
    image = tag("img", src=light, width=width, height=height, alt=label, class_="tiles")
    if colours.maps[0] == colours.maps[1]:
        return image
    media = "screen and (prefers-color-scheme: dark)"
    return tag("picture", tag("source", srcset=dark, media=media), image)


def painted(values: Array, colours: Colours) -> tuple[str, str]:
    """Return (y, x) values as images for a light and a dark page; NaN is transparent."""
    shown = ~np.isnan(values)
    light, dark = (_png(_paint(values, shown, name, colours)) for name in colours.maps)
    return light, dark


def _mosaic(tiles: Array, columns: int) -> tuple[Array, Array]:
    """Return the mosaic's values, and where it has any."""
    count, high, wide = tiles.shape
    factor = max(1, round(TILE / high))
    tiles = tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    columns = min(columns, count)
    rows = -(-count // columns)
    high, wide = high * factor + GAP, wide * factor + GAP
    grid = np.full((rows * high - GAP, columns * wide - GAP), np.nan, np.float32)
    shown = np.zeros(grid.shape, bool)
    for i, tile in enumerate(tiles):
        y, x = i // columns * high, i % columns * wide
        place = np.s_[y : y + tile.shape[0], x : x + tile.shape[1]]
        grid[place], shown[place] = tile, True
    return grid, shown


def _paint(grid: Array, shown: Array, name: str, colours: Colours) -> Array:
    from matplotlib import colormaps

    scaled = np.clip((grid - colours.low) / (colours.high - colours.low), 0, 1)
    rgba = colormaps[name](np.ma.masked_invalid(scaled), bytes=True)
    rgba[~shown] = 0
    rgba[shown & np.isnan(grid)] = (128, 128, 128, 255)
    return rgba


def _png(rgba: Array) -> str:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    plain: dict[str, Any] = {"metadata": {"Software": None}, "pil_kwargs": {"optimize": True}}
    imsave(buffer, rgba, format="png", **plain)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def colour_bar(colours: Colours) -> Markup:
    """Return a strip with the colours and the values at its ends."""
    strip = np.linspace(colours.low, colours.high, 128, dtype=np.float32)[None, None].repeat(8, 1)
    ends = [tag("span", number(v, 2).replace("-", "\N{MINUS SIGN}")) for v in colours[1:]]
    return tag("span", ends[0], image_grid(strip, colours, "colour scale"), ends[1], class_="bar")


def line_tiles(lines: Array, other: Array | None = None, label: str = "") -> Markup:
    """Return K small line plots on one scale; ``other`` is drawn over ``lines`` where given."""
    both = [np.asarray(a, float) for a in (lines, other) if a is not None]
    low, high = (float(f([f(a) for a in both])) for f in (np.nanmin, np.nanmax))
    span = (high - low) or 1.0
    zero = LINE_HEIGHT * (high / span) if low < 0 < high else None
    plots = []
    for k in range(len(both[0])):
        paths = [
            tag("path", d=_path((high - a[k]) / span), class_=f"line {style}")
            for a, style in zip(both, ("input", "output"), strict=False)
        ]
        base = [] if zero is None else [tag("line", x1=0, x2=LINE_WIDTH, y1=zero, y2=zero,
                                            class_="grid")]  # fmt: skip
        plots.append(tag("svg", *base, *paths, viewBox=f"0 -1 {LINE_WIDTH} {LINE_HEIGHT + 2}"))
    return tag("div", *plots, class_="lines", role="img", aria_label=label)


def _path(down: Array) -> str:
    x = np.linspace(0, LINE_WIDTH, len(down))
    points = [f"{a:.1f} {b * LINE_HEIGHT:.1f}" for a, b in zip(x, down, strict=True)
              if np.isfinite(b)]  # fmt: skip
    return "M" + "L".join(points) if points else ""
