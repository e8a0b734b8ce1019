"""Reading decoded rows: GB/s from Zarr as tasks read it, beside raw files and zarr's own pipeline.

Each store is in the project's layout (blosc-lz4, inner chunks of about 1 MiB) with shards of 4 to
64 MiB, and is read shard by shard: through ``ZarrReader``, as tasks do; with zarr-python as it
comes; and, the same rows in one raw file, with ``numpy.fromfile``. GB are 1e9 bytes of decoded
rows. With two processes each reads half of the shards, at the same time. "cores" is how many the
one process kept busy: ``zarrs`` decodes in as many threads as there are cores, so beside other work
it has less. "cold" is the first reading after the page cache was dropped, by one process that has
read other files before; where that is not allowed it is left out and all is warm.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import zarr

from deepstrata.storage.readers import ZarrReader
from tests.benchmarks import measuring, stores
from tests.benchmarks.measuring import Spent, Together, Work
from tests.benchmarks.stores import MIB, NAME, SAMPLE_DIM, VISIBLE

SIZES = (4, 16, 32, 64)
TOTAL = 512 * MIB
REPEATS = 5
KINDS: dict[str, Callable[[int], Any]] = {
    "float32, noise": stores.noise,
    "uint8, like images": stores.pictures,
}
WAYS = OURS, PLAIN, RAW = "ZarrReader", "zarr-python", "numpy, raw file"
Row = tuple[Any, ...]


def ours(path: str) -> Callable[[int, int], Any]:
    """Read as tasks read."""
    reader = ZarrReader(f"{path}.zarr", None, SAMPLE_DIM)
    return lambda start, stop: reader.read(start, stop, (NAME,))[NAME]


def plain(path: str) -> Callable[[int, int], Any]:
    """Read with zarr-python's default pipeline."""
    array = zarr.open_array(f"{path}.zarr", path=NAME, mode="r")
    return lambda start, stop: array[start:stop]


def raw(path: str, dtype: str) -> Callable[[int, int], Any]:
    """Read from a file without structure."""
    size = VISIBLE * np.dtype(dtype).itemsize
    return lambda start, stop: np.fromfile(
        f"{path}.raw", dtype, (stop - start) * VISIBLE, offset=start * size
    )


class Store(NamedTuple):
    """What is read: ``path.zarr`` and ``path.raw``."""

    path: str
    dtype: str
    shard: int
    samples: int


def open_store(how: str, store: Store) -> Callable[[int, int], Any]:
    """Return what reads rows."""
    if how == RAW:
        return raw(store.path, store.dtype)
    return ours(store.path) if how == OURS else plain(store.path)


def sharing(place: int, processes: int) -> Work:
    """Return what reads every ``processes``-th shard, from the one at ``place``: bytes."""

    def go(how: str, store: Store) -> float:
        read, step = open_store(how, store), store.shard
        starts = range(place * step, store.samples, processes * step)
        return float(sum(read(start, start + step).nbytes for start in starts))

    return go


def cold(how: str, store: Store) -> float:
    """Return bytes a second of one reading from the disk."""
    measuring.drop_caches()
    start = time.perf_counter()
    return sharing(0, 1)(how, store) / (time.perf_counter() - start)


def write(kind: str, size: int, total: int, folder: str) -> Store:
    """Write rows in shards of ``size`` MiB, both ways."""
    stores.check_free(folder, 2 * total)
    dtype = kind.partition(",")[0]
    shard = size * MIB // (VISIBLE * np.dtype(dtype).itemsize) // 64 * 64
    store = Store(f"{folder}/{dtype}-{size}", dtype, shard, total // (size * MIB) * shard)
    stores.write_zarr(f"{store.path}.zarr", KINDS[kind](shard), store.samples)
    stores.write_raw(f"{store.path}.raw", KINDS[kind](shard), store.samples)
    return store


def rows(store: Store, one: Together, two: Together, count: int, is_cold: bool) -> Iterator[Row]:
    """Yield, for each way to read, GB/s of one process and of two, cores, and GB/s when cold."""
    spent: dict[str, list[tuple[Spent, Spent]]] = {how: [] for how in WAYS}
    for _ in range(count + 1):
        for how, pairs in spent.items():
            pairs.append((one(how, store), two(how, store)))
    for how, pairs in spent.items():
        single, double = zip(*pairs[1:], strict=True)  # the first warmed the page cache
        yield (
            how,
            statistics.median(s.rate for s in single) / 1e9,
            statistics.median(s.rate for s in double) / 1e9,
            statistics.median(s.cores for s in single),
            cold(how, store) / 1e9 if is_cold else None,
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    given = measuring.parser(__doc__, REPEATS).parse_args(argv)
    sizes, total = ((4,), 16 * MIB) if given.quick else (SIZES, TOTAL)
    measuring.begin(f"reading {total // MIB} MiB, rows of {VISIBLE}")
    count = measuring.repeats(given, REPEATS)
    is_cold = measuring.can_drop_caches(given)
    one, two = Together(1, sharing, 1), Together(2, sharing, 2)
    for kind in KINDS:
        found: list[Row] = []
        for size in sizes:
            with tempfile.TemporaryDirectory(dir=given.folder) as folder:
                store = write(kind, size, total, folder)
                measured = rows(store, one, two, count, is_cold)
                found += [(f"{size} MiB, {how}", *row) for how, *row in measured]
        head = ("1 process", "2 processes", "cores", "cold")
        measuring.show((f"GB/s, {kind}", *head), found)
    one.close()
    two.close()
    measuring.end()


if __name__ == "__main__":
    main()
