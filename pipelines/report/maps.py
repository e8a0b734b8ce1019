"""Maps of samples whose features lie on latitudes and longitudes: north is up, land is grey.

K samples on Y latitudes and X longitudes. What is absent is not painted, so that the page shows
through in a grey of its own; equal steps of the grid are drawn alike (plate carree).
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepstrata.pipelines.report.markup import Markup, join, tag
from deepstrata.pipelines.report.pictures import Colours, centred, colour_bar, painted
from deepstrata.schemas.trees import Array

if TYPE_CHECKING:
    import xarray as xr

WIDTH, LEFT, BOTTOM, EDGE = 400, 34, 18, 2
STEPS = (1, 2, 5, 10, 15, 30, 60, 90)  #: degrees between ticks
MOST_TICKS = 6
BOTH_SIGNS = 0.2  #: of the larger end, where values of both signs are taken for anomalies
SEQUENTIAL = ("viridis", "viridis")
#: What CF conventions call coordinates of each kind (section 4), and what people call them.
WORDS = {
    kind: {f"degree{s}{end}" for s in ("", "s") for end in (f"_{way}", f"_{way[0]}", way[0])}
    for kind, way in (("latitude", "north"), ("longitude", "east"))
}
NAMES = {"latitude": {"lat", "latitude"}, "longitude": {"lon", "long", "longitude"}}


class Grid(NamedTuple):
    """Where the features of a sample lie."""

    latitudes: Array
    """(Y,) degrees, the northernmost first."""
    longitudes: Array
    """(X,) degrees, the westernmost first."""
    across: bool
    """Whether longitudes come before latitudes in a sample."""
    turned: tuple[bool, bool]
    """Whether latitudes and longitudes have another order in a sample."""

    def oriented(self, samples: Array) -> Array:
        """Return (K, ...) samples as (K, Y, X), north up."""
        samples = np.swapaxes(samples, 1, 2) if self.across else samples
        down, along = (-1 if turned else 1 for turned in self.turned)
        return samples[:, ::down, ::along]


class Maps(NamedTuple):
    """Samples beside their reconstructions, in the units of the data; NaN where absent."""

    grid: Grid
    titles: tuple[str, ...]
    """K names, such as the samples' times."""
    inputs: Array
    """(K, Y, X)"""
    reconstructions: Array
    """(K, Y, X)"""
    units: str = ""


def grid_of(sample: "xr.DataArray") -> Grid | None:
    """Return the grid of a sample whose dimensions are latitude and longitude; None of others."""
    if sample.ndim != 2 or not all(dim in sample.coords for dim in sample.dims):
        return None
    kinds = [_kind(sample.coords[dim]) for dim in sample.dims]
    if sorted(map(str, kinds)) != sorted(WORDS):
        return None
    across = kinds[0] == "longitude"
    latitudes, longitudes = (
        np.asarray(sample.coords[dim].values, float)
        for dim in (sample.dims[::-1] if across else sample.dims)
    )
    turned = bool(latitudes[0] < latitudes[-1]), bool(longitudes[0] > longitudes[-1])
    down, along = (-1 if own else 1 for own in turned)
    return Grid(latitudes[::down], longitudes[::along], across, turned)


def _kind(coordinate: "xr.DataArray") -> str | None:
    """Return ``latitude`` or ``longitude``, by CF attributes or by name."""
    for kind, units in WORDS.items():
        said = {str(coordinate.attrs.get(name, "")).lower() for name in ("standard_name", "units")}
        if said & {kind, *units} or str(coordinate.name).lower() in NAMES[kind]:
            return kind
    return None


def map_colours(values: Array) -> Colours:
    """Return colours for a field: centred at zero where both signs are common, else sequential."""
    low, high = (float(q) for q in np.nanquantile(values, (0.002, 0.998)))
    if low < 0 < high and min(-low, high) > BOTH_SIGNS * max(-low, high):
        return centred(values)
    return Colours(SEQUENTIAL, low, high if high > low else low + 1.0)


