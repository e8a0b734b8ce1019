"""Pooling over windows: mean, maximum and root of squares; forward and backward.

Jarrett, Kavukcuoglu, Ranzato, LeCun (2009); Le et al. (2012) for the root of squares. Windows lie
as ``windows.output_shape`` says: only whole ones count, and what is left over at the end of a
dimension is neither read nor given a gradient. Windows may overlap. All sums run over taps in C
order.

Letters: N samples, C channels.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from deepstrata.ops import compiled_spatial as loops
from deepstrata.ops import windows
from deepstrata.ops.backend import Namespace, is_fast, namespace, store
from deepstrata.ops.windows import Geometry, Shape
from deepstrata.schemas.trees import Array


class Pool(NamedTuple):
    """Windows of a pooling; of each spatial dimension one number."""

    size: Shape
    stride: Shape

    @property
    def geometry(self) -> Geometry:
        """The windows as those of a convolution without padding."""
        dims = len(self.size)
        return Geometry(self.size, self.stride, ((0, 0),) * dims, (1,) * dims)

    @property
    def taps(self) -> int:
        """Values in a window."""
        return math.prod(self.size)


class Maximum(NamedTuple):
    """Maxima, and where they were."""

    y: Array
    """(N, *output, C)"""
    where: Array
    """(N, *output, C) unsigned: the number, in C order, of the first tap that holds the maximum."""


def _shape(pool: Pool, shape: Shape) -> Shape:
    """Return the shape of the outputs for inputs of ``shape``."""
    return (shape[0], *windows.output_shape(pool.geometry, tuple(shape[1:-1])), shape[-1])


def _planes(pool: Pool, *arrays: Array) -> tuple[Any, ...]:
    """Return a pool's size and stride, and arrays, with two dimensions of space."""
    if len(pool.size) == 2:
        return pool.size, pool.stride, *arrays
    shapes = [(a.shape[0], 1, *a.shape[1:]) for a in arrays]
    planes = [a.reshape(shape) for a, shape in zip(arrays, shapes, strict=True)]
    return (1, *pool.size), (1, *pool.stride), *planes


def _sums(pool: Pool, x: Array, squared: bool, out: Array | None) -> Array:
    """Return the sums over windows of (N, *spatial, C), or those of the squares."""
    shape = _shape(pool, x.shape)
    if is_fast(x) and (out is None or is_fast(out)):
        out = np.empty(shape, np.float32) if out is None else out
        size, stride, planes, sums = _planes(pool, x, out)
        loops.window_sums(planes, size, stride, squared, sums)
        return out
    total = namespace(x).zeros(shape, dtype=x.dtype, device=x.device)
    for _, window in windows.taps(pool.geometry, shape[1:-1]):
        seen = x[(slice(None), *window, slice(None))]
        total += seen * seen if squared else seen
    return store(total, out)


def _spread(pool: Pool, dy: Array, shape: Shape, out: Array | None) -> Array:
    """Return the sums (N, *spatial, C) of what the windows that hold each value were given."""
    if is_fast(dy) and (out is None or is_fast(out)):
        out = np.empty(shape, np.float32) if out is None else out
        out[...] = 0.0
        size, stride, deltas, planes = _planes(pool, dy, out)
        loops.spread(deltas, size, stride, planes)
        return out
    dx = namespace(dy).zeros(shape, dtype=dy.dtype, device=dy.device)
    for _, window in reversed(list(windows.taps(pool.geometry, dy.shape[1:-1]))):
        dx[(slice(None), *window, slice(None))] += dy
    return store(dx, out)


def average(pool: Pool, x: Array, out: Array | None = None) -> Array:
    """Return the means of windows.

    Parameters
    ----------
    x
        (N, *spatial, C).
    out
        (N, *output, C), overwritten and returned where given.

    Raises
    ------
    DeclarationError
        No window fits.
    """
    y = _sums(pool, x, False, out)
    y *= 1.0 / pool.taps
    return y


