"""Fully connected layers: forward, gradient, activations, and the loss of classes.

Rumelhart, Hinton, Williams (1986). Letters: N samples, I inputs, O outputs, K classes.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from deepstrata.ops.backend import add_product, namespace, product, store, to_numpy
from deepstrata.ops.kernels import logistic_chain, relu, relu_chain, sigmoid
from deepstrata.ops.partials import Into, put
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.trees import Array


class DenseParams(NamedTuple):
    """The parameters of a layer."""

    weights: Array
    """(I, O)"""
    bias: Array
    """(O,)"""


class BiasParams(NamedTuple):
    """The parameters of a layer that uses another layer's weights."""

    bias: Array
    """(O,)"""


Overwrite = Callable[[Array, Array], Array]


A, B = 1.7159, 2.0 / 3.0  #: of the scaled tanh (LeCun et al. 1998)


def _tanh(x: Array, bias: Array) -> Array:
    x += bias
    return store(namespace(x).tanh(x), x)


def _scaled_tanh(x: Array, bias: Array) -> Array:
    x += bias
    x *= B
    store(namespace(x).tanh(x), x)
    x *= A
    return x


def _softplus(x: Array, bias: Array) -> Array:
    x += bias
    xp = namespace(x)
    return store(xp.logaddexp(x, xp.zeros_like(x)), x)


def _linear(x: Array, bias: Array) -> Array:
    x += bias
    return x


def _tanh_chain(delta: Array, h: Array) -> Array:
    delta *= 1.0 - h * h
    return delta


def _scaled_tanh_chain(delta: Array, h: Array) -> Array:
    delta *= A * B - h * h * (B / A)
    return delta


def _softplus_chain(delta: Array, h: Array) -> Array:
    delta *= -namespace(h).expm1(-h)
    return delta


#: For each activation: what makes outputs of weighted inputs and a bias, and the chain rule from
#: derivatives by the outputs to derivatives by the weighted inputs. Both overwrite their first
#: argument.
ACTIVATIONS: dict[str, tuple[Overwrite, Overwrite]] = {
    "logistic": (
        lambda x, bias: sigmoid(x, bias, out=x),
        lambda delta, h: logistic_chain(delta, h, out=delta),
    ),
    "tanh": (_tanh, _tanh_chain),
    "scaled_tanh": (_scaled_tanh, _scaled_tanh_chain),
    "softplus": (_softplus, _softplus_chain),
    "relu": (
        lambda x, bias: relu(x, bias, out=x),
        lambda delta, h: relu_chain(delta, h, out=delta),
    ),
    "linear": (_linear, lambda delta, h: delta),
}


def activate(activation: str, y: Array, bias: Array) -> Array:
    """Overwrite weighted inputs (N, ..., O) with the outputs; ``bias`` is (O,) or (..., O)."""
    xp, units = namespace(y), math.prod(bias.shape)
    rows = xp.reshape(y, (math.prod(y.shape) // units, units))
    rows = ACTIVATIONS[activation][0](rows, xp.reshape(bias, (units,)))
    return xp.reshape(rows, y.shape)


def chain(activation: str, delta: Array, y: Array) -> Array:
    """Overwrite derivatives by outputs (N, ..., O) with those by the weighted inputs."""
    xp = namespace(y)
    flat = xp.reshape(delta, (-1, y.shape[-1])), xp.reshape(y, (-1, y.shape[-1]))
    return xp.reshape(ACTIVATIONS[activation][1](*flat), y.shape)


def bias_gradient(delta: Array) -> Array:
    """Return the sum (O,) of derivatives (N, ..., O) over samples, and places that share a bias."""
    xp = namespace(delta)
    return xp.sum(xp.reshape(delta, (-1, delta.shape[-1])), axis=0)


def forward(activation: str, params: DenseParams, x: Array, out: Array | None = None) -> Array:
    """Return the outputs of a layer: (N, I) -> (N, O), into ``out`` where given."""
    return ACTIVATIONS[activation][0](product(x, params.weights, out), params.bias)


def gradient(x: Array, delta: Array, out: Into | None = None) -> DenseParams:
    """Return a layer's gradient, summed over samples, from inputs (N, I) and deltas (N, O)."""
    bias = namespace(x).sum(delta, axis=0)
    if out is None:
        return DenseParams(product(x.T, delta), bias)
    weights = add_product(x, delta, out.tree.weights, out.scale, out.keep)
    return DenseParams(weights, put(bias, out.tree.bias, out))


def softmax(logits: Array) -> Array:
    """Return probabilities (N, K) that are proportional to ``exp(logits)``."""
    xp = namespace(logits)
    powers = xp.exp(logits - xp.max(logits, axis=1, keepdims=True))
    return powers / xp.sum(powers, axis=1, keepdims=True)


class Loss(NamedTuple):
    """A loss summed over samples, and where it pulls."""

    total: Array | float
    """Sum over the samples, in float64."""
    delta: Array
    """(N, O) derivatives of the sum by the layer's weighted inputs."""
    errors: Array | int
    """Samples whose likeliest class is not their label; 0 where there are no classes."""


def cross_entropy(logits: Array, labels: Array) -> Loss:
    """Return minus the log-probability of the labels under a softmax.

    Parameters
    ----------
    logits
        (N, K).
    labels
        (N,) int64 in [0, K): see ``check_labels``.
    """
    xp = namespace(logits)
    labels = xp.reshape(xp.asarray(labels), (-1, 1))
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    powers = xp.exp(shifted)
    sums = xp.sum(powers, axis=1, keepdims=True)
    is_label = xp.astype(labels == xp.reshape(xp.arange(logits.shape[1]), (1, -1)), logits.dtype)
    losses = xp.log(sums) - xp.sum(shifted * is_label, axis=1, keepdims=True)
    wrong = xp.argmax(logits, axis=1) != labels[:, 0]
    total = xp.sum(xp.astype(losses, xp.float64))
    return Loss(total, powers / sums - is_label, xp.sum(xp.astype(wrong, xp.int64)))


def classification(logits: Array, labels: Array) -> dict[str, Any]:
    """Return ``loss``, ``errors``, ``confusion`` (K, K) and ``n``, summed over the samples.

    Parameters
    ----------
    logits
        (N, K).
    labels
        (N,) int64 in [0, K): see ``check_labels``.
    """
    loss, classes, labels = cross_entropy(logits, labels), logits.shape[1], to_numpy(labels)
    predicted = to_numpy(namespace(logits).argmax(logits, axis=1))
    confusion = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return {
        "loss": float(loss.total),
        "errors": int(loss.errors),
        "confusion": confusion.astype(np.int64).reshape(classes, classes),
        "n": len(labels),
    }


def check_labels(labels: Array | None, rows: Array, classes: int) -> Array:
    """Return ``labels``, (N,) int64 in NumPy, if they are all in [0, classes).

    Raises
    ------
    DataError
        There are none, or one is out of range; the message names its value and row.
    """
    if labels is None:
        raise DataError("the model learns classes, and the source names no labels variable")
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        first = outside[0]
        raise DataError(
            f"label {labels[first]} at row {rows[first]}: expected 0 to {classes - 1} for "
            f"{classes} classes ({len(outside)} labels are out of range in this batch)"
        )
    return labels
