"""Readers give the same rows whatever lies below, and errors that name them."""

import pickle
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from deepstrata.schemas.datasets import DatasetSource, ZarrSource
from deepstrata.schemas.errors import DataError, StorageError
from deepstrata.storage.datasets import open_dataset
from deepstrata.storage.digests import digest
from deepstrata.storage.readers import (
    DatasetReader,
    Reader,
    ZarrReader,
    reader,
)
from deepstrata.storage.values import check_finite

ROWS = 100
NAMES = ("image", "label", "valid", "part")


def example() -> xr.Dataset:
    rng = np.random.default_rng(1)
    return xr.Dataset(
        {
            "image": (("y", "sample", "x"), rng.random((2, ROWS, 3), np.float32)),
            "label": ("sample", rng.integers(0, 3, ROWS)),
            "valid": (("sample", "y", "x"), rng.random((ROWS, 2, 3)) < 0.5),
            "part": ("sample", rng.choice(["train", "test"], ROWS).astype(object)),
            "unused": (("sample", "z"), rng.random((ROWS, 50))),
        },
        coords={"sample": np.arange(ROWS), "big": ("sample", np.arange(ROWS))},
    )


FIELDS: dict[str, Any] = {
    "features": "image",
    "labels": "label",
    "mask": "valid",
    "sample_dim": "sample",
}


@pytest.fixture(params=["zarr 2", "zarr 3", "sharded", "memory store", "dask", "numpy"])
def some_reader(request: pytest.FixtureRequest, tmp_path: Path) -> Reader:
    """Each kind of reader, over the same data."""
    kind, data = request.param, example()
    if kind == "numpy":
        return reader(DatasetSource(**FIELDS), data, ("part",))
    if kind == "dask":
        return reader(DatasetSource(**FIELDS), data.chunk(sample=(30, 50, 20), x=2), ("part",))
    path = request.getfixturevalue("memory_url") if kind == "memory store" else str(tmp_path / "d")
    encoding: dict[str, Any] = {"image": {"chunks": (2, 10, 3)}}
    if kind == "sharded":
        encoding["image"]["shards"] = (2, 40, 3)
    version = 2 if kind == "zarr 2" else 3
    data.to_zarr(path, zarr_format=version, consolidated=False, encoding=encoding)
    return reader(ZarrSource(path=path, **FIELDS), open_dataset(path), ("part",))


@pytest.mark.parametrize(("start", "stop"), [(0, ROWS), (0, 1), (37, 64), (90, ROWS)])
def test_all_readers_give_the_same_rows(some_reader: Reader, start: int, stop: int) -> None:
    sent = pickle.loads(pickle.dumps(some_reader.narrow(start, stop)))
    found = sent.read(start, stop, NAMES)
    wanted = example().isel(sample=slice(start, stop)).transpose("sample", ...)
    for name in NAMES:
        assert np.array_equal(found[name], wanted[name].values)
    assert found["image"].flags.c_contiguous
    assert found["image"].dtype == np.float32
    assert found["image"].shape == (stop - start, 2, 3)
    assert digest(found) == digest({name: wanted[name].values for name in NAMES})


def test_a_narrow_reader_reads_within_its_rows(some_reader: Reader) -> None:
    narrow = some_reader.narrow(30, 60).narrow(40, 60)
    assert np.array_equal(narrow.read(45, 50, ("label",))["label"], example().label.values[45:50])


def test_a_zarr_reader_is_small(tmp_path: Path) -> None:
    example().to_zarr(tmp_path / "d", zarr_format=3, consolidated=False)
    path = str(tmp_path / "d")
    made = reader(ZarrSource(path=path, **FIELDS), open_dataset(path))
    assert isinstance(made, ZarrReader)
    assert len(pickle.dumps(made)) < 1000


