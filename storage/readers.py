"""Readers: shards of a dataset as NumPy arrays, sample dimension first.

A reader is a small value that travels inside a graph: made and narrowed by the client, read by a
worker. Rows are always those of the whole dataset.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.base import compute, optimize

from deepstrata.schemas.datasets import Source, ZarrSource
from deepstrata.schemas.errors import BadShardError, DeepstrataError, StorageError
from deepstrata.storage import damage, stores, writing
from deepstrata.storage.datasets import describe, open_dataset
from deepstrata.storage.digests import digest

__all__ = [
    "DatasetReader",
    "Reader",
    "ZarrReader",
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
        BadShardError
            Some of it cannot be read; the place, variable, rows and chunks are named.
        StorageError
            The store is gone.
        """
        ...

    def confirm(self, start: int, stop: int, names: Iterable[str]) -> None:
        """Check that rows that were read for the first time were there, and no fill values.

        Raises
        ------
        BadShardError
            Chunks are missing that must be there.
        StorageError
            The store is gone.
        """
        ...

    def changed(self, name: str, start: int, stop: int) -> StorageError:
        """Return the error that says why rows are not what they were when they were inspected."""
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
    writer: Literal["other", "deepstrata", "run"] = "other"
    """Who wrote the store. Others may leave chunks out that hold fill values; in what deepstrata
    wrote a missing chunk is lost, and what the run wrote for itself it can write again."""

    def narrow(self, start: int, stop: int) -> "ZarrReader":
        """Return this reader: it holds no data."""
        return self

    def read(self, start: int, stop: int, names: Iterable[str]) -> Arrays:
        """Return ``{name: (stop - start, ...)}``; see ``Reader.read``."""
        dataset = _opened(self.path, self.group, self.version)
        arrays = {}
        for name in names:
            try:
                variable = dataset[name].variable
                rows = variable.isel({self.sample_dim: slice(start, stop)})
                # xarray would transpose before it reads, and then read number by number.
                axis = variable.dims.index(self.sample_dim)
                arrays[name] = native(np.moveaxis(rows.values, axis, 0))
            except DeepstrataError:
                raise
            except Exception as error:
                raise self._unreadable(name, start, stop, error) from error
        if self.writer == "run":
            self.confirm(start, stop, arrays)
        return arrays

    def changed(self, name: str, start: int, stop: int) -> StorageError:
        """Return the error that says why rows are not what they were; see ``Reader.changed``."""
        gone, count = damage.missing(*self._place(name), start, stop)
        if not gone:
            text = (
                "the content has changed since the run inspected it; restore it and go on with "
                "`deepstrata resume RUN`, or start a new run over the data as it is now"
            )
            return BadShardError(f"{_where(self.path, name, start, stop)}: {text}")
        hint = "" if len(gone) == count else ", or the content of the others has changed since"
        return self._lost(name, start, stop, gone, f"when the run began{hint}")

    def confirm(self, start: int, stop: int, names: Iterable[str]) -> None:
        """Check that what was read was there; see ``Reader.confirm``."""
        for name in names:
            self._check_open(name)
            if self.writer == "other":
                continue
            gone, _ = damage.missing(*self._place(name), start, stop)
            if gone:
                raise self._lost(name, start, stop, gone, "when the store was written")

    def _check_open(self, name: str) -> None:
        url = stores.join(self.path, *(part for part in (self.group, name) if part))
        if not any(stores.exists(stores.join(url, file)) for file in ("zarr.json", ".zarray")):
            raise StorageError(
                f"{self.path}: variable {name!r} is gone: the store was removed, or the disk it is "
                "on is not mounted; bring it back, then `deepstrata resume RUN`"
            )

    def _place(self, name: str) -> tuple[str, str | None, str, int]:
        self._check_open(name)
        dims = _opened(self.path, self.group, self.version).variables[name].dims
        return self.path, self.group, name, dims.index(self.sample_dim)

    def _lost(
        self, name: str, start: int, stop: int, gone: list[damage.Chunk], since: str
    ) -> StorageError:
        keys = damage.listed([chunk.key for chunk in gone])
        chunks, them = ("chunk", "it was") if len(gone) == 1 else ("chunks", "they were")
        return self._bad(
            f"{_where(self.path, name, start, stop)}: {chunks} {keys} of array {name!r} "
            f"{'is' if len(gone) == 1 else 'are'} missing in {self.path}; {them} there {since}"
        )

    def _unreadable(self, name: str, start: int, stop: int, error: Exception) -> StorageError:
        found = damage.unreadable(*self._place(name), start, stop)
        what = f"{type(error).__name__}: {error}"
        if found:
            named = [f"chunk {chunk.key} (file {chunk.file})" for chunk, _ in found]
            what = f"{damage.listed(named)}: {found[0][1]}"
        return self._bad(f"{_where(self.path, name, start, stop)}: cannot be read: {what}")

    def _bad(self, text: str) -> StorageError:
        if self.writer == "run":
            return StorageError(
                f"{text}; remove {self.path}: `deepstrata resume RUN` writes it again"
            )
        return BadShardError(f"{text}; mend or restore it, then `deepstrata resume RUN`")


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
            raise self._unreadable(variables, wanted, start, stop, error) from error
        return {n: native(np.asarray(v)) for n, v in zip(wanted, computed, strict=True)}

    def confirm(self, start: int, stop: int, names: Iterable[str]) -> None:
        """Do nothing: what a graph computes is all there is to go by; see ``Reader.confirm``."""

    def changed(self, name: str, start: int, stop: int) -> StorageError:
        """Return the error that says why rows are not what they were; see ``Reader.changed``."""
        return BadShardError(
            f"{_where('dataset', name, start, stop)}: computing them again gave other values than "
            "when the run inspected them; what a graph computes must not depend on when it does, "
            "and files that it reads must stay as they are"
        )

    def _unreadable(
        self, variables: list[Any], names: list[str], start: int, stop: int, error: Exception
    ) -> StorageError:
        for name, variable in zip(names, variables, strict=True):
            try:
                compute(variable, scheduler="synchronous")
            except Exception as found:
                return _graph_failed(name, start, stop, found)
        return _graph_failed(", ".join(names), start, stop, error)


