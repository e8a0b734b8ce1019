r"""How well an epoch is shuffled: what a step of a few shards is worth beside one of all data.

An epoch goes through S shards of M rows in keyed order. A step takes ``batch`` rows from each of
W places, and each place permutes the rows of B shards together: b = W batch samples come from
K = W B shards. That is cluster sampling in two stages. Two different samples have the correlation
:math:`\rho` in one shard and, since deviations of a finite population add up to zero,

.. math:: c = -\frac{1 + (M - 1)\rho}{(S - 1) M}

in two (Cochran, *Sampling Techniques*, 3rd ed. 1977, 9.4). A share p of the pairs in a step is of
one shard, so that the mean of a step has the variance

.. math:: \frac{\sigma^2}{b} \left(1 + (b - 1)(p \rho + (1 - p) c)\right),
    \qquad p = \frac{batch - 1}{b - 1} \cdot \frac{M - 1}{B M - 1}.

Beside the variance of b rows of the whole data without replacement,
:math:`\sigma^2 (N - b) / (b (N - 1))`, this is the *design effect* (Kish, *Survey Sampling*,
1965): about 1 + (b / K - 1) rho where K is far below S. A step is worth b / (design effect)
samples.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Mix(NamedTuple):
    """Where the samples of one step come from."""

    batch: int
    """Rows from each place, ..."""
    places: int
    """... of which there are so many (W); 1 for a local step."""
    buffer: int
    """Shards that a place permutes together (B)."""
    shards: int
    """Shards that take part (S)."""
    rows: float
    """Samples of a shard (M), on average."""

    @property
    def samples(self) -> int:
        """Samples of a step."""
        return max(1, round(min(self.batch, self.buffer * self.rows))) * self.places

    @property
    def drawn(self) -> int:
        """Shards that a step can draw from."""
        return min(self.places * self.buffer, self.shards)

    @property
    def share(self) -> float:
        """Part of the data that a step can draw from."""
        return self.drawn / self.shards


def design_effect(mix: Mix, rho: float) -> float:
    """Return the variance of a step's mean beside that of as many samples of the whole data.

    Parameters
    ----------
    rho
        Correlation of two samples of one shard, from -1 / (M - 1) to 1.
    """
    total, rows, count = mix.shards * mix.rows, mix.rows, mix.samples
    if count < 2 or mix.shards < 2 or count >= total:
        return 1.0
    batch = count / mix.places
    within = (batch - 1) / (count - 1) * max(rows - 1, 0) / max(mix.buffer * rows - 1, 1e-12)
    between = -(1 + (rows - 1) * rho) / ((mix.shards - 1) * rows)
    clustered = 1 + (count - 1) * (within * rho + (1 - within) * between)
    return float(max(clustered, 0.0) * (total - 1) / (total - count))


def worth(mix: Mix, rho: float) -> int:
    """Return how many independent samples a step is worth, from 1 to its own number."""
    effect = design_effect(mix, rho)
    return max(1, round(mix.samples / max(effect, 1.0)))


def intraclass(labels: npt.NDArray[Any], starts: Sequence[int]) -> float:
    """Estimate how alike the labels of a shard are: their intraclass correlation.

    The ANOVA estimator (Fisher 1925; Donner, *Int. Stat. Review* 54, 1986) of the labels' one-hot
    vectors, their sums of squares taken over all classes; it needs no more than counts.

    Parameters
    ----------
    labels
        (N,) class numbers.
    starts
        First rows of the shards, two or more.

    Returns
    -------
    float
        0 for labels in random order (or a little below), 1 where a shard has one class.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    bounds = [*starts, len(labels)]
    sizes = np.diff(bounds)
    if len(classes) < 2 or len(labels) <= len(sizes):
        return 0.0
    squares = sum(
        float((np.bincount(codes[a:b]).astype(float) ** 2).sum()) / (b - a)
        for a, b in zip(bounds[:-1], bounds[1:], strict=True)
    )
    total = float((np.bincount(codes).astype(float) ** 2).sum()) / len(labels)
    between = (squares - total) / (len(sizes) - 1)
    within = (len(labels) - squares) / (len(labels) - len(sizes))
    typical = (len(labels) - float((sizes**2).sum()) / len(labels)) / (len(sizes) - 1)
    return (between - within) / (between + (typical - 1) * within)
