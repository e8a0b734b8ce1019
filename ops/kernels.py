"""Elementwise chains of the hot loops: compiled for float32 NumPy arrays, an oracle for the rest.

The float32 sigmoid is made of correctly rounded operations only (add, multiply, divide, and
powers of two), so every library and device gives the same bits. Its relative error is below
1.4e-7.

Letters: N samples, U units.
"""

import math

import numpy as np

from deepstrata.ops import compiled, random
from deepstrata.ops import constants as c
from deepstrata.ops.backend import Namespace, is_fast, namespace, store
from deepstrata.schemas.keys import Key
from deepstrata.schemas.trees import Array

POWERS_OF_TWO = [math.ldexp(1.0, n) for n in range(-126, 127)]


def sigmoid_oracle(xp: Namespace, x: Array) -> Array:
    """``1 / (1 + exp(-x))`` in array API operations, for float32 those of the compiled kernel."""
    if x.dtype != xp.float32:
        return 1.0 / (1.0 + xp.exp(-x))
    y = xp.clip(-x, -c.LIMIT, c.LIMIT)
    n = (y * c.LOG2E + c.ROUNDER) - c.ROUNDER
    r = (y - n * c.LN2_HIGH) - n * c.LN2_LOW
    p = r * c.EXP[0] + c.EXP[1]
    for coefficient in c.EXP[2:]:
        p = p * r + coefficient
    p = (p * (r * r) + r) + 1.0
    powers = xp.asarray(POWERS_OF_TWO, dtype=xp.float32)
    whole = xp.where(xp.isnan(n), xp.zeros_like(n), n)
    index = xp.reshape(xp.astype(whole, xp.int64) + 126, (-1,))
    return 1.0 / (1.0 + p * xp.reshape(xp.take(powers, index, axis=0), x.shape))


def _copied(x: Array, out: Array | None) -> Array:
    """Return ``x`` itself where it is ``out``, else its copy, in ``out`` where given."""
    if out is None:
        return x.copy()
    if out is not x:
        np.copyto(out, x)
    return out


def sigmoid(x: Array, bias: Array, out: Array | None = None) -> Array:
    """Return ``1 / (1 + exp(-(x + bias)))``.

    Parameters
    ----------
    x
        (N, U) sums of weighted inputs.
    bias
        (U,).
    out
        (N, U), overwritten and returned where given; may be ``x``.
    """
    if is_fast(x, bias) and (out is None or is_fast(out)):
        out = _copied(x, out)
        compiled.sigmoid(out, bias)
        return out
    xp = namespace(x)
    return store(sigmoid_oracle(xp, x + bias), out)


def sigmoid_sample(
    x: Array,
    bias: Array,
    key: Key,
    rows: Array,
    draw: int = 0,
    *,
    first_unit: int = 0,
    mean: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """Return ``p = sigmoid(x + bias)``, and units that are 1 with probability ``p``, else 0.

    Parameters
    ----------
    x
        (N, U) sums of weighted inputs.
    bias
        (U,).
    rows
        (N,) int64 global rows; with ``key``, ``draw`` and the unit they address the numbers.
    first_unit
        The unit of the first column: a multiple of 64.
    mean, out
        (N, U), overwritten and returned where given; ``mean`` may be ``x``.

    Returns
    -------
    (N, U) probabilities and (N, U) states
    """
    if is_fast(x, bias) and all(o is None or is_fast(o) for o in (mean, out)):
        mean = _copied(x, mean)
        out = np.empty_like(x) if out is None else out
        rows, tile = random.checked(rows, draw, first_unit)
        compiled.sigmoid_sample(mean, bias, rows, np.uint64(key.seed), draw, tile, out)
        return mean, out
    mean = store(sigmoid_oracle(namespace(x), x + bias), mean)
    return mean, store(random.bernoulli(key, mean, rows, draw, first_unit), out)


def logistic_chain(delta: Array, h: Array, out: Array | None = None) -> Array:
    """Return ``delta * h * (1 - h)``: the chain rule through ``h = sigmoid(...)``.

    Parameters
    ----------
    delta
        (N, U) derivatives by ``h``.
    out
        (N, U), overwritten and returned where given; may be ``delta``.
    """
    if is_fast(delta, h) and (out is None or is_fast(out)):
        out = _copied(delta, out)
        compiled.logistic_chain(out.reshape(-1), h.reshape(-1))
        return out
    return store(delta * (h * (1.0 - h)), out)


def relu(x: Array, bias: Array, out: Array | None = None) -> Array:
    """Return ``max(x + bias, 0)``; arguments as for ``sigmoid``."""
    if is_fast(x, bias) and (out is None or is_fast(out)):
        out = _copied(x, out)
        compiled.relu(out, bias)
        return out
    return store(namespace(x).clip(x + bias, 0.0, None), out)


def relu_chain(delta: Array, h: Array, out: Array | None = None) -> Array:
    """Return ``delta`` where ``h > 0``, else 0; arguments as for ``logistic_chain``."""
    if is_fast(delta, h) and (out is None or is_fast(out)):
        out = _copied(delta, out)
        compiled.relu_chain(out.reshape(-1), h.reshape(-1))
        return out
    xp = namespace(h)
    return store(xp.where(h > 0.0, delta, xp.zeros_like(delta)), out)


def soft_threshold(x: Array, threshold: float | Array) -> Array:
    """Return ``x`` moved towards zero by ``threshold``, and no further than to it."""
    return x - namespace(x).clip(x, -threshold, threshold)


def shrink(u: Array, offset: Array, z: Array, threshold: float, momentum: float) -> None:
    """Make the second half of a step of FISTA, overwriting ``u`` and ``z``.

    ``s = soft_threshold(u + offset)``, ``u = s + momentum * (s - z)``, ``z = s``.

    Parameters
    ----------
    u, offset, z
        Of one shape.
    """
    if is_fast(u, offset, z):
        numbers = np.float32(threshold), np.float32(momentum)
        compiled.shrink(u.reshape(-1), offset.reshape(-1), z.reshape(-1), *numbers)
        return
    new = soft_threshold(u + offset, threshold)
    u[...] = new + momentum * (new - z)
    z[...] = new


def squared_error(x: Array, y: Array) -> Array | float:
    """Return the sum of ``(x - y)**2`` over all elements, in float64."""
    if is_fast(x, y):
        return compiled.squared_error(x.reshape(-1), y.reshape(-1))
    xp = namespace(x)
    difference = xp.astype(x - y, xp.float64)
    return xp.sum(difference * difference)
