"""Classifiers trained in one domain and tested in all: from plain features and from codes."""

import time
from typing import Any

import numpy as np

from deepstrata.ops import adaptation, backend, linear_svm, models
from deepstrata.ops.linear_svm import LinearSVM
from deepstrata.ops.partials import Batch, present
from deepstrata.pipelines import feeds
from deepstrata.pipelines.context import Context, TrainedModel, each_shard, stage_digest
from deepstrata.pipelines.feeds import Feed, Saved
from deepstrata.pipelines.graph import Graph
from deepstrata.pipelines.lowering.evaluation import merge_sums
from deepstrata.pipelines.lowering.table import lower
from deepstrata.pipelines.meter import measure
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.runs import StageRecord
from deepstrata.schemas.stages import CrossDomain
from deepstrata.schemas.trees import Array, ArraySpec, tree_map
from deepstrata.storage import checkpoints, sealed, stores
from deepstrata.storage.shards import Shard
from deepstrata.storage.splits import PARTS, flags

TRAIN, TEST = PARTS.index("train"), PARTS.index("test")
FEATURES, CODES = "features", "codes"
Machines = dict[str, tuple[LinearSVM, ...]]
Counts = dict[Any, Any]
"""Samples of each part, (3,), by the number of the domain."""


def count_domains(feed: Feed, shard: Shard, domain: str) -> Counts:
    """Return how many samples of each part a shard has of each domain."""
    found = feeds.read(feed, shard, (domain,))[domain]
    codes = feeds.codes_of(feed, shard)
    numbers = np.unique(found).tolist()
    return {d: np.bincount(codes[found == d], minlength=len(PARTS)) for d in numbers}


def _load(feed: Feed, shard: Shard, part: int, domain: str) -> tuple[Batch, Array]:
    """Return the samples of one part of a shard, and their domains."""
    batch = feeds.load(feed, shard, part)
    return batch, feeds.read(feed, shard, (domain,))[domain][batch.rows - shard.start]


def _seen(feed: Feed, batch: Batch, stage: CrossDomain, used: TrainedModel | None) -> Array:
    """Return features, or codes of a model, as a NumPy array."""
    x = present(batch)
    if used is None:
        return backend.to_numpy(x)
    code = backend.to_numpy(models.encode(used.model, used.params.load(feed.backend), x))
    return linear_svm.square_roots(code) if stage.square_roots else code


def train_machine(
    feed: Feed,
    shards: tuple[Shard, ...],
    stage: CrossDomain,
    domain: int,
    used: TrainedModel | None,
    key: Key,
) -> LinearSVM:
    """Train a machine on the training samples of one domain, from some shards."""
    features, labels = [], []
    for shard in shards:
        batch, found = _load(feed.narrow(shard), shard, TRAIN, stage.domain)
        own = found == domain
        with measure("compute"):
            assert batch.labels is not None
            features.append(_seen(feed, batch, stage, used)[own])
            labels.append(batch.labels[own])
    with measure("compute"):
        x, y = np.concatenate(features), np.concatenate(labels)
        return linear_svm.train(x, y, stage.costs, stage.folds, key)


def test_machines(
    feed: Feed,
    shard: Shard,
    stage: CrossDomain,
    domains: tuple[int, ...],
    machines: Saved,
    used: TrainedModel,
) -> dict[str, Any]:
    """Count the test samples of a shard that each machine takes for another class.

    Returns
    -------
    dict
        For features and codes (S, T) errors of the machine of each domain in each domain.
    """
    batch, found = _load(feed, shard, TEST, stage.domain)
    within = np.stack([found == d for d in domains], axis=1).astype(np.int64)
    errors = {}
    with measure("compute"):
        for name, own in machines.load().items():
            x = _seen(feed, batch, stage, used if name == CODES else None)
            wrong = [linear_svm.classify(machine, x) != batch.labels for machine in own]
            errors[name] = np.stack(wrong).astype(np.int64) @ within
    return errors


