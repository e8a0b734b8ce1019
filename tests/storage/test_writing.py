"""Writing: whole shards only, complete at the very end, values and labels as they were."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cftime
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from deepstrata.schemas.errors import SchemaError, StorageError
from deepstrata.storage import stores, writing
from deepstrata.storage.datasets import open_dataset
from deepstrata.storage.layout import Layout
from deepstrata.storage.writing import (
    create,
    create_like,
    discard,
    finish,
    is_complete,
    is_incomplete,
    write_dataset,
    write_rows,
)

ROWS = 25


def labelled() -> xr.Dataset:
    rng = np.random.default_rng(2)
    hours = np.arange(ROWS).astype("m8[h]")
    noleap = [cftime.DatetimeNoLeap(2001, 2, 28, h % 24, 7 * h % 60) for h in range(ROWS)]
    return xr.Dataset(
        {
            "x": (("y", "time"), rng.normal(size=(3, ROWS)).astype("f4"), {"units": "K"}),
            "flag": ("time", rng.random(ROWS) < 0.5),
            "count": ("time", rng.integers(0, 9, ROWS).astype("u1"), {"flag_values": np.arange(9)}),
            "weight": ("y", np.array([1.0, np.nan, 3.0])),
        },
        coords={
            "time": np.datetime64("2000-01-01T00:30", "ns") + hours + np.arange(ROWS),
            "station": ("time", np.array([f"s{i}" * (i % 4) for i in range(ROWS)], dtype=object)),
            "fixed": ("time", np.array([f"f{i}" for i in range(ROWS)])),
            "elapsed": ("time", hours.astype("m8[ns]") * 90),
            "model_time": ("time", np.array(noleap, dtype=object)),
            "y": [10, 20, 30],
            "height": 2.0,
        },
        attrs={"title": "stations", "version": np.int64(3)},
    )


@pytest.mark.parametrize("chunked", [False, True])
def test_labels_and_values_round_trip(place: str, chunked: bool) -> None:
    data = labelled().chunk(time=7) if chunked else labelled()
    write_dataset(data, place, "time", Layout(10, 10))
    found = open_dataset(place)
    assert found.x.dims == ("time", "y")
    assert found.x.encoding["chunks"] == (10, 3)
    xr.testing.assert_equal(found.load().transpose(*labelled().x.dims), labelled())
    assert found.attrs == {"title": "stations", "version": 3}
    assert found.x.attrs == {"units": "K"}
    assert found["count"].attrs == {"flag_values": list(range(9))}
    for name in ("x", "flag", "count", "weight"):
        assert found[name].dtype == labelled()[name].dtype


def test_missing_times_round_trip(tmp_path: Path) -> None:
    times = np.array(["2000-01-01T00:00:00.000000001", "NaT"], "M8[ns]")
    lags = np.array([1, "NaT"], "m8[s]").astype("m8[ns]")
    data = xr.Dataset({"t": ("sample", times), "lag": ("sample", lags)})
    write_dataset(data, str(tmp_path / "d"))
    xr.testing.assert_equal(open_dataset(str(tmp_path / "d")).load(), data)


def test_bytes_are_read_back_as_text(tmp_path: Path) -> None:
    names = xr.Dataset({"name": ("sample", np.array(["a", "b\u00e9"]).astype("U2"))})
    coded = names.assign(name=("sample", np.char.encode(names.name.values, "utf-8")))
    write_dataset(coded, str(tmp_path / "d"))
    assert open_dataset(str(tmp_path / "d")).name.values.tolist() == ["a", "b\u00e9"]
    latin = names.assign(name=("sample", np.array([b"\xe9"] * 2)))
    with pytest.raises(StorageError, match="'name', rows 0 to 2: .*utf-8"):
        write_dataset(latin, str(tmp_path / "e"))


def test_big_rows_are_sharded(tmp_path: Path) -> None:
    zeros = da.zeros((4096, 1024), dtype="f4", chunks=(512, -1))
    data = xr.Dataset({"x": (("sample", "f"), zeros), "label": ("sample", np.zeros(4096, "u1"))})
    path = str(tmp_path / "d")
    layout = write_dataset(data, path, layout=Layout(1024, 256))
    found = open_dataset(path)
    assert layout == Layout(1024, 256)
    assert found.x.encoding["shards"] == (1024, 1024)
    assert found.x.encoding["chunks"] == (256, 1024)
    assert found.label.encoding["chunks"] == (1024,)
    assert found.label.encoding["shards"] is None
    assert found.x.encoding["compressors"][0].to_dict()["configuration"]["cname"] == "lz4"


def test_an_existing_store_is_not_overwritten(place: str) -> None:
    data = xr.Dataset({"x": ("sample", np.arange(4.0))})
    write_dataset(data, place)
    assert is_complete(place)
    with pytest.raises(StorageError, match="there is a complete dataset already"):
        write_dataset(data, place)
    discard(place)
    assert not stores.exists(place)
    discard(place)


@pytest.mark.parametrize("what", ["file", "files", "store"])
def test_what_others_wrote_stays(tmp_path: Path, what: str) -> None:
    path = tmp_path / "d"
    data = xr.Dataset({"x": ("sample", np.arange(4.0))})
    if what == "file":
        path.write_text("precious")
    elif what == "files":
        path.mkdir()
        (path / "a.txt").write_text("precious")
    else:
        data.to_zarr(path, zarr_format=3, consolidated=False)
    before = sorted(tmp_path.rglob("*"))
    for action in (lambda: write_dataset(data, str(path)), lambda: discard(str(path))):
        with pytest.raises(StorageError, match="in the way: .*did not write"):
            action()
    assert not is_complete(str(path))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_store_whose_root_is_torn_is_removed_by_its_owner_alone(place: str) -> None:
    write_dataset(xr.Dataset({"x": ("sample", np.arange(4.0))}), place)
    root = stores.join(place, "zarr.json")
    stores.write_bytes(root, stores.read_bytes(root)[:30])
    assert not is_complete(place)
    with pytest.raises(StorageError, match=r"zarr\.json cannot be read .*remove it yourself"):
        discard(place)
    assert stores.exists(root)
    discard(place, own=True)
    assert not stores.exists(place)


def test_what_cannot_be_read_to_be_written_is_explained(place: str) -> None:
    def fails(block: np.ndarray) -> np.ndarray:
        raise OSError(errno.EIO, "Input/output error")

    x = da.zeros((4, 2), dtype="f4").map_blocks(fails, dtype="f4")
    data = xr.Dataset({"x": (("sample", "f"), x)})
    with pytest.raises(
        StorageError, match=r"cannot be read: variables x, rows from 0: .*Input/output error"
    ):
        write_dataset(data, place)


def new_store(path: str, rows: int = 100, shard: int = 20, dtype: str = "f4") -> None:
    empty = da.zeros((rows, 3), dtype=dtype)
    create(path, xr.Dataset({"x": (("sample", "f"), empty)}), Layout(shard, shard))


def test_an_unfinished_store_is_not_read(place: str) -> None:
    new_store(place)
    assert is_incomplete(place)
    assert not is_complete(place)
    with pytest.raises(StorageError, match="incomplete: .*interrupted"):
        open_dataset(place)
    new_store(place, rows=40)
    write_rows(place, "x", 0, np.ones((40, 3), "f4"))
    finish(place)
    assert open_dataset(place).x.shape == (40, 3)


@pytest.mark.parametrize("dtype", ["f4", "u1"])
def test_a_store_with_rows_missing_is_not_finished(place: str, dtype: str) -> None:
    new_store(place, dtype=dtype)
    for start in (0, 20, 60, 80):
        write_rows(place, "x", start, np.zeros((20, 3), dtype))
    with pytest.raises(StorageError, match="'x': 1 shards were never written"):
        finish(place)
    assert not is_complete(place)
    write_rows(place, "x", 40, np.zeros((20, 3), dtype))
    finish(place)
    assert is_complete(place)


def test_a_sharded_store_with_rows_missing_is_not_finished(tmp_path: Path) -> None:
    path = str(tmp_path / "d")
    empty = da.zeros((2048, 1024), dtype="f4", chunks=-1)
    create(path, xr.Dataset({"x": (("sample", "f"), empty)}), Layout(1024, 256))
    write_rows(path, "x", 0, np.zeros((1024, 1024), "f4"))
    with pytest.raises(StorageError, match="'x': 1 shards were never written"):
        finish(path)
    write_rows(path, "x", 1024, np.zeros((1024, 1024), "f4"))
    finish(path)


@pytest.mark.parametrize(
    ("start", "rows"), [(10, 20), (0, 10), (20, 30), (90, 10), (80, 40), (95, 5)]
)
def test_misaligned_writes_are_refused(tmp_path: Path, start: int, rows: int) -> None:
    path = str(tmp_path / "d")
    new_store(path)
    with pytest.raises(StorageError, match="not aligned: expected whole shards of 20 rows"):
        write_rows(path, "x", start, np.zeros((rows, 3), "f4"))


def test_the_last_shard_may_be_short(tmp_path: Path) -> None:
    path = str(tmp_path / "d")
    new_store(path, rows=50)
    write_rows(path, "x", 40, np.ones((10, 3), "f4"))
    write_rows(path, "x", 0, np.full((40, 3), 2, "f4"))
    finish(path)
    assert open_dataset(path).x.values.sum() == 30 + 240


@pytest.mark.parametrize(
    "values", [np.zeros((20, 4), "f4"), np.zeros((20, 3), "f8"), np.zeros(20, "f4")]
)
def test_rows_of_another_kind_are_refused(tmp_path: Path, values: Any) -> None:
    path = str(tmp_path / "d")
    new_store(path)
    with pytest.raises(StorageError, match=r"expected float32\(3,\) in each row, found"):
        write_rows(path, "x", 0, values)


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "d")
    new_store(path)
    values = np.random.default_rng(0).random((100, 3), np.float32)
    content = []
    for _ in range(2):
        write_rows(path, "x", 0, values)
        content.append([p.read_bytes() for p in sorted(Path(path).rglob("*")) if p.is_file()])
    assert content[0] == content[1]


def _write(arguments: tuple[str, int]) -> None:
    path, start = arguments
    write_rows(path, "x", start, np.full((20, 3), start, "f4"))


def test_many_processes_write_one_store(tmp_path: Path) -> None:
    path = str(tmp_path / "d")
    new_store(path)
    # Every shard twice, by any process: a task may run again.
    tasks = [(path, start) for start in range(0, 100, 20)] * 2
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(_write, tasks))
    finish(path)
    assert np.array_equal(open_dataset(path).x.values[:, 0], np.arange(100) // 20 * 20)


def test_codes_carry_coordinates(place: str) -> None:
    data = labelled()
    create_like(
        place, data, "code", ("time", "unit"), (ROWS, 4), "float32", 10, {"long_name": "code"}
    )
    for start in range(0, ROWS, 10):
        write_rows(place, "code", start, np.full((min(10, ROWS - start), 4), start, "f4"))
    finish(place)
    found = open_dataset(place).load()
    kept = labelled().drop_vars(["x", "flag", "count", "weight", "y"])
    xr.testing.assert_equal(found.drop_vars("code"), kept)
    assert found.attrs["title"] == "stations"
    assert found.code.attrs == {"long_name": "code"}
    assert found.code.values[:, 0].tolist() == [i // 10 * 10 for i in range(ROWS)]


def test_codes_without_coordinates(tmp_path: Path) -> None:
    path = str(tmp_path / "d")
    create_like(path, xr.Dataset(), "code", ("sample", "unit"), (10, 2), "float32", 100, {})
    write_rows(path, "code", 0, np.ones((10, 2), "f4"))
    finish(path)
    assert dict(open_dataset(path).sizes) == {"sample": 10, "unit": 2}


def test_coordinates_have_to_fit(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=f"coordinates of 7 samples, found {ROWS}"):
        create_like(str(tmp_path / "d"), labelled(), "c", ("time", "u"), (7, 2), "f4", 7, {})


@pytest.mark.parametrize("values", [np.array([{}, {}], dtype=object), np.zeros(2, [("a", "f4")])])
def test_what_cannot_be_stored_is_named(tmp_path: Path, values: Any) -> None:
    with pytest.raises(SchemaError, match="'odd': values of type .* cannot be stored"):
        write_dataset(xr.Dataset({"odd": ("sample", values)}), str(tmp_path / "d"))
    assert not (tmp_path / "d").exists()


def test_a_dataset_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="0 samples"):
        write_dataset(xr.Dataset({"x": ("sample", np.zeros(0))}), str(tmp_path / "d"))
    with pytest.raises(SchemaError, match="no dimension 'row'; it has: sample"):
        write_dataset(xr.Dataset({"x": ("sample", np.zeros(1))}), str(tmp_path / "d"), "row")
    assert not (tmp_path / "d").exists()


def test_a_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "d")
    new_store(path)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("zarr.storage._local._put", full)
    with pytest.raises(StorageError, match=r"d: variable 'x', rows 0 to 20: .*the disk is full"):
        write_rows(path, "x", 0, np.zeros((20, 3), "f4"))
    with pytest.raises(StorageError, match="the disk is full"):
        new_store(str(tmp_path / "e"))
    monkeypatch.undo()
    assert not is_complete(path)
    with pytest.raises(StorageError, match="shards were never written"):
        finish(path)
    new_store(str(tmp_path / "e"))


KILLED = """
import os, sys
import numpy as np, xarray as xr
from deepstrata.storage import writing
from deepstrata.storage.layout import Layout

