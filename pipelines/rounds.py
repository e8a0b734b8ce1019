"""Which rows each round uses: a function of dataset, strategy and seed, never of the workers.

An epoch visits the shards in a keyed order, in groups: ``shards`` places side by side, each with
``buffer`` shards. Every shard is read once, the rows of a place are put in a keyed order, and round
after round takes the next rows of every place until the longest is used up. Rounds of a group have
as many rows, up to one, so that no step is taken on a small rest.
"""

from collections.abc import Iterator, Sequence
from functools import singledispatch
from typing import NamedTuple

from deepstrata.schemas.keys import Key
from deepstrata.schemas.strategies import Delayed, LocalSteps, Strategy, Synchronous
from deepstrata.storage.shards import Shard, shard_plan


class Round(NamedTuple):
    """One round of training."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    epoch: int
    progress: float
    """Epochs done when the round begins: 1.5 is half-way through the second."""
    group: int
    """Counts groups of shards from the start of training."""
    places: tuple[tuple[int, ...], ...]
    """The shards that each place mixes."""
    start: int
    stop: int
    """Rows ``start:stop`` of each of the group's places, in their keyed order."""
    rows: int
    """Samples in the round."""
    ends_group: bool
    ends_epoch: bool


@singledispatch
def rows_per_place(strategy: Strategy) -> int:
    """Return how many samples of each place a round uses at most; rounds of a group are even."""
    raise TypeError(f"no rule for a {type(strategy).__name__}")


@rows_per_place.register
def _(strategy: Synchronous | Delayed) -> int:
    return strategy.batch


@rows_per_place.register
def _(strategy: LocalSteps) -> int:
    return strategy.batch * strategy.steps


def epoch_rounds(
    grid: Sequence[Shard],
    counts: Sequence[int],
    strategy: Strategy,
    key: Key,
    epoch: int,
    first: int = 0,
    group: int = 0,
) -> Iterator[Round]:
    """Yield the rounds of one epoch over shards that hold ``counts`` samples each.

    ``first`` and ``group`` are the numbers that rounds and groups begin with.
    """
    step = rows_per_place(strategy)
    groups = shard_plan(grid, counts, key, epoch, strategy.shards, strategy.buffer)
    total, done, index = sum(counts), 0, first
    for i, (places, held) in enumerate(groups):
        longest = max(held)
        pieces = -(-longest // step)
        for piece in range(pieces):
            start, stop = longest * piece // pieces, longest * (piece + 1) // pieces
            rows = sum(min(stop, n) - min(start, n) for n in held)
            ends_group = stop == longest
            yield Round(
                index=index,
                epoch=epoch,
                progress=epoch + done / total,
                group=group + i,
                places=tuple(tuple(shard.index for shard in place) for place in places),
                start=start,
                stop=stop,
                rows=rows,
                ends_group=ends_group,
                ends_epoch=ends_group and i == len(groups) - 1,
            )
            done += rows
            index += 1


def all_rounds(
    grid: Sequence[Shard], counts: Sequence[int], strategy: Strategy, key: Key, epochs: int
) -> list[Round]:
    """Return the rounds of a whole training."""
    rounds: list[Round] = []
    for epoch in range(epochs):
        group = rounds[-1].group + 1 if rounds else 0
        rounds += epoch_rounds(grid, counts, strategy, key, epoch, len(rounds), group)
    return rounds


LEAST_WINDOW = 64
LARGEST_WINDOW = 512


def windows(
    rounds: Sequence[Round], every: int | None, at_epochs: bool = False
) -> Iterator[list[Round]]:
    """Cut rounds into windows, each to end in a checkpoint, at the ends of groups.

    By default a window is an epoch, or as many as make 64 rounds, or a part of one of 512 rounds.
    ``at_epochs`` ends one at the end of each epoch, too.
    """
    window: list[Round] = []
    for r in rounds:
        window.append(r)
        enough = (
            len(window) >= every
            if every
            else (r.ends_epoch and len(window) >= LEAST_WINDOW) or len(window) >= LARGEST_WINDOW
        )
        if (enough and r.ends_group) or (at_epochs and r.ends_epoch):
            yield window
            window = []
    if window:
        yield window