@lower.register
def _(stage: CrossDomain, context: Context) -> StageRecord:
    used = context.model_of(stage)
    key = stage_digest(stage, context.chain, used.key)
    done = context.finished(stage.name, key)
    if done is not None:
        return done
    started = time.perf_counter()
    with_rows = [shard for shard in context.grid if any(context.counts[shard.index])]
    counts = each_shard(
        context, stage.name, count_domains, with_rows, (stage.domain,), part="domains"
    )
    total: Counts = merge_sums(*counts)
    names, domains = _check(stage, context, total), tuple(sorted(total))
    machines = _train(stage, context, used, domains, list(zip(with_rows, counts, strict=True)))
    url = stores.join(context.path, "stages", stage.name, "machines.safetensors")
    like = tree_map(lambda leaf: ArraySpec(leaf.shape, str(leaf.dtype)), machines)
    saved = Saved(url, checkpoints.save_part(url, machines), like)
    samples = np.array([total[d][TEST] for d in domains])
    wrong = _test(stage, context, used, domains, saved)
    errors = {name: found / samples for name, found in wrong.items()}
    table = stores.join(context.path, "stages", stage.name, "transfer.json")
    sealed.write(table, _table(names, errors, machines))
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=key,
        seconds=time.perf_counter() - started,
        examples=int(samples.sum()),
        metrics=_metrics(errors),
        outputs={"transfer": stores.relative(table, context.path), "machines": saved.digest},
    )


def _check(stage: CrossDomain, context: Context, total: Counts) -> list[str]:
    """Return the names of the domains, if there is enough of each and not too much."""
    coords = context.coords
    meanings = (flags(coords[stage.domain]) if stage.domain in coords else None) or {}
    names = [meanings.get(d, str(d)) for d in sorted(total)]
    where = f"stage {stage.name!r}: variable {stage.domain!r}"
    if len(names) < 2:
        raise DataError(f"{where}: expected two domains or more, found {', '.join(names)}")
    for name, d in zip(names, sorted(total), strict=True):
        train, test = int(total[d][TRAIN]), int(total[d][TEST])
        if not train or not test:
            raise DataError(
                f"{where}: expected training and test samples of every domain, found {train} and "
                f"{test} of {name!r}; declare Split(by=...), or leave the domain out"
            )
        if train > stage.samples:
            raise DataError(
                f"{where}: expected at most {stage.samples:,} training samples of a domain, found "
                f"{train:,} of {name!r}; they are learned from in memory: raise "
                f"{stage.name}.samples if a worker has the room"
            )
    return names


def _train(
    stage: CrossDomain,
    context: Context,
    used: TrainedModel,
    domains: tuple[int, ...],
    counted: list[tuple[Shard, Counts]],
) -> Machines:
    """Train a machine for every domain, from features and from codes."""
    graph, refs = Graph(), []
    key = context.stage_key(stage.name)
    for d in domains:
        shards = tuple(shard for shard, counts in counted if d in counts and counts[d][TRAIN])
        feed = context.feed.narrow(Shard(0, shards[0].start, shards[-1].stop))
        for model in (None, used):
            # The same parts for both, so that they differ in what they see and in nothing else.
            arguments = (feed, shards, stage, d, model, fold(key, "folds", d))
            place = (d, FEATURES if model is None else CODES)
            refs.append(graph.call("train", place, train_machine, *arguments))
    found = context.executor.execute(graph, refs)
    return {FEATURES: tuple(found[::2]), CODES: tuple(found[1::2])}


def _test(
    stage: CrossDomain,
    context: Context,
    used: TrainedModel,
    domains: tuple[int, ...],
    machines: Saved,
) -> dict[str, Array]:
    """Return how many test samples every machine takes for another class, in each domain."""
    tested = [shard for shard in context.grid if context.counts[shard.index][TEST]]
    arguments = (stage, domains, machines, used)
    (found,) = each_shard(
        context, stage.name, test_machines, tested, arguments, merge_sums, part="testing"
    )
    counted: dict[str, Array] = found
    return counted


def _table(names: list[str], errors: dict[str, Array], machines: Machines) -> dict[str, Any]:
    return {
        "domains": names,
        "errors": {name: found.tolist() for name, found in errors.items()},
        "costs": {name: [float(m.cost) for m in own] for name, own in machines.items()},
        "cross_validated": {name: [float(m.error) for m in own] for name, own in machines.items()},
    }


def _metrics(errors: dict[str, Array]) -> dict[str, float]:
    baseline, found = errors[FEATURES], errors[CODES]
    metrics = {
        "transfer_ratio": adaptation.transfer_ratio(found, baseline),
        "in_domain_ratio": adaptation.in_domain_ratio(found, baseline),
        "raw_transfer_ratio": adaptation.transfer_ratio(baseline, baseline),
    }
    return {name: value for name, value in metrics.items() if value is not None}
