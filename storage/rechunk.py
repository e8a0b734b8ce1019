"""Rechunking: a badly chunked store once over into the default layout, in bounded memory.

How the rows are read is in ``passes``; here they are collected to shards and written. Values are
copied as they are stored: packed ones stay packed.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from deepstrata.schemas.datasets import DatasetSchema
from deepstrata.schemas.errors import SchemaError, StorageError
from deepstrata.storage import stores, writing
from deepstrata.storage.datasets import describe, open_dataset
from deepstrata.storage.encoding import row_bytes, stored_as
from deepstrata.storage.formats.labelled import open_netcdf, open_zarr
from deepstrata.storage.layout import Layout, inner_rows
from deepstrata.storage.passes import Method, method_of, pieces_of
from deepstrata.storage.stored import open_stored

MEMORY = 512 << 20

Report = Callable[[str, int, int], None]
"""Called with a variable, and how many of its bytes are done of how many."""


class Copied(NamedTuple):
    """How one variable was copied."""

    name: str
    passes: int
    """1, or 2 through an intermediate store."""
    reads: float
    """How often each byte of the source was decoded."""
    bytes: int
    """Of the variable, before compression."""


class Rechunked(NamedTuple):
    """What a rechunk did."""

    schema: DatasetSchema
    copied: tuple[Copied, ...]
    seconds: float


def rechunk(
    source: str,
    dest: str,
    *,
    sample_dim: str | None = None,
    rows: int | None = None,
    variables: Sequence[str] | None = None,
    memory: int = MEMORY,
    report: Report | None = None,
) -> Rechunked:
    """Write a Zarr group or a netCDF file anew with the default layout.

    Parameters
    ----------
    source
        Zarr group (v2 or v3; a path or URL), or a netCDF file.
    dest
        Of the store. One that was begun and not finished is replaced.
    sample_dim
        Dimension that counts samples; by default the first one of the first data variable.
    rows
        Samples of a shard; by default about 32 shards of at most 32 MiB.
    variables
        Data variables to keep, with all coordinates; all by default.
    memory
        Bytes to take beside what the process has already.
    report
        Called while it goes on.

    Raises
    ------
    SchemaError
        ``source`` is not of these formats, has no such dimension or variable, or has chunks too
        big for ``memory``.
    StorageError
        ``source`` is not there, ``dest`` is, or there is no space. What was begun is removed.
    """
    source, dest = stores.absolute(source), stores.absolute(dest)
    started = time.perf_counter()
    _check_places(source, dest)
    raw, dim = _template(source, sample_dim, variables)
    with raw:
        layout = _layout(raw, dim, rows)
        names = [str(n) for n, v in raw.variables.items() if dim in v.dims]
        methods = {n: method_of(raw.variables[n], n, dim, layout, memory) for n in names}
    between = f"{dest}.rechunk"
    _check_space(between, raw, dim, methods)
    try:
        writing.create(dest, _described(raw), layout, dim)
        with zarr.config.set(_threads(raw, memory)), open_stored(source) as dataset:
            for name in names:
                pieces = pieces_of(
                    dataset[name].variable, name, dim, methods[name], between, source
                )
                told = _teller(report, name, raw.variables[name], dim)
                _collect(dest, name, pieces, layout, raw.sizes[dim], told)
        writing.finish(dest)
    except BaseException:
        for place in (between, dest):
            if writing.is_incomplete(place):
                writing.discard(place)
        raise
    copied = tuple(_copied(raw.variables[n], n, methods[n]) for n in names)
    schema = describe(open_dataset(dest), dim)
    return Rechunked(schema, copied, time.perf_counter() - started)


def _copied(variable: xr.Variable, name: str, method: Method) -> Copied:
    return Copied(name, method.passes, method.reads, int(variable.nbytes))


def _check_places(source: str, dest: str) -> None:
    if not stores.exists(source):
        raise StorageError(f"{source}: there is nothing there; expected a Zarr group or netCDF")
    if (dest + "/").startswith(source.rstrip("/") + "/"):
        raise StorageError(
            f"{dest}: is (in) the store that is read; choose a place outside of {source}"
        )
    if stores.exists(dest) and not writing.is_incomplete(dest):
        raise StorageError(f"{dest}: exists already; choose another path, or remove it yourself")


def _template(
    source: str, sample_dim: str | None, variables: Sequence[str] | None
) -> tuple[xr.Dataset, str]:
    """Return the variables to copy as they are stored, and the dimension that counts samples."""
    is_file = stores.is_local(source) and stores.local(source).is_file()
    content = (open_netcdf if is_file else open_zarr)(source, sample_dim)
    with content.template as found:
        coords, data = list(found.coords), list(found.data_vars)
    raw, dim = open_stored(source), content.sample_dim
    unknown = [name for name in variables or () if name not in data]
    if unknown:
        there = ", ".join(map(str, data))
        raise SchemaError(f"{source}: no variable {unknown[0]!r}; it has: {there}")
    kept = raw.drop_vars([n for n in data if variables is not None and n not in variables])
    if not any(dim in kept.variables[n].dims for n in kept.variables if n not in coords):
        raise SchemaError(f"{source}: none of the variables has the sample dimension {dim!r}")
    for name, variable in kept.variables.items():
        stored_as(str(name), variable, dim)
    return kept, dim


def _layout(raw: xr.Dataset, dim: str, rows: int | None) -> Layout:
    if rows is None:
        return writing.layout_of(raw, dim)
    if rows < 1:
        raise SchemaError(f"expected at least one row in a shard, found {rows}")
    rows = min(rows, raw.sizes[dim])
    widest = max(row_bytes(v, dim) for v in raw.variables.values() if dim in v.dims)
    return Layout(rows, inner_rows(rows, widest))


def _described(raw: xr.Dataset) -> xr.Dataset:
    """Return what ``create`` takes: fill values as Zarr v3 and xarray have them in attributes."""
    described = raw.copy()
    for name in raw.variables:
        attrs = dict(raw.variables[name].attrs)
        fill, kind = attrs.pop("_FillValue", None), raw.variables[name].dtype.kind
        if fill is not None and kind in "iufc":
            value = np.asarray(fill).reshape(-1)[0]
            attrs["_FillValue"] = xr.backends.zarr.FillValueCoder.encode(
                value.item(), raw.variables[name].dtype
            )
        described.variables[name].attrs = attrs
    return described


def _check_space(between: str, raw: xr.Dataset, dim: str, methods: dict[str, Method]) -> None:
    """Check that the intermediate store, which is not compressed, will fit."""
    needed = max(
        (m.block * row_bytes(raw.variables[n], dim) for n, m in methods.items() if m.block),
        default=0,
    )
    if not needed or not stores.is_local(between):
        return
    parent = os.path.dirname(between)
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise StorageError(
            f"{parent}: no space for an intermediate store: expected {needed >> 20:,} MiB free, "
            f"found {free >> 20:,} MiB; free some space there, write to another disk, or give "
            "more --memory, which may save the intermediate store"
        )


def _threads(raw: xr.Dataset, memory: int) -> dict[str, int]:
    """Return zarr's settings that keep the chunks decoded at one time within a few."""
    units = [math.prod(v.encoding.get("chunks") or (1,)) * v.dtype.itemsize for v in
             raw.variables.values()]  # fmt: skip
    most = max(1, min(os.cpu_count() or 1, memory // 16 // max(units)))
    return {"async.concurrency": most, "codec_pipeline.chunk_concurrent_maximum": most}


def _teller(
    report: Report | None, name: str, variable: xr.Variable, dim: str
) -> Callable[[int], None]:
    """Return what is called with the number of rows that are written."""
    total, samples = int(variable.nbytes), variable.sizes[dim]

    def tell(rows: int) -> None:
        if report is not None:
            report(name, total * rows // samples, total)

    return tell


def _collect(
    dest: str,
    name: str,
    pieces: Iterator[npt.NDArray[Any]],
    layout: Layout,
    samples: int,
    tell: Callable[[int], None],
) -> None:
    """Write rows shard by shard."""
    shard: npt.NDArray[Any] | None = None
    start = filled = 0
    for piece in pieces:
        taken = 0
        while taken < len(piece):
            size = min(layout.shard_rows, samples - start)
            if shard is None or len(shard) != size:
                shard = np.empty((size, *piece.shape[1:]), piece.dtype)
            count = min(size - filled, len(piece) - taken)
            shard[filled : filled + count] = piece[taken : taken + count]
            taken, filled = taken + count, filled + count
            if filled == size:
                writing.write_rows(dest, name, start, shard)
                start, filled = start + size, 0
                tell(start)
        del piece
