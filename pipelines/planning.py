"""What a pipeline will do, before anything runs: shards, rounds, tasks, bytes, memory.

A plan reads metadata alone. Its peak is an upper bound per worker process: it supposes that all
shards in flight are on one worker.
"""

import math
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np

from deepstrata.ops import models
from deepstrata.pipelines import sources
from deepstrata.pipelines.graph import FAN_IN
from deepstrata.pipelines.rounds import epoch_rounds
from deepstrata.pipelines.strategies import Learning, initial_state, replica_count
from deepstrata.pipelines.training import KEEP
from deepstrata.schemas.datasets import FileSource
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.models import Model
from deepstrata.schemas.optimisers import Optimiser
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.stages import (
    Apply,
    Encode,
    Evaluate,
    FineTune,
    Pretrain,
    Report,
    Scale,
    Split,
    Stage,
    Standardise,
)
from deepstrata.schemas.strategies import LocalSteps
from deepstrata.schemas.trees import nbytes
from deepstrata.storage import layout
from deepstrata.storage.ingest import describe_source
from deepstrata.storage.shards import Shard, shard_grid
from deepstrata.storage.splits import assign

#: What a worker process takes before it has read a byte: Python, NumPy, numba, Dask, xarray, Zarr.
BASE_BYTES = 512 << 20


class Step(NamedTuple):
    """What one stage, or one layer of it, will do."""

    stage: str
    shards: int = 0
    rounds: int = 0
    tasks: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    peak: int = 0
    note: str = ""


class Layout(NamedTuple):
    """What a plan knows of the data."""

    grid: tuple[Shard, ...]
    visible: int
    row_bytes: int
    """Bytes of a sample as it is stored (before compression)."""
    counts: tuple[tuple[int, int, int], ...]
    exact: bool
    """Whether the counts are known: a split by a variable is not, before it is read."""

    @property
    def samples(self) -> int:
        """All samples."""
        return self.grid[-1].stop

    @property
    def shard_rows(self) -> int:
        """Samples of the longest shard."""
        return max(shard.stop - shard.start for shard in self.grid)

    def read_peak(self, width: int | None = None) -> int:
        """Bytes that reading one shard takes: as stored, as float32, and one copy."""
        return self.shard_rows * (2 * self.row_bytes + 8 * (width or self.visible))


