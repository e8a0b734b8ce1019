"""Local contrast normalisation: subtract a local mean, divide by a local deviation.

Jarrett, Kavukcuoglu, Ranzato, LeCun (2009), section 2. With a Gaussian window G that sums to 1
over its positions and all channels,

    g = x - sum G x        r = sqrt(sum G g**2)        y = g / max(c, r)

where c is the mean of r over a sample's positions. At the border the part of G inside counts,
scaled to sum to 1. A window is a product of one for each dimension, so its sums are products with
a banded matrix (one row for each position) along each axis. Where both r and c are 0, so is y.

Letters: N samples, C channels, S values along an axis.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from deepstrata.ops.backend import Namespace, namespace, store
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.trees import Array

Shape = tuple[int, ...]


class Normalised(NamedTuple):
    """What the forward pass makes, and what the backward pass needs beside ``x``."""

    y: Array
    """(N, *spatial, C)"""
    centred: Array
    """(N, *spatial, C) ``g``."""
    roots: Array
    """(N, *spatial, 1) ``r``."""


@lru_cache(maxsize=64)
def window_matrix(size: int, sigma: float, extent: int) -> Array:
    """Return the (S, S) float64 matrix whose row i holds the window around i, summing to 1.

    Parameters
    ----------
    size
        Positions in a window: odd, so that it has a centre.
    sigma
        Standard deviation of the Gaussian, in positions.
    extent
        S.

    Raises
    ------
    DeclarationError
        The size is even or below 1, or sigma not above 0.
    """
    if size < 1 or size % 2 == 0 or not sigma > 0:
        raise DeclarationError(
            f"a Gaussian window of size {size} and sigma {sigma}: expected an odd size and a "
            "sigma above 0"
        )
    place = np.arange(extent)
    distance = np.abs(place[:, None] - place[None, :])
    weights = np.where(distance <= size // 2, np.exp(-0.5 * (distance / sigma) ** 2), 0.0)
    matrix: Array = weights / weights.sum(axis=1, keepdims=True)
    matrix.flags.writeable = False
    return matrix


def _matrices(xp: Namespace, x: Array, size: int, sigma: float) -> list[Array]:
    """Return a window matrix for each spatial axis, of the kind of ``x``."""
    return [
        xp.asarray(window_matrix(size, sigma, extent).copy(), dtype=x.dtype, device=x.device)
        for extent in x.shape[1:-1]
    ]


def _along(xp: Namespace, matrices: list[Array], plane: Array, transposed: bool = False) -> Array:
    """Return the products of (N, *spatial, 1) with a matrix along each axis."""
    shape = plane.shape
    value = plane[..., 0]
    for axis, matrix in enumerate(matrices, start=1):
        used = matrix.T if transposed else matrix
        moved = xp.moveaxis(value, axis, -1)
        value = xp.moveaxis(moved @ used.T, -1, axis)
    return xp.reshape(value, shape)


def contrast(x: Array, size: int, sigma: float, out: Array | None = None) -> Normalised:
    """Return ``x`` normalised.

    Parameters
    ----------
    x
        (N, *spatial, C).
    size, sigma
        See ``window_matrix``.
    out
        (N, *spatial, C), overwritten with ``y`` where given.

    Raises
    ------
    DeclarationError
        See ``window_matrix``.
    """
    xp = namespace(x)
    matrices = _matrices(xp, x, size, sigma)
    centred = x - _along(xp, matrices, xp.mean(x, axis=-1, keepdims=True))
    squares = xp.mean(centred * centred, axis=-1, keepdims=True)
    roots = xp.sqrt(_along(xp, matrices, squares))
    return Normalised(store(centred / _divisor(xp, roots), out), centred, roots)


def _divisor(xp: Namespace, roots: Array) -> Array:
    """Return ``max(c, r)``, and 1 where that is 0: there all of ``g`` is 0 too."""
    floor = xp.mean(roots, axis=tuple(range(1, roots.ndim)), keepdims=True)
    divisor = xp.where(roots > floor, roots, xp.broadcast_to(floor, roots.shape))
    return xp.where(divisor > 0.0, divisor, xp.ones_like(divisor))


def contrast_gradient(
    made: Normalised, dy: Array, size: int, sigma: float, out: Array | None = None
) -> Array:
    """Return derivatives by the inputs of ``contrast``.

    Parameters
    ----------
    made
        What ``contrast`` returned for them.
    dy
        (N, *spatial, C) derivatives by ``y``.
    size, sigma
        As given to ``contrast``.
    out
        (N, *spatial, C), overwritten and returned where given.
    """
    xp = namespace(dy)
    matrices = _matrices(xp, dy, size, sigma)
    _, centred, roots = made
    axes = tuple(range(1, roots.ndim))
    divisor = _divisor(xp, roots)
    by_centred = dy / divisor
    by_divisor = -xp.sum(by_centred * centred, axis=-1, keepdims=True) / divisor
    floor = xp.mean(roots, axis=axes, keepdims=True)
    zero = xp.zeros_like(roots)
    above = roots > floor
    by_floor = xp.sum(xp.where(above, zero, by_divisor), axis=axes, keepdims=True)
    by_roots = xp.where(above, by_divisor, zero) + by_floor / math.prod(roots.shape[1:])
    positive = roots > 0.0
    by_sums = xp.where(positive, by_roots, zero) / xp.where(positive, 2.0 * roots, 1.0 + zero)
    channels = dy.shape[-1]
    by_centred += centred * (_along(xp, matrices, by_sums, True) * (2.0 / channels))
    whole = xp.sum(by_centred, axis=-1, keepdims=True)
    return store(by_centred - _along(xp, matrices, whole, True) / channels, out)
