"""The default layout on disk: how many rows make a shard, and how many a chunk inside it.

Measured with blosc-lz4 and the ``zarrs`` pipeline: shards of 16 to 64 MiB with inner chunks of
about 1 MiB read fastest, decode units over 32 MiB four times slower. Small data is cut into
about 32 shards, so that there is something to spread and to shuffle.
"""

import math
from typing import NamedTuple

from deepstrata.schemas.errors import SchemaError

KIB, MIB = 1024, 1024**2
SHARDS = 32
SMALLEST_SHARD = 16 * KIB
LARGEST_SHARD = 32 * MIB
CHUNK = MIB


class Layout(NamedTuple):
    """Rows of a shard and of an inner chunk; the second divides the first."""

    shard_rows: int
    chunk_rows: int


def choose(samples: int, row_bytes: int) -> Layout:
    """Choose the layout of ``samples`` rows of ``row_bytes`` bytes.

    Raises
    ------
    SchemaError
        There are no rows, or they are empty.
    """
    if samples < 1 or row_bytes < 1:
        raise SchemaError(f"nothing to lay out: {samples} samples of {row_bytes} bytes")
    wanted = min(max(samples * row_bytes / SHARDS, SMALLEST_SHARD), LARGEST_SHARD)
    chunks = 2 ** max(0, round(math.log2(wanted / max(CHUNK, row_bytes))))
    rows = max(1, math.ceil(wanted / row_bytes / chunks)) * chunks
    if rows >= samples:
        rows = samples
    return Layout(rows, inner_rows(rows, row_bytes))


def inner_rows(shard_rows: int, row_bytes: int) -> int:
    """Return the rows of an inner chunk of about 1 MiB that divides a shard of ``shard_rows``."""
    rows = shard_rows
    while rows % 2 == 0 and rows * row_bytes > 1.5 * CHUNK:
        rows //= 2
    return rows
