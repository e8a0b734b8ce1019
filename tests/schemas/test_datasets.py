"""Datasets: what a schema refuses, and how it says so."""

import pytest
from pydantic import TypeAdapter, ValidationError

from deepstrata.schemas._base import explain
from deepstrata.schemas.datasets import (
    DatasetSchema,
    DatasetSource,
    FileSource,
    Source,
    Variable,
    ZarrSource,
)
from deepstrata.schemas.errors import SchemaError

AIR = Variable(
    name="air", dims=("time", "lat"), dtype="float32", shape=(None, 25), chunks=(100, 25)
)
FOUND = DatasetSchema(
    sample_dim="time",
    variables=(
        AIR.model_copy(update={"shape": (2920, 25)}),
        Variable(name="season", dims=("time",), dtype="int8", shape=(2920,)),
    ),
)


def told(**fields: object) -> str:
    with pytest.raises(ValidationError) as refused:
        Variable(**fields)
    return explain(refused.value, "Variable").removeprefix("Variable: ")


def wanted(*variables: Variable, sample_dim: str = "time") -> DatasetSchema:
    return DatasetSchema(sample_dim=sample_dim, variables=variables)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("f4", "float32"), (">f8", "float64"), ("M8[ns]", "datetime64[ns]"), ("?", "bool")],
)
def test_a_dtype_is_called_what_a_reader_sees(name: str, dtype: str) -> None:
    assert Variable(name="x", dims=(), dtype=name).dtype == dtype


@pytest.mark.parametrize("dtype", ["", ",", "flaot32", "float33", "{"])
def test_what_numpy_does_not_know_is_no_dtype(dtype: str) -> None:
    message = "dtype: expected the name of a NumPy dtype, such as 'float32'"
    assert told(name="x", dims=(), dtype=dtype) == f"{message} (found {dtype!r})"


@pytest.mark.parametrize("what", ["shape", "chunks"])
def test_there_is_a_length_for_each_dimension(what: str) -> None:
    assert told(name="x", dims=("a", "b"), dtype="f4", **{what: (3,)}) == (
        f"variable 'x': expected a {what} with a number for each of the dims ('a', 'b'), found (3,)"
    )


def test_a_schema_round_trips() -> None:
    again = DatasetSchema.from_json(FOUND.to_json())
    assert (again, hash(again)) == (FOUND, hash(FOUND))


@pytest.mark.parametrize(
    "source",
    [
        ZarrSource(path="x", group="g", features="f", labels="l", mask="m", expected=FOUND),
        FileSource(format="digits", features="f", sample_dim="s", rows_per_shard=7),
        DatasetSource(features="f"),
    ],
)
def test_sources_round_trip(source: Source) -> None:
    adapter: TypeAdapter[Source] = TypeAdapter(Source)
    again = adapter.validate_json(adapter.dump_json(source))
    assert (again, hash(again)) == (source, hash(source))


def test_a_variable_is_found_by_name() -> None:
    assert FOUND.variable("season").dtype == "int8"
    with pytest.raises(SchemaError, match=r"^air\.zarr: no variable 'sst'; it has: air, season$"):
        FOUND.variable("sst", "air.zarr")
    with pytest.raises(SchemaError, match=r"^dataset: no variable 'sst'; it has: none$"):
        wanted().variable("sst")


def test_what_is_as_declared_passes() -> None:
    wanted().check(FOUND, "air.zarr")
    wanted(AIR).check(FOUND, "air.zarr")
    FOUND.check(FOUND, "air.zarr")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sst"}, "no variable 'sst'; it has: air, season"),
        (
            {"dims": ("time", "lon")},
            "variable 'air': expected dims ('time', 'lon'), found ('time', 'lat')",
        ),
        (
            {"dims": ("lat", "time")},
            "variable 'air': expected dims ('lat', 'time'), found ('time', 'lat')",
        ),
        ({"dtype": "int16"}, "variable 'air': expected dtype int16, found float32"),
        ({"chunks": (50, 25)}, "variable 'air': expected chunks (50, 25), found (100, 25)"),
        ({"shape": (None, 73)}, "variable 'air': expected shape (None, 73), found (2920, 25)"),
        ({"shape": (2921, 25)}, "variable 'air': expected shape (2921, 25), found (2920, 25)"),
    ],
)
def test_what_differs_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SchemaError) as refused:
        wanted(AIR.model_copy(update=changes)).check(FOUND, "air.zarr")
    assert str(refused.value) == f"air.zarr: {message}"


def test_a_missing_sample_dimension_is_named() -> None:
    series = AIR.model_copy(update={"dims": ("day", "lat")})
    with pytest.raises(SchemaError) as refused:
        wanted(series, sample_dim="day").check(FOUND, "air.zarr")
    assert str(refused.value) == (
        "air.zarr: variable 'air': no dimension 'day'; it has ('time', 'lat')"
    )


def test_shapes_and_chunks_that_nobody_declared_do_not_matter() -> None:
    free = AIR.model_copy(update={"shape": None, "chunks": None})
    wanted(free).check(FOUND, "air.zarr")
    wanted(AIR).check(wanted(AIR.model_copy(update={"shape": None})), "air.zarr")


def test_a_source_names_labels_or_targets() -> None:
    with pytest.raises(ValidationError, match="labels='kind' and targets='rain': name one"):
        ZarrSource(path="air.zarr", features="air", labels="kind", targets="rain")


def test_the_variables_of_a_source_are_named_once() -> None:
    source = ZarrSource(path="x", features="air", targets="air", weights="area", mask="valid")
    assert source.named == ("air", "valid", "area")
