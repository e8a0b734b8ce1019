"""What is lost between what a network gives and what was wanted, summed over samples.

Of outputs ``y`` and targets ``t`` a sample loses ``sum_k (y_k - t_k)**2 / 2`` (squared error); of
logits ``y`` and targets in [0, 1] ``sum_k log(1 + exp(y_k)) - t_k y_k`` (cross-entropy), k over
the targets that are present; of logits and a label ``-log softmax(y)_label`` (categorical
cross-entropy). Bishop (2006), "Pattern Recognition and Machine Learning", 5.2.

The loss is ``sum_i w_i l_i`` with ``w`` the weights of samples, 1 by default. Whoever wants a mean
divides by the sum of the weights (``partials.weight_of``): so a weight of 2 is a sample twice, one
of 0 a sample left out, and weights that are all alike change nothing.

Letters: N samples, K outputs or classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device

from deepstrata.ops import compiled
from deepstrata.ops.backend import is_fast, namespace
from deepstrata.ops.kernels import sigmoid
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.trees import Array


class Loss(NamedTuple):
    """A loss summed over samples, and where it pulls."""

    delta: Array
    """(N, K) derivatives of the sum by what the network gives, of cross-entropies by logits."""
    stats: dict[str, Any]
    """Sums over the samples in float64: ``loss``; ``errors`` where it tells classes or labels
    apart, samples with a wrong one; ``squared_error`` otherwise."""


def categorical(logits: Array, labels: Array, weights: Array | None = None) -> Loss:
    """Return minus the log-probability of the labels under a softmax.

    Parameters
    ----------
    logits
        (N, K).
    labels
        (N,) int64 in [0, K): see ``labelled.check_labels``.
    weights
        (N,), each 1 by default.
    """
    xp = namespace(logits)
    labels = xp.reshape(xp.asarray(labels), (-1, 1))
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    powers = xp.exp(shifted)
    sums = xp.sum(powers, axis=1, keepdims=True)
    is_label = xp.astype(labels == xp.reshape(xp.arange(logits.shape[1]), (1, -1)), logits.dtype)
    losses = xp.log(sums) - xp.sum(shifted * is_label, axis=1, keepdims=True)
    wrong = xp.argmax(logits, axis=1) != labels[:, 0]
    delta = powers / sums - is_label
    if weights is None:
        total = xp.sum(xp.astype(losses, xp.float64))
        return Loss(delta, {"loss": total, "errors": xp.sum(xp.astype(wrong, xp.int64))})
    weights = _like(weights, logits)
    return Loss(
        delta * xp.reshape(weights, (-1, 1)),
        {"loss": _summed(losses[:, 0], weights), "errors": _summed(wrong, weights)},
    )


def squared_error(y: Array, targets: Array, weights: Array | None = None) -> Loss:
    """Return half the squared error.

    Parameters
    ----------
    y, targets
        (N, K) of one dtype; a target that is NaN is absent, and nothing is lost there.
    weights
        (N,), each 1 by default.
    """
    weights = _weights(weights, y)
    if is_fast(y, targets, weights):
        delta = np.empty_like(y)
        total = compiled.squared_loss(y, targets, weights, delta)
    else:
        xp = namespace(y)
        delta = _present(y - targets, targets)
        total = 0.5 * _summed(xp.sum(xp.astype(delta, xp.float64) ** 2, axis=1), weights)
        delta = delta * xp.reshape(weights, (-1, 1))
    return Loss(delta, {"loss": total, "squared_error": 2.0 * total})


def cross_entropy(logits: Array, targets: Array, weights: Array | None = None) -> Loss:
    """Return the cross-entropy of targets in [0, 1] and logistic units.

    A sample is one of the ``errors`` where any of its units is on the other side of 1/2.

    Parameters
    ----------
    logits, targets
        (N, K) of one dtype; a target that is NaN is absent, and nothing is lost there.
    weights
        (N,), each 1 by default.
    """
    weights = _weights(weights, logits)
    if is_fast(logits, targets, weights):
        delta = np.empty_like(logits)
        loss, errors = compiled.logistic_loss(logits, targets, weights, delta)
        return Loss(delta, {"loss": loss, "errors": errors})
    xp = namespace(logits)
    no_bias = xp.zeros((logits.shape[1],), dtype=logits.dtype, device=device(logits))
    delta = _present(sigmoid(logits, no_bias) - targets, targets)
    z, t = xp.astype(logits, xp.float64), xp.astype(targets, xp.float64)
    losses = xp.clip(z, 0.0, None) - z * t + xp.log1p(xp.exp(-xp.abs(z)))
    wrong = xp.any(is_wrong(logits, targets), axis=1)
    sums = {
        "loss": _summed(xp.sum(_present(losses, targets), axis=1), weights),
        "errors": _summed(wrong, weights),
    }
    return Loss(delta * xp.reshape(weights, (-1, 1)), sums)


#: What compares outputs, of cross-entropies logits, with labels or targets and weights.
LOSSES: dict[str, Callable[[Array, Array, Array | None], Loss]] = {
    "categorical": categorical,
    "squared_error": squared_error,
    "cross_entropy": cross_entropy,
}


def is_wrong(logits: Array, targets: Array) -> Array:
    """Tell which units (N, K) are on another side of 1/2 than a target that is present."""
    xp = namespace(logits)
    return ((logits > 0.0) != (targets > 0.5)) & ~xp.isnan(targets)


def check_targets(targets: Array | None, outputs: int) -> Array:
    """Return ``targets``, (N, K), if there is one for each of the outputs.

    Raises
    ------
    DataError
        There are none, or another number.
    """
    if targets is None:
        raise DataError("the network learns targets, and the source names no targets variable")
    if targets.shape[1] != outputs:
        raise DataError(
            f"expected {outputs} targets a sample, one for each output of the network's last "
            f"layer, found {targets.shape[1]}"
        )
    return targets


def _like(weights: Array, x: Array) -> Array:
    return namespace(x).asarray(weights, dtype=x.dtype, device=device(x))


def _weights(weights: Array | None, x: Array) -> Array:
    if weights is None:
        return namespace(x).ones((x.shape[0],), dtype=x.dtype, device=device(x))
    return _like(weights, x)


def _present(values: Array, targets: Array) -> Array:
    """Return values (N, K) with zeros where a target is absent."""
    xp = namespace(values)
    return xp.where(xp.isnan(targets), xp.zeros_like(values), values)


def _summed(values: Array, weights: Array) -> Any:
    """Return the weighted sum of values (N,) in float64."""
    xp = namespace(weights)
    return xp.sum(xp.astype(values, xp.float64) * xp.astype(weights, xp.float64))
