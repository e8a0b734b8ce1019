"""Data to read: float32 like images, float32 noise, uint8 like images; written shard by shard."""

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from deepstrata.storage import writing

VISIBLE = 784
MIB, GIB = 1 << 20, 1 << 30
SAMPLE_DIM, NAME = "sample", "x"
Rows = npt.NDArray[Any]


def lit(random: np.random.Generator, rows: int) -> npt.NDArray[np.bool_]:
    """Return which pixels are lit: a fifth, in strokes of eight."""
    return np.repeat(random.random((rows, VISIBLE // 8), dtype=np.float32) < 0.2, 8, axis=1)


def pictures(rows: int) -> Rows:
    """Return uint8 rows, noisy where they are lit: as compressible as MNIST."""
    random = np.random.default_rng(0)
    values = random.integers(1, 256, (rows, VISIBLE), dtype=np.uint8)
    return values * lit(random, rows)


def scaled_pictures(rows: int) -> Rows:
    """Return float32 rows in [0, 1], noisy in every bit where they are lit."""
    random = np.random.default_rng(0)
    values = random.random((rows, VISIBLE), dtype=np.float32)
    return np.where(lit(random, rows), values, np.float32(0))


def noise(rows: int) -> Rows:
    """Return float32 rows that nothing compresses."""
    return np.random.default_rng(0).standard_normal((rows, VISIBLE), dtype=np.float32)


def shards(first: Rows, samples: int) -> Iterator[tuple[int, Rows]]:
    """Yield the start and the rows of every shard: the first one's, its features shifted."""
    for start in range(0, samples, len(first)):
        rows = np.roll(first, start // len(first), axis=1)
        yield start, rows[: samples - start]


def write_zarr(path: str, first: Rows, samples: int) -> None:
    """Write shards in the project's layout, with the functions that ``ingest`` uses."""
    shape, dtype = (samples, VISIBLE), str(first.dtype)
    dims = (SAMPLE_DIM, "feature")
    writing.create_like(path, xr.Dataset(), NAME, dims, shape, dtype, len(first), {})
    for start, rows in shards(first, samples):
        writing.write_rows(path, NAME, start, rows)
    writing.finish(path)


def write_raw(path: str, first: Rows, samples: int) -> None:
    """Write the same rows, one after the other, and nothing else."""
    with open(path, "wb") as file:
        for _, rows in shards(first, samples):
            rows.tofile(file)


def check_free(folder: str, wanted: int) -> None:
    """End the benchmark if there is no room; a tenth is kept free."""
    free = shutil.disk_usage(folder).free
    if wanted > 0.9 * free:
        raise SystemExit(
            f"{folder}: {wanted / GIB:.1f} GiB wanted, {free / GIB:.1f} GiB free; "
            "choose another --folder"
        )
