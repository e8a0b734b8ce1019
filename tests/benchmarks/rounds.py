"""Rounds a second that the machinery allows, and how big a shard must be for it not to matter.

A round maps over the shards, merges, updates and reports. Here each shard gives one sample, so that
next to nothing is computed, there is one shard for each worker, and the rows are read before the
clock starts: what is left is the scheduler, the messages, and work that grows with the parameters
but not with the samples (a shard's own copy of them, its gradient or change, merging, the update).

A pipeline is run with ``Synchronous`` and ``LocalSteps`` on workers that are threads of one process
on this machine. There, parameters change hands without a copy: what a network would add is not in
the figures. What grows with the parameters is done for all workers by this machine's cores, so many
workers with big parameters come out slower than they would be on machines of their own. Sizes that
would not fit in memory together are left out. The rate is that of the rounds after the first tenth.

If a round computes for t seconds on each shard and the rest takes o, the rest is at most 5 % when
t >= 19 o. The last table gives t, and what CD-1 of 784 x 1000 does in t on one core.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import dask
import dask.array as da
import xarray as xr
from distributed import Client, LocalCluster

from deepstrata import RBM, SGD, DatasetSource, LocalSteps, Pipeline, Pretrain, Synchronous
from deepstrata.pipelines.cluster import QUIET
from deepstrata.pipelines.events import Progress
from deepstrata.pipelines.run import run
from deepstrata.schemas.strategies import Strategy
from tests.benchmarks import measuring
from tests.benchmarks.kernels import blobs, kernel
from tests.benchmarks.measuring import timed

WORKERS = (1, 2, 4, 8, 16, 32, 64)
VISIBLE, HIDDEN, BATCH = 784, 1000, 100
#: Visible and hidden units: .1, 3 (CD-1 of the other benchmarks), 25 and 200 MB of parameters.
SIZES = ((160, 160), (VISIBLE, HIDDEN), (2500, 2500), (7071, 7071))
STRATEGIES: dict[str, Callable[[int], Strategy]] = {
    "Synchronous": lambda shards: Synchronous(batch=1, shards=shards),
    "LocalSteps": lambda shards: LocalSteps(batch=1, steps=1, shards=shards),
}
REPEATS = 3
LARGEST = 8e8  #: bytes of one copy of the parameters for each worker
SHARE = 0.05  #: of a round that may be spent on anything but computing


def megabytes(size: tuple[int, int]) -> float:
    """Return the size of the parameters."""
    visible, hidden = size
    return 4e-6 * (visible * hidden + visible + hidden)


def how_many(workers: int, size: tuple[int, int]) -> int:
    """Return how many rounds take about a second: a task takes some 1.5 ms, and 3 ms a MB."""
    seconds = 1e-3 * workers * (1.5 + 3 * megabytes(size))
    return round(min(200, max(4, 1 / seconds)))


@contextmanager
def cluster(workers: int) -> Iterator[Client]:
    """Start workers as threads of this process.

    Each would take the process's memory for its own and pause, and would look at all threads a
    hundred times a second for its profile: on machines of their own they do neither.
    """
    with (
        dask.config.set({"distributed.worker.profile.enabled": False}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            silence_logs=QUIET,
        ) as started,
        Client(started) as client,
    ):
        yield client


def rounds_a_second(
    client: Client, strategy: Strategy, size: tuple[int, int], rounds: int, folder: str
) -> float:
    """Run so many rounds in one window and time them."""
    visible, hidden = size
    zeros = da.zeros((strategy.shards * rounds, visible), chunks=(rounds, visible), dtype="float32")
    pipeline = Pipeline(
        name="rounds",
        source=DatasetSource(features="x"),
        stages=(
            Pretrain(
                model=RBM(hidden=hidden),
                optimiser=SGD(learning_rate=0.01),
                epochs=1,
                monitor=0,
                strategy=strategy,
                checkpoint_rounds=rounds,
            ),
        ),
    )
    done: list[float] = []

    def observe(event: object) -> None:
        if isinstance(event, Progress) and event.stage == "pretrain":
            done.append(time.perf_counter())

    data = xr.Dataset({"x": (("sample", "unit"), zeros)})
    with tempfile.TemporaryDirectory(dir=folder) as out:
        run(pipeline, client, out=f"{out}/run", data=data, observer=observe)
    skipped = max(1, rounds // 10)
    return (rounds - skipped) / (done[-1] - done[skipped - 1])


def measure(
    workers: int, sizes: Sequence[tuple[int, int]], count: int, quick: bool, folder: str | None
) -> measuring.Rates:
    """Return the rates of every strategy and size that fits, on so many workers."""
    with cluster(workers) as client, tempfile.TemporaryDirectory(dir=folder) as out:

        def contender(strategy: Strategy, size: tuple[int, int]) -> measuring.Contender:
            rounds = 10 if quick else how_many(workers, size)
            return lambda: rounds_a_second(client, strategy, size, rounds, out)

        contenders = {
            f"{name} {size}": contender(make(workers), size)
            for size in sizes
            for name, make in STRATEGIES.items()
            if workers * megabytes(size) * 1e6 <= LARGEST
        }
        return measuring.interleaved(contenders, count)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    given = measuring.parser(__doc__, REPEATS).parse_args(argv)
    measuring.begin("rounds with one sample a shard, one shard a worker, workers in one process")
    all_workers, sizes = (WORKERS[:2], SIZES[:2]) if given.quick else (WORKERS, SIZES)
    count = measuring.repeats(given, REPEATS)
    found: dict[int, dict[str, float]] = {}
    for workers in all_workers:
        rates = measure(workers, sizes, count, given.quick, given.folder)
        found[workers] = {name: statistics.median(values) for name, values in rates.items()}
        print(f"{workers} workers measured, load {measuring.load()}", flush=True)
    print("rounds/s, by megabytes of parameters")
    for name in STRATEGIES:
        head = (f"{name}, workers", *(f"{megabytes(size):.1f} MB" for size in sizes))
        rows = [
            (str(workers), *(rates.get(f"{name} {size}") for size in sizes))
            for workers, rates in found.items()
        ]
        measuring.show(head, rows)
    show_shards(found, given.quick)
    measuring.end()


def show_shards(found: dict[int, dict[str, float]], quick: bool) -> None:
    """Print how much a shard must give to a round of CD-1 for the rest to be a small share."""
    x = blobs(BATCH * (2 if quick else 40), VISIBLE)
    contenders = {"kernel": timed(kernel(x, HIDDEN, BATCH))}
    rate = statistics.median(measuring.interleaved(contenders, 3)["kernel"])
    rows = []
    for workers, rates in found.items():
        seconds = [1 / rates[f"{name} {(VISIBLE, HIDDEN)}"] for name in STRATEGIES]
        least = [s * (1 - SHARE) / SHARE for s in seconds]
        rows.append((str(workers), *least, *(int(s * rate) for s in least)))
    head = [f"{what}, {name}" for what in ("s a shard", "samples") for name in STRATEGIES]
    print(f"CD-1, {VISIBLE} x {HIDDEN}, {rate:,.0f} examples/s; for at most {SHARE:.0%} overhead:")
    measuring.show(("workers", *head), rows)


if __name__ == "__main__":
    main()