def map_rows(maps: Maps) -> Markup:
    """Return, for each sample, the sample, its reconstruction, and what that differs by."""
    away = maps.reconstructions - maps.inputs
    shared, own = map_colours(np.stack([maps.inputs, maps.reconstructions])), centred(away)
    heads = [
        tag("span", "sample and reconstruction ", _bar(shared, maps.units)),
        tag("span", "reconstruction less sample ", _bar(own, maps.units)),
    ]
    rows, names = list[Markup](), ("sample", "reconstruction", "difference")
    for title, *fields in zip(maps.titles, maps.inputs, maps.reconstructions, away, strict=True):
        rows.append(tag("h3", title))
        for name, field, colours in zip(names, fields, (shared, shared, own), strict=True):
            drawn = _map(maps.grid, field, colours, f"{name}, {title}")
            rows.append(tag("figure", tag("figcaption", name), drawn))
    return tag("p", *heads, class_="scales") + tag("div", *rows, class_="maps")


def _bar(colours: Colours, units: str) -> Markup:
    return join([colour_bar(colours), f" {units}" if units else ""])


def _map(grid: Grid, field: Array, colours: Colours, label: str) -> Markup:
    """Return one map with its axes, for light and dark pages."""
    wide = WIDTH - LEFT - EDGE
    high = round(wide * float(np.clip(_span(grid.latitudes) / _span(grid.longitudes), 0.3, 1.2)))
    frame = {"x": LEFT, "y": EDGE, "width": wide, "height": high}
    images = [
        tag("image", href=image, preserveAspectRatio="none", class_=page, **frame)
        for page, image in zip(("on-light", "on-dark"), painted(field, colours), strict=True)
    ]
    return tag(
        "svg", tag("rect", class_="land", **frame), *images, *_ticks(grid, wide, high),
        tag("rect", class_="frame", **frame), viewBox=f"0 0 {WIDTH} {high + BOTTOM + EDGE}",
        class_="map", role="img", aria_label=label,
    )  # fmt: skip


def _span(degrees: Array) -> float:
    """Return the degrees that a row of cells covers."""
    found = abs(float(degrees[-1] - degrees[0]))
    return found * len(degrees) / max(len(degrees) - 1, 1) or 1.0


def degrees(low: float, high: float) -> list[float]:
    """Return a few round numbers of degrees between two."""
    step = next((s for s in STEPS if (high - low) / s <= MOST_TICKS), STEPS[-1])
    return [float(step * i) for i in range(int(np.ceil(low / step)), int(high // step) + 1)]


def hemisphere(value: float, signs: str) -> str:
    """Return degrees with N, S, E or W: ``120°W`` for 240 or -120 and the signs ``EW``."""
    value = (value + 180) % 360 - 180 if abs(value) > 180 else value
    side = "" if value in (0, -180, 180) else signs[value < 0]
    return f"{abs(value):g}\N{DEGREE SIGN}{side}"


def _ticks(grid: Grid, wide: int, high: int) -> list[Markup]:
    parts = []
    for value, place in _places(grid.latitudes, high):
        y = EDGE + place
        parts.append(tag("line", x1=LEFT - 4, x2=LEFT, y1=y, y2=y, class_="axis"))
        text = hemisphere(value, "NS")
        parts.append(tag("text", text, x=LEFT - 6, y=y + 4, class_="tick left"))
    for value, place in _places(grid.longitudes, wide):
        x, y = LEFT + place, EDGE + high
        parts.append(tag("line", x1=x, x2=x, y1=y, y2=y + 4, class_="axis"))
        parts.append(tag("text", hemisphere(value, "EW"), x=x, y=y + 15, class_="tick"))
    return parts


def _places(coordinates: Array, pixels: int) -> list[tuple[float, float]]:
    """Return ticks and where they are along ``pixels``; a cell's coordinate is its middle."""
    middles = (np.arange(len(coordinates)) + 0.5) * pixels / len(coordinates)
    order = np.argsort(coordinates)
    rising, places = coordinates[order], middles[order]
    return [
        (value, float(np.interp(value, rising, places)))
        for value in degrees(float(rising[0]), float(rising[-1]))
    ]
