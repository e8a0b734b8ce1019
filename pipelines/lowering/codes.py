"""Codes of every sample, written to Zarr by the workers."""

import time
from typing import Any

import xarray as xr

from deepstrata.ops import backend, models
from deepstrata.pipelines import feeds
from deepstrata.pipelines.context import Context, TrainedModel, each_shard, stage_digest
from deepstrata.pipelines.feeds import Feed, Saved
from deepstrata.pipelines.lowering.table import lower
from deepstrata.pipelines.meter import measure
from deepstrata.pipelines.model import UNIT
from deepstrata.schemas.errors import StorageError
from deepstrata.schemas.models import Model
from deepstrata.schemas.runs import StageRecord
from deepstrata.schemas.stages import Encode
from deepstrata.storage import stores, writing
from deepstrata.storage.datasets import open_dataset
from deepstrata.storage.shards import Shard, shard_grid

SAMPLE = "sample"


def encode_rows(
    feed: Feed,
    rows: Shard,
    model: Model | None,
    params: Saved | None,
    layer: int | None,
    path: str,
    name: str,
) -> int:
    """Write the codes of a run of rows; return how many there are."""
    x = feeds.load(feed, rows, None).x
    with measure("compute"):
        if model is not None and params is not None:
            x = models.encode(model, params.load(feed.backend), x, layer)
    writing.write_rows(path, name, rows.start, backend.to_numpy(x))
    return rows.stop - rows.start


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
    each_shard(context, stage, encode_rows, runs, (*using, layer, path, name), feed=feed, part=part)
    writing.finish(path)


@lower.register
def _(stage: Encode, context: Context) -> StageRecord:
    used = context.model_of(stage)
    key = stage_digest(stage, context.chain, used.key)
    path = stores.absolute(stage.path or stores.join(context.path, "codes.zarr"))
    done = context.finished(stage.name, key)
    complete = writing.is_complete(path)
    if done is not None and complete:
        return done
    started = time.perf_counter()
    # The process may have ended after the last code was written and before that was recorded.
    if not complete or _key_in(path) != key:
        _make_room(context, stage, path, complete)
        width = models.code_width(used.model, context.visible, stage.layer)
        attrs = {
            "long_name": "code",
            "model": used.model.kind,
            "pipeline": context.pipeline.name,
            "key": key,
        }
        write_codes(
            context,
            stage.name,
            context.feed,
            path,
            "code",
            width,
            context.coords,
            used,
            stage.layer,
            attrs,
        )
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=key,
        seconds=time.perf_counter() - started,
        examples=context.grid[-1].stop,
        outputs={"codes": stores.relative(path, context.path)},
    )


def _key_in(path: str) -> str | None:
    """Return the key of the stage that wrote some codes; None where something else is."""
    dataset = open_dataset(path, indexes=False)
    return dataset["code"].attrs.get("key") if "code" in dataset else None


def _make_room(context: Context, stage: Encode, path: str, complete: bool) -> None:
    """Remove what this stage wrote before; what somebody else wrote stays."""
    done = context.record(stage.name)
    own = done is not None and stores.resolved(done.outputs["codes"], context.path) == path
    if complete and not own:
        raise StorageError(
            f"{path}: exists already; give stage {stage.name!r} another path, or remove it"
        )
    writing.discard(path, own=stage.path is None)
