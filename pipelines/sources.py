"""Opening what a pipeline reads: ingest if it must be, preprocess, check, count."""

import time
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from deepstrata.ops.backend import Backend
from deepstrata.pipelines import inspection, supervision
from deepstrata.pipelines.context import Context, digest_of, each_shard, stage_digest
from deepstrata.pipelines.events import Notice, Observer, StageFinished, StageStarted
from deepstrata.pipelines.feeds import Feed, Known
from deepstrata.pipelines.inspection import Inspected
from deepstrata.pipelines.report.numbers import coordinate
from deepstrata.schemas.datasets import DatasetSource, FileSource, Source, Variable, ZarrSource
from deepstrata.schemas.errors import DataError, DeclarationError, SchemaError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.runs import StageRecord
from deepstrata.schemas.stages import Apply, CrossDomain, Split
from deepstrata.storage import sealed, stores, writing
from deepstrata.storage.datasets import Columns, open_dataset, resolve, row_chunks
from deepstrata.storage.ingest import describe_source, ingest
from deepstrata.storage.readers import DatasetReader, reader
from deepstrata.storage.shards import Shard, shard_grid
from deepstrata.storage.splits import flags


class Opened(NamedTuple):
    """A source that can be read."""

    source: Source
    """As declared, or the Zarr store that an ingest made of it."""
    dataset: xr.Dataset
    columns: Columns
    grid: tuple[Shard, ...]

    @property
    def visible(self) -> int:
        """Features of a sample."""
        size = 1
        for length in self.columns.feature_shape:
            size *= length
        return size

    @property
    def sample(self) -> xr.DataArray:
        """One sample without values: dimensions, coordinates, name and attributes."""
        whole = self.dataset[self.columns.features]
        dims, shape = self.columns.feature_dims, self.columns.feature_shape
        coords = {name: c for name, c in whole.coords.items() if c.dims and set(c.dims) <= {*dims}}
        blank = np.broadcast_to(np.float32(np.nan), shape)
        return xr.DataArray(blank, coords, dims, self.columns.features, whole.attrs)

    @property
    def coords(self) -> xr.Dataset:
        """Coordinates along the sample dimension, without data."""
        dim = self.columns.sample_dim
        names = [n for n, c in self.dataset.coords.items() if c.dims == (dim,)]
        extra = [n for n in (self.columns.labels,) if n is not None and n in self.dataset.data_vars]
        kept = self.dataset[[*names, *extra]].set_coords(extra)
        return kept.drop_vars([n for n in kept.coords if kept[n].dims != (dim,)])


def split_of(pipeline: Pipeline) -> Split | None:
    """Return the pipeline's split, if it has one."""
    return next((stage for stage in pipeline.stages if isinstance(stage, Split)), None)


def open_source(pipeline: Pipeline, source: Source, data: Any = None) -> Opened:
    """Open a source, preprocess it lazily, and check what it must have.

    Raises
    ------
    SchemaError, StorageError
        It is not there, or a variable, dimension or dtype is not as declared.
    DeclarationError
        The pipeline takes a dataset of the caller's, and none was given.
    """
    applied = [stage for stage in pipeline.stages if isinstance(stage, Apply)]
    if isinstance(source, ZarrSource):
        dataset = open_dataset(source.path, source.group, chunked=bool(applied))
    elif isinstance(source, DatasetSource):
        if data is None:
            raise DeclarationError(
                f"pipeline {pipeline.name!r} reads a dataset of yours: pass it as run(data=...)"
            )
        dataset = data.to_dataset(name=source.features) if isinstance(data, xr.DataArray) else data
    else:
        raise TypeError(f"a {type(source).__name__} must be ingested first")
    for stage in applied:
        dataset = stage.function(dataset, **stage.arguments)
        if not isinstance(dataset, xr.Dataset):
            raise DeclarationError(
                f"stage {stage.name!r}: expected the function to return an xarray.Dataset, "
                f"found {type(dataset).__name__}"
            )
    if applied:
        source = DatasetSource(**source.model_dump(exclude={"kind", "path", "group"}))
    columns = resolve(source, dataset)
    return Opened(source, dataset, columns, _grid(source, dataset, columns))


def check_source(pipeline: Pipeline, data: Any = None) -> None:
    """Check what can be checked of a pipeline's source before anything is started or written.

    Raises
    ------
    SchemaError, StorageError
        It is not there, or metadata says that it is not as declared.
    """
    source = pipeline.source
    if not isinstance(source, FileSource):
        opened = open_source(pipeline, source, data)
        feed_of(pipeline, opened)
        return
    schema = describe_source(source.format, source.path, source.sample_dim, **source.options)
    where = f"{source.format} {source.path or ''}".strip()
    for name in source.named:
        schema.variable(name, where)
    supervision.check_described(pipeline, schema)


def _grid(source: Source, dataset: xr.Dataset, columns: Columns) -> tuple[Shard, ...]:
    chunks = row_chunks(dataset, columns.features, columns.sample_dim)
    return shard_grid(columns.samples, chunks, source.rows_per_shard)


