"""CD-1 on 784 x 1000, batch 100, float32: the kernel, one worker, two, and others, in one run.

Every contender takes the same number of minibatches of the same kind of data with momentum SGD. The
limit of a core is what the five matrix products make alone, on one BLAS thread; that of two cores
is what the products make in two processes at the same time, which may be less than twice as much
(shared caches, memory and power). What two processes make has to be read against the second.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import xarray as xr

from deepstrata import RBM, LocalSteps, Pipeline, Pretrain, ZarrSource
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.events import Progress
from deepstrata.pipelines.run import run
from tests.benchmarks import measuring
from tests.benchmarks.kernels import OPTIMISER, blobs, kernel, products, products_alone
from tests.benchmarks.measuring import Contender, Together, Work, timed

VISIBLE, HIDDEN, BATCH = 784, 1000, 100
SHARD, SHARDS, EPOCHS = 4000, 8, 6
REPEATS = 5

PRODUCTS, KERNEL = "five matrix products", "kernel"
PRODUCTS_2 = "products, 2 processes at once"
ONE, TWO = "one worker, from Zarr", "two workers, from Zarr"
SKLEARN = "scikit-learn BernoulliRBM"
SYNCHRONOUS, AVERAGING = "torch, 2 processes, synchronous", "torch, 2 processes, averaging"
RATIOS = (
    (KERNEL, PRODUCTS),
    (ONE, KERNEL),
    (TWO, ONE),
    (PRODUCTS_2, PRODUCTS),
    (TWO, PRODUCTS_2),
    (TWO, SKLEARN),
    (TWO, SYNCHRONOUS),
    (TWO, AVERAGING),
    (PRODUCTS_2, AVERAGING),
)


def sklearn(x: np.ndarray) -> Work:
    """scikit-learn's BernoulliRBM (persistent CD, no momentum: less work a step)."""
    from sklearn.neural_network import BernoulliRBM

    model = BernoulliRBM(HIDDEN, learning_rate=0.05, batch_size=BATCH, n_iter=1, random_state=0)

    def go() -> float:
        model.fit(x)
        return len(x)

    return go


def cluster(workers: int, folder: str, shard: int, epochs: int) -> Contender:
    """Examples a second of a run on local workers, from Zarr, after its first epoch."""

    def go() -> float:
        pipeline = Pipeline(
            name="cd1",
            source=ZarrSource(path=f"{folder}/cd1.zarr", features="x"),
            stages=(
                Pretrain(
                    model=RBM(hidden=HIDDEN),
                    optimiser=OPTIMISER,
                    epochs=epochs,
                    monitor=0,
                    strategy=LocalSteps(batch=BATCH, steps=shard // BATCH, shards=2),
                    checkpoint_rounds=epochs * SHARDS // 2,
                ),
            ),
        )
        done: list[float] = []

        def observe(event: object) -> None:
            if isinstance(event, Progress) and event.stage == "pretrain":
                done.append(time.perf_counter())

        with connect("local", workers=workers) as client:
            run(pipeline, client, out=tempfile.mkdtemp(dir=folder) + "/run", observer=observe)
        first, last = done[SHARDS // 2 - 1], done[-1]
        return (len(done) - SHARDS // 2) * 2 * shard / (last - first)

    return go


def ddp(averaging: bool, shard: int) -> Contender:
    """Examples a second of torch on two gloo processes."""

    def go() -> float:
        module = Path(__file__).with_name("torch_rbm.py")
        mode = "average" if averaging else "synchronous"
        command = [sys.executable, str(module), mode, str(shard)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        return float(done.stdout)

    return go


def left_out(quick: bool) -> set[str]:
    """Return the contenders that are not measured: peers that are not there; twins where quick."""
    names = {ONE, SYNCHRONOUS} if quick else set()
    if not find_spec("torch"):
        print("torch is not installed: its rows are left out")
        names |= {SYNCHRONOUS, AVERAGING}
    return names


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    given = measuring.parser(__doc__, REPEATS).parse_args(argv)
    measuring.begin(f"CD-1, {VISIBLE} x {HIDDEN}, batch {BATCH}")
    shard, epochs = (BATCH, 2) if given.quick else (SHARD, EPOCHS)
    x = blobs(shard, VISIBLE)
    both = Together(2, products_alone, shard, VISIBLE, HIDDEN, BATCH)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        whole = xr.Dataset({"x": (("sample", "unit"), blobs(shard * SHARDS, VISIBLE))})
        whole.chunk(sample=shard).to_zarr(f"{folder}/cd1.zarr", zarr_format=3, consolidated=False)
        contenders: dict[str, Contender] = {
            PRODUCTS: timed(products(x, HIDDEN, BATCH)),
            PRODUCTS_2: lambda: both().rate,
            KERNEL: timed(kernel(x, HIDDEN, BATCH)),
            ONE: cluster(1, folder, shard, epochs),
            TWO: cluster(2, folder, shard, epochs),
            SKLEARN: timed(sklearn(x)),
            SYNCHRONOUS: ddp(False, shard),
            AVERAGING: ddp(True, shard),
        }
        for name in left_out(given.quick):
            del contenders[name]
        for name in (PRODUCTS, PRODUCTS_2, KERNEL):
            contenders[name]()
        rates = measuring.interleaved(contenders, measuring.repeats(given, REPEATS))
    both.close()
    measuring.show_rates("examples/s", rates)
    measuring.show_ratios(rates, RATIOS)
    measuring.end()


if __name__ == "__main__":
    main()
