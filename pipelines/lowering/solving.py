"""Models in closed form: a pass over the data and a solution for each layer.

A pass sums over at most ``RUNS`` runs of whole shards, each by one task into one matrix, so that
no more matrices than that are ever held, however many shards there are.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from deepstrata.ops import backend, marginalised, models
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.marginalised import Subset
from deepstrata.ops.partials import Partial, merge, present
from deepstrata.pipelines import feeds
from deepstrata.pipelines.context import Clock, Context, TrainedModel, each_shard, stage_digest
from deepstrata.pipelines.feeds import Feed, Saved
from deepstrata.pipelines.graph import Graph
from deepstrata.pipelines.lowering.fitting import training_url
from deepstrata.pipelines.lowering.table import lower
from deepstrata.pipelines.meter import measure
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.keys import fold
from deepstrata.schemas.runs import StageRecord
from deepstrata.schemas.stages import Solve
from deepstrata.schemas.trees import Array
from deepstrata.storage import checkpoints, sealed, stores
from deepstrata.storage.shards import Shard, permutation
from deepstrata.storage.splits import PARTS

RUNS = 8


def runs_of(grid: Sequence[Shard]) -> tuple[Shard, ...]:
    """Put shards together to ``RUNS`` runs of rows at most."""
    step = -(-len(grid) // RUNS)
    firsts = range(0, len(grid), step)
    return tuple(
        Shard(i, grid[first].start, grid[min(first + step, len(grid)) - 1].stop)
        for i, first in enumerate(firsts)
    )


def _inputs(feed: Feed, parts: tuple[int, ...], below: tuple[Saved, ...]) -> Iterator[Array]:
    """Yield what a layer sees of each shard: the samples of some parts through the layers below."""
    for shard in (known.shard for known in feed.known if not known.skipped):
        chosen = np.flatnonzero(np.isin(feeds.codes_of(feed, shard), parts))
        if not len(chosen):
            continue
        batch = feeds.load(feed, shard, None)
        with measure("compute"):
            x = present(batch)
            if len(chosen) < shard.rows:
                xp = backend.namespace(x)
                x = xp.take(x, backend.device_array(chosen, feed.backend), axis=0)
            for layer in below:
                x = marginalised.layer_outputs(layer.load(feed.backend), x)
        yield x


def count_occurrences(feed: Feed, rows: Shard, parts: tuple[int, ...]) -> Partial:
    """Return in how many samples of some shards each feature is not zero."""
    found = [marginalised.occurrences(x) for x in _inputs(feed, parts, ())]
    counts = np.sum([backend.to_numpy(c) for c in found], axis=0, dtype=np.int64)
    return Partial(counts, 0, {})


def sum_moments(
    feed: Feed, rows: Shard, parts: tuple[int, ...], below: tuple[Saved, ...], subset: Subset
) -> Partial:
    """Return what the samples of some shards add to the sums that a layer is solved from."""
    found: Partial | None = None
    for x in _inputs(feed, parts, below):
        with measure("compute"):
            found = marginalised.second_moments(x, subset, found)
    assert found is not None  # a run begins with a shard that has such samples
    return found._replace(total=backend.on_host(found.total))


@lower.register
def _(stage: Solve, context: Context) -> StageRecord:
    key = stage_digest(stage, context.chain)
    url = stores.join(training_url(context, stage.name, key), "params.safetensors")
    like = models.shapes(stage.model, context.visible)
    done = context.finished(stage.name, key)
    if done is not None:
        saved = Saved(url, done.outputs["params"], like)
        context.trained[stage.name] = TrainedModel(stage.model, saved, key)
        return done
    started, layers = time.perf_counter(), list[Saved]()
    for spec in like:
        layers.append(_layer(stage, context, key, tuple(layers), spec))
    digest = checkpoints.save_part(url, tuple(layer.load() for layer in layers))
    context.trained[stage.name] = TrainedModel(stage.model, Saved(url, digest, like), key)
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=key,
        seconds=time.perf_counter() - started,
        examples=stage.model.depth * sum(context.total(PARTS.index(p)) for p in stage.parts),
        outputs={"params": digest},
    )


def _layer(
    stage: Solve, context: Context, key: str, below: tuple[Saved, ...], like: DenseParams
) -> Saved:
    """Return the next layer: as it was solved before the run was stopped, or anew."""
    place = stores.join(training_url(context, stage.name, key), f"layer-{len(below)}")
    url, note = f"{place}.safetensors", f"{place}.json"
    digest = _noted(note)
    if digest is None:
        digest = checkpoints.save_part(url, _solved(stage, context, below))
        sealed.write(note, {"digest": digest})
    return Saved(url, digest, like)


def _noted(url: str) -> str | None:
    try:
        return str(sealed.read(url)["digest"]) if stores.exists(url) else None
    except sealed.DamagedError:  # its writing was interrupted; it is solved anew
        return None


def _solved(stage: Solve, context: Context, below: tuple[Saved, ...]) -> DenseParams:
    pieces = _pieces(stage, context, len(below))
    solved = []
    for i, piece in enumerate(pieces):
        part = f"layer {len(below) + 1} of {stage.model.depth}"
        part += f", subset {i + 1} of {len(pieces)}" if len(pieces) > 1 else ""
        solved.append(_solve_one(stage, context, below, piece, part))
    visible = context.visible if not below else marginalised.width(stage.model, context.visible)
    return marginalised.assemble(visible, pieces, solved)


def _pieces(stage: Solve, context: Context, layer: int) -> tuple[Subset, ...]:
    """Return the subsets of features from which a layer reconstructs its targets."""
    units = marginalised.width(stage.model, context.visible)
    if layer or units == context.visible:
        return (Subset(None, units, None),)
    parts, runs = _parts(stage), _runs(stage, context)
    part = "frequent features"
    (found,) = each_shard(
        context, stage.name, count_occurrences, runs, (parts,), merge=merge, part=part
    )
    order = permutation(fold(context.stage_key(stage.name), "subsets"), context.visible)
    return marginalised.subsets(stage.model, found.total, order)


def _parts(stage: Solve) -> tuple[int, ...]:
    return tuple(PARTS.index(name) for name in stage.parts)


def _runs(stage: Solve, context: Context) -> tuple[Shard, ...]:
    """Return runs of the shards that have samples of the stage's parts."""
    parts = _parts(stage)
    used = [s for s in context.grid if any(context.counts[s.index][part] for part in parts)]
    if not used:
        raise DataError(f"stage {stage.name!r}: no samples in {', '.join(stage.parts)}")
    return runs_of(used)


def _solve_one(
    stage: Solve, context: Context, below: tuple[Saved, ...], piece: Subset, part: str
) -> DenseParams:
    """Sum over all runs, and solve where the sum is."""
    runs, graph = _runs(stage, context), Graph()
    arguments = (_parts(stage), below, piece)
    sums = [
        graph.call(stage.name, (run.index,), sum_moments, context.feed.narrow(run), run, *arguments)
        for run in runs
    ]
    (root,) = graph.reduce("merge", (), merge, sums)
    solution = graph.call("solve", (), marginalised.solve, stage.model, piece, root)
    clock = Clock(context.observer, stage.name, part, len(runs))
    noted = [
        graph.call("done", (run.index,), _rows, ref) for run, ref in zip(runs, sums, strict=True)
    ]

    def on_done(place: int, value: object) -> None:
        if place < len(runs):
            clock.shard_done(runs[place])

    found: DenseParams = context.executor.execute(graph, [*noted, solution], on_done)[-1]
    return found


def _rows(sums: Partial) -> float:
    """Say that a task is done, without its matrix."""
    return sums.n
