"""Ingest: each format to the same kind of store, and one clear error for each kind of bad input."""

import gzip
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from sklearn.datasets import load_digits

from deepstrata.schemas.errors import SchemaError, StorageError
from deepstrata.storage import ingest as module
from deepstrata.storage.datasets import open_dataset
from deepstrata.storage.formats import FORMATS
from deepstrata.storage.ingest import describe_source, ingest
from deepstrata.storage.splits import flags
from deepstrata.storage.writing import is_complete, write_dataset

CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx_bytes(array: np.ndarray[Any, Any]) -> bytes:
    code = CODES[array.dtype.newbyteorder("=").str[1:]]
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


def mnist(directory: Path, train: int = 1500, test: int = 300, suffix: str = "") -> dict[str, Any]:
    rng = np.random.default_rng(0)
    arrays = {}
    for prefix, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 5, 4), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        arrays[prefix] = (images, labels)
        write(directory / f"{prefix}-images-idx3-ubyte{suffix}", idx_bytes(images))
        write(directory / f"{prefix}-labels-idx1-ubyte{suffix}", idx_bytes(labels))
    return arrays


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_files(tmp_path: Path, suffix: str) -> None:
    arrays = mnist(tmp_path, suffix=suffix)
    dest = str(tmp_path / "d.zarr")
    described = describe_source("idx", str(tmp_path))
    assert ingest("idx", str(tmp_path), dest) == described
    found = open_dataset(dest)
    assert found.image.dims == ("sample", "y", "x")
    images, labels = (np.concatenate([a[i] for a in arrays.values()]) for i in (0, 1))
    assert np.array_equal(found.image.values, images)
    assert np.array_equal(found.label.values, labels)
    assert found.image.dtype == found.label.dtype == np.uint8
    assert flags(found.subset) == {0: "train", 1: "test"}
    assert found.subset.dtype == np.int8
    assert found.subset.values.tolist() == [0] * 1500 + [1] * 300


@pytest.mark.parametrize("dtype", sorted(CODES))
def test_idx_of_every_type(tmp_path: Path, dtype: str) -> None:
    values = np.arange(12).reshape(4, 3).astype(dtype)
    path = write(tmp_path / "some-images-idx2-ubyte", idx_bytes(values))
    ingest("idx", str(path), str(tmp_path / "d.zarr"), sample_dim="case")
    found = open_dataset(str(tmp_path / "d.zarr"))
    assert found.image.dims == ("case", "feature")
    assert found.image.dtype == np.dtype(dtype)
    assert np.array_equal(found.image.values, values)
    assert "label" not in found


def test_labels_beside_a_file_are_found(tmp_path: Path) -> None:
    arrays = mnist(tmp_path)
    ingest("idx", str(tmp_path / "t10k-images-idx3-ubyte"), str(tmp_path / "d.zarr"))
    found = open_dataset(str(tmp_path / "d.zarr"))
    assert set(found.data_vars) == {"image", "label"}
    assert np.array_equal(found.label.values, arrays["t10k"][1])


def _truncated(directory: Path) -> None:
    path = directory / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-7])


def _truncated_gz(directory: Path) -> None:
    for path in list(directory.glob("*ubyte")):
        whole = path.read_bytes()
        cut = whole[:-7] if "train-images" in path.name else whole
        write(path.with_name(path.name + ".gz"), cut)
        path.unlink()


