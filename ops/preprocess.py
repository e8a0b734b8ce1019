"""Preprocessing: flatten, shift and scale features, without leaving float32.

Letters: N samples, V features.
"""

import math
from typing import NamedTuple

import numpy as np

from deepstrata.ops import compiled
from deepstrata.ops.backend import Namespace, namespace
from deepstrata.schemas.trees import Array

SMALL = ("uint8", "int8", "uint16", "int16")  #: types that float32 holds without rounding


class Affine(NamedTuple):
    """``(x - shift) / divisor``, each () or (V,): float32."""

    shift: Array
    divisor: Array


def is_small(x: Array) -> bool:
    """Tell whether ``x`` holds integers of one or two bytes."""
    return str(x.dtype).rpartition(".")[2] in SMALL


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
    if isinstance(x, np.ndarray) and is_small(x) and x.ndim == 2 and x.flags.c_contiguous:
        out = np.empty(x.shape, np.float32)
        high, low, divisor = (
            np.broadcast_to(part, x.shape[1:]).astype(np.float32) for part in (high, low, spread)
        )
        compiled.affine(x, high, low, divisor, out)
        return out
    shifted = (xp.astype(x, xp.float32) - high) - low
    return shifted / xp.astype(xp.asarray(spread, dtype=xp.float64), xp.float32)


def undo(affines: tuple[Affine, ...], x: Array) -> Array:
    """Return what ``apply`` made ``x`` of, (N, V) float32, but for rounding."""
    xp = namespace(x)
    for affine in reversed(affines):
        shift, divisor = (xp.asarray(part, dtype=xp.float64) for part in affine)
        x = xp.astype(x, xp.float64) * divisor + shift
    return xp.astype(x, xp.float32)


def apply(affines: tuple[Affine, ...], x: Array) -> Array:
    """Return ``x`` as float32, changed by each of ``affines`` in turn.

    Parameters
    ----------
    x
        (N, V) of any real dtype.
    """
    for affine in affines:
        x = _affine(x, affine.shift, affine.divisor)
    xp = namespace(x)
    return x if x.dtype == xp.float32 else xp.astype(x, xp.float32)
