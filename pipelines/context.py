"""What the stages of one run share while it runs."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

import xarray as xr

from deepstrata.pipelines import environment
from deepstrata.pipelines.events import Observer, Progress
from deepstrata.pipelines.executor import Executor
from deepstrata.pipelines.feeds import Feed, Saved
from deepstrata.pipelines.graph import Graph
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.models import Model
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.runs import StageRecord
from deepstrata.schemas.stages import CrossDomain, Encode, Evaluate
from deepstrata.storage.shards import Shard

#: Shards of one graph in a pass over the data; a pass over more is several graphs.
PASS_SHARDS = 1024
#: Fields that never change a result and therefore are no part of a stage's key.
INERT = frozenset({"checkpoint_rounds", "published", "publication"})
#: Fields that say where something is, not what.
PATHS = frozenset({"path", "group", "run"})


class TrainedModel(NamedTuple):
    """A model with the file its parameters are in."""

    model: Model
    params: Saved
    key: str


@dataclass
class Context:
    """The run so far. Only this object changes while a run goes on."""

    executor: Executor
    pipeline: Pipeline
    path: str
    observer: Observer
    feed: Feed
    grid: tuple[Shard, ...]
    visible: int
    coords: xr.Dataset
    """Coordinates along the sample dimension, for what is written."""
    sample: xr.DataArray
    """One sample without values: its dimensions, coordinates and attributes."""
    chain: str
    """Key of everything that training depends on so far: source, splits, scaling."""
    counts: tuple[tuple[int, int, int], ...] = ()
    trained: dict[str, TrainedModel] = field(default_factory=dict)
    records: list[StageRecord] = field(default_factory=list)

    @property
    def key(self) -> Key:
        """The key that every other one is folded from."""
        return Key(self.pipeline.seed)

    def stage_key(self, name: str) -> Key:
        """Return the key of a stage's random numbers."""
        return fold(self.key, "stage", name)

    def total(self, part: int) -> int:
        """Return how many samples a part has."""
        return sum(counts[part] for counts in self.counts)

    def record(self, name: str) -> StageRecord | None:
        """Return what is recorded of a stage, whatever its key was."""
        return next((record for record in self.records if record.name == name), None)

    def finished(self, name: str, key: str) -> StageRecord | None:
        """Return what is recorded of a stage that is done and has not changed since."""
        record = self.record(name)
        return record if record is not None and record.key == key else None

    def model_of(self, stage: Evaluate | CrossDomain | Encode) -> TrainedModel:
        """Return the trained model that a stage uses."""
        start = self.pipeline.start_of(stage)
        assert start is not None
        return self.trained[start.name]


def digest_of(*things: Any) -> str:
    """Return the SHA-256 of things that JSON can hold."""
    return sha256(json.dumps(things, sort_keys=True).encode()).hexdigest()


def pipeline_digest(pipeline: Pipeline) -> str:
    """Return the SHA-256 of a pipeline, but for fields that cannot change a result."""
    return digest_of(effective(pipeline))


def effective(pipeline: Pipeline) -> dict[str, Any]:
    """Return what of a pipeline can change a result, as JSON can hold it: no paths."""
    inert = INERT | PATHS
    found = pipeline.model_dump(mode="json", exclude={"on_bad_shard"})
    found["source"] = {k: v for k, v in found["source"].items() if k not in inert}
    found["stages"] = [
        {k: v for k, v in stage.items() if k not in inert} for stage in found["stages"]
    ]
    return found


def stage_digest(stage: Any, *inputs: str) -> str:
    """Return the key of a finished stage: declaration, inputs and code version."""
    declaration = stage.model_dump(mode="json", exclude=INERT) if stage is not None else None
    return digest_of(declaration, inputs, environment.code_digest())


def each_shard(
    context: Context,
    stage: str,
    function: Callable[..., Any],
    shards: Sequence[Shard],
    arguments: Sequence[Any] = (),
    merge: Callable[..., Any] | None = None,
    feed: Feed | None = None,
    part: str = "",
) -> list[Any]:
    """Map ``function(feed, shard, *arguments)`` over shards.

    Memory is bounded by what the workers compute at one time: a task reads, computes and lets go.

    Returns
    -------
    list
        The results in shard order; with ``merge`` one value: the root of a tree of fixed shape.
    """
    feed = feed or context.feed
    results: list[Any] = []
    clock = Clock(context.observer, stage, part, len(shards))
    for begin in range(0, len(shards), PASS_SHARDS):
        some = shards[begin : begin + PASS_SHARDS]
        graph = Graph()
        refs = [
            graph.call(stage, (shard.index,), function, feed.narrow(shard), shard, *arguments)
            for shard in some
        ]
        outputs = refs
        if merge is not None:
            outputs = [graph.call("done", (i,), _nothing, ref) for i, ref in enumerate(refs)]
            outputs += graph.reduce("merge", (), merge, refs)

        def on_done(place: int, value: Any, some: Sequence[Shard] = some) -> None:
            if place < len(some):
                clock.shard_done(some[place])

        values = context.executor.execute(graph, outputs, on_done)
        results += values[len(some) :] if merge is not None else values
    return [merge(*results)] if merge is not None and len(results) > 1 else results


def _nothing(value: Any) -> None:
    """Say that a task is done, without its value."""


class Clock:
    """Turns shards that are done into progress events."""

    def __init__(self, observer: Observer, stage: str, part: str, shards: int) -> None:
        self.observer, self.stage, self.part, self.shards = observer, stage, part, shards
        self.done = self.rows = 0
        self.started = time.perf_counter()

    def shard_done(self, shard: Shard) -> None:
        self.done += 1
        self.rows += shard.stop - shard.start
        rate = self.rows / (time.perf_counter() - self.started)
        self.observer(Progress(self.stage, self.part, self.done, self.shards, rate, "", None))
