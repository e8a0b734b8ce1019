"""Data 8 times a worker's memory limit: peak memory, throughput, and time spent on data.

CD-1, 784 x 1000, over float32 rows, one epoch: from Zarr with blosc-lz4 on disk; from the same rows
in memory, as a raw file on /dev/shm that tasks copy from, so that there is no disk and no decoding;
and from Zarr with an eighth of the rows, to show that the peak does not depend on their number.
Workers have a memory limit that Dask enforces. The peak is the largest resident size that each
worker's process ever had, beside what ``plan`` said before; the rate is that of the rounds after
the first group of shards; "reading" is the share of task time spent on data (the run's ``wait``).
Where that is allowed, the page cache is dropped before each run, so that the disk is read.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import delayed
from distributed import Client, LocalCluster

from deepstrata import RBM, DatasetSource, LocalSteps, Pipeline, Pretrain, ZarrSource
from deepstrata.pipelines import environment, meter
from deepstrata.pipelines.cluster import QUIET
from deepstrata.pipelines.events import Progress
from deepstrata.pipelines.planning import plan
from deepstrata.pipelines.run import run
from deepstrata.storage import layout
from tests.benchmarks import measuring, stores
from tests.benchmarks.kernels import OPTIMISER
from tests.benchmarks.stores import GIB, MIB, VISIBLE

HIDDEN, BATCH, WORKERS = 1000, 100, 2
ROUNDS_A_GROUP = 4
TIMES = 8.0  #: data over memory limit
REPEATS = 1
MEMORY = "/dev/shm"
FILES, HELD, FEWER = "Zarr on disk", "in memory", "Zarr, an eighth"


class Measured(NamedTuple):
    """What one run came to."""

    rate: float
    peaks: tuple[int, ...]
    wait: float
    weights: str


@contextmanager
def cluster(workers: int, limit: int) -> Iterator[Client]:
    """Start workers as ``deepstrata.connect`` does, with a limit of memory for each."""
    name = "distributed.nanny.pre-spawn-environ"
    with (
        dask.config.set({name: {**dask.config.get(name, {}), **environment.ALLOCATOR}}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=limit,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=QUIET,
        ) as started,
        Client(started) as client,
    ):
        yield client


def read_rows(path: str, start: int, rows: int) -> np.ndarray:
    """Copy rows from a raw file."""
    size = 4 * VISIBLE
    found = np.fromfile(path, np.float32, rows * VISIBLE, offset=start * size)
    return found.reshape(rows, VISIBLE)


def held(path: str, samples: int, shard: int) -> xr.Dataset:
    """Return a raw file's rows, lazily, in chunks of a shard."""
    read = delayed(read_rows, pure=False)
    blocks = [
        da.from_delayed(read(path, start, rows), (rows, VISIBLE), np.float32)
        for start in range(0, samples, shard)
        for rows in [min(shard, samples - start)]
    ]
    return xr.Dataset({stores.NAME: ((stores.SAMPLE_DIM, "feature"), da.concatenate(blocks))})


