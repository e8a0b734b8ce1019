"""Measures of what a network gives: sums over samples that add up, and what they come to.

Where samples have weights, every sum is a weighted one, and ``n`` the sum of the weights. Sums
are numbers, of which a mean per sample is made, or arrays of what a measure follows from.

Letters: N samples, K outputs or classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from deepstrata.ops import losses
from deepstrata.ops.backend import namespace, to_numpy
from deepstrata.schemas.trees import Array

Numbers = npt.NDArray[Any]


def classification(logits: Array, labels: Array, weights: Array | None = None) -> dict[str, Any]:
    """Return sums over the samples: ``loss``, ``errors``, ``confusion`` and ``n``.

    Parameters
    ----------
    logits
        (N, K).
    labels
        (N,) int64 in [0, K): see ``labelled.check_labels``.
    weights
        (N,), each 1 by default.

    Returns
    -------
    dict
        ``confusion`` is (K, K), true classes down, predicted across; it counts samples.
    """
    stats = losses.categorical(logits, labels, weights).stats
    classes, labels = logits.shape[1], to_numpy(labels)
    predicted = to_numpy(namespace(logits).argmax(logits, axis=1))
    confusion = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return {
        "loss": float(stats["loss"]),
        "errors": int(stats["errors"]) if weights is None else float(stats["errors"]),
        "confusion": confusion.astype(np.int64).reshape(classes, classes),
        "n": len(labels) if weights is None else _sum(weights),
    }


def regression(y: Array, targets: Array, weights: Array | None = None) -> dict[str, Any]:
    """Return sums over the samples: ``loss``, ``squared_error``, ``r2`` and ``n``.

    Parameters
    ----------
    y, targets
        (N, K); a target that is NaN is absent.
    weights
        (N,), each 1 by default.

    Returns
    -------
    dict
        ``r2`` is (4, K): of each output the sums of the weights, of the targets, of their squares,
        and of the squared residuals.
    """
    stats = losses.squared_error(y, targets, weights).stats
    t, residuals = to_numpy(targets).astype(np.float64), to_numpy(y - targets).astype(np.float64)
    w = np.where(np.isnan(t), 0.0, _column(weights, len(t)))
    t, residuals = np.nan_to_num(t), np.where(w > 0.0, residuals, 0.0)
    sums = [(w * column).sum(axis=0) for column in (np.ones_like(t), t, t**2, residuals**2)]
    found = {name: float(value) for name, value in stats.items()}
    return {**found, "r2": np.stack(sums), "n": len(t) if weights is None else _sum(weights)}


def labelling(logits: Array, targets: Array, weights: Array | None = None) -> dict[str, Any]:
    """Return sums over the samples: ``loss``, ``errors``, ``hamming_loss`` and ``n``.

    Parameters
    ----------
    logits, targets
        (N, K); a target in [0, 1], or NaN where it is absent.
    weights
        (N,), each 1 by default.

    Returns
    -------
    dict
        ``errors`` counts samples with a wrong label; ``hamming_loss`` is (2,): labels that are
        wrong, and labels.
    """
    stats = losses.cross_entropy(logits, targets, weights).stats
    wrong, t = to_numpy(losses.is_wrong(logits, targets)), to_numpy(targets)
    w = _column(weights, len(t))
    found = {name: float(value) for name, value in stats.items()}
    labels = np.array([(w * wrong).sum(), (w * ~np.isnan(t)).sum()])
    return {**found, "hamming_loss": labels, "n": len(t) if weights is None else _sum(weights)}


#: By the names of ``losses.LOSSES``: what measures outputs, of cross-entropies logits.
MEASURES: dict[str, Callable[[Array, Array, Array | None], dict[str, Any]]] = {
    "categorical": classification,
    "squared_error": regression,
    "cross_entropy": labelling,
}

RATES = {"errors": "error"}


def means(sums: Mapping[str, Any], n: float) -> dict[str, float]:
    """Return what sums over ``n`` samples come to: means, rates, and measures of their own.

    Nothing where ``n`` is 0; tables such as ``confusion`` are left out.
    """
    if not n:
        return {}
    found = {name: DERIVED[name](value) for name, value in sums.items() if name in DERIVED}
    return found | {
        RATES.get(name, name): float(value) / n
        for name, value in sums.items()
        if name != "n" and getattr(value, "ndim", 0) == 0
    }


def r2(sums: Numbers) -> float:
    """Return the coefficient of determination, the mean over outputs: ``r2_score`` of scikit-learn.

    An output whose targets are all the same counts 1 where it is right and 0 otherwise; one
    without targets is left out.
    """
    n, total, squares, residuals = sums[:, sums[0] > 0.0]
    spread = squares - total**2 / n
    # What is left of equal numbers is the rounding of their sums.
    varies = spread > 8.0 * np.finfo(np.float64).eps * squares
    share = residuals / np.where(varies, spread, 1.0)
    return float(np.mean(np.where(varies, 1.0 - share, residuals == 0.0)))


#: What arrays of sums come to, by their name.
DERIVED: dict[str, Callable[[Numbers], float]] = {
    "r2": r2,
    "hamming_loss": lambda sums: float(sums[0] / sums[1]),
}


def _sum(weights: Array) -> float:
    return float(np.sum(to_numpy(weights), dtype=np.float64))


def _column(weights: Array | None, n: int) -> Numbers:
    found = np.ones(n) if weights is None else to_numpy(weights).astype(np.float64)
    return found.reshape(-1, 1)
