"""Measuring a trained model."""

import time
from functools import partial, reduce
from typing import Any

import numpy as np

from deepstrata.ops import gaps, models, pca
from deepstrata.ops.gaps import Gaps
from deepstrata.ops.measures import means
from deepstrata.ops.partials import add_stats
from deepstrata.pipelines import feeds
from deepstrata.pipelines.context import Context, TrainedModel, each_shard, stage_digest
from deepstrata.pipelines.feeds import Feed, Saved
from deepstrata.pipelines.lowering.principal import PART, principal
from deepstrata.pipelines.lowering.table import lower
from deepstrata.pipelines.meter import measure
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.keys import fold
from deepstrata.schemas.models import Model, is_supervised
from deepstrata.schemas.runs import StageRecord
from deepstrata.schemas.stages import Evaluate
from deepstrata.storage import sealed, stores
from deepstrata.storage.shards import Shard
from deepstrata.storage.splits import PARTS

Sums = dict[str, Any]


def merge_sums(*sums: Sums) -> Sums:
    """Add what shards found, in their order."""
    return reduce(add_stats, sums)


def evaluate_shard(
    feed: Feed, shard: Shard, model: Model, params: Saved, part: int, hidden: Gaps | None
) -> Sums:
    """Return the sums that measure a model on one part of a shard."""
    batch = feeds.load(feed, shard, part)
    with measure("compute"):
        own = params.load(feed.backend)
        found = models.evaluate(model, own, batch)
        if hidden is None:
            return found
        return found | gaps.measure(batch, hidden, partial(models.fill, model, own))


def evaluate_linear(
    feed: Feed, shard: Shard, linear: Saved, part: int, hidden: Gaps | None
) -> Sums:
    """Return the sums that measure principal components on one part of a shard."""
    batch = feeds.load(feed, shard, part)
    with measure("compute"):
        return pca.evaluate(linear.load(feed.backend), batch, hidden)


def _means(stage: Evaluate, part: str, sums: Sums) -> dict[str, float]:
    """Turn sums into means: of gaps over their number, of all else over the samples."""
    count = sums.pop("gaps", None)
    if count == 0:
        raise DataError(
            f"stage {stage.name!r}: gaps={stage.gaps} hides no value of the {part} part; take a "
            "larger share"
        )
    filled = {name: sums.pop(name) / count for name in list(sums) if name.startswith("gap_")}
    return means(sums, sums["n"]) | filled


def _beside(stage: Evaluate, context: Context, hidden: Gaps | None) -> dict[str, float]:
    """Return what as many principal components lose, in the same parts and gaps."""
    if stage.pca is None:
        return {}
    linear, metrics = principal(context, stage.name, stage.pca), dict[str, float]()
    for name, shards in _parts(stage, context):
        arguments = (linear, PARTS.index(name), hidden)
        (sums,) = each_shard(
            context, stage.name, evaluate_linear, shards, arguments, merge_sums, part=PART
        )
        found = _means(stage, name, sums)
        variance = found.pop("gap_variance", None)
        metrics |= {f"{name}_pca_{what}": value for what, value in found.items()}
        metrics |= {} if variance is None else {f"{name}_gap_variance": variance}
    return metrics


def _parts(stage: Evaluate, context: Context) -> list[tuple[str, list[Shard]]]:
    """Return the parts that have samples, each with the shards that these are in."""
    found = [
        (name, [s for s in context.grid if context.counts[s.index][PARTS.index(name)]])
        for name in stage.parts
    ]
    return [(name, shards) for name, shards in found if shards]


def _confusion(stage: Evaluate, context: Context, part: str, counts: Any) -> dict[str, str]:
    """Write a table of classes; return where it is."""
    url = stores.join(context.path, "stages", stage.name, f"confusion-{part}.json")
    sealed.write(url, {"counts": np.asarray(counts).tolist()})
    return {f"confusion_{part}": stores.relative(url, context.path)}


@lower.register
def _(stage: Evaluate, context: Context) -> StageRecord:
    used: TrainedModel = context.model_of(stage)
    key = stage_digest(stage, context.chain, used.key)
    done = context.finished(stage.name, key)
    if done is not None:
        return done
    started, examples = time.perf_counter(), 0
    # Stages that compare models hide the same values.
    hidden = None if stage.gaps is None else Gaps(stage.gaps, fold(context.key, "gaps"))
    metrics, outputs = dict[str, float](), dict[str, str]()
    feed = context.feed._replace(supervised=is_supervised(used.model))
    for name, shards in _parts(stage, context):
        arguments = (used.model, used.params, PARTS.index(name), hidden)
        (found,) = each_shard(
            context, stage.name, evaluate_shard, shards, arguments, merge_sums, feed=feed
        )
        examples += context.total(PARTS.index(name))
        confusion = found.pop("confusion", None)
        if confusion is not None:
            outputs |= _confusion(stage, context, name, confusion)
        metrics |= {f"{name}_{what}": value for what, value in _means(stage, name, found).items()}
    metrics |= _beside(stage, context, hidden)
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=key,
        seconds=time.perf_counter() - started,
        examples=examples,
        metrics=metrics,
        outputs=outputs,
    )
