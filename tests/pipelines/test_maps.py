"""Maps in the report: the right way up, in the data's units, with axes that tell the truth."""

import base64
import io
import re
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.image import imread

from deepstrata.pipelines.report.maps import (
    Maps,
    degrees,
    grid_of,
    hemisphere,
    map_colours,
    map_rows,
)
from deepstrata.pipelines.report.markup import Markup

LAT, LON = np.array([-60.0, -20.0, 20.0, 60.0]), np.arange(0.0, 360.0, 60.0)


def sample(dims: tuple[str, str] = ("lat", "lon"), **changes: Any) -> xr.DataArray:
    """Return a sample that is its own latitude, plus a thousandth of its longitude."""
    coords = {"lat": LAT, "lon": LON} | changes
    lat, lon = (xr.DataArray(coords[d], dims=d, coords={d: coords[d]}) for d in ("lat", "lon"))
    return (lat + lon / 1000).transpose(*dims)


def decoded(markup: Markup) -> list[np.ndarray]:
    """Return the pictures in some markup, (y, x, 4)."""
    found = re.findall(r'href="data:image/png;base64,([^"]+)"', markup)
    return [imread(io.BytesIO(base64.b64decode(data))) for data in found]


@pytest.mark.parametrize("dims", [("lat", "lon"), ("lon", "lat")])
@pytest.mark.parametrize("lat", [LAT, LAT[::-1]])
@pytest.mark.parametrize("lon", [LON, LON[::-1]])
def test_north_is_up_and_west_is_left(dims: Any, lat: np.ndarray, lon: np.ndarray) -> None:
    given = sample(dims, lat=lat, lon=lon)
    grid = grid_of(given)
    assert grid is not None
    np.testing.assert_array_equal(grid.latitudes, LAT[::-1])
    np.testing.assert_array_equal(grid.longitudes, LON)
    drawn = grid.oriented(given.values[None])[0]
    np.testing.assert_array_equal(drawn, LAT[::-1, None] + LON / 1000)


@pytest.mark.parametrize(
    "attrs",
    [
        ({"units": "degrees_north"}, {"units": "degrees_east"}),
        ({"standard_name": "latitude"}, {"standard_name": "longitude"}),
        ({"units": "degree_N"}, {"units": "degreesE"}),
    ],
)
def test_coordinates_are_known_by_their_attributes(attrs: tuple[dict[str, str], ...]) -> None:
    given = sample().rename(lat="a", lon="b")
    assert grid_of(given) is None
    given["a"].attrs, given["b"].attrs = attrs
    assert grid_of(given) is not None


def test_other_samples_lie_on_no_map() -> None:
    assert grid_of(sample().isel(lat=0)) is None
    assert grid_of(sample().drop_vars("lat")) is None
    assert grid_of(sample().rename(lat="y", lon="x")) is None
    assert grid_of(sample().rename(lon="x")) is None
    assert grid_of(sample().expand_dims("level")) is None


def test_fields_of_both_signs_are_centred_and_others_are_not() -> None:
    anomalies, warm = np.linspace(-2, 3, 500), np.linspace(-1.8, 30, 500)
    assert map_colours(anomalies).low == -map_colours(anomalies).high
    assert map_colours(warm).low == pytest.approx(-1.8, abs=0.1)
    assert map_colours(warm).high == pytest.approx(30, abs=0.1)
    assert map_colours(np.full(9, 7.0)).high > 7.0
    assert map_colours(np.array([np.nan, 1.0, 2.0])).low < 2


def maps() -> Maps:
    grid = grid_of(sample())
    assert grid is not None
    warm = np.full((2, 4, 6), 1.0, np.float32)
    warm[:, 2:] = -1.0  # the south
    warm[:, 0, 0] = np.nan
    made = warm * 0.5
    made[1, 1, 5] = np.nan
    return Maps(grid, ("2010-01-01", "<b>"), warm, made, "<degC>")


def test_each_sample_has_three_maps_for_light_and_for_dark() -> None:
    markup = map_rows(maps())
    pictures = decoded(markup)
    assert len(pictures) == 2 * 3 * 2
    assert markup.count('class="on-light"') == markup.count('class="on-dark"') == 6
    assert "&lt;b&gt;" in markup
    assert "<b>" not in markup
    assert markup.count("&lt;degC&gt;") == 2
    light, dark, made, _, away, _ = pictures[:6]
    assert light.shape == (4, 6, 4)
    assert light[0, 0, 3] == made[0, 0, 3] == away[0, 0, 3] == 0  # land: nothing is painted
    red, blue = light[1, 1], light[3, 1]
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert away[1, 1][2] > away[1, 1][0]  # made less of the warmth: colder
    assert (made[1, 1, :3] > light[1, 1, :3]).any()  # paler on a common scale
    assert not np.array_equal(light, dark)
    other = pictures[6:]
    assert other[2][1, 5, 3] == other[4][1, 5, 3] == 0
    assert other[0][1, 5, 3] == 1


def test_axes_tell_where_a_cell_is() -> None:
    markup = map_rows(maps()._replace(titles=("a",), inputs=maps().inputs[:1],
                                      reconstructions=maps().reconstructions[:1]))  # fmt: skip
    first = markup[markup.index("<svg class") if "<svg class" in markup else 0 :]
    ticks = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="tick">([^<]+)<', first)
    frame = re.search(r'<rect class="land" x="(\d+)" y="(\d+)" width="(\d+)"', first)
    assert frame is not None
    left, wide = float(frame[1]), float(frame[3])
    places = {text: float(x) for x, _, text in ticks[:6]}
    for cell, text in enumerate(("0°", "60°E", "120°E", "180°", "120°W", "60°W")):
        assert places[text] == pytest.approx(left + (cell + 0.5) * wide / 6, abs=0.01)


def test_ticks_are_round_degrees() -> None:
    assert degrees(-88, 88) == [-60, -30, 0, 30, 60]
    assert degrees(0, 358) == [0, 60, 120, 180, 240, 300]
    assert degrees(40.2, 44.9) == [41, 42, 43, 44]
    assert [hemisphere(v, "EW") for v in (0, 60, 180, 240, -120, 359)] == [
        "0°", "60°E", "180°", "120°W", "120°W", "1°W",
    ]  # fmt: skip
    assert [hemisphere(v, "NS") for v in (-30, 0, 62.5)] == ["30°S", "0°", "62.5°N"]
