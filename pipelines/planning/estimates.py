"""What each stage will do: shards, rounds, tasks, bytes, memory, from metadata alone.

Peaks are upper bounds per worker process: all shards in flight are taken to be on one worker.
"""

import math
from functools import singledispatch
from typing import Any

from deepstrata.ops import marginalised, models, pretraining
from deepstrata.pipelines.context import PASS_SHARDS
from deepstrata.pipelines.graph import FAN_IN
from deepstrata.pipelines.lowering.fitting import stores_activations
from deepstrata.pipelines.lowering.principal import RUN_BYTES, snapshot_runs
from deepstrata.pipelines.lowering.solving import RUNS, runs_of
from deepstrata.pipelines.planning import memory
from deepstrata.pipelines.planning.data import Data, Reading, look
from deepstrata.pipelines.planning.plans import ColumnFacts, Plan, Step
from deepstrata.pipelines.planning.trainings import read_facts, training_step
from deepstrata.schemas.datasets import FileSource
from deepstrata.schemas.growing import DiscriminativePretrain
from deepstrata.schemas.models import classifies, is_supervised
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.stages import (
    Apply,
    CrossDomain,
    Encode,
    Evaluate,
    FineTune,
    Part,
    Pretrain,
    Report,
    Scale,
    Solve,
    Split,
    Stage,
    Standardise,
    Transfer,
)
from deepstrata.schemas.trees import nbytes
from deepstrata.storage import stores
from deepstrata.storage.splits import PARTS, learned_counts

TRAIN: tuple[Part, ...] = ("train",)


def plan(pipeline: Pipeline, *, data: Any = None) -> Plan:
    """Say what a pipeline will do; of the data no more is read than metadata and small labels.

    Raises
    ------
    DeepstrataError
        The source is not there or is not as declared.
    """
    found = look(pipeline, data)
    once = found.reading(supervised=True)
    steps: list[Step] = []
    if isinstance(pipeline.source, FileSource):
        steps.append(Step("ingest", len(found.grid), bytes_written=once.used))
    steps.append(
        _pass("inspect", found, memory.reading_bytes(found, supervised=True), supervised=True)
    )
    for stage in pipeline.stages:
        steps += estimate(stage, pipeline, found)
    return Plan(
        pipeline=pipeline.name,
        samples=found.samples,
        visible=found.visible,
        shards=len(found.grid),
        shard_bytes=found.shard_rows * found.row_bytes,
        shard_rows=found.shard_rows,
        exact=found.exact,
        steps=tuple(steps),
        source=found.source,
        disk_bytes=once.disk,
        single=memory.reading_bytes(found, supervised=True),
        columns=_columns(found, once),
    )


def _columns(found: Data, once: Reading) -> tuple[ColumnFacts, ...]:
    return tuple(
        ColumnFacts(
            name=column.name,
            chunk_rows=column.chunk_rows,
            unit_bytes=column.unit_bytes,
            amplification=sum(column.decoded) / found.samples,
            share=sum(column.decoded) * column.row_bytes / max(once.decoded, 1),
        )
        for column in found.columns
    )


