"""Writing Zarr: whole shards, from as many processes as there are, complete when it says so.

A store is made empty (``create``, ``create_like``), filled by ``write_rows`` and marked by
``finish``; until then ``open_dataset`` refuses it. A write that is not aligned to whole shards is
refused, because two writers of one shard undo each other's work without a word: with Dask chunks
smaller than shards 51.6 % of the elements came out right, and nothing was raised.

Nothing is packed: what is read back has the type and the bits of what was written.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from deepstrata.schemas.errors import DeepstrataError, SchemaError, StorageError
from deepstrata.storage import stores
from deepstrata.storage.datasets import COMPLETE, first_dim, row_chunks
from deepstrata.storage.encoding import encoded, row_bytes, stored_as
from deepstrata.storage.layout import CHUNK, Layout, choose, inner_rows

BLOCK_BYTES = 256 * 1024**2
ROOT = "zarr.json"


class TornError(StorageError):
    """The root document of a store cannot be read, so nobody knows whose store it is."""


@contextmanager
def _writing(path: str, what: str) -> Iterator[None]:
    try:
        with stores.explained(f"{path}: {what}", "write"):
            yield
    except DeepstrataError:
        raise
    except Exception as error:
        raise StorageError(
            f"{path}: {what}: cannot be written: {type(error).__name__}: {error}"
        ) from error


def _state(path: str) -> bool | None:
    """Return whether a store of ours is complete, or None where there is none.

    Raises
    ------
    StorageError
        There is something else.
    TornError
        The writing of its root document was interrupted.
    """
    if not stores.exists(path):
        return None
    names = [name for name in stores.children(path) if not name.endswith(".partial")]
    if not names and not (stores.is_local(path) and stores.local(path).is_file()):
        return None
    if ROOT in names:
        with stores.explained(path, "open"):
            attributes = _root_attributes(path)
        if COMPLETE in attributes:
            return attributes[COMPLETE] is True
    raise StorageError(
        f"{path}: in the way: there is something that deepstrata did not write; "
        "choose another path, or remove it yourself"
    )


def _root_attributes(path: str) -> dict[str, Any]:
    try:
        return zarr.open_group(path, mode="r").attrs.asdict()
    except (ValueError, KeyError) as error:
        raise TornError(
            f"{path}: {ROOT} cannot be read ({error}); choose another path, or remove it yourself"
        ) from error


def is_complete(path: str) -> bool:
    """Tell whether there is a store at ``path`` that was written to its end."""
    try:
        return _state(stores.absolute(path)) is True
    except StorageError:
        return False


def is_incomplete(path: str) -> bool:
    """Tell whether there is a store at ``path`` whose writing was begun and not finished."""
    try:
        return _state(stores.absolute(path)) is False
    except StorageError:
        return False


def discard(path: str, own: bool = False) -> None:
    """Remove a store that was written here, complete or not; nothing happens without one.

    Parameters
    ----------
    own
        Nobody else writes at this path, so a store whose root document is torn is removed too.

    Raises
    ------
    StorageError
        There is something else, which stays.
    """
    path = stores.absolute(path)
    try:
        if _state(path) is None:
            return
    except TornError:
        if not own:
            raise
    else:
        with _writing(path, "store"):
            zarr.open_group(path, mode="r+").attrs[COMPLETE] = False
    # The root document goes last, so that a removal that is interrupted can be taken up again.
    for name in stores.children(path):
        if name != ROOT:
            stores.remove(stores.join(path, name))
    stores.remove(path)


def layout_of(template: xr.Dataset, sample_dim: str) -> Layout:
    """Choose the layout for the variable with the biggest rows.

    Raises
    ------
    SchemaError
        There are no samples, or no variable that has any.
    """
    if sample_dim not in template.dims:
        there = ", ".join(str(dim) for dim in template.dims) or "none"
        raise SchemaError(f"dataset: no dimension {sample_dim!r}; it has: {there}")
    sizes = [row_bytes(v, sample_dim) for v in template.variables.values() if sample_dim in v.dims]
    return choose(int(template.sizes[sample_dim]), max(sizes))


def create(
    path: str, template: xr.Dataset, layout: Layout | None = None, sample_dim: str | None = None
) -> Layout:
    """Make a store for the variables of a dataset; only those without samples are filled.

    Parameters
    ----------
    path
        Of the store. An incomplete one is replaced.
    template
        Names, dimensions, types, lengths and attributes. Of its sample variables nothing is read
        but one row, where Python objects (strings, cftime dates) have to be told apart.
    layout
        Rows of shards and of chunks; ``layout_of(template)`` by default.
    sample_dim
        It becomes the first dimension of what has it. By default the first dimension of the
        first data variable.

    Returns
    -------
    Layout
        The layout; ``write_rows`` takes whole shards of it.

    Raises
    ------
    StorageError
        There is a complete store or something else, or the place cannot be written.
    SchemaError
        A variable is of a type that cannot be stored, or there are no samples.
    """
    path, sample_dim = stores.absolute(path), sample_dim or first_dim(template)
    layout = layout or layout_of(template, sample_dim)
    if _state(path) is True:
        raise StorageError(
            f"{path}: there is a complete dataset already; choose another path, or remove it"
        )
    discard(path)
    declared = {n: stored_as(str(n), v, sample_dim) for n, v in template.variables.items()}
    attributes = plain(template.attrs) | {COMPLETE: False}
    coords = [str(name) for name in template.coords if name not in template.dims]
    if coords:
        attributes["coordinates"] = " ".join(coords)
    with _writing(path, "group"):
        group = zarr.create_group(path, attributes=attributes, zarr_format=3)
    for name, (dtype, extra) in declared.items():
        with _writing(path, f"variable {name!r}"):
            _create_array(
                group, str(name), template.variables[name], dtype, extra, layout, sample_dim
            )
    return layout


def _create_array(
    group: zarr.Group,
    name: str,
    variable: xr.Variable,
    dtype: Any,
    extra: dict[str, Any],
    layout: Layout,
    sample_dim: str,
) -> None:
    """Make one array; fill it if it has no samples."""
    if sample_dim in variable.dims:
        variable = variable.transpose(sample_dim, ...)
    array = group.create_array(
        name,
        shape=variable.shape,
        dtype=dtype,
        compressors=_compressors(np.dtype(dtype)),
        fill_value=np.nan if np.dtype(dtype).kind == "f" else None,
        dimension_names=[str(dim) for dim in variable.dims],
        attributes=plain(variable.attrs) | extra,
        # A shard that was never written is then told from one of fill values.
        config={"write_empty_chunks": True},
        **_chunks(variable, dtype, sample_dim, layout),
    )
    if sample_dim not in variable.dims:
        array[...] = encoded(np.asarray(variable.values), extra)


def _compressors(dtype: np.dtype[Any]) -> tuple[BloscCodec, Crc32cCodec]:
    """Return the default codecs: the checksum goes last, over the bytes that lie on the disk."""
    # Of one-byte numbers Blosc would shuffle the bits: pictures get larger by it, and slower.
    shuffle: Literal["noshuffle", "shuffle"] = "noshuffle" if dtype.itemsize == 1 else "shuffle"
    return BloscCodec(cname="lz4", clevel=5, shuffle=shuffle), Crc32cCodec()


def _chunks(variable: xr.Variable, dtype: Any, sample_dim: str, layout: Layout) -> dict[str, Any]:
    lengths = tuple(max(1, n) for n in variable.shape)
    if sample_dim not in variable.dims:
        return {"chunks": lengths}
    whole = (layout.shard_rows, *lengths[1:])
    is_big = layout.shard_rows * row_bytes(variable, sample_dim) > 1.5 * CHUNK
    if not is_big or dtype is str or layout.chunk_rows == layout.shard_rows:
        return {"chunks": whole}
    return {"chunks": (layout.chunk_rows, *lengths[1:]), "shards": whole}


def plain(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as JSON holds them: NumPy's numbers and arrays become Python's."""
    return {
        str(name): value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        for name, value in attributes.items()
        if name != COMPLETE
    }