path, after = sys.argv[1], int(sys.argv[2])
real, calls = writing.write_rows, []
def dies(*arguments):
    calls.append(1)
    if len(calls) > after:
        os._exit(9)
    real(*arguments)
writing.write_rows = dies
writing.write_dataset(xr.Dataset({"x": ("sample", np.arange(100.0))}), path, layout=Layout(10, 10))
"""


@pytest.mark.parametrize("after", [0, 4])
def test_a_killed_writer_leaves_a_store_that_is_replaced(tmp_path: Path, after: int) -> None:
    path = str(tmp_path / "d")
    command = [sys.executable, "-c", KILLED, path, str(after)]
    assert subprocess.run(command, check=False).returncode == 9
    assert is_incomplete(path)
    with pytest.raises(StorageError, match="incomplete"):
        open_dataset(path)
    write_dataset(xr.Dataset({"x": ("sample", np.arange(4.0))}), path)
    assert open_dataset(path).x.values.tolist() == [0, 1, 2, 3]


def test_a_removal_that_was_interrupted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "d")
    write_dataset(xr.Dataset({"a": ("sample", np.zeros(3)), "b": ("sample", np.zeros(3))}), path)
    remove, removed = stores.remove, []

    def interrupted(url: str) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(url)
        remove(url)

    monkeypatch.setattr(writing.stores, "remove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        discard(path)
    monkeypatch.undo()
    assert is_incomplete(path)
    discard(path)
    assert not Path(path).exists()


def test_memory_is_bounded_by_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    write_block = writing.write_block

    def watched(path: str, block: xr.Dataset, start: int, dim: str) -> None:
        seen.append(block.sizes[dim])
        write_block(path, block, start, dim)

    monkeypatch.setattr(writing, "write_block", watched)
    monkeypatch.setattr(writing, "BLOCK_BYTES", 200 * 80)
    data = xr.Dataset({"x": (("sample", "f"), da.zeros((1000, 10), chunks=(500, 10)))})
    write_dataset(data, str(tmp_path / "d"), layout=Layout(50, 50))
    assert seen == [200] * 5
    assert zarr.open_group(tmp_path / "d", mode="r")["x"].shape == (1000, 10)