def _pass(
    name: str,
    found: Data,
    peak: int,
    merges: bool = False,
    written: int = 0,
    supervised: bool = False,
    **more: Any,
) -> Step:
    """Return a pass over every shard, a task each (and one that says so, where they merge)."""
    shards = len(found.grid)
    graph = min(shards, PASS_SHARDS)
    extra = (lambda n: n + n // FAN_IN + 1) if merges else (lambda n: 0)
    return Step(
        name,
        shards,
        tasks=shards + extra(shards),
        graph_tasks=graph + extra(graph),
        bytes_written=written,
        peak=peak,
        **read_facts(found.reading(supervised=supervised)),
        **more,
    )


@singledispatch
def estimate(stage: Stage, pipeline: Pipeline, found: Data) -> list[Step]:
    """Say what one stage will do."""
    raise TypeError(f"no rule for a {type(stage).__name__}")


@estimate.register
def _(stage: Apply | Split, pipeline: Pipeline, found: Data) -> list[Step]:
    return [Step(stage.name, note="with each read")]


@estimate.register
def _(stage: Transfer, pipeline: Pipeline, found: Data) -> list[Step]:
    specs = pretraining.feed_forward(models.shapes(stage.trunk, found.visible))
    note = f"{stage.taken} layers are copied by the client"
    return [Step(stage.name, bytes_written=nbytes(specs), weights=nbytes(specs) // 4, note=note)]


@estimate.register
def _(stage: Report, pipeline: Pipeline, found: Data) -> list[Step]:
    return [Step(stage.name, note="by the client")]


@estimate.register
def _(stage: Scale | Standardise, pipeline: Pipeline, found: Data) -> list[Step]:
    if isinstance(stage, Scale) and None not in (stage.minimum, stage.maximum):
        return [Step(stage.name, note="with each read")]
    # Moments are summed as float64, of three kinds.
    peak = memory.pass_peak(found, found.visible, copies=3)
    return [_pass(stage.name, found, peak, merges=True)]


@estimate.register
def _(stage: Solve, pipeline: Pipeline, found: Data) -> list[Step]:
    model, steps, below = stage.model, list[Step](), 0
    units, runs = marginalised.width(model, found.visible), len(runs_of(found.grid))
    for i, layer in enumerate(marginalised.shapes(model, found.visible)):
        inputs = layer.weights.shape[0]
        subsets = -(-inputs // units)
        subset = -(-inputs // subsets)
        columns = inputs if subsets == 1 else subset + units
        peak = memory.solving_peak(found, inputs, units, columns, subset, min(runs, RUNS))
        steps.append(
            Step(
                f"{stage.name}/layer-{i}",
                len(found.grid),
                tasks=subsets * (2 * runs + 2) + (2 * runs + 1) * (subsets > 1),
                graph_tasks=2 * runs + 2,
                bytes_written=2 * nbytes(layer),
                peak=peak + below,
                weights=nbytes(layer) // 4,
                **read_facts(found.reading(), subsets + (subsets > 1)),
            )
        )
        below += nbytes(layer)
    return steps


@estimate.register
def _(stage: Pretrain, pipeline: Pipeline, found: Data) -> list[Step]:
    steps, visible = [], found.visible
    if found.exact:
        found = found._replace(counts=learned_counts(stage, found.counts))
    for i, (layer, between) in enumerate(zip(stage.pretrained, stage.between, strict=True)):
        visible = visible if between is None else models.code_width(between, visible)
        optimiser = stage.optimiser[i] if isinstance(stage.optimiser, tuple) else stage.optimiser
        name = f"{stage.name}/layer-{i}"
        stored = i > 0 and stores_activations(stage, found.samples, visible)
        step = training_step(name, stage, layer, optimiser, visible, found, 4 * visible * stored)
        if stored:
            step = _after_pass(step, found, visible, written=4 * found.samples * visible)
        if stage.visible_bias == "mean":
            step = _after_pass(step, found, visible, copies=3)
        steps.append(step)
        visible = models.code_width(layer, visible)
    return steps


def _after_pass(step: Step, found: Data, width: int, copies: int = 1, written: int = 0) -> Step:
    """Add a pass over all shards, before a training begins, to the training."""
    once = found.reading()
    return step._replace(
        tasks=step.tasks + len(found.grid),
        bytes_used=step.bytes_used + once.used,
        bytes_read=step.bytes_read + once.decoded,
        bytes_disk=None,
        bytes_written=step.bytes_written + written,
        peak=max(step.peak, memory.pass_peak(found, width, copies)),
    )


@estimate.register
def _(stage: DiscriminativePretrain, pipeline: Pipeline, found: Data) -> list[Step]:
    if stage.labelled is not None:
        found = _with_labelled(found, stage.labelled * (stage.model.classes or 0))
    steps = []
    for i, net in enumerate(stage.grown):
        optimiser = stage.optimiser[i] if isinstance(stage.optimiser, tuple) else stage.optimiser
        name = f"{stage.name}/layer-{i}"
        steps.append(training_step(name, stage, net, optimiser, found.visible, found, 0))
    return steps


@estimate.register
def _(stage: FineTune, pipeline: Pipeline, found: Data) -> list[Step]:
    model = pipeline.model_of(stage)
    factors = stage.factors(model)
    if stage.labelled is not None and classifies(model):
        found = _with_labelled(found, stage.labelled * (model.classes or 0))
    return [
        training_step(stage.name, stage, model, stage.optimiser, found.visible, found, 0, factors)
    ]


def _with_labelled(found: Data, samples: int) -> Data:
    """Take the training samples that are drawn to be spread evenly over the shards."""
    share = min(samples / max(sum(train for train, *_ in found.counts), 1), 1.0)
    counts = tuple((math.ceil(share * train), *rest) for train, *rest in found.counts)
    return found._replace(counts=counts)  # type: ignore[arg-type]


@estimate.register
def _(stage: Evaluate, pipeline: Pipeline, found: Data) -> list[Step]:
    model = pipeline.model_of(stage)
    width, supervised = models.code_width(model, found.visible, None), is_supervised(model)
    peak = memory.coding_peak(found, model, width, supervised)
    names, pairs = list(stage.parts), 0
    if stage.pca is not None:
        runs = snapshot_runs(found.grid, found.counts, found.visible)
        pairs = len(runs) * (len(runs) + 1) // 2
        # Mean and products, or mean, each run with each, and components; then the parts.
        names += [*stage.parts, *(2 + len(runs)) * TRAIN]
        peak += memory.pca_peak(found, stage.pca, len(runs), RUN_BYTES)
    reading, shards = Reading(0, 0, 0), 0
    for part in map(PARTS.index, names):
        some = [i for i, counts in enumerate(found.counts) if counts[part]]
        some = some if found.exact else list(range(len(found.grid)))
        once = found.reading(some, supervised=supervised)
        disk = None if None in (reading.disk, once.disk) else (reading.disk or 0) + (once.disk or 0)
        reading = Reading(reading.used + once.used, reading.decoded + once.decoded, disk)
        shards += len(some)
    tasks = 2 * shards + shards // FAN_IN + 1 + pairs
    graph = max(min(tasks, 3 * PASS_SHARDS), pairs)
    return [
        Step(stage.name, shards, tasks=tasks, graph_tasks=graph, peak=peak, **read_facts(reading))
    ]


@estimate.register
def _(stage: CrossDomain, pipeline: Pipeline, found: Data) -> list[Step]:
    model = pipeline.model_of(stage)
    width = models.code_width(model, found.visible)
    peak = memory.svm_peak(found, min(stage.samples, found.samples), model, width)
    step = _pass(stage.name, found, peak, merges=True)
    # Domains are counted, learned from (features and codes each read the training part), tested.
    return [step._replace(tasks=3 * step.tasks, **read_facts(found.reading(), 3))]


@estimate.register
def _(stage: Encode, pipeline: Pipeline, found: Data) -> list[Step]:
    model = pipeline.model_of(stage)
    width = models.code_width(model, found.visible, stage.layer)
    written = found.samples * width * 4
    writes = None if stage.path is None else stores.absolute(stage.path)
    peak = memory.coding_peak(found, model, width)
    return [_pass(stage.name, found, peak, written=written, writes=writes)]
