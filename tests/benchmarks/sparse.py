"""Sparse codes of patches of photographs: predicted, and inferred by several methods.

A PSD of 144 atoms is trained for a few epochs; then its predictions are timed beside FISTA, the
matrix products of FISTA alone, joint line searches, and scikit-learn's coordinate descent. What
each reaches is the energy ``|x - z W|**2 + penalty * |z|_1``, in units of the least one found.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from deepstrata import PSD, SGD
from deepstrata.ops import models, optimisers, psd, sparse_coding
from deepstrata.ops.learning import local_steps
from deepstrata.ops.partials import Batch
from deepstrata.ops.psd import PSDParams
from deepstrata.schemas.formats import Patches
from deepstrata.schemas.keys import Key
from deepstrata.storage.formats.patches import open_patches
from tests.benchmarks import measuring
from tests.benchmarks.measuring import Work, timed

MODEL = PSD(atoms=144, penalty=2.0)
OPTIMISER = SGD(learning_rate=0.01, momentum=0.9)
BATCH, EPOCHS, REPEATS = 500, 5, 5
STEPS = (20, 100)

Rows = npt.NDArray[np.float32]
Method = Callable[[Rows], Rows]


def patches() -> Rows:
    """Return patches of both photographs, mixed."""
    count, blocks = Patches().patches, open_patches(None, None).blocks
    assert blocks is not None
    (found,) = blocks(count)
    x = found["image"].reshape(count, -1)
    return np.ascontiguousarray(x[np.random.default_rng(0).permutation(count)], np.float32)


def trained(x: Rows, epochs: int) -> PSDParams:
    """Return the parameters after some epochs."""
    params: PSDParams = models.init(MODEL, x.shape[1], Key(0))
    state, rates = optimisers.init(OPTIMISER, params), optimisers.rates(OPTIMISER, 0)
    for epoch in range(epochs):
        batch, key = Batch(np.arange(len(x)), x), Key(epoch)
        params, state, *_ = local_steps(MODEL, OPTIMISER, rates, params, state, (), batch, 100, key)
    return params


def methods(params: PSDParams) -> dict[str, Method]:
    """Return what makes codes (N, A) of samples (N, V)."""
    from sklearn.decomposition import sparse_encode

    atoms = params.dictionary

    def fista(x: Rows, steps: int) -> Rows:
        start = np.zeros((len(x), len(atoms)), np.float32)
        found: Rows = sparse_coding.infer(
            sparse_coding.dense(atoms), x, start, MODEL.penalty, steps
        )
        return found

    def descent(x: Rows) -> Rows:
        """In float64: in float32 it does not meet its own criterion."""
        exact = x.astype(np.float64), atoms.astype(np.float64)
        found: Rows = sparse_encode(*exact, algorithm="lasso_cd", alpha=MODEL.penalty / 2)
        return found

    made: dict[str, Method] = {"prediction": lambda x: psd.encode(MODEL, params, x)}
    for n in STEPS:
        made[f"FISTA, {n} steps"] = lambda x, n=n: fista(x, n)  # type: ignore[misc]
        made[f"line searches, {n} steps"] = lambda x, n=n: sparse_coding.line_search(  # type: ignore[misc]
            atoms, x, MODEL.penalty, n
        )
    return made | {"scikit-learn, coordinate descent": descent}


def products(x: Rows, atoms: Rows, steps: int) -> Work:
    """The products of FISTA alone: one with the Gram matrix a step. Returns examples."""
    gram, z = atoms @ atoms.T, np.zeros((BATCH, len(atoms)), np.float32)
    out = np.empty_like(z)

    def go() -> float:
        for _ in range(0, len(x), BATCH):
            for _ in range(steps):
                np.matmul(z, gram, out=out)
        return len(x)

    return go


def work(method: Method, x: Rows) -> Work:
    """Encode all samples, a batch at a time. Returns examples."""

    def go() -> float:
        for start in range(0, len(x), BATCH):
            method(x[start : start + BATCH])
        return len(x)

    return go


def energy(atoms: Rows, x: Rows, z: Rows) -> float:
    """Return what codes leave to minimise."""
    return float(((x - z @ atoms) ** 2).sum() + MODEL.penalty * np.abs(z).sum())


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    given = measuring.parser(__doc__, REPEATS).parse_args(argv)
    measuring.begin(f"Codes of 12 x 12 patches, {MODEL.atoms} atoms, batch {BATCH}")
    x = patches()
    params = trained(x[BATCH:], 1 if given.quick else EPOCHS)
    x = x[:BATCH] if given.quick else x[: 8 * BATCH]
    found = methods(params)
    contenders = {name: timed(work(method, x)) for name, method in found.items()}
    name = f"products of {STEPS[0]} steps"
    contenders[name] = timed(products(x, params.dictionary, STEPS[0]))
    measuring.interleaved(contenders, 1)
    rates = measuring.interleaved(contenders, measuring.repeats(given, REPEATS))
    measuring.show_rates("codes/s", rates)
    pairs = [("prediction", other) for other in found if other != "prediction"]
    measuring.show_ratios(rates, [*pairs, (f"FISTA, {STEPS[0]} steps", name)])
    reached = {n: energy(params.dictionary, x[:BATCH], m(x[:BATCH])) for n, m in found.items()}
    least = min(reached.values())
    measuring.show(("energy", "of the least"), [(n, e / least) for n, e in reached.items()])
    measuring.end()


if __name__ == "__main__":
    main()
