"""Scaling: statistics of the training part, in one pass, out of core."""

import time
from typing import Any

import numpy as np

from deepstrata.ops import backend, moments
from deepstrata.ops.preprocess import Affine
from deepstrata.pipelines import feeds
from deepstrata.pipelines.context import Context, each_shard, stage_digest
from deepstrata.pipelines.feeds import Feed, Saved
from deepstrata.pipelines.lowering.table import lower
from deepstrata.pipelines.meter import measure
from deepstrata.pipelines.windows import Training
from deepstrata.schemas.runs import StageRecord
from deepstrata.schemas.stages import Scale, Standardise
from deepstrata.schemas.trees import ArraySpec
from deepstrata.storage import checkpoints, stores
from deepstrata.storage.shards import Shard


def shard_moments(feed: Feed, shard: Shard, whole: bool) -> moments.Moments:
    """Return the moments of the training samples of a shard, per feature or as a whole."""
    batch = feeds.load(feed, shard, 0)
    with measure("compute"):
        x, mask = batch.x, batch.mask
        if whole:
            xp = backend.namespace(x)
            x = xp.reshape(x, (-1, 1))
            mask = None if mask is None else xp.reshape(mask, (-1, 1))
        found: moments.Moments = backend.on_host(moments.moments(x, mask))
        return found


def _statistics(stage: Scale | Standardise, context: Context, whole: bool) -> moments.Moments:
    with_rows = [shard for shard in context.grid if context.counts[shard.index][0]]
    found: moments.Moments
    (found,) = each_shard(
        context, stage.name, shard_moments, with_rows, (whole,), merge=moments.merge
    )
    return found


def learned_moments(context: Context, training: Training) -> moments.Moments:
    """Return the moments of each feature that a training sees, of the samples it learns from."""
    with_rows = [shard for shard in training.grid if training.counts[shard.index][0]]
    found: moments.Moments
    (found,) = each_shard(
        context,
        training.name,
        shard_moments,
        with_rows,
        (False,),
        merge=moments.merge,
        feed=training.feed,
        part=f"means of {training.part or 'the features'}",
    )
    return found


def _affine(stage: Scale | Standardise, context: Context, shift: Any, divisor: Any) -> None:
    """Save ``(x - shift) / divisor`` and let all later stages use it."""
    affine = Affine(np.asarray(shift, np.float32), np.asarray(divisor, np.float32))
    url = stores.join(context.path, "stages", stage.name, "affine.safetensors")
    use_affine(context, affine, url, checkpoints.save_part(url, affine))


def use_affine(context: Context, like: Affine, url: str, digest: str) -> None:
    """Let all later stages shift and scale by what is saved."""
    spec = Affine(*(ArraySpec(tuple(leaf.shape), "float32") for leaf in like))
    saved = Saved(url, digest, spec)
    context.feed = context.feed._replace(affine=(*context.feed.affine, saved))


@lower.register
def _(stage: Scale | Standardise, context: Context) -> StageRecord:
    key = context.chain = stage_digest(stage, context.chain)
    url = stores.join(context.path, "stages", stage.name, "affine.safetensors")
    per_feature = isinstance(stage, Standardise) and stage.per == "feature"
    shape = (context.visible,) if per_feature else ()
    done = context.finished(stage.name, key)
    if done is not None:
        like = Affine(ArraySpec(shape), ArraySpec(shape))
        use_affine(context, like, url, done.outputs["digest"])
        return done
    started = time.perf_counter()
    if isinstance(stage, Standardise):
        found = _statistics(stage, context, whole=not per_feature)
        spread = np.sqrt(moments.variance(found)) + stage.epsilon
        spread[found.n == 0] = 1.0  # what training never shows is left as it is
        _affine(stage, context, moments.mean(found).reshape(shape), spread.reshape(shape))
    else:
        low, high = stage.minimum, stage.maximum
        if low is None or high is None:
            found = _statistics(stage, context, whole=True)
            low = float(found.minimum[0]) if low is None else low
            high = float(found.maximum[0]) if high is None else high
        _affine(stage, context, low, high - low or 1.0)
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=key,
        seconds=time.perf_counter() - started,
        examples=context.total(0),
        outputs={
            "affine": stores.relative(url, context.path),
            "digest": context.feed.affine[-1].digest,
        },
    )
