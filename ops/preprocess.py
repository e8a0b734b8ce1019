"""Preprocessing: flatten, scale and standardise features, without leaving float32.

Letters: N samples, V features.
"""

import math

from deepstrata.ops.backend import Namespace, namespace
from deepstrata.schemas.trees import Array


def flatten(x: Array) -> Array:
    """Return (N, ...) as (N, V), a view where the memory allows."""
    return namespace(x).reshape(x, (x.shape[0], math.prod(x.shape[1:])))


def _split(xp: Namespace, value: Array | float) -> tuple[Array, Array]:
    """Return two float32 arrays whose sum is ``value`` to float64's first 48 bits."""
    exact = xp.asarray(value, dtype=xp.float64)
    high = xp.astype(exact, xp.float32)
    return high, xp.astype(exact - xp.astype(high, xp.float64), xp.float32)


def _affine(x: Array, offset: Array | float, spread: Array | float) -> Array:
    """Return ``(x - offset) / spread`` in float32; the offset may be far above the spread."""
    xp = namespace(x)
    if x.dtype in (xp.float64, xp.int32, xp.int64, xp.uint32, xp.uint64):
        shifted = xp.astype(x, xp.float64) - xp.asarray(offset, dtype=xp.float64)
        return xp.astype(shifted / xp.asarray(spread, dtype=xp.float64), xp.float32)
    high, low = _split(xp, offset)
    shifted = (xp.astype(x, xp.float32) - high) - low
    return shifted / xp.astype(xp.asarray(spread, dtype=xp.float64), xp.float32)


def scale(x: Array, minimum: Array | float, maximum: Array | float) -> Array:
    """Return ``(x - minimum) / (maximum - minimum)``; 0 where both are equal and so is ``x``.

    Parameters
    ----------
    x
        (N, V) of any real dtype.
    minimum, maximum
        () or (V,).

    Returns
    -------
    (N, V) float32
    """
    xp = namespace(x)
    low, high = (xp.asarray(value, dtype=xp.float64) for value in (minimum, maximum))
    return _affine(x, low, xp.where(high > low, high - low, xp.ones_like(high - low)))


def standardise(x: Array, mean: Array | float, std: Array | float, epsilon: float) -> Array:
    """Return ``(x - mean) / (std + epsilon)``.

    Parameters
    ----------
    x
        (N, V) of any real dtype.
    mean, std
        () or (V,).

    Returns
    -------
    (N, V) float32
    """
    return _affine(x, mean, namespace(x).asarray(std) + epsilon)
