"""Principal component analysis from sums that merge: what a linear code of some length loses.

Hotelling (1933). The covariance is gathered in one pass, its eigenvectors are found by LAPACK; the
error on other samples follows from their sums alone.

Letters: N samples, V features, K components.
"""

from functools import reduce
from typing import NamedTuple

import numpy as np

from deepstrata.ops.backend import namespace, to_numpy
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.trees import Array


class Products(NamedTuple):
    """Sums over samples, in float64; a commutative monoid under ``merge``, up to rounding."""

    n: int
    total: Array
    """(V,)"""
    products: Array
    """(V, V): of every two features."""


class Basis(NamedTuple):
    """A linear code: ``(x - mean) @ components``."""

    mean: Array
    """(V,)"""
    components: Array
    """(V, K), orthonormal, the greatest variance first."""


def products(x: Array) -> Products:
    """Return the sums of samples (N, V) and of their features' products."""
    xp = namespace(x)
    x = xp.astype(x, xp.float64)
    return Products(x.shape[0], xp.sum(x, axis=0), x.T @ x)


def merge(*parts: Products) -> Products:
    """Add the sums of disjoint samples, from left to right."""
    return reduce(lambda a, b: Products(*(p + q for p, q in zip(a, b, strict=True))), parts)


def basis(found: Products, components: int) -> Basis:
    """Return the principal components of samples, in NumPy.

    Raises
    ------
    DeclarationError
        There are fewer features than components.
    """
    total, squares = to_numpy(found.total), to_numpy(found.products)
    if components > len(total):
        raise DeclarationError(f"expected at most {len(total)} components, found {components}")
    mean = total / found.n
    _, vectors = np.linalg.eigh(squares / found.n - np.outer(mean, mean))
    return Basis(mean, vectors[:, ::-1][:, :components])


def squared_error(linear: Basis, found: Products) -> float:
    """Return the squared error of the samples' projections, summed over samples and features."""
    total, squares = to_numpy(found.total), to_numpy(found.products)
    crossed = np.outer(linear.mean, total)
    scatter = squares - crossed - crossed.T + found.n * np.outer(linear.mean, linear.mean)
    kept = np.einsum("ik,ij,jk->", linear.components, scatter, linear.components, optimize=True)
    return float(np.trace(scatter) - kept)