def write_rows(path: str, name: str, start: int, values: npt.NDArray[Any]) -> None:
    """Write whole shards of one variable; writing them again changes nothing.

    Parameters
    ----------
    path, name
        The store and the variable in it.
    start
        First row.
    values
        (rows, ...) of the variable's type.

    Raises
    ------
    StorageError
        The rows do not begin and end where shards do (or end with the data), have another shape
        or type than the variable, or cannot be written.
    """
    path = stores.absolute(path)
    with _writing(path, f"variable {name!r}"):
        opened = zarr.open_array(path, path=name, mode="r+", zarr_format=3)
        array = opened.with_config({"write_empty_chunks": True})
    shard = (array.shards or array.chunks)[0]
    stop = start + len(values)
    where = f"{path}: variable {name!r}, rows {start} to {stop}"
    if start % shard or (stop % shard and stop != array.shape[0]) or stop > array.shape[0]:
        raise StorageError(
            f"{where}: not aligned: expected whole shards of {shard} rows, up to "
            f"{array.shape[0]}; part of a shard may be lost to another writer of the same one, "
            "so write runs of rows that start and stop at multiples of a shard"
        )
    with _writing(path, f"variable {name!r}, rows {start} to {stop}"):
        stored = encoded(values, array.attrs.asdict())
    if stored.shape[1:] != array.shape[1:] or stored.dtype != array.dtype:
        raise StorageError(
            f"{where}: expected {array.dtype}{array.shape[1:]} in each row, "
            f"found {stored.dtype}{stored.shape[1:]}"
        )
    with _writing(path, f"variable {name!r}, rows {start} to {stop}"):
        array[start:stop] = stored


