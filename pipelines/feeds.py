"""How samples reach a task: which rows of a shard belong to a part, and what is done to them.

A feed is a frozen value that travels inside tasks; parameters of layers and statistics of the
data reach a task as files of the run, loaded once per process.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from deepstrata.ops import backend, models, preprocess
from deepstrata.ops.backend import Backend
from deepstrata.ops.partials import Batch, shuffle
from deepstrata.ops.preprocess import Affine
from deepstrata.pipelines import room
from deepstrata.pipelines.meter import measure
from deepstrata.schemas.datasets import Variable
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.models import Trainable
from deepstrata.schemas.stages import Split
from deepstrata.schemas.trees import Array, Tree
from deepstrata.storage.checkpoints import load_part
from deepstrata.storage.datasets import Columns
from deepstrata.storage.digests import checksum
from deepstrata.storage.readers import Reader
from deepstrata.storage.shards import Shard, epoch_order, permutation
from deepstrata.storage.splits import assign


class Saved(NamedTuple):
    """A tree in a file of the run, by its path, its digest and what it looks like."""

    path: str
    digest: str
    like: Tree

    def load(self, on: Backend = "numpy") -> Tree:
        """Return the tree as arrays of a backend; a process reads a file once."""
        return _load(self, on)

    def __hash__(self) -> int:
        return hash((self.path, self.digest))


@lru_cache(maxsize=8)
def _load(saved: Saved, on: Backend) -> Tree:
    return backend.on_device(load_part(saved.path, saved.like, saved.digest), on)


BELOW_BYTES = 64 << 20  #: of the largest activations of the layers below that are computed at once


class Below(NamedTuple):
    """A trained layer below the one that is trained, or a network of such as have no weights."""

    model: Trainable
    params: Saved | None = None
    """None where there are none."""

    def encode(self, x: Array) -> Array:
        """Return what comes out of samples (N, V)."""
        if self.params is None:
            return models.encode(self.model, models.init(self.model, x.shape[1], Key(0)), x)
        on: Backend = "numpy" if backend.is_numpy(x) else "cupy"
        return models.encode(self.model, self.params.load(on), x)


class Known(NamedTuple):
    """What every later read of a shard must find."""

    shard: Shard
    checksums: dict[str, int]
    skipped: bool


class Feed(NamedTuple):
    """Where samples come from and how they are prepared."""

    reader: Reader
    columns: Columns
    split: Split | None
    split_key: Key
    meanings: tuple[tuple[int, str], ...] = ()
    """What the numbers in ``split.by`` stand for, where it holds numbers."""
    ranges: tuple[Variable, ...] = ()
    """Variables whose declaration gives a least or a greatest value."""
    affine: tuple[Saved, ...] = ()
    stored: Reader | None = None
    """Reads the activations of a layer below, where those are stored, in place of the features."""
    below: tuple[Below, ...] = ()
    """Layers whose activations are computed from what is read, from the bottom up."""
    visible_units: str | None = None
    """``bernoulli`` where values must lie in [0, 1]."""
    backend: Backend = "numpy"
    extra: tuple[str, ...] = ()
    """Further variables along the samples that stages go by."""
    known: tuple[Known, ...] = ()
    """What inspection found in the shards, in their order; empty before."""
    labelled: tuple[int, ...] | None = None
    """Rows of the only training samples that take part, rising; None where all do."""
    learned: tuple[int, ...] = (0,)
    """Parts whose samples count as training samples."""
    supervised: bool = False
    """Whether targets and weights are read."""

    def narrow(self, rows: Shard) -> "Feed":
        """Return the feed for some rows alone, so that a task carries no more than it reads.

        It reads whole shards: all that the rows touch.
        """
        first = bisect_right(self.known, rows.start, key=lambda known: known.shard.stop)
        end = bisect_left(self.known, rows.stop, key=lambda known: known.shard.start)
        known = self.known[first:end]
        start = min([rows.start, *(k.shard.start for k in known)])
        stop = max([rows.stop, *(k.shard.stop for k in known)])
        stored = self.stored and self.stored.narrow(start, stop)
        found = self._replace(reader=self.reader.narrow(start, stop), stored=stored, known=known)
        if self.labelled is None:
            return found
        few = slice(*(bisect_left(self.labelled, row) for row in (start, stop)))
        return found._replace(labelled=self.labelled[few])


STORED = "activation"


def codes_of(feed: Feed, shard: Shard, values: dict[str, Any] | None = None) -> Array:
    """Return the part of each row of a shard: 0 train, 1 validation, 2 test."""
    by = feed.split.by if feed.split else None
    if by is not None and (values is None or by not in values):
        values = feed.reader.read(shard.start, shard.stop, (by,))
    given = values[by] if by is not None and values is not None else None
    meanings = dict(feed.meanings) or None
    return assign(feed.split, shard, given, feed.split_key, meanings)


def names(feed: Feed) -> tuple[str, ...]:
    """Return the variables that a shard of this feed is read from."""
    columns = feed.columns
    found = [] if feed.stored else [columns.features, columns.mask]
    found += [columns.labels, feed.split.by if feed.split else None, *feed.extra]
    found += [columns.targets, columns.weights] if feed.supervised else []
    return tuple(dict.fromkeys(name for name in found if name is not None))


def read(feed: Feed, shard: Shard, wanted: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Read the variables of a shard, and check that they are what inspection found.

    Parameters
    ----------
    wanted
        Names of variables; all that the feed needs by default.

    Raises
    ------
    BadShardError
        Something cannot be read, is missing or has changed; the chunks are named.
    """
    values = feed.reader.read(shard.start, shard.stop, wanted or names(feed))
    expected = next((k.checksums for k in feed.known if k.shard == shard), {})
    for name, array in values.items():
        if name in expected and checksum(array) != expected[name]:
            raise feed.reader.changed(name, shard.start, shard.stop)
    return values


