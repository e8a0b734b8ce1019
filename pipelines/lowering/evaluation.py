"""Measuring a trained model."""

import time
from functools import reduce
from typing import Any

import numpy as np

from deepstrata.ops import models, pca
from deepstrata.ops.backend import on_host
from deepstrata.ops.measures import means
from deepstrata.ops.partials import add_stats
from deepstrata.pipelines import feeds
from deepstrata.pipelines.context import Context, each_shard, stage_digest
from deepstrata.pipelines.feeds import Feed, Saved
from deepstrata.pipelines.lowering.table import lower
from deepstrata.pipelines.meter import measure
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.models import Model, is_supervised
from deepstrata.schemas.runs import StageRecord
from deepstrata.schemas.stages import Evaluate
from deepstrata.storage import sealed, stores
from deepstrata.storage.shards import Shard
from deepstrata.storage.splits import PARTS


def merge_sums(*sums: dict[str, Any]) -> dict[str, Any]:
    """Add what shards found, in their order."""
    return reduce(add_stats, sums)


def evaluate_shard(
    feed: Feed, shard: Shard, model: Model, params: Saved, part: int
) -> dict[str, Any]:
    """Return the sums that measure a model on one part of a shard."""
    batch = feeds.load(feed, shard, part)
    with measure("compute"):
        return models.evaluate(model, params.load(feed.backend), batch)


def shard_products(feed: Feed, shard: Shard, part: int) -> pca.Products:
    """Return the sums over one part of a shard that its principal components follow from.

    Raises
    ------
    DataError
        Values are absent: their products are not known.
    """
    batch = feeds.load(feed, shard, part)
    if batch.mask is not None:
        raise DataError(
            f"samples {shard.start} to {shard.stop - 1}: a PCA takes no mask; leave pca out"
        )
    with measure("compute"):
        found: pca.Products = on_host(pca.products(batch.x))
        return found


def _principal(stage: Evaluate, context: Context, components: int) -> dict[str, float]:
    """Return the squared error of as many principal components, per sample of each part."""

    def products_of(name: str) -> pca.Products | None:
        part = PARTS.index(name)
        shards = [shard for shard in context.grid if context.counts[shard.index][part]]
        arguments = (shard_products, shards, (part,), pca.merge)
        return each_shard(context, stage.name, *arguments, part="PCA")[0] if shards else None

    train = products_of("train")
    assert train is not None  # a split leaves something to train on
    linear = pca.basis(train, components)
    found = {name: products_of(name) for name in stage.parts}
    return {
        f"{name}_pca_squared_error": pca.squared_error(linear, sums) / sums.n
        for name, sums in found.items()
        if sums is not None
    }


@lower.register
def _(stage: Evaluate, context: Context) -> StageRecord:
    used = context.model_of(stage)
    key = stage_digest(stage, context.chain, used.key)
    done = context.finished(stage.name, key)
    if done is not None:
        return done
    started, examples = time.perf_counter(), 0
    metrics, outputs = dict[str, float](), dict[str, str]()
    feed = context.feed._replace(supervised=is_supervised(used.model))
    for name in stage.parts:
        part = PARTS.index(name)
        shards = [shard for shard in context.grid if context.counts[shard.index][part]]
        if not shards:
            continue
        arguments = (used.model, used.params, part)
        (found,) = each_shard(
            context, stage.name, evaluate_shard, shards, arguments, merge_sums, feed=feed
        )
        examples += context.total(part)
        confusion = found.pop("confusion", None)
        if confusion is not None:
            url = stores.join(context.path, "stages", stage.name, f"confusion-{name}.json")
            sealed.write(url, {"counts": np.asarray(confusion).tolist()})
            outputs[f"confusion_{name}"] = stores.relative(url, context.path)
        metrics |= {f"{name}_{k}": v for k, v in means(found, found["n"]).items()}
    if stage.pca is not None:
        metrics |= _principal(stage, context, stage.pca)
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=key,
        seconds=time.perf_counter() - started,
        examples=examples,
        metrics=metrics,
        outputs=outputs,
    )
