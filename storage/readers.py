"""Readers: shards of a dataset as NumPy arrays, sample dimension first.

A reader is a small value that travels inside a graph: made and narrowed by the client, read by a
worker. Rows are always those of the whole dataset.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import compute, optimize

from deepstrata.schemas.datasets import Source, Variable, ZarrSource
from deepstrata.schemas.errors import DataError, DeepstrataError, StorageError
from deepstrata.storage import stores
from deepstrata.storage.datasets import describe, open_dataset
from deepstrata.storage.digests import digest

__all__ = [
    "DatasetReader",
    "Reader",
    "ZarrReader",
    "check_finite",
    "check_range",
    "digest",
    "reader",
]

Arrays = dict[str, npt.NDArray[Any]]


class Reader(Protocol):
    """What gives rows of named variables."""

    def narrow(self, start: int, stop: int) -> "Reader":
        """Return a reader of rows ``start`` to ``stop``, as small as it can be (client side)."""
        ...

    def read(self, start: int, stop: int, names: Iterable[str]) -> Arrays:
        """Return ``{name: (stop - start, ...)}``, native byte order, C order (worker side).

        Raises
        ------
        StorageError
            Something cannot be read; the place, variable and rows are named.
        """
        ...


@functools.lru_cache(maxsize=8)
def _opened(path: str, group: str | None, version: str) -> xr.Dataset:
    # ``version`` keeps a store apart from one that was at the same path before.
    return open_dataset(path, group, indexes=False)


@dataclass(frozen=True)
class ZarrReader:
    """Rows of a Zarr group, opened once in each process that reads."""

    path: str
    group: str | None
    sample_dim: str
    version: str = ""
    """Digest of the variables' declarations when the reader was made."""

    def narrow(self, start: int, stop: int) -> "ZarrReader":
        """Return this reader: it holds no data."""
        return self

    def read(self, start: int, stop: int, names: Iterable[str]) -> Arrays:
        """Return ``{name: (stop - start, ...)}``; see ``Reader.read``."""
        dataset = _opened(self.path, self.group, self.version)
        arrays = {}
        for name in names:
            try:
                rows = dataset[name].isel({self.sample_dim: slice(start, stop)})
                arrays[name] = native(rows.transpose(self.sample_dim, ...).values)
            except DeepstrataError:
                raise
            except Exception as error:
                raise unreadable(self.path, name, start, stop, error) from error
        return arrays


@dataclass(frozen=True, eq=False)
class DatasetReader:
    """Rows of a dataset of Dask (or NumPy) arrays, computed in the thread that reads."""

    dataset: xr.Dataset
    sample_dim: str
    offset: int = 0
    """Row of the whole dataset that is row 0 of ``dataset``."""

    def narrow(self, start: int, stop: int) -> "DatasetReader":
        """Return a reader whose graph holds what these rows need, and nothing else."""
        here = slice(start - self.offset, stop - self.offset)
        (dataset,) = optimize(self.dataset.isel({self.sample_dim: here}))
        return replace(self, dataset=dataset, offset=start)

    def read(self, start: int, stop: int, names: Iterable[str]) -> Arrays:
        """Return ``{name: (stop - start, ...)}``; see ``Reader.read``."""
        wanted = list(names)
        here = slice(start - self.offset, stop - self.offset)
        rows = self.dataset.isel({self.sample_dim: here})
        variables = [rows.variables[n].transpose(self.sample_dim, ...).data for n in wanted]
        try:
            computed = compute(*variables, scheduler="synchronous")
        except DeepstrataError:
            raise
        except Exception as error:
            raise unreadable("dataset", ", ".join(wanted), start, stop, error) from error
        return {n: native(np.asarray(v)) for n, v in zip(wanted, computed, strict=True)}


