"""What a plan knows of the data: its shards, and what reading each of them decodes.

Everything follows from metadata, but for the labels: where they are small they are read, to see
how alike those of a shard are.
"""

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from deepstrata.pipelines import sources
from deepstrata.pipelines.planning.shuffling import intraclass
from deepstrata.pipelines.sources import Opened
from deepstrata.schemas.datasets import FileSource, Variable, ZarrSource
from deepstrata.schemas.errors import BadShardError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.stages import Apply, CrossDomain, Split
from deepstrata.storage import layout, stores
from deepstrata.storage.covering import covered, decoded_rows
from deepstrata.storage.ingest import describe_source
from deepstrata.storage.readers import reader
from deepstrata.storage.shards import Shard, shard_grid
from deepstrata.storage.splits import assign

LABEL_BYTES = 64 << 20  #: labels up to so many bytes are read
FILES = 20_000  #: so many files of a variable are looked at for their size


class Reading(NamedTuple):
    """Bytes of some reads."""

    used: int = 0
    """Of the samples asked for."""
    decoded: int = 0
    """Of the chunks that hold them, before compression."""
    disk: int | None = None
    """Of these chunks as they are compressed; None where that is not known."""

    def times(self, count: int) -> "Reading":
        """Return the bytes of ``count`` such reads."""
        disk = None if self.disk is None else count * self.disk
        return Reading(count * self.used, count * self.decoded, disk)


class Column(NamedTuple):
    """A variable along the sample dimension, as the tasks read it."""

    name: str
    row_bytes: int
    """Bytes of a sample as stored, before compression."""
    seen_bytes: int
    """Bytes of a sample as a reader sees it: packed values are unpacked."""
    decoded: tuple[float, ...]
    """Rows (or as much as so many) decoded to read each shard."""
    unit_bytes: int
    """Of the largest piece that is decoded at once."""
    chunk_rows: int
    """Samples of that piece."""
    supervises: bool = False
    """Whether it is read only where a network learns, or is measured: targets and weights."""
    small: bool = False
    """Whether it holds integers of one or two bytes, which stay what they are until used."""
    disk_bytes: int | None = None


class Data(NamedTuple):
    """What a plan knows of the data."""

    grid: tuple[Shard, ...]
    visible: int
    columns: tuple[Column, ...]
    """Features first; then mask, labels, targets, weights and what the split reads."""
    masked: bool
    """Whether a sample in memory has a mask: a variable's, or of values that are NaN."""
    inputs: int
    """How many columns, from the first, only the lowest layer reads: features and mask."""
    counts: tuple[tuple[int, int, int], ...]
    exact: bool
    """Whether the counts are known: a split by a variable is not, before it is read."""
    source: str | None = None
    """Absolute path or URL."""
    likeness: float | None = None
    """Intraclass correlation of the labels in a shard; None where it is not known."""
    supervising: int = 0
    """Numbers in the targets and weights of a sample."""

    @property
    def samples(self) -> int:
        """All samples."""
        return self.grid[-1].stop

    @property
    def row_bytes(self) -> int:
        """Bytes of a sample as stored, before compression."""
        return sum(column.row_bytes for column in self.columns)

    @property
    def shard_rows(self) -> int:
        """Samples of the longest shard."""
        return max(shard.rows for shard in self.grid)

    def reading(
        self,
        shards: Iterable[int] | None = None,
        features: bool = True,
        supervised: bool = False,
    ) -> Reading:
        """Return what it takes to read some shards once (all by default).

        ``features=False`` is for layers that read stored activations: labels and split alone;
        ``supervised`` for networks that learn: targets and weights as well.
        """
        chosen = list(range(len(self.grid)) if shards is None else shards)
        rows = sum(self.grid[i].rows for i in chosen)
        columns = self.columns if features else self.columns[self.inputs :]
        columns = tuple(c for c in columns if supervised or not c.supervises)
        decoded = [sum(c.decoded[i] for i in chosen) for c in columns]
        pairs = list(zip(columns, decoded, strict=True))
        disk = [None if c.disk_bytes is None else c.disk_bytes * d / self.samples for c, d in pairs]
        return Reading(
            used=rows * sum(c.row_bytes for c in columns),
            decoded=int(sum(c.row_bytes * d for c, d in pairs)),
            disk=None if None in disk else int(sum(d for d in disk if d is not None)),
        )


def look(pipeline: Pipeline, data: Any = None) -> Data:
    """Find out what a plan has to know of a pipeline's data.

    Raises
    ------
    DeepstrataError
        The source is not there or is not as declared.
    """
    split = sources.split_of(pipeline)
    exact = split is None or split.by is None
    key = fold(Key(pipeline.seed), "split")
    found = _of_files(pipeline) if isinstance(pipeline.source, FileSource) else None
    found = found or _of_store(pipeline, split, data)
    # The draw says which rows, not how many.
    counted = split.model_copy(update={"shuffle": False}) if split is not None and exact else None
    counts = tuple(_counts(counted, shard, key) for shard in found.grid)
    return found._replace(counts=counts, exact=exact)


def _counts(split: Split | None, shard: Shard, key: Key) -> tuple[int, int, int]:
    if split is None:
        return shard.rows, 0, 0
    codes = assign(split, shard, None, key)
    train, validation, test = (int(n) for n in np.bincount(codes, minlength=3))
    return train, validation, test