def average_gradient(pool: Pool, dy: Array, shape: Shape, out: Array | None = None) -> Array:
    """Return derivatives by the inputs.

    Parameters
    ----------
    dy
        (N, *output, C) derivatives by the means.
    shape
        (N, *spatial, C) of the inputs.
    out
        Of that shape, overwritten and returned where given.
    """
    return _spread(pool, dy * (1.0 / pool.taps), shape, out)


def norm(pool: Pool, x: Array, epsilon: float, out: Array | None = None) -> Array:
    """Return ``sqrt(epsilon + sum of squares)`` of windows; arguments as for ``average``."""
    y = _sums(pool, x, True, out)
    y += epsilon
    return store(namespace(y).sqrt(y), y)


def norm_gradient(pool: Pool, x: Array, y: Array, dy: Array, out: Array | None = None) -> Array:
    """Return derivatives by the inputs of ``norm``; 0 where a root is 0.

    Parameters
    ----------
    x, y, dy
        (N, *spatial, C) inputs, (N, *output, C) roots and derivatives by them.
    out
        (N, *spatial, C), overwritten and returned where given; not ``x``.
    """
    xp = namespace(y)
    positive = y > 0.0
    shares = xp.where(positive, dy, xp.zeros_like(dy)) / xp.where(positive, y, xp.ones_like(y))
    dx = _spread(pool, shares, x.shape, out)
    dx *= x
    return dx


def tap_type(xp: Namespace, pool: Pool) -> Any:
    """Return the smallest unsigned type that numbers a window's taps."""
    kinds = (xp.uint8, xp.uint16, xp.uint32)
    return next(kind for kind in kinds if pool.taps - 1 <= xp.iinfo(kind).max)


def maximum(pool: Pool, x: Array, out: Array | None = None, where: Array | None = None) -> Maximum:
    """Return the maxima of windows, and where they are; NaN is the greatest.

    Parameters
    ----------
    x, out
        As for ``average``.
    where
        (N, *output, C) of ``tap_type``, overwritten and returned where given.
    """
    shape, xp = _shape(pool, x.shape), namespace(x)
    kind = tap_type(xp, pool)
    if is_fast(x) and (out is None or is_fast(out)):
        out = np.empty(shape, np.float32) if out is None else out
        where = np.empty(shape, kind) if where is None else where
        size, stride, planes, best, taps = _planes(pool, x, out, where)
        loops.maxima(planes, size, stride, best, taps)
        return Maximum(out, where)
    taps = xp.zeros(shape, dtype=kind, device=x.device)
    best = None
    for tap, (_, window) in enumerate(windows.taps(pool.geometry, shape[1:-1])):
        seen = x[(slice(None), *window, slice(None))]
        if best is None:
            best = xp.asarray(seen, copy=True)
            continue
        wins = (seen > best) | xp.isnan(seen)
        best = xp.where(wins, seen, best)
        taps = xp.where(wins, xp.asarray(tap, dtype=kind, device=x.device), taps)
    return Maximum(store(best, out), store(taps, where))


def maximum_gradient(
    pool: Pool, dy: Array, where: Array, shape: Shape, out: Array | None = None
) -> Array:
    """Return derivatives by the inputs; ``where`` is that of ``maximum``.

    Other arguments as for ``average_gradient``.
    """
    if is_fast(dy) and (out is None or is_fast(out)):
        out = np.empty(shape, np.float32) if out is None else out
        out[...] = 0.0
        size, stride, deltas, taps, planes = _planes(pool, dy, where, out)
        loops.spread_maxima(deltas, taps, size, stride, planes)
        return out
    xp = namespace(dy)
    dx = xp.zeros(shape, dtype=dy.dtype, device=dy.device)
    found = list(enumerate(windows.taps(pool.geometry, dy.shape[1:-1])))
    for tap, (_, window) in reversed(found):
        dx[(slice(None), *window, slice(None))] += xp.where(where == tap, dy, xp.zeros_like(dy))
    return store(dx, out)
