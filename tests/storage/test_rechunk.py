"""Rechunking: the same content, whatever the chunks were, within the memory that was given."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepstrata.schemas.errors import DeepstrataError, SchemaError, StorageError
from deepstrata.storage import passes, writing
from deepstrata.storage.datasets import open_dataset, stored_chunks
from deepstrata.storage.layout import Layout
from deepstrata.storage.passes import method_of
from deepstrata.storage.rechunk import rechunk
from deepstrata.storage.stored import open_stored

MIB = 1 << 20


def same(source: str, dest: str) -> None:
    """Compare two stores as they are stored, and as they are read."""
    for opened in (open_stored, open_dataset):
        before, after = opened(source), opened(dest)
        assert set(before.variables) == set(after.variables)
        assert set(before.coords) == set(after.coords)
        for name, variable in before.variables.items():
            other = after.variables[name].transpose(*variable.dims)
            assert other.dtype == variable.dtype
            assert np.array_equal(
                other.values, variable.values, equal_nan=variable.dtype.kind in "f"
            )
    assert open_dataset(source).attrs == open_dataset(dest).attrs


def packed(samples: int = 300) -> xr.Dataset:
    """Packed, missing and labelled values, and times as coordinates; samples not first."""
    random = np.random.default_rng(0)
    air = random.normal(280, 10, (4, samples, 5))
    air[:, ::7] = np.nan
    encoding = {"scale_factor": 0.01, "add_offset": 250.0, "dtype": "i2", "_FillValue": -32768}
    return xr.Dataset(
        {
            "air": (("lat", "time", "lon"), air, {"units": "K"}, encoding),
            "mask": (("time",), random.random(samples) < 0.5),
            "gaps": (("time",), np.where(random.random(samples) < 0.2, np.nan, 1).astype("f4")),
            "area": (("lat", "lon"), random.random((4, 5))),
        },
        coords={
            "time": np.datetime64("2001-01-01", "ns") + np.arange(samples) * np.timedelta64(6, "h"),
            "station": ("time", np.array([f"station {i % 7}" for i in range(samples)], object)),
            "lat": np.arange(4.0),
        },
        attrs={"title": "air"},
    )


@pytest.mark.parametrize("version", [2, 3])
def test_what_is_stored_stays(tmp_path: Path, version: int) -> None:
    source, dest = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    data = packed()
    data.air.encoding["chunks"] = (3, 70, 2)
    data.to_zarr(source, zarr_format=version, consolidated=False)
    done = rechunk(source, dest, sample_dim="time")
    same(source, dest)
    found = open_dataset(dest)
    assert found.air.dims == ("time", "lat", "lon")
    assert found.air.encoding["dtype"] == np.int16
    assert found.air.encoding["scale_factor"] == 0.01
    assert found.attrs == {"title": "air"}
    assert found.air.attrs == {"units": "K"}
    assert "station" in found.coords
    assert done.schema.sample_dim == "time"


def test_netcdf_is_taken_as_well(tmp_path: Path) -> None:
    source, dest = str(tmp_path / "a.nc"), str(tmp_path / "b.zarr")
    packed().drop_vars("mask").to_netcdf(source)
    rechunk(source, dest, sample_dim="time")
    xr.testing.assert_allclose(
        open_dataset(dest).air.transpose("lat", "time", "lon").drop_vars("time").compute(),
        xr.open_dataset(source).air.drop_vars("time").compute(),
        rtol=0,
    )
    assert open_dataset(dest).air.encoding["dtype"] == np.int16
    assert open_dataset(dest).station.values[3] == "station 3"


def test_rows_and_variables_can_be_chosen(tmp_path: Path) -> None:
    source, dest = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    packed().to_zarr(source, zarr_format=3, consolidated=False)
    rechunk(source, dest, sample_dim="time", rows=100, variables=["gaps"])
    found = open_dataset(dest)
    assert set(found.data_vars) == {"gaps"}
    assert {"time", "station"} <= set(found.coords)
    assert stored_chunks(found.gaps.variable) == (100,)


class Case(NamedTuple):
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    axis: int
    rows: int
    room: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    shape = tuple(lengths)
    chunks = tuple(draw(st.integers(1, n)) for n in shape)
    axis = draw(st.integers(0, len(shape) - 1))
    return Case(shape, chunks, axis, draw(st.integers(1, 50)), draw(st.integers(1, 4000)))


@given(case=cases(), dtype=st.sampled_from(["i2", "f4", "u1"]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_content_is_the_same_whatever_the_chunks(
    case: Case, dtype: str, tmp_path: Path
) -> None:
    source, dest = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    for path in (source, dest):
        shutil.rmtree(path, ignore_errors=True)
    values = np.arange(np.prod(case.shape)).reshape(case.shape).astype(dtype)
    dims = ["time" if i == case.axis else f"d{i}" for i in range(len(case.shape))]
    group = zarr.create_group(source, zarr_format=3)
    array = group.create_array(
        "x", shape=case.shape, chunks=case.chunks, dtype=dtype, dimension_names=dims
    )
    array[...] = values
    row = values.nbytes // case.shape[case.axis]
    unit = int(np.prod(case.chunks)) * values.itemsize
    shard = min(case.rows, case.shape[case.axis]) * row
    # Just enough for one chunk and one shard, and some more: now one pass and now two.
    needed = passes.SHARD_COPIES * shard + 2 * unit + passes.COPIES * max(unit, row, shard)
    memory = int(needed / passes.USED) + 1 + case.room
    rechunk(source, dest, sample_dim="time", rows=case.rows, memory=memory)
    found = open_dataset(dest).x.transpose(*dims)
    assert found.dtype == values.dtype
    assert np.array_equal(found.values, values)
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".rechunk")] == []


def variable(shape: tuple[int, int], chunks: tuple[int, int]) -> xr.Variable:
    values = np.broadcast_to(np.float32(0), shape)
    return xr.Variable(("time", "y"), values, encoding={"chunks": chunks})


@pytest.mark.parametrize(
    ("chunks", "memory", "two_passes", "reads"),
    [
        ((100, 1024), 512, False, 1.0),  # rows as they should be
        ((30_000, 256), 768, False, 1.0),  # long chunks that fit side by side
        ((131_072, 32), 1024, False, 3.0),  # longer ones: a few reads of each
        ((262_144, 1), 512, True, 1.0),  # one column a chunk
        ((262_144, 16), 512, True, 1.0),
    ],
)
def test_the_way_follows_from_the_chunks(
    chunks: tuple[int, int], memory: int, two_passes: bool, reads: float
) -> None:
    big = variable((262_144, 1024), chunks)
    method = method_of(big, "x", "time", Layout(8192, 256), memory * MIB)
    assert method.passes == 1 + two_passes
    assert method.reads == pytest.approx(reads, abs=0.01)


SCRIPT = """
import json, sys
from deepstrata.pipelines.meter import peak_bytes
from deepstrata.storage.rechunk import rechunk
source, small, dest, memory = *sys.argv[1:4], int(sys.argv[4])
rechunk(small, dest + ".small")
base = peak_bytes()
done = rechunk(source, dest, memory=memory)
print(json.dumps([peak_bytes() - base, done.copied[0].passes]))
"""


SHAPES = [((80_000, 8), 2), ((20_000, 8), 1), ((100, 512), 1)]


@pytest.mark.parametrize(("chunks", "expected"), SHAPES)
def test_memory_stays_within_the_budget(
    tmp_path: Path, chunks: tuple[int, int], expected: int
) -> None:
    """160 MB of data in 96 MiB: what is read once, or more often, or in two passes."""
    source, small = str(tmp_path / "a.zarr"), str(tmp_path / "small.zarr")
    for path, samples in ((source, 80_000), (small, 5000)):
        length = min(chunks[0], samples), chunks[1]
        array = zarr.create_group(path, zarr_format=3).create_array(
            "x", shape=(samples, 512), chunks=length, dtype="f4", dimension_names=["time", "y"]
        )
        for start in range(0, 512, 128):
            array[:, start : start + 128] = np.random.default_rng(start).random((samples, 128))
    budget = 96 * MIB
    command = [sys.executable, "-c", SCRIPT, source, small, str(tmp_path / "b.zarr"), str(budget)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    more, passes_made = json.loads(done.stdout.splitlines()[-1])
    assert passes_made == expected
    assert more <= budget


def _no_source(path: Path) -> dict[str, Any]:
    shutil.rmtree(path / "a.zarr")
    return {}


def _dest_exists(path: Path) -> dict[str, Any]:
    packed(3).drop_vars("station").to_zarr(path / "b.zarr", zarr_format=3, consolidated=False)
    return {}


def _unknown_dim(path: Path) -> dict[str, Any]:
    return {"sample_dim": "day"}


def _unknown_variable(path: Path) -> dict[str, Any]:
    return {"variables": ["wind"]}


def _inside(path: Path) -> dict[str, Any]:
    return {"dest": str(path / "a.zarr" / "b.zarr")}


def _no_samples(path: Path) -> dict[str, Any]:
    return {"variables": ["area"]}


def _little_memory(path: Path) -> dict[str, Any]:
    return {"memory": 1000}


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (_no_source, StorageError, "there is nothing there"),
        (_dest_exists, StorageError, "b.zarr: exists already"),
        (_unknown_dim, SchemaError, "no dimension 'day'; it has: .*time"),
        (_unknown_variable, SchemaError, "no variable 'wind'; it has: .*air"),
        (_no_samples, SchemaError, "none of the variables has the sample dimension 'time'"),
        (_inside, StorageError, "choose a place outside"),
        (_little_memory, SchemaError, "chunks of .*give --memory more"),
    ],
)
def test_bad_input_says_what_to_do(
    spoil: Any, error: type[DeepstrataError], message: str, tmp_path: Path
) -> None:
    packed().to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    there = {"sample_dim": "time", "dest": str(tmp_path / "b.zarr")} | spoil(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        rechunk(str(tmp_path / "a.zarr"), **there)
    assert sorted(tmp_path.rglob("*")) == before


def columns(path: Path, samples: int = 4096) -> str:
    array = zarr.create_group(path, zarr_format=3).create_array(
        "x", shape=(samples, 64), chunks=(samples, 1), dtype="f4", dimension_names=["time", "y"]
    )
    array[...] = np.random.default_rng(0).random((samples, 64))
    return str(path)


def test_a_full_disk_is_seen_before_the_first_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = columns(tmp_path / "a.zarr")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(StorageError, match="no space for an intermediate store: expected 1 MiB"):
        rechunk(source, str(tmp_path / "b.zarr"), memory=384 << 10)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_what_was_begun_is_removed(
    stop: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, dest = columns(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    write = zarr.Array.__setitem__

    def full(self: Any, key: Any, value: Any) -> None:
        if "b.zarr" in str(self.store_path) and "rechunk" not in str(self.store_path):
            raise stop
        write(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__setitem__", full)
        expected = KeyboardInterrupt if isinstance(stop, KeyboardInterrupt) else StorageError
        with pytest.raises(expected, match="disk is full" if expected is StorageError else None):
            rechunk(source, dest, memory=384 << 10)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    rechunk(source, dest, memory=384 << 10)
    same(source, dest)


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    source, dest = columns(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    writing.create(dest, open_dataset(source), None, "time")
    assert writing.is_incomplete(dest)
    rechunk(source, dest)
    same(source, dest)


def test_shards_of_missing_values_are_kept(tmp_path: Path) -> None:
    values = np.full((9000, 1000), np.nan, np.float32)
    values[8000:] = 1
    source, dest = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    xr.Dataset({"x": (("time", "y"), values)}).to_zarr(source, zarr_format=3, consolidated=False)
    rechunk(source, dest, rows=2048)
    assert writing.is_complete(dest)
    assert np.array_equal(open_dataset(dest).x.values, values, equal_nan=True)


def test_progress_is_told_of_every_variable(tmp_path: Path) -> None:
    source, told = columns(tmp_path / "a.zarr"), list[tuple[str, int, int]]()
    rechunk(source, str(tmp_path / "b.zarr"), report=lambda *args: told.append(args))
    assert told[-1] == ("x", 4096 * 64 * 4, 4096 * 64 * 4)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_a_real_store(shared_data: Path, tmp_path: Path) -> None:
    source = str(shared_data / "air_temperature_zarr" / "air_temperature.zarr")
    dest = str(tmp_path / "b.zarr")
    rechunk(source, dest)
    same(source, dest)
