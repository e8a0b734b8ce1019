"""Shards and their order: which rows are worked on together, and when.

A shard is a run of whole chunks along the sample dimension, and the unit of work. The grid
follows from dataset and pipeline alone, the order from a key: nothing here knows of workers, and
no order is stored, for ``permutation`` computes any part of it anew.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deepstrata.schemas.errors import SchemaError
from deepstrata.schemas.keys import Key, fold

Words = npt.NDArray[np.uint64]

FEISTEL_ROUNDS = 8
SORTED = 64  # below this many numbers sorting hashes beats walking the cycles of a network


class Shard(NamedTuple):
    """Rows ``start`` to ``stop`` (exclusive) of the dataset, and their number in the grid."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


class Group(NamedTuple):
    """Places that are worked on side by side, each with the shards that it mixes."""

    places: tuple[tuple[Shard, ...], ...]
    counts: tuple[int, ...]
    """Samples of each place that take part."""


def shard_grid(
    samples: int, chunks: int | Sequence[int] | None, rows_per_shard: int | None = None
) -> tuple[Shard, ...]:
    """Cut rows into shards of whole chunks.

    Parameters
    ----------
    samples
        Number of rows.
    chunks
        Rows of a chunk, where all but the last are alike, or those of each chunk; None for
        rows that may be cut anywhere.
    rows_per_shard
        Least rows of a shard (the last may have fewer); a chunk is a shard by default.

    Raises
    ------
    SchemaError
        There are no rows, or the chunks do not add up to them.
    """
    if samples < 1:
        raise SchemaError(f"expected at least one sample, found {samples}")
    if chunks is None:
        chunks = rows_per_shard or samples
    if isinstance(chunks, int):
        if chunks < 1:
            raise SchemaError(f"expected chunks of at least one row, found {chunks}")
        ends = [*range(chunks, samples, chunks), samples]
    else:
        ends = np.cumsum(np.asarray(chunks, dtype=np.int64)).tolist()
        if not ends or ends[-1] != samples:
            found = ends[-1] if ends else 0
            raise SchemaError(f"expected chunks of {samples} rows together, found {found}")
    starts = [0]
    for end in ends:
        if end - starts[-1] >= (rows_per_shard or 1) and end < samples:
            starts.append(end)
    stops = [*starts[1:], samples]
    return tuple(Shard(i, a, b) for i, (a, b) in enumerate(zip(starts, stops, strict=True)))


def mix(words: Words) -> Words:
    """Hash 64-bit words: the finaliser of SplitMix64 (Steele, Lea & Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _words(key: Key, n: int) -> Words:
    counter = np.arange(1, n + 1, dtype=np.uint64)
    return mix(np.uint64(key.seed) + counter * np.uint64(0x9E3779B97F4A7C15))


def _encrypt(words: Words, keys: Words, bits: int) -> Words:
    low_bits, high_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << high_bits) - np.uint64(1)
    low, high = words & low_mask, words >> low_bits
    for i, key in enumerate(keys):
        if i % 2:
            low = low ^ (mix(high + key) & low_mask)
        else:
            high = high ^ (mix(low + key) & high_mask)
    return (high << low_bits) | low


def permutation(
    key: Key, n: int, positions: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.int64]:
    """Return numbers 0 to n-1 in an order that follows from the key.

    A Feistel network permutes the numbers below a power of two; those that leave the range go
    through it again until they are back (Black & Rogaway 2002), so any part of the order is
    computed by itself and in little memory. A few numbers are sorted by their hashes instead.

    Parameters
    ----------
    key
        The address of the order.
    n
        How many numbers, 0 or more.
    positions
        Positions in the order to compute, each below ``n``; all by default.

    Returns
    -------
    numpy.ndarray
        int64, of the shape of ``positions``, or (n,).
    """
    words = (np.arange(n) if positions is None else np.asarray(positions)).astype(np.uint64)
    if n <= SORTED:
        hashes = _words(key, n)
        return np.argsort(hashes, kind="stable")[words.astype(np.int64)]
    bits = (n - 1).bit_length()
    keys = _words(key, FEISTEL_ROUNDS)
    words = _encrypt(words, keys, bits)
    outside = np.flatnonzero(words >= n)
    while outside.size:
        again = _encrypt(words.flat[outside], keys, bits)
        words.flat[outside] = again
        outside = outside[again >= n]
    return words.astype(np.int64)


def epoch_order(count: int, key: Key) -> npt.NDArray[np.int64]:
    """Return numbers 0 to count-1 in keyed pseudorandom order: ``count`` is the number of shards.

    Returns
    -------
    numpy.ndarray
        int64, (count,).
    """
    return permutation(key, count)


def shard_plan(
    grid: Sequence[Shard], counts: Sequence[int], key: Key, epoch: int, width: int, buffer: int = 1
) -> tuple[Group, ...]:
    """Say in which order an epoch goes through the shards.

    Parameters
    ----------
    grid
        All shards.
    counts
        Samples of each that take part; a shard without any is left out.
    key
        Of the stage; the epoch is folded in.
    epoch
        Number of the epoch, from 0.
    width, buffer
        Places side by side in a group, and shards of each; the last group may have fewer.

    Returns
    -------
    tuple of Group
        Every shard with samples once, in keyed order.
    """
    taking_part = [(shard, int(n)) for shard, n in zip(grid, counts, strict=True) if n > 0]
    order = epoch_order(len(taking_part), fold(key, "shards", epoch))
    ordered = [taking_part[i] for i in order]
    taken = width * buffer
    return tuple(_group(ordered[i : i + taken], width) for i in range(0, len(ordered), taken))


def _group(shards: Sequence[tuple[Shard, int]], width: int) -> Group:
    """Deal shards out to ``width`` places, one after the other."""
    dealt = [shards[place::width] for place in range(min(width, len(shards)))]
    return Group(
        tuple(tuple(shard for shard, _ in place) for place in dealt),
        tuple(sum(n for _, n in place) for place in dealt),
    )
