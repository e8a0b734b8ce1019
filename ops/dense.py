"""Fully connected layers: forward, gradient, activations.

Rumelhart, Hinton, Williams (1986). Letters: N samples, I inputs, O outputs, K classes.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from deepstrata.ops.backend import add_product, namespace, product, store
from deepstrata.ops.kernels import logistic_chain, relu, relu_chain, sigmoid
from deepstrata.ops.partials import Into, put
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