def native(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array in C order and this machine's byte order; the same one if it already is."""
    # Variable-length text has no byte order, and does not take the question kindly.
    dtype = values.dtype if values.dtype.kind == "T" else values.dtype.newbyteorder("=")
    return np.asarray(values, dtype=dtype, order="C")


def _where(path: str, name: str, start: int, stop: int) -> str:
    return f"{path}: variable {name!r}, rows {start} to {stop}"


def _graph_failed(name: str, start: int, stop: int, error: Exception) -> StorageError:
    return BadShardError(
        f"{_where('dataset', name, start, stop)}: cannot be read: {type(error).__name__}: {error}; "
        "mend what its graph reads, then `deepstrata resume RUN`"
    )


def reader(source: Source, dataset: xr.Dataset, names: Iterable[str] = ()) -> Reader:
    """Return a reader of what a source names.

    A dataset whose variables are Dask arrays (handed over by the user, or opened with
    ``chunked=True`` and changed since) is read through its graph; an opened Zarr store is read
    from the store.

    Parameters
    ----------
    source
        Names the features and what belongs to them, and the sample dimension.
    dataset
        What ``open_dataset`` gave, or the user's own.
    names
        Further variables along the sample dimension that will be read.
    """
    kept = list(dict.fromkeys((*source.named, *names)))
    sample_dim = source.sample_dim or str(dataset.variables[source.features].dims[0])
    chunked = any(dataset.variables[name].chunks is not None for name in kept)
    if isinstance(source, ZarrSource) and not chunked:
        path, version = stores.absolute(source.path), _version(dataset, sample_dim)
        ours = source.group is None and writing.is_complete(path)
        writer: Literal["other", "deepstrata"] = "deepstrata" if ours else "other"
        return ZarrReader(path, source.group, sample_dim, version, writer)
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
