"""Moments of features that merge: counts, sums, and squares about each part's own mean.

Chan, Golub, LeVeque (1979), "Updating formulae and a pairwise algorithm for computing sample
variances": no large numbers are subtracted, so an offset far above the spread does no harm.

Letters: N samples, V features.
"""

from typing import NamedTuple

from deepstrata.ops.backend import namespace
from deepstrata.schemas.trees import Array

BLOCK = 2**20  #: values that are turned into float64 at once


class Moments(NamedTuple):
    """What is known about each feature; a commutative monoid under ``merge``, up to rounding."""

    n: Array
    """(V,) int64: values present."""
    total: Array
    """(V,) float64: their sum."""
    squares: Array
    """(V,) float64: sum of squares about their mean."""
    minimum: Array
    """(V,) float64; infinity where nothing is present."""
    maximum: Array
    """(V,) float64; minus infinity where nothing is present."""


def moments(x: Array, mask: Array | None = None) -> Moments:
    """Return the moments of the features of some samples.

    Parameters
    ----------
    x
        (N, V) of any real dtype.
    mask
        (N, V) bool, true where a value is present; all are when None.
    """
    n, step = x.shape[0], max(1, BLOCK // max(1, x.shape[1]))
    slices = [slice(i, min(i + step, n)) for i in range(0, max(1, n), step)]
    return merge(*(_block_moments(x[s, :], None if mask is None else mask[s, :]) for s in slices))


def _block_moments(x: Array, mask: Array | None) -> Moments:
    xp = namespace(x)
    there = xp.ones(x.shape, dtype=xp.bool) if mask is None else mask
    x = xp.where(there, xp.astype(x, xp.float64), xp.asarray(0.0, dtype=xp.float64))
    n = xp.sum(xp.astype(there, xp.int64), axis=0)
    total = xp.sum(x, axis=0)
    deviation = xp.where(there, x - total / xp.astype(xp.clip(n, 1, None), xp.float64), x)
    # The second term is zero but for the rounding of the mean.
    slip = xp.sum(deviation, axis=0) ** 2 / xp.astype(xp.clip(n, 1, None), xp.float64)
    squares = xp.clip(xp.sum(deviation * deviation, axis=0) - slip, 0.0, None)
    infinity = xp.asarray(xp.inf, dtype=xp.float64)
    if x.shape[0] == 0:
        return Moments(n, total, squares, total + infinity, total - infinity)
    minimum = xp.min(xp.where(there, x, infinity), axis=0)
    maximum = xp.max(xp.where(there, x, -infinity), axis=0)
    return Moments(n, total, squares, minimum, maximum)


def merge(*parts: Moments) -> Moments:
    """Combine the moments of disjoint samples, from left to right."""
    merged, *rest = parts
    for part in rest:
        merged = _merge_two(merged, part)
    return merged


def _merge_two(a: Moments, b: Moments) -> Moments:
    xp = namespace(a.total)
    n = a.n + b.n
    counts_a, counts_b = xp.astype(a.n, xp.float64), xp.astype(b.n, xp.float64)
    counts = xp.astype(xp.clip(n, 1, None), xp.float64)
    gap = b.total / xp.clip(counts_b, 1.0, None) - a.total / xp.clip(counts_a, 1.0, None)
    return Moments(
        n,
        a.total + b.total,
        a.squares + b.squares + gap * gap * (counts_a * counts_b / counts),
        xp.minimum(a.minimum, b.minimum),
        xp.maximum(a.maximum, b.maximum),
    )


def mean(parts: Moments) -> Array:
    """Return the mean of each feature, (V,) float64; 0 where nothing is present."""
    xp = namespace(parts.total)
    return parts.total / xp.astype(xp.clip(parts.n, 1, None), xp.float64)


def variance(parts: Moments) -> Array:
    """Return the population variance, (V,) float64; 0 where nothing is present."""
    xp = namespace(parts.total)
    return parts.squares / xp.astype(xp.clip(parts.n, 1, None), xp.float64)
