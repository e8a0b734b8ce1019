"""What each stage will do: shards, rounds, tasks, bytes, memory, from metadata alone.

Peaks are upper bounds per worker process: all shards in flight are taken to be on one worker.
"""

import math
from functools import singledispatch
from typing import Any

from deepstrata.ops import marginalised, models, pretraining
from deepstrata.pipelines.context import PASS_SHARDS
from deepstrata.pipelines.control import describe
from deepstrata.pipelines.graph import FAN_IN
from deepstrata.pipelines.lowering.fitting import stores_activations
from deepstrata.pipelines.lowering.solving import RUNS, runs_of
from deepstrata.pipelines.planning import memory
from deepstrata.pipelines.planning.data import Data, Reading, look
from deepstrata.pipelines.planning.memory import Weights
from deepstrata.pipelines.planning.plans import Choice, ColumnFacts, Plan, Shuffle, Step
from deepstrata.pipelines.planning.shuffling import Mix
from deepstrata.pipelines.rounds import LEAST_WINDOW, Round, epoch_rounds, windows
from deepstrata.pipelines.strategies import Learning, initial_state, replica_count
from deepstrata.pipelines.strategies import memory as past_states
from deepstrata.pipelines.training import KEEP
from deepstrata.schemas.datasets import FileSource
from deepstrata.schemas.keys import Key
from deepstrata.schemas.models import Trainable
from deepstrata.schemas.optimisers import Optimiser
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.stages import (
    Apply,
    CrossDomain,
    Encode,
    Evaluate,
    FineTune,
    Pretrain,
    Report,
    Scale,
    Solve,
    Split,
    Stage,
    Standardise,
    Transfer,
    classifies,
    decides,
)
from deepstrata.schemas.strategies import LocalSteps, Strategy
from deepstrata.schemas.trees import nbytes
from deepstrata.storage import stores
from deepstrata.storage.splits import PARTS, learned_counts

LARGEST_CHOICE = 8  #: times the declared buffer that is shown beside it


def plan(pipeline: Pipeline, *, data: Any = None) -> Plan:
    """Say what a pipeline will do; of the data no more is read than metadata and small labels.

    Raises
    ------
    DeepstrataError
        The source is not there or is not as declared.
    """
    found = look(pipeline, data)
    once = found.reading()
    steps: list[Step] = []
    if isinstance(pipeline.source, FileSource):
        steps.append(Step("ingest", len(found.grid), bytes_written=once.used))
    steps.append(_pass("inspect", found, memory.reading_bytes(found)))
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
        single=memory.reading_bytes(found),
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


def _read(reading: Reading, passes: int = 1) -> dict[str, Any]:
    whole = reading.times(passes)
    return {
        "passes": passes,
        "bytes_used": whole.used,
        "bytes_read": whole.decoded,
        "bytes_disk": whole.disk,
    }


