"""CD-1 in one process: data to train on, the products alone, and the project's inner loop."""

import numpy as np
import numpy.typing as npt

from deepstrata import RBM, SGD
from deepstrata.ops import models, optimisers
from deepstrata.ops.learning import local_steps
from deepstrata.ops.partials import Batch
from deepstrata.schemas.keys import Key
from tests.benchmarks.measuring import Work

OPTIMISER = SGD(learning_rate=0.05, momentum=0.5)
Rows = npt.NDArray[np.float32]


def blobs(rows: int, visible: int) -> Rows:
    """Return noisy blobs in [0, 1]: neither binary nor constant."""
    random = np.random.default_rng(0)
    centres = random.random((10, visible)) < 0.2
    x = centres[random.integers(0, 10, rows)] * random.random((rows, visible), dtype=np.float32)
    return x.astype(np.float32)


def products(x: Rows, hidden: int, batch: int) -> Work:
    """The five products of CD-1 alone: two up, one down, two outer. Returns examples."""
    visible = x.shape[1]
    w = np.zeros((visible, hidden), np.float32)
    h, v = np.empty((batch, hidden), np.float32), np.empty((batch, visible), np.float32)
    g = np.empty_like(w)

    def go() -> float:
        for start in range(0, len(x), batch):
            v0 = x[start : start + batch]
            np.matmul(v0, w, out=h)
            np.matmul(h, w.T, out=v)
            np.matmul(v, w, out=h)
            np.matmul(v0.T, h, out=g)
            np.matmul(v.T, h, out=g)
        return len(x)

    return go


def products_alone(place: int, rows: int, visible: int, hidden: int, batch: int) -> Work:
    """The products, for a process that has nothing yet."""
    return products(blobs(rows, visible), hidden, batch)


def kernel(x: Rows, hidden: int, batch: int) -> Work:
    """The project's inner loop in this process. Returns examples."""
    model = RBM(hidden=hidden)
    params = models.init(model, x.shape[1], Key(0))
    state, rates = optimisers.init(OPTIMISER, params), optimisers.rates(OPTIMISER, 0)
    rows = Batch(np.arange(len(x)), x)

    def go() -> float:
        local_steps(model, OPTIMISER, rates, params, state, (), rows, batch, Key(1))
        return len(x)

    return go