class Plan(NamedTuple):
    """What a pipeline will do."""

    pipeline: str
    samples: int
    visible: int
    shards: int
    shard_bytes: int
    exact: bool
    steps: tuple[Step, ...]

    @property
    def peak(self) -> int:
        """Upper bound of a worker's memory in bytes."""
        return max((step.peak for step in self.steps), default=0) + BASE_BYTES

    @property
    def tasks(self) -> int:
        """Tasks of the whole run."""
        return sum(step.tasks for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        found = self._asdict() | {"peak_worker_bytes": self.peak, "tasks": self.tasks}
        return found | {"steps": [step._asdict() for step in self.steps]}

    def __str__(self) -> str:
        about = "" if self.exact else ", as if all were for training (the split reads them first)"
        head = (
            f"plan of {self.pipeline}: {self.samples:,} samples of {self.visible:,} features in "
            f"{self.shards:,} shards of up to {size(self.shard_bytes)}{about}"
        )
        names = ("stage", "shards", "rounds", "tasks", "read", "written", "memory", "")
        rows = [
            (
                step.stage,
                f"{step.shards:,}" if step.shards else "",
                f"{step.rounds:,}" if step.rounds else "",
                f"{step.tasks:,}" if step.tasks else "",
                size(step.bytes_read) if step.bytes_read else "",
                size(step.bytes_written) if step.bytes_written else "",
                size(step.peak + BASE_BYTES) if step.peak else "",
                step.note,
            )
            for step in self.steps
        ]
        widths = [max(len(row[i]) for row in (names, *rows)) for i in range(len(names))]
        lines = [
            "  ".join(
                cell.ljust(width) if i in (0, len(names) - 1) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (names, *rows)
        ]
        foot = f"at most {size(self.peak)} in a worker, {self.tasks:,} tasks in all"
        return "\n".join([head, "", *lines, "", foot])


def size(count: float) -> str:
    """Return a number of bytes for people: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def plan(pipeline: Pipeline, *, data: Any = None) -> Plan:
    """Say what a pipeline will do; nothing but metadata is read.

    Raises
    ------
    DeepstrataError
        The source is not there or is not as declared.
    """
    found = _layout(pipeline, data)
    steps: list[Step] = []
    if isinstance(pipeline.source, FileSource):
        total = found.samples * found.row_bytes
        note = "by the client, block by block"
        steps.append(Step("ingest", len(found.grid), 0, 0, total, total, 0, note))
    total = found.samples * found.row_bytes
    steps.append(Step("inspect", len(found.grid), 0, len(found.grid), total, 0, found.read_peak()))
    for stage in pipeline.stages:
        steps += estimate(stage, pipeline, found)
    return Plan(
        pipeline=pipeline.name,
        samples=found.samples,
        visible=found.visible,
        shards=len(found.grid),
        shard_bytes=found.shard_rows * found.row_bytes,
        exact=found.exact,
        steps=tuple(steps),
    )


def _layout(pipeline: Pipeline, data: Any) -> Layout:
    source = pipeline.source
    if isinstance(source, FileSource):
        schema = describe_source(source.format, source.path)
        features = schema.variable(source.features, f"{source.format} {source.path or ''}".strip())
        samples, *lengths = (length or 0 for length in features.shape or (0,))
        visible, itemsize = math.prod(lengths), np.dtype(features.dtype).itemsize
        rows = layout.choose(samples, visible * itemsize).shard_rows
        grid = shard_grid(samples, rows, source.rows_per_shard)
    else:
        opened = sources.open_source(pipeline, source, data)
        grid, visible = opened.grid, opened.visible
        itemsize = np.dtype(opened.columns.dtype).itemsize
    split = sources.split_of(pipeline)
    exact = split is None or split.by is None
    key = fold(Key(pipeline.seed), "split")
    counts = tuple(_counts(split if exact else None, shard, key) for shard in grid)
    return Layout(grid, visible, visible * itemsize, counts, exact)


def _counts(split: Split | None, shard: Shard, key: Key) -> tuple[int, int, int]:
    codes = assign(split, shard, None, key)
    train, validation, test = (int(n) for n in np.bincount(codes, minlength=3))
    return train, validation, test


@singledispatch
def estimate(stage: Stage, pipeline: Pipeline, found: Layout) -> list[Step]:
    """Say what one stage will do."""
    raise TypeError(f"no rule for a {type(stage).__name__}")


@estimate.register
def _(stage: Apply | Split, pipeline: Pipeline, found: Layout) -> list[Step]:
    return [Step(stage.name, note="with each read")]


@estimate.register
def _(stage: Report, pipeline: Pipeline, found: Layout) -> list[Step]:
    return [Step(stage.name, note="by the client")]


@estimate.register
def _(stage: Scale | Standardise, pipeline: Pipeline, found: Layout) -> list[Step]:
    if isinstance(stage, Scale) and None not in (stage.minimum, stage.maximum):
        return [Step(stage.name, note="with each read")]
    shards = len(found.grid)
    total = found.samples * found.row_bytes
    peak = found.read_peak() + 24 * found.shard_rows * found.visible
    return [Step(stage.name, shards, 0, 2 * shards + shards // FAN_IN + 1, total, 0, peak)]


@estimate.register
def _(stage: Pretrain, pipeline: Pipeline, found: Layout) -> list[Step]:
    steps, visible = [], found.visible
    for i, rbm in enumerate(stage.rbms):
        optimiser = stage.optimiser[i] if isinstance(stage.optimiser, tuple) else stage.optimiser
        name = f"{stage.name}/layer-{i}"
        row_bytes = found.row_bytes if i == 0 else 4 * visible
        steps.append(_training(name, stage, rbm, optimiser, visible, row_bytes, found))
        visible = rbm.hidden
    return steps


@estimate.register
def _(stage: FineTune, pipeline: Pipeline, found: Layout) -> list[Step]:
    model = pipeline.model_of(stage)
    return [
        _training(stage.name, stage, model, stage.optimiser, found.visible, found.row_bytes, found)
    ]


def _training(
    name: str,
    stage: Pretrain | FineTune,
    model: Model,
    optimiser: Optimiser,
    visible: int,
    row_bytes: int,
    found: Layout,
) -> Step:
    strategy = stage.strategy
    settings = Learning(model, optimiser, strategy, visible, Key(0))
    counts = [c[0] for c in found.counts]
    epoch = list(epoch_rounds(found.grid, counts, strategy, Key(0), 0))
    groups, used = len({r.group for r in epoch}), sum(1 for n in counts if n)
    replicas = replica_count(settings)
    merges = sum(_tree(len(r.places)) for r in epoch)
    locals_ = sum(len(r.places) for r in epoch) * (2 if replicas else 1)
    tasks = stage.epochs * (locals_ + merges + 2 * len(epoch) + used + groups + 2)
    state = initial_state(settings, models.shapes(model, visible))
    params, opt = nbytes(state.params), nbytes(state.optimiser)
    checkpoint = params + opt + replicas * params
    width = min(strategy.shards, used)
    peak = (
        3 * width * strategy.buffer * found.shard_rows * (4 * visible + 16)
        + found.read_peak(max(found.visible, visible))
        + (4 + 4 * width) * (params + opt)
        + stage.monitor * 2 * 4 * visible
        + strategy.batch * 32 * max(visible, params // (4 * visible))
    )
    return Step(
        stage=name,
        shards=used,
        rounds=stage.epochs * len(epoch),
        tasks=tasks,
        bytes_read=stage.epochs * found.samples * row_bytes,
        bytes_written=checkpoint * KEEP,
        peak=peak,
        note=f"{params // 4:,} weights, checkpoint {size(checkpoint)}"
        + (f", {strategy.steps} steps a round" if isinstance(strategy, LocalSteps) else ""),
    )


def _tree(count: int) -> int:
    """Return how many merges the reduction of ``count`` partials takes before the update."""
    merges = 0
    while count > FAN_IN:
        count = -(-count // FAN_IN)
        merges += count
    return merges


@estimate.register
def _(stage: Evaluate, pipeline: Pipeline, found: Layout) -> list[Step]:
    model = pipeline.model_of(stage)
    width = models.code_width(model, found.visible, None)
    parts = [("train", "validation", "test").index(part) for part in stage.parts]
    shards = sum(1 for counts in found.counts for part in parts if counts[part])
    if not found.exact:
        shards = len(found.grid)
    peak = found.read_peak() + 8 * found.shard_rows * max(width, found.visible)
    total = shards * found.shard_rows * found.row_bytes
    return [Step(stage.name, shards, 0, 2 * shards, total, 0, peak)]


@estimate.register
def _(stage: Encode, pipeline: Pipeline, found: Layout) -> list[Step]:
    width = models.code_width(pipeline.model_of(stage), found.visible, stage.layer)
    peak = found.read_peak() + 8 * found.shard_rows * max(width, found.visible)
    shards, total = len(found.grid), found.samples * found.row_bytes
    return [Step(stage.name, shards, 0, shards, total, found.samples * width * 4, peak)]