def ingest_source(
    pipeline: Pipeline, path: str, records: list[StageRecord], observer: Observer
) -> tuple[Source, StageRecord | None]:
    """Write a ``FileSource`` to Zarr in the run directory, unless that is done."""
    source = pipeline.source
    if not isinstance(source, FileSource):
        return source, None
    dest = stores.join(path, "data.zarr")
    key = stage_digest(source)
    fields = source.model_dump(exclude={"kind", "path", "format", "options"})
    found = ZarrSource(path=dest, **fields)
    done = next((r for r in records if r.name == "ingest" and r.key == key), None)
    if done is not None and writing.is_complete(dest):
        observer(StageFinished("ingest", "ingest", 0.0, {}, reused=True))
        return found, done
    observer(StageStarted("ingest", "ingest", 0))
    started = time.perf_counter()
    writing.discard(dest, own=True)
    schema = ingest(
        source.format, source.path, dest, sample_dim=source.sample_dim, **source.options
    )
    seconds = time.perf_counter() - started
    samples = schema.variable(source.features).shape
    record = StageRecord(
        name="ingest",
        kind="ingest",
        key=key,
        seconds=seconds,
        examples=int(samples[0]) if samples and samples[0] else 0,
        outputs={"data": stores.relative(dest, path)},
    )
    observer(StageFinished("ingest", "ingest", seconds, {}, reused=False))
    return found, record


def feed_of(pipeline: Pipeline, opened: Opened, device: Backend = "numpy") -> Feed:
    """Return how tasks read the source."""
    split, meanings = split_of(pipeline), None
    if split is not None and split.by is not None:
        if split.by not in opened.dataset.variables:
            there = ", ".join(map(str, opened.dataset.variables))
            raise SchemaError(
                f"stage {split.name!r}: no variable {split.by!r} in the dataset; it has: {there}"
            )
        meanings = flags(opened.dataset[split.by])
    if opened.columns.targets is not None:
        supervision.check_targets(pipeline, opened.visible, opened.columns.target_shape)
    by = () if split is None or split.by is None else (split.by,)
    extra = _extra(pipeline, opened)
    return Feed(
        reader=reader(opened.source, opened.dataset, (*by, *extra)),
        columns=opened.columns,
        split=split,
        split_key=fold(Key(pipeline.seed), "split"),
        meanings=tuple((meanings or {}).items()),
        ranges=(*_ranges(pipeline.source), *supervision.ranges(pipeline)),
        backend=device,
        extra=extra,
    )


def _extra(pipeline: Pipeline, opened: Opened) -> tuple[str, ...]:
    """Return the variables that tell domains apart."""
    names = dict.fromkeys(s.domain for s in pipeline.stages if isinstance(s, CrossDomain))
    for name in names:
        if name not in opened.dataset.variables:
            there = ", ".join(map(str, opened.dataset.variables))
            raise SchemaError(f"domain={name!r}: no such variable in the dataset; it has: {there}")
        found, dim = opened.dataset.variables[name], opened.columns.sample_dim
        if found.dims != (dim,) or found.dtype.kind not in "iu":
            raise SchemaError(
                f"domain={name!r}: expected whole numbers along {dim!r}, found {found.dtype} "
                f"along {found.dims}"
            )
    return tuple(names)


def _ranges(source: Source) -> tuple[Variable, ...]:
    declared = source.expected.variables if source.expected else ()
    return tuple(v for v in declared if (v.minimum, v.maximum) != (None, None))


def inspect(context: Context, again: bool = False) -> tuple[StageRecord, str]:
    """Read everything once: check values, count the parts of every shard, hash the content.

    What was found before is what must be found again: a shard in which a chunk is missing since
    then, or has changed, is as bad as one that cannot be read.

    Parameters
    ----------
    again
        Look at the data although that was done.

    Returns
    -------
    tuple
        The record and the digest of the data.
    """
    key = digest_of(context.chain, str(context.feed.columns), [list(s) for s in context.grid])
    url = stores.join(context.path, "stages", "inspect", "inspected.json")
    skip = context.pipeline.on_bad_shard == "skip"
    started = time.perf_counter()
    # What a caller hands over may be other data by now; what lies in a store is taken as it was.
    given = isinstance(context.feed.reader, DatasetReader)
    before = _found_before(url, key) if again or not given else []
    reused = bool(before) and not again and (skip or not any(f.problem for f in before))
    found = before
    if not reused:
        context.observer(StageStarted("inspect", "inspect", len(context.grid)))
        feed = context.feed._replace(known=_known(context.grid, before), supervised=True)
        found = each_shard(context, "inspect", inspection.inspect, context.grid, (skip,), feed=feed)
        sealed.write(url, {"key": key, "shards": [list(f) for f in found]})
    _take(context, found)
    metrics = _totals(context, found)
    seconds = time.perf_counter() - started
    context.observer(StageFinished("inspect", "inspect", seconds, metrics, reused))
    done = context.finished("inspect", key)
    if not reused or done is None or done.metrics != metrics:
        done = StageRecord(
            name="inspect",
            kind="inspect",
            key=key,
            seconds=seconds,
            examples=context.grid[-1].stop,
            metrics=metrics,
            outputs={"inspected": stores.relative(url, context.path)},
        )
    return done, digest_of([f.digest for f in found])


