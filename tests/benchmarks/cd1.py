"""CD-1 on 784 x 1000, batch 100, float32: the kernel, one worker, two, and others, in one run.

``python -m tests.benchmarks.cd1``. Every contender takes the same number of minibatches of the same
data with momentum SGD. The limit is what the five matrix products make alone, on one BLAS thread.
The repetitions of all contenders are interleaved, so that a machine whose speed drifts is fair.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import xarray as xr

from deepstrata import RBM, SGD, LocalSteps, Pipeline, Pretrain, ZarrSource
from deepstrata.ops import models, optimisers
from deepstrata.ops.learning import local_steps
from deepstrata.ops.partials import Batch
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.environment import limit_blas
from deepstrata.pipelines.events import Progress
from deepstrata.pipelines.run import run
from deepstrata.schemas.keys import Key

VISIBLE, HIDDEN, BATCH = 784, 1000, 100
SHARD, SHARDS = 4000, 8
REPEATS = 5
MODEL = RBM(hidden=HIDDEN)
OPTIMISER = SGD(learning_rate=0.05, momentum=0.5)


def data(rows: int) -> np.ndarray:
    """Return noisy blobs in [0, 1]: neither binary nor constant."""
    random = np.random.default_rng(0)
    centres = random.random((10, VISIBLE)) < 0.2
    x = centres[random.integers(0, 10, rows)] * random.random((rows, VISIBLE))
    return x.astype(np.float32)


def products(x: np.ndarray) -> Callable[[], int]:
    """The five products of CD-1 alone: two up, one down, two outer."""
    w = np.zeros((VISIBLE, HIDDEN), np.float32)
    h, v = np.empty((BATCH, HIDDEN), np.float32), np.empty((BATCH, VISIBLE), np.float32)
    g = np.empty_like(w)

    def go() -> int:
        for start in range(0, len(x), BATCH):
            v0 = x[start : start + BATCH]
            np.matmul(v0, w, out=h)
            np.matmul(h, w.T, out=v)
            np.matmul(v, w, out=h)
            np.matmul(v0.T, h, out=g)
            np.matmul(v.T, h, out=g)
        return len(x)

    return go


def kernel(x: np.ndarray) -> Callable[[], int]:
    """The project's inner loop in this process."""
    params = models.init(MODEL, VISIBLE, Key(0))
    state, rates = optimisers.init(OPTIMISER, params), optimisers.rates(OPTIMISER, 0)
    batch = Batch(np.arange(len(x)), x)

    def go() -> int:
        local_steps(MODEL, OPTIMISER, rates, params, state, (), batch, BATCH, Key(1))
        return len(x)

    return go


def sklearn(x: np.ndarray) -> Callable[[], int]:
    """scikit-learn's BernoulliRBM (persistent CD, no momentum: less work a step)."""
    from sklearn.neural_network import BernoulliRBM

    model = BernoulliRBM(HIDDEN, learning_rate=0.05, batch_size=BATCH, n_iter=1, random_state=0)

    def go() -> int:
        model.fit(x)
        return len(x)

    return go


def cluster(workers: int, folder: str) -> Callable[[], float]:
    """Examples a second of a run on local workers, from Zarr, after its first epoch."""

    def go() -> float:
        epochs = 6
        pipeline = Pipeline(
            name="cd1",
            source=ZarrSource(path=f"{folder}/cd1.zarr", features="x"),
            stages=(
                Pretrain(
                    model=MODEL,
                    optimiser=OPTIMISER,
                    epochs=epochs,
                    monitor=0,
                    strategy=LocalSteps(batch=BATCH, steps=SHARD // BATCH, shards=2),
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
        return (len(done) - SHARDS // 2) * 2 * SHARD / (last - first)

    return go


def ddp(averaging: bool) -> Callable[[], float]:
    """Examples a second of torch on two gloo processes; NaN without torch."""

    def go() -> float:
        module = Path(__file__).with_name("torch_rbm.py")
        command = [sys.executable, str(module), "average" if averaging else "synchronous"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
            return float("nan")
        return float(done.stdout)

    return go


def timed(work: Callable[[], int]) -> Callable[[], float]:
    """Turn work that returns its examples into examples a second."""

    def go() -> float:
        start = time.perf_counter()
        return work() / (time.perf_counter() - start)

    return go


def main() -> None:
    """Measure and print."""
    limit_blas(1)
    x = data(SHARD)
    with tempfile.TemporaryDirectory() as folder:
        whole = xr.Dataset({"x": (("sample", "unit"), data(SHARD * SHARDS))})
        whole.chunk(sample=SHARD).to_zarr(f"{folder}/cd1.zarr", zarr_format=3, consolidated=False)
        contenders: dict[str, Callable[[], float]] = {
            "five matrix products": timed(products(x)),
            "kernel": timed(kernel(x)),
            "one worker, from Zarr": cluster(1, folder),
            "two workers, from Zarr": cluster(2, folder),
            "scikit-learn BernoulliRBM": timed(sklearn(x)),
            "torch, 2 processes, synchronous": ddp(averaging=False),
            "torch, 2 processes, averaging": ddp(averaging=True),
        }
        for name in ("five matrix products", "kernel"):
            contenders[name]()
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(REPEATS):
            for name, work in contenders.items():
                rates[name].append(work())
    show(rates)


def show(rates: dict[str, list[float]]) -> None:
    """Print medians, and the ratios that the project holds itself to."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"CD-1 {VISIBLE} x {HIDDEN}, batch {BATCH}; load {os.getloadavg()[0]:.2f}")
    for name, values in rates.items():
        spread = f"({min(values):,.0f} to {max(values):,.0f})"
        print(f"  {name:34s} {medians[name]:9,.0f} examples/s  {spread}")
    names = list(medians)
    for a, b in ((1, 0), (2, 1), (3, 2), (3, 4), (3, 5), (3, 6)):
        pairs = zip(rates[names[a]], rates[names[b]], strict=True)
        ratio = statistics.median(p / q for p, q in pairs)
        print(f"  {names[a]} / {names[b]}: {ratio:.2f}")


if __name__ == "__main__":
    main()