def presence(columns: Columns, values: dict[str, Any]) -> Array | None:
    """Return which values of the features are there, bool and shaped like them; None if all are."""
    mask = None if columns.mask is None else values[columns.mask].astype(bool)
    if columns.missing == "refuse":
        return mask
    there = ~np.isnan(values[columns.features])
    return there if mask is None else there & mask


def training_labels(feed: Feed, shard: Shard) -> tuple[Array, Array]:
    """Return labels and global rows, (N,) int64, of a shard's training samples."""
    name, by = feed.columns.labels, feed.split.by if feed.split else None
    assert name is not None
    values = read(feed, shard, (name,) if by is None else (name, by))
    rows = np.flatnonzero(codes_of(feed, shard, values) == 0)
    return values[name][rows].astype(np.int64), shard.start + rows


def load(
    feed: Feed,
    shard: Shard,
    part: int | None,
    order: Key | None = None,
    limit: int | None = None,
    small: bool = False,
) -> Batch:
    """Read the samples of one part of a shard and prepare them.

    Parameters
    ----------
    part
        0 train, 1 validation, 2 test; None for every row.
    order
        Puts the rows in the keyed order of an epoch; by default they keep their own.
    limit
        Read the whole shard but keep no more rows than this.
    small
        Leave integers of one or two bytes as they are; ``partials.present`` scales them.

    Raises
    ------
    DataError
        NaN or infinity where no mask hides it; values that the units cannot take.
    """
    room.check(shard, shard.rows * _row_bytes(feed))
    with measure("wait"):
        values = read(feed, shard)
        rows = np.arange(shard.rows)
        if part is not None:
            codes = codes_of(feed, shard, values)
            rows = rows[np.isin(codes, feed.learned if part == 0 else (part,))]
        if part == 0 and feed.labelled is not None:
            rows = rows[np.isin(shard.start + rows, feed.labelled)]
        if order is not None:
            rows = rows[permutation(fold(order, shard.index), len(rows))]
        rows = rows[:limit]
        columns = feed.columns
        labels = None
        if columns.labels is not None:
            labels = values[columns.labels][rows].astype(np.int64)
        targets, weights = supervision(feed, values, rows)
        # Layers below see the whole shard in its own order, as where their output is stored: of
        # other rows, or of these in another order, a product may have other last bits.
        seen = np.arange(shard.rows) if feed.below else rows
        x, mask, scaling = _prepare(feed, shard, values, seen, small and not feed.below)
        x = backend.device_array(x, feed.backend)
    with measure("compute"):
        if feed.below:
            x, mask = _through(feed.below, x), None
            xp = backend.namespace(x)
            x = xp.take(x, backend.device_array(rows, feed.backend), axis=0)
    mask = None if mask is None else backend.device_array(mask, feed.backend)
    if targets is not None:
        targets = backend.device_array(targets, feed.backend)
    return Batch(shard.start + rows, x, labels, mask, scaling, targets, weights)