def test_a_narrow_graph_holds_only_its_rows() -> None:
    features = da.random.random((100_000, 4), chunks=(100, 4)).astype("f4") * 2
    data = xr.Dataset({"x": (("sample", "f"), features)}, coords={"sample": np.arange(100_000)})
    whole = reader(DatasetSource(features="x"), data)
    narrow = whole.narrow(5000, 5200)
    assert isinstance(narrow, DatasetReader)
    assert len(narrow.dataset.__dask_graph__()) <= 8
    assert len(pickle.dumps(narrow)) < 20_000
    wanted = data.x[5000:5200].compute(scheduler="synchronous").values
    assert np.array_equal(narrow.read(5000, 5200, ("x",))["x"], wanted)


def test_numpy_data_is_cut_before_it_travels() -> None:
    data = xr.Dataset({"x": (("sample", "f"), np.zeros((10_000, 10), np.float32))})
    narrow = reader(DatasetSource(features="x"), data).narrow(10, 20)
    assert len(pickle.dumps(narrow)) < 5000


def test_no_other_scheduler_is_touched() -> None:
    def refuses(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("another scheduler was asked")

    data = example().chunk(sample=20)
    made = reader(DatasetSource(**FIELDS), data)
    with dask.config.set(scheduler=refuses):
        made.narrow(0, 40).read(0, 40, ("image",))


def test_a_store_that_was_written_again_is_opened_again(tmp_path: Path) -> None:
    path = str(tmp_path / "d")
    source = ZarrSource(path=path, features="x")
    for scale in (0.5, 0.25):
        packing = {"x": {"dtype": "int16", "scale_factor": scale, "_FillValue": -1}}
        data = xr.Dataset({"x": ("sample", np.arange(4.0))})
        data.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding=packing)
        found = reader(source, open_dataset(path)).read(0, 4, ("x",))
        assert np.array_equal(found["x"], data.x.values)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_damaged_chunk_is_named(tmp_path: Path, sharded: bool) -> None:
    path = tmp_path / "d"
    data = xr.Dataset({"x": (("sample", "f"), np.random.default_rng(0).random((100, 50)))})
    encoding = {"chunks": (10, 50)} | ({"shards": (20, 50)} if sharded else {})
    data.to_zarr(path, zarr_format=3, consolidated=False, encoding={"x": encoding})
    made = reader(ZarrSource(path=str(path), features="x"), open_dataset(str(path)))
    chunk = path / "x" / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:50])
    made.read(0, 10, ("x",))
    start = 20 if sharded else 10
    with pytest.raises(
        StorageError, match=rf"d: variable 'x', rows {start} to {start + 5}: cannot"
    ):
        made.read(start, start + 5, ("x",))


def test_errors_in_a_graph_name_the_rows() -> None:
    def fails(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        raise RuntimeError("no such sensor")

    x = da.ones((10, 2), chunks=(5, 2)).map_blocks(fails, dtype=float, meta=np.empty((0, 0)))
    made = reader(DatasetSource(features="x"), xr.Dataset({"x": (("sample", "f"), x)}))
    with pytest.raises(StorageError, match=r"'?x'?, rows 5 to 10: .*no such sensor"):
        made.read(5, 10, ("x",))


def test_the_digest_of_text_and_times() -> None:
    words = np.array(["ab", "c"])
    assert digest({"a": words}) == digest({"a": words.astype(object)})
    assert digest({"a": words}) != digest({"a": np.array(["a", "bc"])})
    times = np.array(["2000-01-01"], "M8[ns]")
    assert digest({"a": times}) != digest({"a": times.view("i8")})
    assert digest({"a": np.zeros((0, 3))}) != digest({"a": np.zeros((3, 0))})


def test_chunks_that_were_never_written_hold_the_fill_value(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "d")
    group.create_array(
        "x", shape=(4,), chunks=(2,), dtype="f4", fill_value=np.nan, dimension_names=("sample",)
    )[:2] = 1
    path = str(tmp_path / "d")
    found = reader(ZarrSource(path=path, features="x"), open_dataset(path)).read(0, 4, ("x",))
    with pytest.raises(DataError, match="sample 2"):
        check_finite("x", found["x"], None, 0, path)
