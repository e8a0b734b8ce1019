"""What crosses a task's border: batches go in, sums over samples come out.

Letters: N samples, V visible units (features).
"""

from typing import Any, NamedTuple

from deepstrata.ops.backend import namespace
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


class Partial(NamedTuple):
    """A contribution to a round: a commutative monoid under ``merge``, up to rounding."""

    total: Tree
    """Sum over the samples, most often of gradients."""
    n: int
    """Number of samples."""
    stats: dict[str, Any]
    """Sums over the samples, reported and not learned from."""


def take(batch: Batch, start: int, stop: int) -> Batch:
    """Return samples ``start`` to ``stop`` (views, no copies)."""
    return Batch(*(None if part is None else part[start:stop, ...] for part in batch))


def present(batch: Batch) -> Array:
    """Return the (N, V) features with zeros where the mask says that nothing is there."""
    if batch.mask is None:
        return batch.x
    xp = namespace(batch.x)
    return xp.where(batch.mask, batch.x, xp.zeros_like(batch.x))


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