def _through(layers: Sequence[Below], x: Array) -> Array:
    """Return what layers make of the rows of a shard: of so many at a time that memory holds them.

    How many follows from the layers, never from the worker.
    """
    widths = [x.shape[1]]
    for layer in layers:
        widths.append(models.code_width(layer.model, widths[-1]))
    rows = max(1, BELOW_BYTES // (4 * max(widths)))
    blocks = []
    for start in range(0, max(x.shape[0], 1), rows):
        block = x[start : min(start + rows, x.shape[0]), :]
        for layer in layers:
            block = layer.encode(block)
        blocks.append(block)
    return blocks[0] if len(blocks) == 1 else backend.namespace(x).concat(blocks, axis=0)


def _row_bytes(feed: Feed) -> int:
    """Return the bytes that reading a sample takes: as stored, as float32, and put in order."""
    visible = math.prod(feed.columns.feature_shape)
    targets = 16 * feed.columns.target_width * feed.supervised
    return visible * (np.dtype(feed.columns.dtype).itemsize + 8) + targets


def supervision(
    feed: Feed, values: dict[str, Any], rows: Array
) -> tuple[Array | None, Array | None]:
    """Return targets (N, K) and weights (N,) of some rows, float32, where the feed has any.

    A sample without a target weighs nothing.
    """
    if not feed.supervised:
        return None, None
    columns, targets, weights = feed.columns, None, None
    if columns.weights is not None:
        weights = values[columns.weights][rows].astype(np.float32)
    if columns.targets is not None:
        targets = preprocess.flatten(values[columns.targets][rows]).astype(np.float32)
        there = (~np.isnan(targets)).any(axis=1).astype(np.float32)
        weights = there if weights is None else there * weights
    return targets, weights


def load_mixed(pieces: Sequence[tuple[Feed, Shard]], order: Key) -> Batch:
    """Read the training samples of some shards and put them in one keyed order.

    Parameters
    ----------
    pieces
        Each shard with the feed narrowed to it.
    order
        Key of the epoch's orders.
    """
    if len(pieces) == 1:
        (feed, shard) = pieces[0]
        return load(feed, shard, 0, order, small=True)
    batches = [load(feed, shard, 0, small=True) for feed, shard in pieces]
    key = fold(order, *(shard.index for _, shard in pieces))
    return shuffle(batches, permutation(key, sum(len(batch.rows) for batch in batches)))


def _prepare(
    feed: Feed, shard: Shard, values: dict[str, Any], rows: Array, small: bool
) -> tuple[Array, Array | None, tuple[Affine, ...] | None]:
    """Return some rows of a shard as float32 vectors, scaled, and their mask.

    Where they are to stay ``small`` and are, the scaling is returned in place of being done.
    """
    if feed.stored is not None:
        stored = feed.stored.read(shard.start, shard.stop, (STORED,))[STORED]
        return np.ascontiguousarray(stored[rows]), None, None
    columns = feed.columns
    there = presence(columns, values)
    mask = None if there is None else preprocess.flatten(there[rows])
    x = preprocess.flatten(values[columns.features][rows])
    scaling: tuple[Affine, ...] = tuple(saved.load() for saved in feed.affine)
    if small and mask is None and preprocess.is_small(x):
        if feed.visible_units == "bernoulli" and x.size:
            ends = np.stack([x.min(axis=0), x.max(axis=0)])
            _check_bernoulli(columns.features, shard, preprocess.apply(scaling, ends))
        return x, None, tuple(saved.load(feed.backend) for saved in feed.affine)
    if mask is not None:
        x = np.where(mask, x, x.dtype.type(0))
    x = preprocess.apply(scaling, np.ascontiguousarray(x, dtype=np.float32))
    if mask is not None and scaling:
        x = np.where(mask, x, np.float32(0))
    if feed.visible_units == "bernoulli" and x.size:
        _check_bernoulli(columns.features, shard, x)
    return x, mask, None


def _check_bernoulli(name: str, shard: Shard, x: Array) -> None:
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise DataError(
            f"variable {name!r}, samples {shard.start} to {shard.stop - 1}: "
            f"expected values in [0, 1] for Bernoulli units, found {low:g} to {high:g}; add a "
            "Scale() stage, or use gaussian visible units (or squared_error) and Standardise()"
        )


def spread(counts: list[int], wanted: int, key: Key) -> Iterator[tuple[int, int]]:
    """Yield ``(shard, rows)`` of a fixed sample of about ``wanted`` rows, in keyed shard order."""
    for index in epoch_order(len(counts), fold(key, "monitor")):
        if wanted <= 0:
            return
        rows = min(counts[int(index)], wanted)
        if rows:
            yield int(index), rows
            wanted -= rows
