"""What a dataset must look like, and where one is found."""

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, field_validator, model_validator

from deepstrata.schemas._base import Declaration, Document
from deepstrata.schemas.errors import SchemaError
from deepstrata.schemas.formats import Option, declared


class Variable(Declaration):
    """One variable of a dataset: its name, dimensions, type and, where known, range."""

    name: str
    dims: tuple[str, ...]
    dtype: str
    """NumPy's name of the type a reader sees, after CF unpacking."""
    shape: tuple[int | None, ...] | None = None
    """Lengths in the order of ``dims``; None where any length will do."""
    chunks: tuple[int, ...] | None = None
    """Largest chunk along each dimension, as stored."""
    minimum: float | None = None
    """Smallest value allowed."""
    maximum: float | None = None
    """Largest value allowed."""

    @field_validator("dtype")
    @classmethod
    def _known(cls, dtype: str) -> str:
        try:
            return str(np.dtype(dtype).newbyteorder("="))
        except (TypeError, ValueError, SyntaxError):
            raise ValueError("expected the name of a NumPy dtype, such as 'float32'") from None

    @model_validator(mode="after")
    def _same_rank(self) -> Self:
        for what in ("shape", "chunks"):
            lengths = getattr(self, what)
            if lengths is not None and len(lengths) != len(self.dims):
                raise ValueError(
                    f"variable {self.name!r}: expected a {what} with a number for each of the "
                    f"dims {self.dims}, found {lengths}"
                )
        return self


class DatasetSchema(Document):
    """The variables of a dataset, and the dimension that counts samples."""

    sample_dim: str
    variables: tuple[Variable, ...]

    def variable(self, name: str, where: str = "dataset") -> Variable:
        """Return the variable called ``name``.

        Raises
        ------
        SchemaError
            There is none; the message lists those there are.
        """
        for variable in self.variables:
            if variable.name == name:
                return variable
        there = ", ".join(variable.name for variable in self.variables) or "none"
        raise SchemaError(f"{where}: no variable {name!r}; it has: {there}")

    def check(self, found: "DatasetSchema", where: str) -> None:
        """Check an opened dataset against this declaration.

        Raises
        ------
        SchemaError
            A variable or dimension is missing, or has another type, shape or chunks.
        """
        for wanted in self.variables:
            got = found.variable(wanted.name, where)
            if self.sample_dim in wanted.dims and self.sample_dim not in got.dims:
                raise SchemaError(
                    f"{where}: variable {wanted.name!r}: no dimension {self.sample_dim!r}; "
                    f"it has {got.dims}"
                )
            pairs: list[tuple[str, object, object]] = [
                ("dims", wanted.dims, got.dims),
                ("dtype", wanted.dtype, got.dtype),
            ]
            if wanted.chunks is not None:
                pairs.append(("chunks", wanted.chunks, got.chunks))
            if wanted.shape is not None and got.shape is not None:
                fits = all(w in (None, g) for w, g in zip(wanted.shape, got.shape, strict=False))
                pairs.append(("shape", wanted.shape, wanted.shape if fits else got.shape))
            for what, expected, actual in pairs:
                if expected != actual:
                    raise SchemaError(
                        f"{where}: variable {wanted.name!r}: expected {what} {expected}, "
                        f"found {actual}"
                    )


class _Source(Declaration):
    features: str
    """Variable with the features; all its dimensions but the sample dimension are one vector."""
    labels: str | None = None
    """Variable with one class number (0, 1, ...) per sample."""
    targets: str | None = None
    """Variable with the numbers, of any shape, that a network with a ``loss`` is to give for a
    sample; NaN where one is not known."""
    weights: str | None = None
    """Variable with one number per sample, 0 or more: how much it counts in the loss of a network
    that learns labels or targets, and in measures of one; 1 each by default."""
    mask: str | None = None
    """Variable shaped like the features, true where a value is present."""
    missing: Literal["refuse", "absent"] = "refuse"
    """What NaN among the features means, and what CF unpacking makes of a fill value: an error, or
    a value that is not there. It is then masked in every stage, and so is what ``mask`` hides."""
    sample_dim: str | None = None
    """Dimension that counts samples; the first dimension of the features by default."""
    rows_per_shard: PositiveInt | None = None
    """Least samples of a shard, in whole chunks; by default one chunk (or one Zarr v3 shard)."""
    expected: DatasetSchema | None = None
    """Checked against what is opened, before anything runs."""

    @property
    def masked(self) -> bool:
        """Whether some values of a sample may be absent."""
        return self.mask is not None or self.missing == "absent"

    @property
    def named(self) -> tuple[str, ...]:
        """The variables named, each once: features, then mask, labels, targets and weights."""
        names = (self.features, self.mask, self.labels, self.targets, self.weights)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @model_validator(mode="after")
    def _one_thing_to_learn(self) -> Self:
        if self.labels is not None and self.targets is not None:
            raise ValueError(
                f"labels={self.labels!r} and targets={self.targets!r}: name one; labels are "
                "class numbers (Softmax), targets any other numbers (Network(loss=...))"
            )
        return self


class ZarrSource(_Source):
    """A Zarr group, v2 or v3, at a path or any fsspec URL."""

    kind: Literal["zarr"] = "zarr"
    path: str
    group: str | None = None


class FileSource(_Source):
    """Files of another format, written to Zarr by the run's first stage, ``ingest``."""

    kind: Literal["file"] = "file"
    format: str
    """One of the formats that ``deepstrata ingest --help`` lists."""
    path: str | None = None
    """File or directory; None for a format that brings its own data (``digits``)."""
    options: dict[str, Option] = {}
    """Of the format, by name: see ``deepstrata.schemas.formats``."""

    @model_validator(mode="after")
    def _known_options(self) -> Self:
        declared(self.format, self.options)
        return self


class DatasetSource(_Source):
    """An ``xarray.Dataset`` of Dask arrays, handed over as ``pipeline.run(data=dataset)``."""

    kind: Literal["dataset"] = "dataset"


Source = Annotated[ZarrSource | FileSource | DatasetSource, Field(discriminator="kind")]
