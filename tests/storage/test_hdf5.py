"""HDF5: arrays of one group or several, in blocks that cross their borders, and bad files."""

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepstrata.schemas.errors import SchemaError, StorageError
from deepstrata.storage.datasets import open_dataset
from deepstrata.storage.ingest import describe_source, ingest
from deepstrata.storage.splits import flags

h5py = pytest.importorskip("h5py", reason="h5py reads and writes the files: install it")

RNG = np.random.default_rng(0)


def write(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name.replace("__", "/"), data=values)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the groups train and test."""
    return write(
        tmp_path / "a.h5",
        train__data=RNG.random((700, 16)).astype(">f4"),
        train__target=RNG.integers(0, 10, 700).astype(np.int32),
        test__data=RNG.random((300, 16)).astype(">f4"),
        test__target=RNG.integers(0, 10, 300).astype(np.int32),
    )


def ingested(source: Path, **options: Any) -> Any:
    dest = str(source.parent / "d.zarr")
    assert ingest("hdf5", str(source), dest, **options) == describe_source(
        "hdf5", str(source), **options
    )
    return open_dataset(dest).load()


def test_groups_alike_are_put_one_after_another(path: Path) -> None:
    found = ingested(path)
    assert set(found.data_vars) == {"data", "target"}
    assert found.data.dims == ("sample", "data_feature")
    assert (found.data.dtype, found.target.dtype) == (np.dtype("f4"), np.dtype("i4"))
    assert flags(found.subset) == {0: "test", 1: "train"}
    assert found.subset.values.tolist() == [0] * 300 + [1] * 700
    with h5py.File(path) as file:
        for name in ("data", "target"):
            wanted = np.concatenate([file["test"][name], file["train"][name]])
            assert np.array_equal(found[name], wanted)


def test_groups_and_arrays_are_chosen(path: Path) -> None:
    found = ingested(path, groups=("/train",), variables=("target",))
    assert set(found.variables) == {"target"}
    assert found.sizes == {"sample": 700}


def test_one_group_with_attributes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", x=np.arange(6.0).reshape(2, 3), mask=np.array([True, False]))
    with h5py.File(path, "a") as file:
        file["x"].attrs["units"] = "m"
        file["x"].attrs["scale_factor"] = 10.0
    found = ingested(path)
    assert set(found.variables) == {"x", "mask"}
    assert found.x.attrs == {"units": "m"}
    assert found.x.values.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["mask"].values.tolist() == [True, False]


def test_the_root_is_a_group_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", x=np.arange(3), more__y=np.arange(4))
    assert ingested(path, groups=("/",)).x.values.tolist() == [0, 1, 2]
    with pytest.raises(SchemaError, match="group '/': expected arrays like those of 'more'"):
        ingest("hdf5", str(path), str(tmp_path / "e"))


def test_other_groups_are_told_by_their_paths(tmp_path: Path) -> None:
    names = {f"run__{name}__x": np.full(2, i) for i, name in enumerate("ab")}
    found = ingested(write(tmp_path / "a.h5", **names))
    assert flags(found.group) == {0: "run/a", 1: "run/b"}
    assert found.group.values.tolist() == found.x.values.tolist() == [0, 0, 1, 1]


def _no_hdf5(path: Path) -> None:
    path.write_bytes(b"hello")


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _no_arrays(path: Path) -> None:
    write(path)


def _uneven(path: Path) -> None:
    write(path, x=np.zeros(3), y=np.zeros(4))


def _unlike(path: Path) -> None:
    write(path, a__x=np.zeros((3, 2)), b__x=np.zeros((3, 4)))


def _text(path: Path) -> None:
    write(path, x=np.array([b"a", b"b"]))


def _empty(path: Path) -> None:
    write(path, x=np.zeros((0, 4)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_hdf5, r"a\.h5: not an HDF5 file"),
        (_nothing, r"a\.h5: not an HDF5 file"),
        (_cut, r"a\.h5: not an HDF5 file, or a damaged one: .*truncated"),
        (_no_arrays, r"a\.h5: empty: no arrays"),
        (_uneven, r"a\.h5: expected as many rows in each array, found x: 3, y: 4"),
        (_unlike, r"group 'b': expected arrays like those of 'a': x float64\(3, 2\); found x fl"),
        (_text, r"array 'x': expected numbers with samples, found \|S1\(2,\); leave it out"),
        (_empty, r"array 'x': expected numbers with samples, found float64\(0, 4\)"),
    ],
)
def test_bad_files(path: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(path)
    with pytest.raises(SchemaError, match=message):
        ingested(path)
    assert not (path.parent / "d.zarr").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_dim": "data"}, r"an array is called 'data' like the dimension that counts"),
        ({"groups": ("no",)}, r"no group 'no' with arrays; there are: 'test', 'train'"),
        ({"variables": ("no",)}, r"group 'test': no array 'no'; there are: data, target"),
    ],
)
def test_what_is_not_there_is_named(path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        ingested(path, **options)


def test_without_h5py_it_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(StorageError, match=r"needs h5py: pip install 'deepstrata\[hdf5\]'"):
        ingested(path)


def test_memory_is_bounded_by_a_block(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", x=np.zeros((200_000, 100), np.uint8))
    tracemalloc.start()
    ingest("hdf5", str(path), str(tmp_path / "d"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6  # of 20e6


def test_real_usps(shared_data: Path, tmp_path: Path) -> None:
    ingest("hdf5", str(shared_data / "usps" / "usps.h5"), str(tmp_path / "d"))
    found = open_dataset(str(tmp_path / "d"))
    assert found.data.shape == (9298, 256)
    assert np.bincount(found.subset.values).tolist() == [2007, 7291]
