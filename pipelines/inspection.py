"""One look at every shard before anything is learned: its values, its parts, its content."""

from typing import Any, NamedTuple

import numpy as np

from deepstrata.ops import preprocess
from deepstrata.pipelines import feeds
from deepstrata.pipelines.feeds import Feed
from deepstrata.pipelines.meter import measure
from deepstrata.schemas.errors import BadShardError
from deepstrata.schemas.trees import Array
from deepstrata.storage.digests import checksum, digest
from deepstrata.storage.shards import Shard
from deepstrata.storage.splits import PARTS
from deepstrata.storage.values import (
    check_finite,
    check_labels,
    check_range,
    check_targets,
    check_weights,
)


class Inspected(NamedTuple):
    """What one pass over a shard found."""

    counts: tuple[int, int, int]
    digest: str
    largest_label: int
    checksums: dict[str, int]
    """CRC-32C of every variable; what was found before, where the shard cannot be read now."""
    problem: str = ""
    """Why the shard takes no part, if it does not."""
    counting: tuple[int, ...] = (0, 0, 0)
    """Samples of each part whose weight is not 0, and that have a target where there are any."""
    present: tuple[int, int, int] | None = None
    """Values of the features in each part that are there; None where all are."""
    hidden: tuple[int, ...] = ()
    """Samples, by their rows, of which no value is there."""


#: Stands for the content of a shard that takes no part: why it does not is no part of a result.
SKIPPED = "skipped"


def inspect(feed: Feed, shard: Shard, skip: bool = False) -> Inspected:
    """Check every value of a shard, hash its content and count its parts.

    Parameters
    ----------
    skip
        Let a shard that cannot be read, or is not what it was before, take no part.

    Raises
    ------
    DataError
        NaN or infinity without a mask, a negative label or weight, a value out of its declared
        range.
    BadShardError
        The shard cannot be read, or is not what it was before.
    """
    with measure("wait"):
        try:
            values = feeds.read(feed, shard)
            feed.reader.confirm(shard.start, shard.stop, values)
        except BadShardError as error:
            if not skip:
                raise
            before = next((k.checksums for k in feed.known if k.shard == shard), {})
            return Inspected((0, 0, 0), SKIPPED, -1, before, str(error))
        there = feeds.presence(feed.columns, values)
        largest = _check_values(feed, shard, values, there)
        codes = feeds.codes_of(feed, shard, values)
        counts = _counts(codes)
        _, weights = feeds.supervision(feed, values, np.arange(shard.rows))
        counting = counts if weights is None else _counts(codes[weights > 0.0])
        sums = {name: checksum(array) for name, array in values.items()}
        found = Inspected(counts, digest(values), largest, sums, counting=counting)
        return found if there is None else _with_presence(found, shard, there, codes)


def _with_presence(found: Inspected, shard: Shard, there: Array, codes: Array) -> Inspected:
    """Add how many values of each part are there, and the samples of which none is."""
    counts = preprocess.flatten(there).sum(axis=1)
    hidden = tuple((shard.start + np.flatnonzero(counts == 0)).tolist())
    train, validation, test = (int(counts[codes == i].sum()) for i in range(len(PARTS)))
    return found._replace(present=(train, validation, test), hidden=hidden)


def _counts(codes: Array) -> tuple[int, int, int]:
    """Count the samples of each part."""
    train, validation, test = (int((codes == i).sum()) for i in range(len(PARTS)))
    return train, validation, test


def _check_values(feed: Feed, shard: Shard, values: dict[str, Any], mask: Array | None) -> int:
    """Check what is read of samples; return the largest label, -1 without any."""
    columns = feed.columns
    check_finite(columns.features, values[columns.features], mask, shard.start, "dataset")
    for declared in feed.ranges:
        if declared.name in values:
            present = mask if declared.name == columns.features else None
            check_range(declared, values[declared.name], present, shard.start, "dataset")
    checks = ((columns.targets, check_targets), (columns.weights, check_weights))
    for name, check in checks:
        if name is not None and name in values:
            check(name, values[name], shard.start)
    if columns.labels is None:
        return -1
    check_labels(columns.labels, values[columns.labels], shard.start)
    return int(values[columns.labels].max())