def finish(path: str) -> None:
    """Mark a store as complete.

    Raises
    ------
    StorageError
        Rows of a variable were never written, or the mark cannot be set.
    """
    path = stores.absolute(path)
    with _writing(path, "group"):
        group = zarr.open_group(path, mode="r+")
        arrays = dict(group.arrays())
        missing = {name: n for name, array in arrays.items() if (n := _missing(array))}
    for name, count in missing.items():
        raise StorageError(
            f"{path}: variable {name!r}: {count} shards were never written, so the store cannot "
            "be completed"
        )
    with _writing(path, "group"):
        group.attrs[COMPLETE] = True


def _missing(array: zarr.Array[Any]) -> int:
    rows, per_shard = array.shards or array.chunks, array.shape
    shards = int(np.prod([-(-n // r) for n, r in zip(per_shard, rows, strict=True)], dtype=int))
    inner = int(np.prod([s // c for s, c in zip(rows, array.chunks, strict=True)], dtype=int))
    return shards - array.nchunks_initialized // inner


def write_block(path: str, block: xr.Dataset, start: int, sample_dim: str) -> None:
    """Write whole shards of every variable of ``block`` that has samples; see ``write_rows``."""
    for name, variable in block.variables.items():
        if sample_dim in variable.dims:
            values = np.asarray(variable.transpose(sample_dim, ...).values)
            write_rows(path, str(name), start, values)


def write_dataset(
    dataset: xr.Dataset, path: str, sample_dim: str | None = None, layout: Layout | None = None
) -> Layout:
    """Write a dataset of any size: block by block, with coordinates and attributes.

    Parameters
    ----------
    dataset
        Of Dask arrays, arrays that are read when indexed, or NumPy arrays.
    path, sample_dim, layout
        See ``create``.

    Raises
    ------
    StorageError
        There is a complete store or something else, or the place cannot be written.
    SchemaError
        A variable cannot be stored, or there are no samples.
    """
    sample_dim = sample_dim or first_dim(dataset)
    layout = create(path, dataset, layout, sample_dim)
    fill(path, dataset, sample_dim, layout)
    finish(path)
    return layout


def fill(path: str, dataset: xr.Dataset, sample_dim: str, layout: Layout) -> None:
    """Write all samples of a dataset into a store made for it, a bounded block at a time."""
    rows = _block_rows(dataset, sample_dim, layout)
    samples = dataset.sizes.get(sample_dim, 0)
    for start in range(0, samples, rows):
        block = dataset.isel({sample_dim: slice(start, start + rows)})
        write_block(path, _computed(block, path, start), start, sample_dim)


def _computed(block: xr.Dataset, path: str, start: int) -> xr.Dataset:
    try:
        return block.compute(scheduler="threads")
    except DeepstrataError:
        raise
    except Exception as error:
        names = ", ".join(str(name) for name in block.variables)
        raise StorageError(
            f"{path}: what is to be written cannot be read: variables {names}, rows from {start}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _block_rows(dataset: xr.Dataset, sample_dim: str, layout: Layout) -> int:
    # Blocks as long as the source's chunks, so that none is decoded twice, unless they are huge.
    variables = {n: v for n, v in dataset.variables.items() if sample_dim in v.dims}
    chunks = [row_chunks(dataset, str(name), sample_dim) for name in variables]
    longest = max((max(c) if isinstance(c, tuple) else c or 1 for c in chunks), default=1)
    total = sum(row_bytes(variable, sample_dim) for variable in variables.values())
    rows = min(longest, BLOCK_BYTES // max(total, 1))
    return max(1, rows // layout.shard_rows) * layout.shard_rows


def create_like(
    path: str,
    coords: xr.Dataset,
    name: str,
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: str,
    rows_per_chunk: int,
    attrs: Mapping[str, Any],
) -> None:
    """Make a store for one variable that many workers write, with coordinates filled in.

    Parameters
    ----------
    path
        Of the store. An incomplete one is replaced.
    coords
        Its coordinates along ``dims``, and its attributes, are kept; the rest is left out.
    name, dims, shape, dtype, attrs
        Of the variable; the first dimension counts samples.
    rows_per_chunk
        Rows that one task writes; a big shard is stored as chunks of about 1 MiB.

    Raises
    ------
    StorageError
        There is a complete store or something else, or the place cannot be written.
    SchemaError
        The coordinates have another number of samples.
    """
    sample_dim, lengths = dims[0], dict(zip(dims, shape, strict=True))
    found = coords.sizes.get(sample_dim, shape[0])
    if found != shape[0]:
        raise SchemaError(f"{path}: expected coordinates of {shape[0]} samples, found {found}")
    kept = {
        n: v
        for n, v in coords.coords.items()
        if n != name and all(lengths.get(str(d)) == v.sizes[d] for d in v.dims)
    }
    labels = xr.Dataset(coords=kept, attrs=coords.attrs)
    width = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    rows = min(rows_per_chunk, shape[0])
    layout = Layout(rows, inner_rows(rows, width))
    empty = da.zeros(shape, dtype=dtype, chunks=-1)
    template = labels.assign({name: xr.Variable(dims, empty, dict(attrs))})
    create(path, template, layout, sample_dim)
    fill(path, labels, sample_dim, layout)