def _half_a_gz(directory: Path) -> None:
    path = directory / "train-images-idx3-ubyte"
    packed = gzip.compress(path.read_bytes(), 1)
    path.with_name(path.name + ".gz").write_bytes(packed[: len(packed) // 2])
    path.unlink()


def _no_gz(directory: Path) -> None:
    (directory / "train-images-idx3-ubyte").rename(directory / "train-images-idx3-ubyte.gz")


def _too_long(directory: Path) -> None:
    with (directory / "train-labels-idx1-ubyte").open("ab") as file:
        file.write(b"\0")


def _magic(directory: Path) -> None:
    write(directory / "train-images-idx3-ubyte", b"\x89PNG" + bytes(40))


def _nothing(directory: Path) -> None:
    write(directory / "train-images-idx3-ubyte", b"")


def _no_images(directory: Path) -> None:
    write(directory / "train-images-idx3-ubyte", idx_bytes(np.zeros((0, 5, 4), np.uint8)))


def _few_labels(directory: Path) -> None:
    write(directory / "train-labels-idx1-ubyte", idx_bytes(np.zeros(3, np.uint8)))


def _other_size(directory: Path) -> None:
    write(directory / "t10k-images-idx3-ubyte", idx_bytes(np.zeros((300, 6, 4), np.uint8)))


def _no_files(directory: Path) -> None:
    for path in directory.glob("*ubyte"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_truncated, "train-images.*: truncated: expected 30016 bytes, found 30009"),
        (_truncated_gz, "train-images.*: truncated: expected 30016 bytes, found 30009"),
        (_half_a_gz, "train-images.*: truncated: expected 30016 bytes, found"),
        (_no_gz, "train-images.*: damaged gzip file"),
        (_too_long, "train-labels.*: too long: expected 1508 bytes, found 1509"),
        (_magic, "train-images.*: not an idx file: .*found 0x89504e47"),
        (_nothing, "train-images.*: truncated: expected 4 bytes, found 0"),
        (_no_images, "train-images.*: empty"),
        (_few_labels, "train-labels.*: expected 1500 labels.*found 3"),
        (_other_size, "t10k-images.*: expected images like those of train-images"),
        (_no_files, "no idx files: expected train-images-idx3-ubyte"),
    ],
)
def test_bad_idx_files(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    mnist(source)
    spoil(source)
    with pytest.raises(SchemaError, match=message):
        ingest("idx", str(source), str(tmp_path / "d.zarr"))
    assert not (tmp_path / "d.zarr").exists()


def test_the_digits(place: str) -> None:
    assert ingest("digits", None, place) == describe_source("digits", None)
    found, wanted = open_dataset(place), load_digits()
    assert np.array_equal(found.image.values, wanted.images)
    assert np.array_equal(found.label.values, wanted.target)
    assert found.image.dtype == np.uint8
    with pytest.raises(SchemaError, match="brings its own data"):
        ingest("digits", "somewhere", place + "2")


CSV = 'height,"width, cm",species\n1.5,2,b \n,4e1,a\n\n3,-6,b\n'


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_table(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"t.csv{suffix}", CSV.replace("species", "Class").encode("utf-8-sig"))
    dest = str(tmp_path / "d.zarr")
    assert ingest("csv", str(path), dest) == describe_source("csv", str(path))
    found = open_dataset(dest)
    assert found.features.dtype == np.float32
    assert found.feature.values.tolist() == ["height", "width, cm"]
    wanted = [[1.5, 2], [np.nan, 40], [3, -6]]
    assert np.array_equal(found.features.values, np.array(wanted, "f4"), equal_nan=True)
    assert found.label.values.tolist() == [1, 0, 1]
    assert flags(found.label) == {0: "a", 1: "b"}


def test_a_table_with_whole_numbers_as_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", b"target,a\n3,1\n-1,2\n")
    ingest("csv", str(path), str(tmp_path / "d.zarr"))
    found = open_dataset(str(tmp_path / "d.zarr"))
    assert found.label.values.tolist() == [3, -1]
    assert flags(found.label) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "empty: expected a header"),
        (b"a,b\n", "empty: a header and no rows"),
        (b"1,2\n3,4\n", "expected names of columns in the first line"),
        (b"a,b\n1,2\n3\n", "row 2: expected 2 cells, found 1"),
        (b"a,b\n1,2\n3,x\n", "row 2, column 'b': expected a number, found 'x'"),
        (b"a,a\n1,2\n", "two columns are called 'a'"),
        (b"label\n1\n", "no column with features"),
        (b"a,label\n1,x\n2,\n", "column 'label': expected labels, found empty cells"),
        (b"a,b\n\xff\xfe,2\n", "not comma-separated text"),
        (b'a,b\n1,"2\n', "not comma-separated text"),
    ],
)
def test_bad_tables(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        ingest("csv", str(write(tmp_path / "t.csv", text)), str(tmp_path / "d.zarr"))
    assert not (tmp_path / "d.zarr").exists()


def test_numpy_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values, labels = rng.random((500, 6)).astype(">f4"), rng.integers(0, 3, 500)
    np.save(tmp_path / "x.npy", values)
    np.savez(tmp_path / "x.npz", image=values, label=labels)
    np.savez_compressed(tmp_path / "y.npz", image=values, label=labels)
    for name, variable in (("x.npy", "features"), ("x.npz", "image"), ("y.npz", "image")):
        dest = str(tmp_path / f"{name}.zarr")
        format = name.rsplit(".", 1)[-1]
        assert ingest(format, str(tmp_path / name), dest) == describe_source(
            format, str(tmp_path / name)
        )
        found = open_dataset(dest)
        assert np.array_equal(found[variable].values, values)
        assert found[variable].dtype == np.float32
        if format == "npz":
            assert np.array_equal(found.label.values, labels)


def test_bad_numpy_files(tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        path = str(tmp_path / name)
        with pytest.raises(SchemaError, match=message):
            ingest(name.rsplit(".", 1)[-1], path, str(tmp_path / "d.zarr"))
        assert not (tmp_path / "d.zarr").exists()

    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    whole = (tmp_path / "a.npy").read_bytes()
    write(tmp_path / "short.npy", whole[:-1])
    refused("short.npy", "truncated: expected 224 bytes, found 223")
    write(tmp_path / "other.npy", b"hello")
    refused("other.npy", "not a NumPy array file")
    write(tmp_path / "other.npz", b"hello")
    refused("other.npz", "not an npz file")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object))
    refused("object.npy", "holds Python objects")
    np.save(tmp_path / "fortran.npy", np.asfortranarray(np.zeros((3, 4))))
    refused("fortran.npy", "Fortran order")
    np.save(tmp_path / "empty.npy", np.zeros((0, 4)))
    refused("empty.npy", r"found shape \(0, 4\)")
    np.savez(tmp_path / "uneven.npz", a=np.zeros(3), b=np.zeros(4))
    refused("uneven.npz", "expected as many rows in each array, found a: 3, b: 4")


