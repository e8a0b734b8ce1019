"""What crosses a task's border: batches go in, sums over samples come out.

Letters: N samples, V visible units (features).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device

from deepstrata.ops import preprocess
from deepstrata.ops.backend import namespace, store
from deepstrata.ops.preprocess import Affine
from deepstrata.schemas.trees import Array, Tree, tree_map


class Batch(NamedTuple):
    """Some samples, addressed by their global rows."""

    rows: Array
    """(N,) int64 NumPy array: the place of each sample in the whole dataset."""
    x: Array
    """(N, V) features."""
    labels: Array | None = None
    """(N,) int64 NumPy array of class numbers."""
    mask: Array | None = None
    """(N, V) bool, true where a value is present; what ``x`` holds elsewhere does not matter."""
    scaling: tuple[Affine, ...] | None = None
    """What is yet to be done to ``x`` where that is kept as the integers it was read as."""
    targets: Array | None = None
    """(N, K) what a network is to give, NaN where that is not known."""
    weights: Array | None = None
    """(N,) NumPy array of how much each sample counts, in a loss and its mean; 1 if None."""


#: What a batch has of every sample.
COLUMNS = ("rows", "x", "labels", "mask", "targets", "weights")


class Into(NamedTuple):
    """Where a gradient is to be written: ``tree = keep * tree + scale * gradient``."""

    tree: Tree
    """Shaped like the parameters, ``()`` in place of layers whose gradient nobody wants;
    overwritten."""
    keep: float = 0.0
    scale: float = 1.0


def put(value: Array, leaf: Array, into: Into) -> Array:
    """Write one leaf of a gradient to that of ``into.tree``, and return it."""
    if into.keep == 0.0 and into.scale == 1.0:
        return store(value, leaf)
    return store(into.keep * leaf + into.scale * value, leaf)


class Partial(NamedTuple):
    """A contribution to a round: a commutative monoid under ``merge``, up to rounding."""

    total: Tree
    """Sum over the samples, most often of gradients."""
    n: float
    """Number of samples; where they have weights, the sum of these."""
    stats: dict[str, Any]
    """Sums over the samples, reported and not learned from."""


def take(batch: Batch, start: int, stop: int) -> Batch:
    """Return samples ``start`` to ``stop`` (views, no copies)."""
    columns = {name: getattr(batch, name) for name in COLUMNS}
    return batch._replace(
        **{name: part[start:stop, ...] for name, part in columns.items() if part is not None}
    )


def shuffle(batches: Sequence[Batch], order: Array) -> Batch:
    """Return the samples of several batches, which are alike, as one batch in the order given.

    Parameters
    ----------
    order
        (N,) int64 places in the batches put one after the other.
    """

    def joined(name: str) -> Array:
        parts = [getattr(batch, name) for batch in batches]
        xp = namespace(parts[0])
        places = xp.asarray(order, device=device(parts[0]))
        return xp.take(xp.concat(parts, axis=0), places, axis=0)

    there = [name for name in COLUMNS if getattr(batches[0], name) is not None]
    return batches[0]._replace(**{name: joined(name) for name in there})


def weight_of(batch: Batch) -> float:
    """Return how much the samples count together: their number where they have no weights."""
    return batch.x.shape[0] if batch.weights is None else float(np.sum(batch.weights, dtype=float))


def present(batch: Batch) -> Array:
    """Return the (N, V) features, scaled, with zeros where the mask says that nothing is there."""
    x = batch.x if batch.scaling is None else preprocess.apply(batch.scaling, batch.x)
    if batch.mask is None:
        return x
    xp = namespace(x)
    return xp.where(batch.mask, x, xp.zeros_like(x))


def _add_in_place(total: Tree, other: Tree) -> Tree:
    def add(a: Array, b: Array) -> Array:
        a += b
        return a

    return tree_map(add, total, other)


def add_stats(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """Return the sums of two sets of statistics; one that is missing on a side counts as zero."""
    summed = {name: left[name] + value if name in left else value for name, value in right.items()}
    return left | summed


def merge(*partials: Partial) -> Partial:
    """Add contributions from left to right, into one new accumulator.

    The order of the arguments fixes the rounding, so a fixed tree of merges is reproducible.
    """
    first, *rest = partials
    if not rest:
        return first
    total = tree_map(lambda a, b: a + b, first.total, rest[0].total)
    stats = add_stats(first.stats, rest[0].stats)
    for partial in rest[1:]:
        total = _add_in_place(total, partial.total)
        stats = add_stats(stats, partial.stats)
    return Partial(total, sum(partial.n for partial in partials), stats)