def _pass(
    name: str, found: Data, peak: int, merges: bool = False, written: int = 0, **more: Any
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
        **_read(found.reading()),
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
                **_read(found.reading(), subsets + (subsets > 1)),
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
        step = _training(name, stage, layer, optimiser, visible, found, 4 * visible * stored)
        steps.append(_after_storing(step, found, visible) if stored else step)
        visible = models.code_width(layer, visible)
    return steps


def _after_storing(step: Step, found: Data, width: int) -> Step:
    """Add the pass that stores the activations to the training that reads them."""
    once = found.reading()
    return step._replace(
        tasks=step.tasks + len(found.grid),
        bytes_used=step.bytes_used + once.used,
        bytes_read=step.bytes_read + once.decoded,
        bytes_disk=None,
        bytes_written=step.bytes_written + 4 * found.samples * width,
        peak=max(step.peak, memory.pass_peak(found, width)),
    )


@estimate.register
def _(stage: FineTune, pipeline: Pipeline, found: Data) -> list[Step]:
    model = pipeline.model_of(stage)
    factors = stage.factors(model)
    if stage.labelled is not None and classifies(model):
        found = _with_labelled(found, stage.labelled * (model.classes or 0))
    return [_training(stage.name, stage, model, stage.optimiser, found.visible, found, 0, factors)]


def _with_labelled(found: Data, samples: int) -> Data:
    """Take the training samples that are drawn to be spread evenly over the shards."""
    share = min(samples / max(sum(train for train, *_ in found.counts), 1), 1.0)
    counts = tuple((math.ceil(share * train), *rest) for train, *rest in found.counts)
    return found._replace(counts=counts)  # type: ignore[arg-type]


def _training(
    name: str,
    stage: Pretrain | FineTune,
    model: Trainable,
    optimiser: Optimiser,
    visible: int,
    found: Data,
    stored_bytes: int,
    factors: tuple[float, ...] = (),
) -> Step:
    """Plan one training; ``stored_bytes`` is a sample's stored activations, 0 if none are read."""
    strategy = stage.strategy
    settings = Learning(model, optimiser, strategy, visible, Key(0), factors=factors)
    counts = [c[0] for c in found.counts]
    epoch = list(epoch_rounds(found.grid, counts, strategy, Key(0), 0))
    used = [i for i, n in enumerate(counts) if n]
    replicas = replica_count(settings)
    state = initial_state(settings, models.shapes(model, visible))
    weights = Weights(nbytes(state.params), nbytes(state.optimiser))
    states = past_states(strategy)
    checkpoint = states * (weights.both + replicas * weights.params)
    mix = _mix(strategy, counts)
    places = min(strategy.shards, len(used))
    widest = models.widest(model, visible)

    def peak(buffer: int) -> memory.Peak:
        return memory.training_peak(
            found, weights, visible, widest, strategy.batch, buffer, stage.monitor, states
        )

    def whole(buffer: int) -> int:
        return peak(buffer).fixed + places * peak(buffer).place

    reading = found.reading(used, features=not stored_bytes)
    if stored_bytes:
        more = stored_bytes * sum(found.grid[i].rows for i in used)
        reading = Reading(reading.used + more, reading.decoded + more)
    return Step(
        stage=name,
        shards=len(used),
        rounds=stage.epochs * len(epoch),
        tasks=stage.epochs * (_graph_tasks(epoch, replicas) + 2),
        graph_tasks=_largest_window(epoch, stage, replicas) + 2 * (1 + replicas),
        bytes_written=checkpoint * KEEP * (2 if stage.keep == "best" else 1),
        peak=whole(mix.buffer),
        places=places,
        place_bytes=peak(mix.buffer).place,
        checkpoint=checkpoint,
        weights=weights.params // 4,
        note=f"{_steps(strategy)}{describe(stage)}",
        shuffle=Shuffle(
            local=isinstance(strategy, LocalSteps),
            mix=mix,
            likeness=found.likeness,
            choices=tuple(Choice(b, mix._replace(buffer=b), whole(b)) for b in _choices(mix)),
        ),
        **_read(reading, stage.epochs),
    )


def _steps(strategy: Strategy) -> str:
    return f"{strategy.steps} steps a round, " if isinstance(strategy, LocalSteps) else ""


def _mix(strategy: Strategy, counts: list[int]) -> Mix:
    """Return where a step's samples come from; a step of ``LocalSteps`` is of one place."""
    taking_part = sum(1 for n in counts if n) or 1
    places = 1 if isinstance(strategy, LocalSteps) else min(strategy.shards, taking_part)
    return Mix(
        batch=strategy.batch,
        places=places,
        buffer=min(strategy.buffer, max(1, taking_part // places)),
        shards=taking_part,
        rows=sum(counts) / taking_part,
    )


def _choices(mix: Mix) -> list[int]:
    """Return a few larger buffers, up to all shards."""
    most = max(1, mix.shards // mix.places)
    tried = {min(mix.buffer * factor, most) for factor in (2, 4, LARGEST_CHOICE)}
    return sorted(tried - {mix.buffer})


def _graph_tasks(rounds: list[Round], replicas: int) -> int:
    """Return the tasks of some rounds without watching and saving."""
    locals_ = sum(len(r.places) for r in rounds) * (2 if replicas else 1)
    merges = sum(_tree(len(r.places)) for r in rounds)
    loads = sum(len(r.places) for r in rounds if r.ends_group)
    return loads + locals_ + merges + 2 * len(rounds)


def _largest_window(epoch: list[Round], stage: Pretrain | FineTune, replicas: int) -> int:
    """Return the tasks of the largest window; the rounds of one epoch stand for all."""
    if not epoch:
        return 0
    rounds = stage.checkpoint_rounds or LEAST_WINDOW
    some = epoch * min(stage.epochs, -(-rounds // len(epoch)) + 1)
    return max(
        (
            _graph_tasks(window, replicas) + 2 * sum(1 for r in window if r.ends_epoch)
            for window in windows(some, stage.checkpoint_rounds, decides(stage))
        ),
        default=0,
    )


def _tree(count: int) -> int:
    """Return how many merges the reduction of ``count`` partials takes before the update."""
    merges = 0
    while count > FAN_IN:
        count = -(-count // FAN_IN)
        merges += count
    return merges


@estimate.register
def _(stage: Evaluate, pipeline: Pipeline, found: Data) -> list[Step]:
    model = pipeline.model_of(stage)
    width = models.code_width(model, found.visible, None)
    peak = memory.pass_peak(found, width)
    names = list(stage.parts)
    if stage.pca is not None:
        names += ["train", *stage.parts]
        peak += 4 * 8 * found.visible**2  # products of features in float64, merged
    reading, shards = Reading(0, 0, 0), 0
    for part in map(PARTS.index, names):
        some = [i for i, counts in enumerate(found.counts) if counts[part]]
        some = some if found.exact else list(range(len(found.grid)))
        once = found.reading(some)
        disk = None if None in (reading.disk, once.disk) else (reading.disk or 0) + (once.disk or 0)
        reading = Reading(reading.used + once.used, reading.decoded + once.decoded, disk)
        shards += len(some)
    tasks = 2 * shards + shards // FAN_IN + 1
    graph = min(tasks, 3 * PASS_SHARDS)
    return [Step(stage.name, shards, tasks=tasks, graph_tasks=graph, peak=peak, **_read(reading))]


@estimate.register
def _(stage: CrossDomain, pipeline: Pipeline, found: Data) -> list[Step]:
    width = models.code_width(pipeline.model_of(stage), found.visible)
    peak = memory.svm_peak(found, min(stage.samples, found.samples), width)
    step = _pass(stage.name, found, peak, merges=True)
    # Domains are counted, learned from (features and codes each read the training part), tested.
    return [step._replace(tasks=3 * step.tasks, **_read(found.reading(), 3))]


@estimate.register
def _(stage: Encode, pipeline: Pipeline, found: Data) -> list[Step]:
    width = models.code_width(pipeline.model_of(stage), found.visible, stage.layer)
    written = found.samples * width * 4
    writes = None if stage.path is None else stores.absolute(stage.path)
    peak = memory.pass_peak(found, width)
    return [_pass(stage.name, found, peak, written=written, writes=writes)]