def gridded() -> xr.Dataset:
    times = np.datetime64("2010-01-01", "ns") + np.arange(40).astype("m8[D]")
    values = np.random.default_rng(0).normal(size=(40, 3, 2)).astype("f4")
    values[:, 0] = np.nan
    return xr.Dataset(
        {"sst": (("time", "lat", "lon"), values, {"units": "degC"})},
        coords={"time": times, "lat": [10.0, 20.0, 30.0], "lon": [0.0, 90.0]},
        attrs={"title": "sea"},
    )


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4", "scipy"])
def test_netcdf(tmp_path: Path, engine: Any) -> None:
    if engine == "h5netcdf":
        pytest.importorskip("h5py", reason="h5netcdf reads and writes through h5py: install it")
    path = str(tmp_path / "x.nc")
    packed = {"sst": {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -999}}
    gridded().to_netcdf(path, engine=engine, encoding=packed)
    dest = str(tmp_path / "d.zarr")
    assert ingest("netcdf", path, dest) == describe_source("netcdf", path)
    found = open_dataset(dest).load()
    with xr.open_dataset(path) as wanted:
        xr.testing.assert_equal(found, wanted)
    assert found.sst.attrs["units"] == "degC"
    assert found.attrs["title"] == "sea"


def test_another_dimension_may_count_samples(tmp_path: Path) -> None:
    gridded().to_netcdf(tmp_path / "x.nc")
    schema = ingest("netcdf", str(tmp_path / "x.nc"), str(tmp_path / "d"), sample_dim="lat")
    assert schema.sample_dim == "lat"
    assert schema == describe_source("netcdf", str(tmp_path / "x.nc"), "lat")
    found = open_dataset(str(tmp_path / "d"))
    assert found.sst.dims == ("lat", "time", "lon")
    xr.testing.assert_equal(found.load().transpose("time", "lat", "lon"), gridded())


