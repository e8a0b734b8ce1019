"""Linear support vector machines, as scikit-learn's LinearSVC trains them.

The solution lies in the span of the samples, and it depends on their products alone. Where there
are more features than samples they are therefore first written in an orthonormal basis of their
span, in which they are short: the same distances, so the same machine, in a fraction of the time.

Letters: N samples, D features, R rank, K rows of weights (1 for two classes, else one each).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepstrata.schemas.errors import DataError
from deepstrata.schemas.keys import Key

BLOCK = 1024  #: features whose products are summed in float64 at once
SMALLEST = 1e-10  #: share of the largest variance below which a direction is rounding


class LinearSVM(NamedTuple):
    """A trained classifier."""

    weights: npt.NDArray[np.float32]
    """(K, D)."""
    bias: npt.NDArray[np.float64]
    """(K,)."""
    classes: npt.NDArray[np.int64]
    """Numbers of the classes, rising."""
    cost: float
    """Weight of the errors that was chosen."""
    error: float
    """Of the cross-validation with that cost."""


def in_span(x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Write samples in an orthonormal basis of their span.

    Returns
    -------
    short
        (N, R) coordinates: ``short @ short.T`` is ``x @ x.T``.
    back
        (N, R): the basis is ``x.T @ back``.
    """
    products = np.zeros((len(x), len(x)))
    for start in range(0, x.shape[1], BLOCK):
        block = x[:, start : start + BLOCK].astype(np.float64)
        products += block @ block.T
    variances, directions = np.linalg.eigh(products)
    kept = variances > SMALLEST * variances[-1]
    lengths = np.sqrt(variances[kept])
    return directions[:, kept] * lengths, directions[:, kept] / lengths


def train(
    x: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    costs: Sequence[float],
    folds: int,
    key: Key,
) -> LinearSVM:
    """Train a machine with the cost that errs least in cross-validation; of equals the first.

    Parameters
    ----------
    x
        (N, D).
    labels
        (N,) class numbers.
    costs
        Weights of the errors to choose from.
    folds
        Parts of the cross-validation, with the classes in the same shares, drawn by ``key``.

    Raises
    ------
    DataError
        There is one class only, or a class has fewer samples than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold
    from sklearn.svm import LinearSVC

    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or counts.min() < folds:
        there = ", ".join(f"{n} of class {c}" for c, n in zip(classes, counts, strict=True))
        raise DataError(f"expected two classes or more with {folds} samples each, found {there}")
    short, back = in_span(x) if x.shape[1] > len(x) else (x.astype(np.float64), None)
    parts = StratifiedKFold(folds, shuffle=True, random_state=key.seed % 2**32)
    splits = list(parts.split(short, labels))

    def wrong(cost: float) -> int:
        machines = (LinearSVC(C=cost, dual=False).fit(short[a], labels[a]) for a, _ in splits)
        pairs = zip(machines, splits, strict=True)
        return sum(int((m.predict(short[b]) != labels[b]).sum()) for m, (_, b) in pairs)

    errors = [wrong(cost) for cost in costs]
    cost = costs[int(np.argmin(errors))]
    best = LinearSVC(C=cost, dual=False).fit(short, labels)
    weights = best.coef_.astype(np.float32)
    if back is not None:
        weights = (back @ best.coef_.T).astype(np.float32).T @ x
    return LinearSVM(
        weights=weights,
        bias=best.intercept_,
        classes=classes.astype(np.int64),
        cost=np.float64(cost),
        error=np.float64(min(errors) / len(labels)),
    )


def square_roots(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the square root of each number, with its sign: (N, D) -> (N, D).

    Perronnin, Sanchez, Mensink (2010): a few large numbers no longer outweigh all others.
    """
    return np.copysign(np.sqrt(np.abs(x)), x)


def classify(machine: LinearSVM, x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the classes of samples: (N, D) -> (N,)."""
    scores = x @ machine.weights.T + machine.bias
    two = len(machine.classes) == 2
    places = (scores[:, 0] > 0).astype(np.int64) if two else scores.argmax(axis=1)
    found: npt.NDArray[np.int64] = machine.classes[places]
    return found