def _of_files(pipeline: Pipeline) -> Data:
    """Describe the store that ``ingest`` will make: all its variables have the same shards."""
    source = pipeline.source
    assert isinstance(source, FileSource)
    schema = describe_source(source.format, source.path, source.sample_dim, **source.options)
    where = f"{source.format} {source.path or ''}".strip()
    features = schema.variable(source.features, where)
    samples, visible, itemsize = _lengths(features)
    rows = layout.choose(samples, visible * itemsize).shard_rows
    grid = shard_grid(samples, rows, source.rows_per_shard)
    decoded = tuple(float(shard.rows) for shard in grid)
    names = _names(pipeline, sources.split_of(pipeline))
    if any(isinstance(stage, Apply) for stage in pipeline.stages):
        # What a function adds beside the features is not there before it.
        there = {variable.name for variable in schema.variables}
        names = [name for name in names if name in {source.features, source.mask, *there}]
    columns, supervising = [], 0
    for name in names:
        _, width, itemsize = _lengths(schema.variable(name, where))
        inner = layout.inner_rows(rows, width * itemsize)
        unit, row = inner * width * itemsize, width * itemsize
        small = _small(np.dtype(schema.variable(name, where).dtype))
        supervises = name in (source.targets, source.weights)
        supervising += width * supervises
        columns.append(Column(name, row, row, decoded, unit, inner, supervises, small))
    path = None if source.path is None else stores.absolute(source.path)
    inputs = 1 + (source.mask is not None)
    return Data(
        grid,
        visible,
        tuple(columns),
        source.masked,
        inputs,
        (),
        True,
        path,
        supervising=supervising,
    )


def _names(pipeline: Pipeline, split: Split | None) -> list[str]:
    source = pipeline.source
    domains = [stage.domain for stage in pipeline.stages if isinstance(stage, CrossDomain)]
    by = [] if split is None or split.by is None else [split.by]
    return list(dict.fromkeys((*source.named, *by, *domains)))


def _small(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu" and dtype.itemsize <= 2


def _lengths(variable: Variable) -> tuple[int, int, int]:
    samples, *lengths = (length or 0 for length in variable.shape or (0,))
    return samples, math.prod(lengths), np.dtype(variable.dtype).itemsize


def _of_store(pipeline: Pipeline, split: Split | None, data: Any) -> Data:
    opened = sources.open_source(pipeline, pipeline.source, data)
    sources.feed_of(pipeline, opened)
    path = getattr(pipeline.source, "path", None)
    place = None if path is None else stores.absolute(path)
    names = _names(pipeline, split)
    columns = tuple(_column(opened, name, place) for name in names)
    return Data(
        grid=opened.grid,
        visible=opened.visible,
        columns=columns,
        masked=pipeline.source.masked,
        inputs=1 + (opened.columns.mask is not None),
        counts=(),
        exact=True,
        source=place,
        likeness=_likeness(opened),
        supervising=opened.columns.target_width + (opened.columns.weights is not None),
    )


def _column(opened: Opened, name: str, place: str | None) -> Column:
    variable, dim = opened.dataset.variables[name], opened.columns.sample_dim
    axis, samples = variable.dims.index(dim), opened.columns.samples
    width = variable.size // samples
    starts, stops = [s.start for s in opened.grid], [s.stop for s in opened.grid]
    stored: Sequence[Any] = variable.encoding.get("chunks") or ()
    if len(stored) != variable.ndim:
        stored = (None,) * variable.ndim
    if variable.chunks is not None:
        decoded = _through_dask(variable, axis, stored, starts, stops)
        unit = [max(lengths) for lengths in variable.chunks]
    else:
        decoded = decoded_rows(starts, stops, stored[axis], samples).astype(float)
        unit = [max(n) if isinstance(n, tuple) else n or 1 for n in stored]
    itemsize = np.dtype(variable.encoding.get("dtype") or variable.dtype).itemsize
    on_disk = isinstance(opened.source, ZarrSource) and place is not None
    group = opened.source.group if isinstance(opened.source, ZarrSource) else None
    return Column(
        name=name,
        row_bytes=width * itemsize,
        seen_bytes=width * variable.dtype.itemsize,
        decoded=tuple(decoded.tolist()),
        unit_bytes=math.prod(unit) * itemsize,
        chunk_rows=unit[axis],
        supervises=name in (opened.columns.targets, opened.columns.weights),
        small=_small(variable.dtype),
        disk_bytes=_disk(stores.join(place, group or "", name)) if on_disk and place else None,
    )


def _through_dask(
    variable: xr.Variable, axis: int, stored: Sequence[Any], starts: list[int], stops: list[int]
) -> Any:
    """Return what is decoded where each of Dask's chunks decodes the store's chunks below it."""
    assert variable.chunks is not None
    shares, own = 1.0, np.zeros(0)
    for i, (lengths, chunk) in enumerate(zip(variable.chunks, stored, strict=True)):
        edges = np.cumsum([0, *lengths])
        rows = decoded_rows(edges[:-1], edges[1:], chunk, int(edges[-1])).astype(float)
        if i == axis:
            own = rows
        else:
            shares *= rows.sum() / edges[-1]
    return shares * covered(starts, stops, variable.chunks[axis], own)


def _disk(path: str) -> int | None:
    """Return the size of a local directory's files, if they are not too many to look at."""
    if not stores.is_local(path):
        return None
    total, left, folders = 0, FILES, [path]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                left -= 1
                if left < 0:
                    return None
                if entry.is_dir():
                    folders.append(entry.path)
                else:
                    total += entry.stat().st_size
    return total


def _likeness(opened: Opened) -> float | None:
    name, samples = opened.columns.labels, opened.columns.samples
    if name is None or len(opened.grid) < 2 or not isinstance(opened.source, ZarrSource):
        return None
    variable = opened.dataset.variables[name]
    if variable.chunks is not None or samples * variable.dtype.itemsize > LABEL_BYTES:
        return None
    try:
        labels = reader(opened.source, opened.dataset).read(0, samples, (name,))[name]
    except BadShardError:  # whether that matters the run decides, which reads shard by shard
        return None
    return intraclass(labels, [shard.start for shard in opened.grid])
