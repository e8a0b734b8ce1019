"""Opening, describing and checking datasets, Zarr v2 and v3, on disk and in an object store."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from deepstrata.schemas.datasets import DatasetSchema, DatasetSource, Variable, ZarrSource
from deepstrata.schemas.errors import SchemaError, StorageError
from deepstrata.storage import codecs
from deepstrata.storage.codecs import fast_codecs
from deepstrata.storage.datasets import describe, open_dataset, resolve, row_chunks


def example(samples: int = 12) -> xr.Dataset:
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {
            "image": (("sample", "y", "x"), rng.random((samples, 2, 3), np.float32)),
            "label": ("sample", rng.integers(0, 3, samples).astype(np.int64)),
            "valid": (("sample", "y", "x"), rng.random((samples, 2, 3)) < 0.5),
            "name": ("y", np.array(["a", "b"], dtype=object)),
        },
        coords={"sample": np.arange(samples) * 2, "depth": ("sample", np.arange(samples) / 2)},
        attrs={"title": "example"},
    )


def store(dataset: xr.Dataset, path: str, zarr_format: int = 3, **encoding: Any) -> str:
    rows = {name: {"chunks": (4, *dataset[name].shape[1:])} for name in ("image", "label", "valid")}
    dataset.to_zarr(path, zarr_format=zarr_format, consolidated=False, encoding=rows | encoding)
    return path


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [False, True])
def test_both_formats_are_read(tmp_path: Path, zarr_format: int, consolidated: bool) -> None:
    path = store(example(), str(tmp_path / "d.zarr"), zarr_format)
    if consolidated and zarr_format == 2:
        zarr.consolidate_metadata(path, zarr_format=2)
    found = open_dataset(path)
    assert found.image.chunks is None
    xr.testing.assert_equal(found.load(), example())
    assert found.attrs == {"title": "example"}


def test_object_stores_are_read(memory_url: str) -> None:
    store(example(), memory_url)
    xr.testing.assert_equal(open_dataset(memory_url).load(), example())


def test_groups_are_read(tmp_path: Path) -> None:
    path = str(tmp_path / "d.zarr")
    example().to_zarr(path, group="a/b", zarr_format=3, consolidated=False)
    xr.testing.assert_equal(open_dataset(path, "a/b").load(), example())
    with pytest.raises(SchemaError, match="group 'a/c': expected a Zarr group"):
        open_dataset(path, "a/c")


def test_chunked_gives_dask_arrays_of_whole_shards(tmp_path: Path) -> None:
    shards = {"image": {"chunks": (2, 2, 3), "shards": (6, 2, 3)}}
    path = store(example(), str(tmp_path / "d.zarr"), **shards)
    found = open_dataset(path, chunked=True)
    assert found.image.chunks == ((6, 6), (2,), (3,))
    assert found.label.chunks == ((4, 4, 4),)
    assert found.depth.chunks is not None
    assert found.attrs == {"title": "example"}
    xr.testing.assert_equal(pickle.loads(pickle.dumps(found)).compute(), example())


def test_opening_from_many_threads_leaves_the_configuration(tmp_path: Path) -> None:
    path = store(example(), str(tmp_path / "d.zarr"))
    before = zarr.config.get("codec_pipeline.path")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: open_dataset(path).image.sum().item(), range(32)))
    assert len(set(found)) == 1
    assert zarr.config.get("codec_pipeline.path") == before


@pytest.mark.skipif(not codecs.HAS_ZARRS, reason="zarrs is not installed")
@pytest.mark.parametrize(
    ("zarr_format", "dtype"),
    [(f, d) for f in (2, 3) for d in ("<f4", "<i2", "|u1", "|b1", "<U3")]
    + [(2, ">f4"), (2, ">i2")],
)
def test_the_fast_pipeline_is_used_where_it_can_be(
    tmp_path: Path, dtype: str, zarr_format: int
) -> None:
    values = np.arange(10).astype(np.dtype(dtype))
    if dtype == "<U3" and zarr_format == 3:
        values = values.astype(np.dtypes.StringDType())
    group = zarr.create_group(tmp_path / "d.zarr", zarr_format=zarr_format)
    kind: Any = str if values.dtype.kind == "T" else values.dtype
    group.create_array("v", shape=(10,), chunks=(4,), dtype=kind)[:] = values
    with fast_codecs():
        array: Any = zarr.open_group(tmp_path / "d.zarr", mode="r")["v"]
    fast = type(array._async_array.codec_pipeline).__module__.startswith("zarrs")
    assert fast == (dtype[0] != ">" and dtype != "<U3")
    assert np.array_equal(np.asarray(array[:]), values)


def test_what_is_not_a_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is nothing there"):
        open_dataset(str(tmp_path / "nothing.zarr"))
    (tmp_path / "notes.txt").write_text("x")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(SchemaError, match=r"expected a Zarr group \(v2 or v3\)"):
            open_dataset(str(path))
    zarr.create_array(tmp_path / "array.zarr", shape=(3,), dtype="f4")
    with pytest.raises(SchemaError, match="found a single Zarr array"):
        open_dataset(str(tmp_path / "array.zarr"))
    (tmp_path / "bad.zarr").mkdir()
    (tmp_path / "bad.zarr" / "zarr.json").write_text("{")
    with pytest.raises(SchemaError, match="expected a Zarr group"):
        open_dataset(str(tmp_path / "bad.zarr"))


def test_arrays_without_dimension_names_are_named(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "d.zarr")
    group.create_array("x", shape=(3, 2), dtype="f4")
    with pytest.raises(SchemaError, match="dimension_names"):
        open_dataset(str(tmp_path / "d.zarr"))


def test_a_missing_protocol_is_explained() -> None:
    with pytest.raises(StorageError, match="nosuch"):
        open_dataset("nosuch://bucket/x.zarr")


def test_a_description_gives_types_lengths_and_chunks(tmp_path: Path) -> None:
    packed = {"image": {"chunks": (3, 2, 3), "shards": (6, 2, 3)}}
    schema = describe(open_dataset(store(example(), str(tmp_path / "d.zarr"), **packed)))
    assert schema.sample_dim == "sample"
    image = schema.variable("image")
    assert (image.dims, image.dtype, image.shape) == (("sample", "y", "x"), "float32", (12, 2, 3))
    assert image.chunks == (6, 2, 3)
    assert schema.variable("label").chunks == (4,)
    assert schema.variable("valid").dtype == "bool"
    assert schema.variable("name").dtype == "object"
    assert [v.name for v in schema.variables] == [
        "image",
        "label",
        "name",
        "valid",
        "depth",
        "sample",
    ]
    assert DatasetSchema.from_json(schema.to_json()) == schema


def test_packed_values_are_described_as_they_are_read(tmp_path: Path) -> None:
    packing = {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1}
    path = store(example(), str(tmp_path / "d.zarr"), 3, depth=packing)
    found = open_dataset(path)
    assert found.depth.encoding["dtype"] == np.int16
    assert describe(found).variable("depth").dtype == str(found.depth.values.dtype) == "float64"


def test_dask_chunks_count_where_there_are_any() -> None:
    chunked = example().chunk(sample=(5, 4, 3))
    assert row_chunks(chunked, "image", "sample") == (5, 4, 3)
    assert describe(chunked).variable("image").chunks == (5, 2, 3)
    assert row_chunks(example(), "image", "sample") is None


def source(**fields: Any) -> DatasetSource:
    return DatasetSource(**({"features": "image", "labels": "label"} | fields))


def test_what_a_source_names_is_found() -> None:
    data = example()
    data.label.attrs["flag_values"] = [0, 1, 2]
    columns = resolve(source(mask="valid"), data)
    assert columns.names == ("image", "label", "valid")
    assert (columns.samples, columns.feature_shape, columns.feature_dims) == (
        12,
        (2, 3),
        ("y", "x"),
    )
    assert (columns.sample_dim, columns.dtype, columns.visible) == ("sample", "float32", 6)
    assert columns.classes == 3
    other = resolve(source(labels=None, sample_dim="x"), data)
    assert (other.samples, other.feature_shape, other.labels) == (3, (12, 2), None)
    assert resolve(DatasetSource(features="depth"), data).visible == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": "picture"}, "no variable 'picture' for the features; it has: image, label"),
        ({"labels": "class"}, "no variable 'class' for the labels"),
        ({"mask": "m"}, "no variable 'm' for the mask"),
        ({"sample_dim": "row"}, "expected the sample dimension 'row', found sample, y, x"),
        ({"features": "name"}, r"features 'name': expected numbers .*, found object"),
        ({"labels": "depth"}, "labels 'depth': expected integers .*, found float64"),
        ({"labels": "valid"}, "labels 'valid': expected the dimension 'sample' alone"),
        ({"mask": "label"}, r"mask 'label': expected the shape of the features"),
        ({"mask": "image"}, "mask 'image': expected bool .*, found float32"),
    ],
)
def test_errors_name_the_variable(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        resolve(source(**fields), example())


def test_a_dataset_without_samples_is_refused() -> None:
    with pytest.raises(SchemaError, match="'sample' has length 0"):
        resolve(source(), example().isel(sample=slice(0)))
    with pytest.raises(SchemaError, match="a single number"):
        resolve(DatasetSource(features="x"), xr.Dataset({"x": 1.0}))


def test_only_floats_have_values_that_are_missing() -> None:
    assert resolve(source(missing="absent"), example()).missing == "absent"
    message = "features 'label': missing='absent' takes floats, .* found int64; name a mask"
    with pytest.raises(SchemaError, match=message):
        resolve(DatasetSource(features="label", missing="absent"), example())


def test_what_is_expected_is_checked() -> None:
    def expected(**fields: Any) -> DatasetSource:
        wanted = {"name": "image", "dims": ("sample", "y", "x"), "dtype": "float32"} | fields
        return source(expected=DatasetSchema(sample_dim="sample", variables=(Variable(**wanted),)))

    resolve(expected(shape=(None, 2, 3)), example())
    for fields, message in (
        ({"dtype": "uint8"}, "expected dtype uint8, found float32"),
        ({"shape": (None, 2, 4)}, r"expected shape \(None, 2, 4\), found \(12, 2, 3\)"),
        ({"dims": ("sample", "x", "y")}, "expected dims"),
    ):
        with pytest.raises(SchemaError, match=message):
            resolve(expected(**fields), example())


def test_labels_that_decoding_turns_to_floats_are_explained(tmp_path: Path) -> None:
    path = store(example(), str(tmp_path / "d.zarr"), 3, label={"_FillValue": -1, "chunks": (4,)})
    wanted = ZarrSource(path=path, features="image", labels="label")
    with pytest.raises(SchemaError, match="its fill value or scale factor"):
        resolve(wanted, open_dataset(path))


def test_a_real_store_of_zarr_2(shared_data: Path) -> None:
    path = str(shared_data / "air_temperature_zarr" / "air_temperature.zarr")
    found = open_dataset(path)
    schema = describe(found)
    assert schema.variable("air").shape == (2920, 25, 53)
    assert schema.variable("air").chunks == (730, 13, 27)
    assert schema.variable("time").dtype.startswith("datetime64")
    assert found.air.mean().item() == pytest.approx(281.255, abs=1e-3)
