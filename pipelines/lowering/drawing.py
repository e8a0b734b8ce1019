"""Drawing the few labelled samples that a training may use, in one pass over the labels."""

from bisect import bisect_left

import numpy as np

from deepstrata.ops import labelled
from deepstrata.pipelines import feeds
from deepstrata.pipelines.context import Context, each_shard
from deepstrata.pipelines.feeds import Feed
from deepstrata.pipelines.meter import measure
from deepstrata.schemas.growing import DiscriminativePretrain
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.stages import FineTune
from deepstrata.storage.shards import Shard

Counts = tuple[tuple[int, int, int], ...]


def draw_shard(
    feed: Feed, shard: Shard, count: int, key: Key
) -> tuple[labelled.Numbers, labelled.Numbers]:
    """Draw from the training samples of one shard."""
    with measure("wait"):
        labels, rows = feeds.training_labels(feed, shard)
    return labelled.draw(labels, rows, count, key)


def draw_labelled(
    context: Context, stage: FineTune | DiscriminativePretrain, count: int, classes: int
) -> tuple[Feed, Counts]:
    """Return the feed of ``count`` training samples of each class, and what it has of each part.

    All stages of a pipeline draw the same.

    Raises
    ------
    DataError
        A class has fewer.
    """
    key = fold(context.key, "labelled")
    there = [shard for shard in context.grid if context.counts[shard.index][0]]
    found = each_shard(context, stage.name, draw_shard, there, (count, key))
    labels, rows = (np.concatenate(column) for column in zip(*found, strict=True))
    labels, rows = labelled.draw(labels, rows, count, key)
    labelled.check_enough(labels, count, classes)
    drawn = tuple(int(row) for row in rows)
    counts = tuple(
        (bisect_left(drawn, shard.stop) - bisect_left(drawn, shard.start), *rest)
        for shard, (_, *rest) in zip(context.grid, context.counts, strict=True)
    )
    return context.feed._replace(labelled=drawn), counts  # type: ignore[return-value]
