"""Reading all rows of a variable in their order, however it is chunked, in bounded memory.

N samples in source chunks of C rows, a memory budget M. Where C rows of all features fit, they are
read as they lie and every chunk is decoded once. Where they do not, C rows may be read in a few
runs, each of which decodes all of their chunks again; or, where that would be more than
``MOST_READS`` times (a store chunked along its features, with all samples in a chunk), in two
passes: panels of features into an intermediate store, and from there rows. This is the algorithm
of the rechunker package (Abernathey et al. 2020), which cubed follows, with the intermediate
chunks cut so that both passes are aligned.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from deepstrata.schemas.errors import SchemaError, StorageError
from deepstrata.storage import stores, writing
from deepstrata.storage.codecs import fast_codecs
from deepstrata.storage.covering import decoded_rows
from deepstrata.storage.datasets import COMPLETE
from deepstrata.storage.encoding import row_bytes
from deepstrata.storage.layout import Layout
from deepstrata.storage.readers import native

MOST_READS = 3  #: times that a chunk is decoded before an intermediate store is cheaper
SHARD_COPIES = 4  #: of a shard that is written: collected, encoded, compressed, and a spare one
COPIES = 3  #: of a block that is read: compressed, decoded, and put together
USED = 7 / 8  #: of the memory given; the rest is what an allocator does not give back at once


class Method(NamedTuple):
    """How the rows of one variable are read."""

    rows: int
    """Read at one time: in the second pass where there are two."""
    panel: tuple[int, ...] | None = None
    """Lengths of the other dimensions that are read at one time; None for all of them."""
    block: int = 0
    """Rows of the source read at one time in the first of two passes; 0 for one pass."""
    reads: float = 1.0
    """How often each byte of the source is decoded."""

    @property
    def passes(self) -> int:
        """1, or 2 through an intermediate store."""
        return 2 if self.block else 1


def _chunks(variable: xr.Variable, dim: str) -> tuple[int, tuple[int, ...]]:
    """Return the rows of a source chunk and its other lengths, in the order of the new store."""
    found = variable.encoding.get("chunks") or variable.encoding.get("chunksizes")
    lengths = dict(zip(variable.dims, found or (1,) * variable.ndim, strict=True))
    most = {d: max(n) if isinstance(n, tuple) else n for d, n in lengths.items()}
    others = tuple(int(most[d]) for d in variable.dims if d != dim)
    return min(int(most[dim]), variable.sizes[dim]), others


def method_of(variable: xr.Variable, name: str, dim: str, layout: Layout, memory: int) -> Method:
    """Choose how a variable is read within ``memory`` bytes.

    Raises
    ------
    SchemaError
        A source chunk, or a shard, is too big for that.
    """
    samples, row = variable.sizes[dim], row_bytes(variable, dim)
    chunk, others = _chunks(variable, dim)
    lengths = tuple(variable.sizes[d] for d in variable.dims if d != dim)
    unit = chunk * math.prod(others) * variable.dtype.itemsize
    shard = min(layout.shard_rows, samples) * row
    room = (int(memory * USED) - SHARD_COPIES * shard - 2 * unit) // COPIES
    if room < max(unit, row, shard // 2):
        needed = (SHARD_COPIES * shard + 2 * unit + COPIES * max(unit, row, shard // 2)) / USED
        raise SchemaError(
            f"variable {name!r}: chunks of {unit >> 10:,} KiB and shards of {shard >> 10:,} KiB "
            f"need {math.ceil(needed / 2**20):,} MiB of memory, {memory >> 20:,} MiB are given; "
            "give --memory more, or ask for smaller shards with --rows"
        )
    fits = room // row
    if fits >= chunk:
        return Method(min(fits // chunk * chunk, samples))
    starts = np.arange(0, samples, fits)
    reads = decoded_rows(starts, np.minimum(starts + fits, samples), chunk, samples)
    # What decodes a part of a chunk keeps the whole of it, so not all of them are read at once.
    width = room // (chunk * variable.dtype.itemsize)
    panel = _panel(others, lengths, width)
    if reads.sum() <= MOST_READS * samples:
        panel = _panel(others, lengths, width // 2)
        return Method(fits, panel, reads=float(reads.sum() / samples))
    return Method(fits, panel, chunk)


def _panel(chunk: tuple[int, ...], lengths: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Return how much of the other dimensions to read at a time: whole chunks, up to ``most``."""
    panel = [min(c, n) for c, n in zip(chunk, lengths, strict=True)]
    for axis in reversed(range(len(panel))):
        rest = math.prod(panel[:axis] + panel[axis + 1 :])
        panel[axis] = min(max(most // rest // chunk[axis], 1) * chunk[axis], lengths[axis])
        if panel[axis] < lengths[axis]:
            break
    return tuple(panel)


class Rows(NamedTuple):
    """A variable that is read by rows, whichever of its dimensions counts them."""

    variable: xr.Variable
    name: str
    axis: int
    where: str

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the other dimensions."""
        return self.variable.shape[: self.axis] + self.variable.shape[self.axis + 1 :]

    def read(
        self, start: int, stop: int, here: tuple[slice, ...] | None = None
    ) -> npt.NDArray[Any]:
        """Return (rows, ...) values, of the given parts of the other dimensions."""
        key = list(here or (slice(None),) * len(self.lengths))
        key.insert(self.axis, slice(start, stop))
        try:
            # xarray would transpose before it reads, and then read number by number.
            return native(np.moveaxis(self.variable[tuple(key)].values, self.axis, 0))
        except Exception as error:
            raise StorageError(
                f"{self.where}: variable {self.name!r}, rows {start} to {stop}: cannot be read: "
                f"{type(error).__name__}: {error}"
            ) from error


def pieces_of(
    variable: xr.Variable, name: str, dim: str, method: Method, between: str, where: str
) -> Iterator[npt.NDArray[Any]]:
    """Yield all rows of a variable in their order, in pieces that fit in memory."""
    rows = Rows(variable, name, variable.dims.index(dim), where)
    samples = variable.sizes[dim]
    if method.block:
        for start in range(0, samples, method.block):
            stop = min(start + method.block, samples)
            yield from _through(rows, start, stop, method, between)
        return
    for start in range(0, samples, method.rows):
        yield _assembled(rows, start, min(start + method.rows, samples), method)


def _assembled(rows: Rows, start: int, stop: int, method: Method) -> npt.NDArray[Any]:
    """Return some rows, read panel by panel where they have panels."""
    if method.panel is None:
        return rows.read(start, stop)
    found = np.empty((stop - start, *rows.lengths), rows.variable.dtype.newbyteorder("="))
    for here in _panels(rows.lengths, method.panel):
        found[(slice(None), *here)] = rows.read(start, stop, here)
    return found


def _panels(lengths: tuple[int, ...], panel: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    for corner in product(*(range(0, n, p) for n, p in zip(lengths, panel, strict=True))):
        yield tuple(slice(a, a + p) for a, p in zip(corner, panel, strict=True))


def _through(
    rows: Rows, start: int, stop: int, method: Method, between: str
) -> Iterator[npt.NDArray[Any]]:
    """Yield rows ``start`` to ``stop`` after all their panels are in an intermediate store."""
    assert method.panel is not None
    lengths, count = rows.lengths, stop - start
    step = min(method.rows, count)
    writing.discard(between)
    with stores.explained(between, "write"), fast_codecs():
        group = zarr.create_group(between, attributes={COMPLETE: False}, zarr_format=3)
        middle = group.create_array(
            rows.name,
            shape=(count, *lengths),
            chunks=(step, *method.panel),
            dtype=rows.variable.dtype,
            compressors=None,
            fill_value=None,
        )
        for here in _panels(lengths, method.panel):
            block = rows.read(start, stop, here)
            for first in range(0, count, step):
                middle[(slice(first, first + step), *here)] = block[first : first + step]
            del block
    for first in range(0, count, step):
        with stores.explained(between, "read"):
            piece = np.asarray(middle[first : first + step])
        yield piece
        del piece
    writing.discard(between)
