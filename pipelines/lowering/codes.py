"""Codes of every sample, written to Zarr by the workers."""

import time
from typing import Any

import numpy as np
import xarray as xr

from deepstrata.ops import backend, models
from deepstrata.pipelines import feeds
from deepstrata.pipelines.context import Context, TrainedModel, each_shard, stage_digest
from deepstrata.pipelines.events import Notice
from deepstrata.pipelines.feeds import Feed, Known, Saved
from deepstrata.pipelines.lowering.table import lower
from deepstrata.pipelines.meter import measure
from deepstrata.pipelines.model import SAMPLE, UNIT
from deepstrata.schemas.errors import StorageError
from deepstrata.schemas.models import Model
from deepstrata.schemas.runs import StageRecord
from deepstrata.schemas.stages import Encode
from deepstrata.storage import sealed, stores, writing
from deepstrata.storage.shards import Shard, shard_grid


def encode_rows(
    feed: Feed,
    rows: Shard,
    model: Model | None,
    params: Saved | None,
    layer: int | None,
    path: str,
    name: str,
    width: int,
) -> int:
    """Write the codes of a run of rows; return how many there are.

    They are computed for whole shards, as in training; where one takes no part they stay NaN.
    """
    pieces: list[tuple[Shard, np.ndarray[Any, Any] | None]] = []
    for shard, _, skipped in feed.known or (Known(rows, {}, False),):
        if skipped:
            pieces.append((shard, None))
            continue
        x = feeds.load(feed, shard, None).x
        with measure("compute"):
            if model is not None and params is not None:
                x = models.encode(model, params.load(feed.backend), x, layer)
        pieces.append((shard, backend.to_numpy(x)))
    codes = _cut(rows, width, pieces)
    writing.write_rows(path, name, rows.start, codes)
    return rows.rows


def _cut(
    rows: Shard, width: int, pieces: list[tuple[Shard, np.ndarray[Any, Any] | None]]
) -> np.ndarray[Any, Any]:
    """Return the codes of some rows from those of the shards that they touch."""
    if len(pieces) == 1 and pieces[0][1] is not None and pieces[0][0].rows == rows.rows:
        return pieces[0][1]
    codes = np.full((rows.rows, width), np.nan, np.float32)
    for shard, x in pieces:
        start, stop = max(rows.start, shard.start), min(rows.stop, shard.stop)
        if x is not None:
            codes[start - rows.start : stop - rows.start] = x[start - shard.start :][: stop - start]
    return codes


def write_codes(
    context: Context,
    stage: str,
    feed: Feed,
    path: str,
    name: str,
    width: int,
    coords: xr.Dataset,
    model: TrainedModel | None = None,
    layer: int | None = None,
    attrs: dict[str, Any] | None = None,
    part: str = "",
) -> None:
    """Write a vector for every sample, in runs of rows as long as the longest shard."""
    samples = context.grid[-1].stop
    rows = max(shard.stop - shard.start for shard in context.grid)
    sample_dim = feed.columns.sample_dim if coords.sizes else SAMPLE
    writing.create_like(
        path, coords, name, (sample_dim, UNIT), (samples, width), "float32", rows, attrs or {}
    )
    runs = shard_grid(samples, rows)
    using = (model.model, model.params) if model else (None, None)
    arguments = (*using, layer, path, name, width)
    each_shard(context, stage, encode_rows, runs, arguments, feed=feed, part=part)
    writing.finish(path)


def _coordinates(context: Context) -> xr.Dataset:
    """Return the coordinates of the samples that can be read.

    One that cannot be read where shards are skipped is left out, and the observer told.
    """
    coords = context.coords
    skipped = [known.shard for known in context.feed.known if known.skipped]
    dim = context.feed.columns.sample_dim
    for name in list(coords.coords):
        try:
            for shard in skipped:
                coords[name].isel({dim: slice(shard.start, shard.stop)}).load()
        except Exception as error:
            coords = coords.drop_vars(str(name))
            context.observer(
                Notice(f"coordinate {name!r} is left out of the codes: {type(error).__name__}")
            )
    return coords


@lower.register
def _(stage: Encode, context: Context) -> StageRecord:
    used = context.model_of(stage)
    key = stage_digest(stage, context.chain, used.key)
    path = stores.absolute(stage.path or stores.join(context.path, "codes.zarr"))
    done = context.finished(stage.name, key)
    if done is not None and writing.is_complete(path):
        return done
    started = time.perf_counter()
    note = {"path": stores.relative(path, context.path), "key": key}
    # A run may have ended after the last code was written and before that was recorded.
    if not (writing.is_complete(path) and _noted(context, stage) == note):
        _make_room(context, stage, path)
        sealed.write(_note_url(context, stage), note)
        _write(context, stage, path, used)
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=key,
        seconds=time.perf_counter() - started,
        examples=context.grid[-1].stop,
        outputs={"codes": stores.relative(path, context.path)},
    )


def _write(context: Context, stage: Encode, path: str, used: TrainedModel) -> None:
    width = models.code_width(used.model, context.visible, stage.layer)
    attrs = {"long_name": "code", "model": used.model.kind, "pipeline": context.pipeline.name}
    write_codes(
        context,
        stage.name,
        context.feed,
        path,
        "code",
        width,
        _coordinates(context),
        used,
        stage.layer,
        attrs,
    )


def _note_url(context: Context, stage: Encode) -> str:
    return stores.join(context.path, "stages", stage.name, "codes.json")


def _noted(context: Context, stage: Encode) -> dict[str, str]:
    """Return what was noted of the codes that the stage was last to write."""
    url = _note_url(context, stage)
    try:
        return sealed.read(url) if stores.exists(url) else {}
    except sealed.DamagedError:  # its writing was interrupted, where that leaves a part
        return {}


def _make_room(context: Context, stage: Encode, path: str) -> None:
    """Remove what this stage wrote before; what somebody else wrote stays."""
    done = context.record(stage.name)
    own = {_noted(context, stage).get("path"), done and done.outputs["codes"]} - {None}
    within = stage.path is None  # nobody else writes in the run's directory
    mine = within or path in [stores.resolved(str(p), context.path) for p in own]
    if writing.is_complete(path) and not mine:
        raise StorageError(
            f"{path}: exists already; give stage {stage.name!r} another path, or remove it"
        )
    writing.discard(path, own=within)
