"""Finding out, once rows could not be read or came out wrong, which chunks are to blame.

Zarr reads a chunk that is missing as fill values and says nothing, and says of one that it cannot
decode what is wrong but not where. So the chunks of the rows are looked at one by one. That is
slow, and only done when something has failed.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import zarr

from deepstrata.schemas.errors import DeepstrataError
from deepstrata.storage import stores

NAMED = 4  #: chunks that a message names at most


class Chunk(NamedTuple):
    """A chunk (a whole Zarr v3 shard where there are any)."""

    key: str
    file: str
    place: tuple[slice, ...]
    """Elements of the array."""


def _array(path: str, group: str | None, name: str) -> tuple[zarr.Array[Any], str]:
    url = stores.join(path, *(part for part in (group, name) if part))
    with stores.explained(url, "read"):
        return zarr.open_array(url, mode="r"), url


def chunks_of(
    path: str, group: str | None, name: str, axis: int, start: int, stop: int
) -> Iterator[tuple[zarr.Array[Any], Chunk]]:
    """Yield the chunks that hold rows ``start`` to ``stop`` of a variable."""
    array, url = _array(path, group, name)
    sizes = array.shards or array.chunks
    numbers = [range(-(-n // size)) for n, size in zip(array.shape, sizes, strict=True)]
    numbers[axis] = range(start // sizes[axis], -(-stop // sizes[axis]))
    for place in product(*numbers):
        key = array.metadata.encode_chunk_key(place)
        where = tuple(slice(i * n, (i + 1) * n) for i, n in zip(place, sizes, strict=True))
        yield array, Chunk(key, stores.join(url, key), where)


def missing(
    path: str, group: str | None, name: str, axis: int, start: int, stop: int
) -> tuple[list[Chunk], int]:
    """Return the chunks of some rows that are not there, and how many there should be."""
    every = [chunk for _, chunk in chunks_of(path, group, name, axis, start, stop)]
    return [chunk for chunk in every if not stores.exists(chunk.file)], len(every)


def unreadable(
    path: str, group: str | None, name: str, axis: int, start: int, stop: int
) -> list[tuple[Chunk, str]]:
    """Return the chunks of some rows that cannot be read, and why."""
    found = []
    for array, chunk in chunks_of(path, group, name, axis, start, stop):
        try:
            stores.exists(chunk.file)
            array[chunk.place]
        except DeepstrataError as error:
            found.append((chunk, str(error)))
        except Exception as error:
            found.append((chunk, f"{type(error).__name__}: {error}"))
    return found


def listed(names: list[str]) -> str:
    """Return some names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
