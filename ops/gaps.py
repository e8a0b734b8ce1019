"""Gaps: values that are hidden from a model by key, to measure how well it fills them in.

Letters: N samples, V features.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from deepstrata.ops.backend import namespace
from deepstrata.ops.partials import Batch, present
from deepstrata.ops.random import uniform
from deepstrata.schemas.keys import Key
from deepstrata.schemas.trees import Array


class Gaps(NamedTuple):
    """How values are drawn that are hidden: whoever has the same key hides the same."""

    share: float
    """Probability that a value which is present is hidden."""
    key: Key


def hide(batch: Batch, gaps: Gaps) -> tuple[Batch, Array]:
    """Return samples whose mask leaves out what is hidden, and what that is: (N, V) bool."""
    x = present(batch)
    xp = namespace(x)
    hidden = uniform(gaps.key, batch.rows, x.shape[1], like=x) < gaps.share
    there = xp.ones_like(hidden) if batch.mask is None else batch.mask
    hidden, seen = hidden & there, there & ~hidden
    x = xp.where(seen, x, xp.zeros_like(x))
    return batch._replace(x=x, mask=seen, scaling=None), hidden


def measure(batch: Batch, gaps: Gaps, fill: Callable[[Batch], Array]) -> dict[str, Any]:
    """Return the squared error of what is filled in, summed over all gaps, and their number.

    Parameters
    ----------
    fill
        Makes reconstructions (N, V) of samples with gaps.
    """
    seen, hidden = hide(batch, gaps)
    xp = namespace(hidden)
    lost = xp.astype(present(batch) - fill(seen), xp.float64) * xp.astype(hidden, xp.float64)
    return {
        "gap_squared_error": float(xp.sum(lost * lost)),
        "gaps": int(xp.sum(xp.astype(hidden, xp.int64))),
    }