def native(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array in C order and this machine's byte order; the same one if it already is."""
    # Variable-length text has no byte order, and does not take the question kindly.
    dtype = values.dtype if values.dtype.kind == "T" else values.dtype.newbyteorder("=")
    return np.asarray(values, dtype=dtype, order="C")


def unreadable(where: str, name: str, start: int, stop: int, error: Exception) -> StorageError:
    """Return the error that names what could not be read."""
    return StorageError(
        f"{where}: variable {name!r}, rows {start} to {stop}: cannot be read: "
        f"{type(error).__name__}: {error}"
    )


def reader(source: Source, dataset: xr.Dataset, names: Iterable[str] = ()) -> Reader:
    """Return a reader of what a source names.

    A dataset whose variables are Dask arrays (handed over by the user, or opened with
    ``chunked=True`` and changed since) is read through its graph; an opened Zarr store is read
    from the store.

    Parameters
    ----------
    source
        Names the features, labels and mask, and the sample dimension.
    dataset
        What ``open_dataset`` gave, or the user's own.
    names
        Further variables along the sample dimension that will be read.
    """
    kept = [n for n in (source.features, source.labels, source.mask, *names) if n is not None]
    kept = list(dict.fromkeys(kept))
    sample_dim = source.sample_dim or str(dataset.variables[source.features].dims[0])
    chunked = any(dataset.variables[name].chunks is not None for name in kept)
    if isinstance(source, ZarrSource) and not chunked:
        version = _version(dataset, sample_dim)
        return ZarrReader(stores.absolute(source.path), source.group, sample_dim, version)
    variables = {n: dataset.variables[n].to_base_variable() for n in kept}
    return DatasetReader(xr.Dataset(variables), sample_dim)


def _version(dataset: xr.Dataset, sample_dim: str) -> str:
    packing = sorted(
        f"{name} {key} {value!r}"
        for name, variable in dataset.variables.items()
        for key, value in variable.encoding.items()
        if key in ("scale_factor", "add_offset", "_FillValue", "units", "calendar", "dtype")
    )
    text = describe(dataset, sample_dim).to_json() + "\n".join(packing)
    return digest({"metadata": np.frombuffer(text.encode(), dtype=np.uint8)})


def _first(bad: npt.NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))[0])


def check_finite(
    name: str,
    values: npt.NDArray[Any],
    mask: npt.NDArray[Any] | None,
    start: int,
    where: str,
) -> None:
    """Check that every value that is present is a finite number.

    Parameters
    ----------
    name
        Of the variable.
    values
        (rows, ...) of any type.
    mask
        (rows, ...) true where a value is present; None if all are.
    start
        Global row of the first.
    where
        The dataset, for the error.

    Raises
    ------
    DataError
        A value is NaN or infinite; the variable, rows and first bad sample are named.
    """
    if values.dtype.kind not in "fc":
        return
    bad = ~np.isfinite(values)
    if mask is not None:
        bad &= mask.astype(bool)
    if not bad.any():
        return
    first = _first(bad)
    found = values[first][bad[first]].flat[0]
    hint = (
        "declare a mask variable for missing values (source.mask), or fill them in an Apply stage"
        if mask is None
        else f"the mask calls {'them' if bad.sum() > 1 else 'it'} present"
    )
    raise DataError(
        f"{where}: variable {name!r}, rows {start} to {start + len(values)}: {int(bad.sum())} "
        f"values are not finite, the first in sample {start + first} ({found}); {hint}"
    )


def check_range(
    variable: Variable,
    values: npt.NDArray[Any],
    mask: npt.NDArray[Any] | None,
    start: int,
    where: str,
) -> None:
    """Check values against the range that a schema declares.

    Raises
    ------
    DataError
        A value that is present lies outside; the variable, rows and first bad sample are named.
    """
    bad = np.zeros(values.shape, dtype=bool)
    if variable.minimum is not None:
        bad |= values < variable.minimum
    if variable.maximum is not None:
        bad |= values > variable.maximum
    if mask is not None:
        bad &= mask.astype(bool)
    if not bad.any():
        return
    first = _first(bad)
    low = "-inf" if variable.minimum is None else f"{variable.minimum:g}"
    high = "inf" if variable.maximum is None else f"{variable.maximum:g}"
    raise DataError(
        f"{where}: variable {variable.name!r}, rows {start} to {start + len(values)}: expected "
        f"values from {low} to {high}, found {values[first][bad[first]].flat[0]} "
        f"in sample {start + first}"
    )