def test_bad_netcdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write(tmp_path / "x.nc", b"not netCDF"))
    with pytest.raises((SchemaError, StorageError), match=r"x\.nc: "):
        ingest("netcdf", path, str(tmp_path / "d"))
    gridded().to_netcdf(path)
    with pytest.raises(SchemaError, match="no dimension 'row'; it has: time, lat, lon"):
        ingest("netcdf", path, str(tmp_path / "d"), sample_dim="row")
    gridded().drop_vars("sst").to_netcdf(tmp_path / "y.nc")
    with pytest.raises(SchemaError, match=r"y\.nc: .*no data variable"):
        ingest("netcdf", str(tmp_path / "y.nc"), str(tmp_path / "d"))

    def missing(*args: Any, **kwargs: Any) -> None:
        raise ValueError("found the following matches with the input file in xarray's IO backends")

    monkeypatch.setattr("deepstrata.storage.formats.labelled.xr.open_dataset", missing)
    with pytest.raises(StorageError, match="install netcdf4"):
        ingest("netcdf", path, str(tmp_path / "d"))
    assert not (tmp_path / "d").exists()


def test_a_store_gets_the_default_layout(tmp_path: Path) -> None:
    gridded().to_zarr(tmp_path / "a", zarr_format=2, consolidated=False)
    schema = ingest("zarr", str(tmp_path / "a"), str(tmp_path / "b"))
    assert schema == describe_source("zarr", str(tmp_path / "a"))
    xr.testing.assert_equal(open_dataset(str(tmp_path / "b")).load(), gridded())


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    known = "csv, digits, hdf5, idx, images, netcdf, npy, npz, patches, svmlight, wav, zarr"
    assert known == ", ".join(sorted(FORMATS))
    for action in (
        lambda: ingest("parquet", "x", str(tmp_path / "d")),
        lambda: describe_source("parquet", "x"),
    ):
        with pytest.raises(
            SchemaError, match=f"unknown format 'parquet'; expected one of: {known}"
        ):
            action()


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"digits"}))
def test_a_source_that_is_not_there_is_named(tmp_path: Path, format: str) -> None:
    with pytest.raises(StorageError, match="absent"):
        ingest(format, str(tmp_path / "absent"), str(tmp_path / "d"))
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"digits", "patches"}))
def test_a_format_without_data_of_its_own_wants_a_source(tmp_path: Path, format: str) -> None:
    with pytest.raises(SchemaError, match="found (none|None)"):
        ingest(format, None, str(tmp_path / "d"))
    assert not (tmp_path / "d").exists()


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    dest = str(tmp_path / "d")
    write_dataset(xr.Dataset({"x": ("sample", np.arange(3.0))}), dest)
    with pytest.raises(StorageError, match="complete dataset already"):
        ingest("digits", None, dest)
    assert is_complete(dest)
    assert open_dataset(dest).x.values.tolist() == [0, 1, 2]


def test_an_error_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = module.writing.write_rows, []

    def fails(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > 3:
            raise StorageError("the disk is full")
        real(*arguments)

    monkeypatch.setattr(module.writing, "write_rows", fails)
    with pytest.raises(StorageError, match="disk is full"):
        ingest("digits", None, str(tmp_path / "d"))
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_memory_is_bounded_by_a_block(tmp_path: Path, suffix: str) -> None:
    images = np.zeros((200_000, 10, 10), np.uint8)
    path = write(tmp_path / f"some-images-idx3-ubyte{suffix}", idx_bytes(images))
    del images
    tracemalloc.start()
    ingest("idx", str(path), str(tmp_path / "d"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6  # of 20e6


def test_real_mnist(shared_data: Path, tmp_path: Path) -> None:
    started = time.perf_counter()
    ingest("idx", str(shared_data / "mnist"), str(tmp_path / "d"))
    assert time.perf_counter() - started < 15
    found = open_dataset(str(tmp_path / "d"))
    train = found.image[:60_000].values / 255
    assert (train.mean(), train.std()) == pytest.approx((0.1307, 0.3081), abs=1e-4)
    assert np.bincount(found.subset.values).tolist() == [60_000, 10_000]


def test_real_tables_and_grids(shared_data: Path, tmp_path: Path) -> None:
    ingest("csv", str(shared_data / "electricity" / "elec.csv"), str(tmp_path / "csv"))
    assert open_dataset(str(tmp_path / "csv")).features.shape == (45_312, 6)
    sst = next((shared_data / "ersst").glob("*.nc"))
    ingest("netcdf", str(sst), str(tmp_path / "nc"))
    found = open_dataset(str(tmp_path / "nc")).load()
    with xr.open_dataset(sst) as wanted:
        xr.testing.assert_equal(found, wanted)
    assert float(np.isnan(found.sst.values).mean()) == pytest.approx(0.31, abs=0.01)
