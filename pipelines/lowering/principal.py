"""A principal component analysis of the training part: some passes over it, and a solution.

The mean comes first, then the sums of products about it: of features, where there are no more of
them than samples, else of samples. Those come in runs of whole shards, small enough that a task
holds two, and a task multiplies each with each.
"""

from collections.abc import Sequence

import numpy as np

from deepstrata.ops import backend, moments, pca
from deepstrata.pipelines import feeds
from deepstrata.pipelines.context import Context, each_shard
from deepstrata.pipelines.feeds import Feed, Saved
from deepstrata.pipelines.graph import Graph
from deepstrata.pipelines.lowering.statistics import shard_moments
from deepstrata.pipelines.meter import measure
from deepstrata.schemas.stages import Evaluate
from deepstrata.schemas.trees import Array, ArraySpec, Tree
from deepstrata.storage import checkpoints, stores
from deepstrata.storage.shards import Shard
from deepstrata.storage.splits import Counts

RUN_BYTES = 16 << 20  #: of a run of shards in float64, where one shard does not take more
PART = "PCA"
Run = tuple[Shard, ...]


def snapshot_runs(grid: Sequence[Shard], counts: Counts, visible: int) -> list[Run]:
    """Put shards with training samples together to runs of at most ``RUN_BYTES``, of one at least.

    None where there are as many samples as features, and products of features are summed.
    """
    if sum(train for train, *_ in counts) >= visible:
        return []
    runs: list[Run] = []
    held = 0
    for shard in grid:
        taken = 8 * visible * counts[shard.index][0]
        if runs and held + taken <= RUN_BYTES:
            runs[-1], held = (*runs[-1], shard) if taken else runs[-1], held + taken
        elif taken:
            runs, held = [*runs, (shard,)], taken
    return runs


def shard_scatter(feed: Feed, shard: Shard, mean: Saved) -> Array:
    """Return the products of features, summed over the training samples of a shard."""
    batch = feeds.load(feed, shard, 0)
    with measure("compute"):
        return backend.to_numpy(pca.scatter(batch, mean.load(feed.backend)))


def _deviations(feed: Feed, run: Run, mean: Saved) -> Array:
    """Return the training samples of a run less their mean."""
    batches = [feeds.load(feed, shard, 0) for shard in run]
    found = [pca.deviations(batch, mean.load(feed.backend)) for batch in batches]
    return backend.namespace(found[0]).concat(found, axis=0)


def products_between(feed: Feed, run: Run, other_feed: Feed, other: Run, mean: Saved) -> Array:
    """Return the products of every training sample of a run with every one of another."""
    own = _deviations(feed, run, mean)
    theirs = own if run == other else _deviations(other_feed, other, mean)
    with measure("compute"):
        return backend.to_numpy(own @ theirs.T)


def shares_of(components: int, sizes: tuple[int, ...], *blocks: Array) -> tuple[Array, ...]:
    """Return, for each run, how much of its samples is in each component."""
    with measure("compute"):
        shares = pca.snapshots(pca.assemble(sizes, *blocks), components)
        return tuple(np.split(shares, np.cumsum(sizes)[:-1]))


def weighted(feed: Feed, run: Run, mean: Saved, shares: tuple[Array, ...], index: int) -> Array:
    """Return what the samples of a run add to the components, (V, K)."""
    own = _deviations(feed, run, mean)
    with measure("compute"):
        return backend.to_numpy(own.T @ backend.device_array(shares[index], feed.backend))


def check_components(context: Context) -> None:
    """Check, before anything is trained, that there are as many components as are asked for.

    Raises
    ------
    DeclarationError
        There are fewer features, or not more training samples.
    """
    for stage in context.pipeline.stages:
        if isinstance(stage, Evaluate) and stage.pca is not None:
            pca.check(stage.name, stage.pca, context.total(0), context.visible)


def principal(context: Context, stage: str, components: int) -> Saved:
    """Find the principal components of the training part, and save them with the mean."""
    visible = context.visible
    shards = [shard for shard in context.grid if context.counts[shard.index][0]]
    runs = snapshot_runs(context.grid, context.counts, visible)
    (found,) = each_shard(
        context, stage, shard_moments, shards, (False,), merge=moments.merge, part=PART
    )
    mean = moments.mean(found)
    saved = _save(context, stage, "mean", mean, ArraySpec((visible,), "float64"))
    if runs:
        vectors = _of_samples(context, stage, runs, saved, components)
    else:
        arguments = (shard_scatter, shards, (saved,), pca.merge)
        (sums,) = each_shard(context, stage, *arguments, part=PART)
        vectors = pca.of_features(sums, components)
    like = pca.shapes(visible, components)
    return _save(context, stage, "components", pca.Basis(mean, vectors), like)


def _of_samples(
    context: Context, stage: str, runs: Sequence[Run], mean: Saved, components: int
) -> Array:
    """Return the components by the method of snapshots, in one graph."""
    graph = Graph()
    whole = [Shard(i, run[0].start, run[-1].stop) for i, run in enumerate(runs)]
    narrow = [context.feed.narrow(rows) for rows in whole]
    sizes = tuple(sum(context.counts[shard.index][0] for shard in run) for run in runs)
    blocks = [
        graph.call(stage, (i, j), products_between, narrow[i], runs[i], narrow[j], runs[j], mean)
        for i in range(len(runs))
        for j in range(i, len(runs))
    ]
    shares = graph.call("snapshots", (), shares_of, components, sizes, *blocks)
    sums = [
        graph.call("components", (i,), weighted, narrow[i], runs[i], mean, shares, i)
        for i in range(len(runs))
    ]
    (root,) = graph.reduce("merge", (), pca.merge, sums)
    solution = graph.call("orthonormal", (), pca.of_samples, root)
    (found,) = context.executor.execute(graph, [solution])
    return found


def _save(context: Context, stage: str, name: str, tree: Tree, like: Tree) -> Saved:
    url = stores.join(context.path, "stages", stage, f"pca-{name}.safetensors")
    return Saved(url, checkpoints.save_part(url, tree), like)