def pipeline(path: str | None, shard: int) -> Pipeline:
    """Declare one epoch of CD-1 over a store, or over a dataset that is handed over."""
    features = stores.NAME
    return Pipeline(
        name="outofcore",
        source=ZarrSource(path=path, features=features)
        if path
        else DatasetSource(features=features),
        stages=(
            Pretrain(
                model=RBM(hidden=HIDDEN),
                optimiser=OPTIMISER,
                epochs=1,
                strategy=LocalSteps(batch=BATCH, steps=-(-shard // (BATCH * ROUNDS_A_GROUP))),
            ),
        ),
    )


def measure(declared: Pipeline, data: Any, workers: int, limit: int, folder: str) -> Measured:
    """Run on fresh workers."""
    done: list[tuple[float, int]] = []

    def observe(event: object) -> None:
        if isinstance(event, Progress) and event.stage == "pretrain":
            done.append((time.perf_counter(), event.done))

    with cluster(workers, limit) as client:
        out = tempfile.mkdtemp(dir=folder) + "/run"
        found = run(declared, client, out=out, data=data, observer=observe)
        peaks = client.run(meter.peak_bytes)
    (start, first), (stop, last) = done[ROUNDS_A_GROUP - 1], done[-1]
    record = found.manifest.stages[-1]
    rate = record.examples * (last - first) / last / (stop - start)
    return Measured(rate, tuple(peaks.values()), record.wait, found.manifest.weights_sha256 or "")


def shard_rows(samples: int) -> int:
    """Return the rows of a shard: those that ``ingest`` would choose, for all runs alike."""
    return layout.choose(samples, 4 * VISIBLE).shard_rows


def prepare(given: Any, stack: ExitStack) -> tuple[dict[str, tuple[Pipeline, Any]], str]:
    """Write what is read and return the contenders, and a folder for their runs."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(dir=given.folder))
    size = 32 * MIB if given.quick else int(given.times * given.memory * GIB)
    stores.check_free(folder, size + size // 8)
    samples = size // (4 * VISIBLE)
    shard = shard_rows(samples)
    first = stores.scaled_pictures(shard)
    contenders: dict[str, tuple[Pipeline, Any]] = {}
    for name, rows in ((FILES, samples), (FEWER, samples // 8)):
        path = f"{folder}/{rows}.zarr"
        stores.write_zarr(path, first, rows)
        contenders[name] = (pipeline(path, shard), None)
    if os.path.isdir(MEMORY):
        stores.check_free(MEMORY, size)
        memory = stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY))
        stores.write_raw(f"{memory}/rows", first, samples)
        contenders[HELD] = (pipeline(None, shard), held(f"{memory}/rows", samples, shard))
    else:
        print(f"no {MEMORY}: nothing is held in memory for comparison")
    size_text = f"{samples * 4 * VISIBLE / GIB:.2f} GiB in {-(-samples // shard)} shards"
    print(f"{samples:,} rows, {size_text}; an eighth: {samples // 8:,}", flush=True)
    return contenders, folder


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = measuring.parser(__doc__, REPEATS)
    parser.add_argument("--memory", type=float, default=1.0, help="GiB of a worker; by default 1")
    parser.add_argument("--times", type=float, default=TIMES, help="data over that; by default 8")
    given = parser.parse_args(argv)
    workers, limit = 1 if given.quick else WORKERS, int(given.memory * GIB)
    measuring.begin(f"{workers} workers of {given.memory:g} GiB, CD-1 {VISIBLE} x {HIDDEN}")
    is_cold = measuring.can_drop_caches(given)
    with ExitStack() as stack:
        contenders, folder = prepare(given, stack)
        found: dict[str, list[Measured]] = {name: [] for name in contenders}
        for _ in range(measuring.repeats(given, REPEATS)):
            for name, (declared, data) in contenders.items():
                if is_cold:
                    measuring.drop_caches()
                found[name].append(measure(declared, data, workers, limit, folder))
                print(f"{name}: {found[name][-1].rate:,.0f} examples/s", flush=True)
        planned = {n: plan(declared, data=data).peak for n, (declared, data) in contenders.items()}
    show(found, planned)
    measuring.end()


def show(found: dict[str, list[Measured]], planned: dict[str, int]) -> None:
    """Print rates, memory and what they are beside each other."""
    rows, peaks = [], list[float]()
    for name, runs in found.items():
        peaks = [max(place) / MIB for place in zip(*(r.peaks for r in runs), strict=True)]
        rate, wait = (
            statistics.median(getattr(r, what) for r in runs) for what in ("rate", "wait")
        )
        rows.append((name, rate, f"{100 * wait:.2f} %", *peaks, planned[name] / MIB))
    columns = [f"peak {i + 1}, MiB" for i in range(len(peaks))]
    measuring.show(("", "examples/s", "reading", *columns, "plan, MiB"), rows)
    rates = {name: [r.rate for r in runs] for name, runs in found.items()}
    measuring.show_ratios(rates, ((FILES, HELD), (FILES, FEWER)))
    peak = {name: max(max(r.peaks) for r in runs) for name, runs in found.items()}
    measuring.show(("ratio", ""), [("peak of all / of an eighth", peak[FILES] / peak[FEWER])])
    if HELD in found:
        weights = {r.weights for name in (FILES, HELD) for r in found[name]}
        print(f"weights from disk and from memory: {'the same' if len(weights) == 1 else 'differ'}")


if __name__ == "__main__":
    main()
