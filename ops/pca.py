"""Principal component analysis from sums over samples: what a linear code of some length loses.

Hotelling (1933). The components are eigenvectors of the features' products with each other; where
there are fewer samples than features they follow from the samples' products instead, by the method
of snapshots (Sirovich 1987, "Turbulence and the dynamics of coherent structures"): with ``D`` the
samples less their mean and ``D D' u = l u``, ``D' u / sqrt(l)`` is a component.

A value that is absent counts as the mean of its feature, which those present give; a sample's code
is the least-squares fit to what is present of it.

Letters: N samples, V features, K components.
"""

from collections.abc import Sequence
from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np

from deepstrata.ops.backend import namespace
from deepstrata.ops.gaps import Gaps, measure
from deepstrata.ops.kernels import squared_error
from deepstrata.ops.partials import Batch, present
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.trees import Array, ArraySpec

#: Eigenvalues below this share of the largest are rounding.
SMALLEST = 1e-12


class Basis(NamedTuple):
    """A linear code: ``(x - mean) @ components`` where all of ``x`` is present."""

    mean: Array
    """(V,) float64."""
    components: Array
    """(V, K) float64, orthonormal, the greatest variance first."""


def shapes(visible: int, components: int) -> Basis:
    """Return an ``ArraySpec`` for each array of a basis."""
    return Basis(ArraySpec((visible,), "float64"), ArraySpec((visible, components), "float64"))


def check(stage: str, components: int, samples: int, visible: int) -> None:
    """Check that samples have so many components.

    Raises
    ------
    DeclarationError
        There are fewer features, or not more samples: a mean takes one of their dimensions.
    """
    most = min(visible, samples - 1)
    if components > most:
        raise DeclarationError(
            f"stage {stage!r}: pca={components}: expected at most {most} components, as "
            f"{samples:,} training samples of {visible:,} features have"
        )


def deviations(batch: Batch, mean: Array) -> Array:
    """Return what samples differ by from the mean, (N, V) float64; 0 where a value is absent."""
    x = present(batch)
    xp = namespace(x)
    found = xp.astype(x, xp.float64) - mean
    return found if batch.mask is None else xp.where(batch.mask, found, xp.zeros_like(found))


def scatter(batch: Batch, mean: Array) -> Array:
    """Return the sums over samples of the products of every two features' deviations, (V, V)."""
    found = deviations(batch, mean)
    return found.T @ found


def merge(*sums: Array) -> Array:
    """Add the sums of disjoint samples, from left to right."""
    return reduce(add, sums)


def of_features(found: Array, components: int) -> Array:
    """Return the principal components (V, K) of a scatter matrix (V, V), in NumPy."""
    _, vectors = np.linalg.eigh(found)
    return np.ascontiguousarray(vectors[:, ::-1][:, :components])


def assemble(sizes: Sequence[int], *blocks: Array) -> Array:
    """Return the samples' products with each other from those of every two runs of them.

    Parameters
    ----------
    sizes
        Samples of each run.
    *blocks
        ``D_i D_j'`` for all runs ``i <= j``, row by row.

    Returns
    -------
    (N, N) float64, symmetric
    """
    ends = np.cumsum([0, *sizes])
    runs = [slice(a, b) for a, b in zip(ends, ends[1:], strict=False)]
    pairs = [(i, j) for i in range(len(runs)) for j in range(i, len(runs))]
    gram = np.empty((ends[-1], ends[-1]))
    for (i, j), block in zip(pairs, blocks, strict=True):
        gram[runs[i], runs[j]], gram[runs[j], runs[i]] = block, block.T
    return gram


def snapshots(gram: Array, components: int) -> Array:
    """Return how much of each sample is in each component, (N, K), from products (N, N)."""
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:components], vectors[:, ::-1][:, :components]
    there = values > SMALLEST * max(values[0], 0.0)
    return np.where(there, vectors / np.sqrt(np.where(there, values, 1.0)), 0.0)


def of_samples(found: Array) -> Array:
    """Return the principal components that samples add up to, (V, K), made orthonormal."""
    vectors, triangle = np.linalg.qr(found)
    return np.ascontiguousarray(vectors * np.where(np.diag(triangle) < 0, -1.0, 1.0))


def project(linear: Basis, batch: Batch) -> Array:
    """Return what the codes of samples stand for that fit best to what is present, (N, V)."""
    found = deviations(batch, linear.mean)
    xp = namespace(found)
    codes = found @ linear.components
    if batch.mask is not None and batch.x.shape[0]:
        pairs = zip(batch.mask, codes, strict=True)
        codes = xp.stack([_fitted(linear.components, there, code) for there, code in pairs])
    return xp.astype(codes @ linear.components.T + linear.mean, xp.float32)


def _fitted(components: Array, there: Array, code: Array) -> Array:
    """Return the least-squares code (K,) of a sample from its projection ``code``.

    Parameters
    ----------
    there
        (V,) bool, true where a value is present.
    """
    xp = namespace(components)
    seen = components * xp.astype(there, components.dtype)[:, None]
    return xp.linalg.pinv(seen.T @ seen) @ code


def evaluate(linear: Basis, batch: Batch, gaps: Gaps | None) -> dict[str, Any]:
    """Return what is lost of samples, summed over what is present, and their number ``n``.

    With ``gaps`` also ``gap_squared_error``, that of the mean as ``gap_variance``, and ``gaps``.
    """
    x = present(batch)
    error = squared_error(x, present(batch._replace(x=project(linear, batch), scaling=None)))
    found = {"squared_error": float(error), "n": x.shape[0]}
    if gaps is None:
        return found
    alone = Basis(linear.mean, linear.components[:, :0])
    untold = measure(batch, gaps, partial(project, alone))["gap_squared_error"]
    return found | {"gap_variance": untold} | measure(batch, gaps, partial(project, linear))