def _found_before(url: str, key: str) -> list[Inspected]:
    """Return what an inspection of the same data found; nothing if that is not to be had."""
    try:
        content = sealed.read(url) if stores.exists(url) else {}
    except sealed.DamagedError:
        return []  # it is made anew
    if content.get("key") != key:
        return []
    return [_inspected(*shard) for shard in content["shards"]]


def _inspected(counts: Any, *rest: Any) -> Inspected:
    """Return what was found in a shard, as JSON holds it."""
    found = Inspected(tuple(counts), *rest)
    present = None if found.present is None else tuple(found.present)
    return found._replace(
        counting=tuple(found.counting),
        present=present,  # type: ignore[arg-type]
        hidden=tuple(found.hidden),
    )


def _known(grid: Sequence[Shard], found: Sequence[Inspected]) -> tuple[Known, ...]:
    return tuple(
        Known(shard, f.checksums, bool(f.problem))
        for shard, f in zip(grid, found, strict=bool(found))
    )


def _take(context: Context, found: list[Inspected]) -> None:
    """Let the stages go by what was found, and say what takes no part."""
    context.counts = tuple(f.counts for f in found)
    context.feed = context.feed._replace(known=_known(context.grid, found))
    for shard, f in zip(context.grid, found, strict=True):
        if f.problem:
            context.observer(
                Notice(f"samples {shard.start} to {shard.stop - 1} are skipped: {f.problem}")
            )
    _check_labels(context, found)
    supervision.check_counting(context.pipeline, found)
    if not context.total(0):
        skipped = any(f.problem for f in found)
        raise DataError(
            "the training part has no samples; "
            + ("shards that cannot be read are skipped" if skipped else "see the split stage")
        )
    _check_presence(context, found)


def _totals(context: Context, found: list[Inspected]) -> dict[str, float]:
    parts = zip(("train", "validation", "test"), range(3), strict=True)
    metrics = {f"{name}_samples": float(context.total(i)) for name, i in parts}
    skipped = [s.rows for s, f in zip(context.grid, found, strict=True) if f.problem]
    if skipped:
        metrics |= {"skipped_shards": float(len(skipped)), "skipped_samples": float(sum(skipped))}
    return metrics


def _check_presence(context: Context, found: list[Inspected]) -> None:
    """Check that something is there to learn from, and something of every sample.

    Raises
    ------
    DataError
        Everything is absent in the variable, in the training part, or in a sample.
    """
    present = [f.present for f in found if f.present is not None]
    if not present:
        return
    where, hides = f"variable {context.feed.columns.features!r}", _hiding(context.feed.columns)
    if not any(map(any, present)):
        raise DataError(f"{where}: every value is {hides}: there is nothing to learn from")
    if not any(train for train, *_ in present):
        raise DataError(
            f"{where}, training part: every value of its {context.total(0):,} samples is {hides}; "
            "split otherwise, so that there is something to learn from"
        )
    hidden = [row for f in found for row in f.hidden]
    if hidden:
        raise DataError(
            f"{where}, sample {_named_row(context, hidden[0])}: every value of it is {hides}, as "
            f"in {len(hidden):,} of {context.grid[-1].stop:,} samples; leave such samples out, as "
            "with xarray's dropna(dim, how='all')"
        )


def _hiding(columns: Columns) -> str:
    """Say what makes a value absent."""
    ways = ["NaN"] if columns.missing == "absent" else []
    return " or ".join([*ways, *([f"hidden by the mask {columns.mask!r}"] if columns.mask else [])])


def _named_row(context: Context, row: int) -> str:
    """Return the number of a sample, and its coordinate where it has one: ``7 (time=2010-08)``."""
    dim = context.feed.columns.sample_dim
    if dim not in context.coords.coords:
        return str(row)
    return f"{row} ({dim}={coordinate(context.coords[dim][row].values)})"


def _check_labels(context: Context, found: list[Inspected]) -> None:
    largest = reduce(max, (f.largest_label for f in found), -1)
    for stage in context.pipeline.stages:
        classes = context.pipeline.classes_of(stage)
        if classes is not None and largest >= classes:
            index = next(i for i, f in enumerate(found) if f.largest_label >= classes)
            shard = context.grid[index]
            raise DataError(
                f"variable {context.feed.columns.labels!r}, samples {shard.start} to "
                f"{shard.stop - 1}: expected class numbers 0 to {classes - 1} "
                f"(classes={classes}), found {found[index].largest_label}"
            )
