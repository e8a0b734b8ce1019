"""Windows: a window of rounds is one graph, from one checkpoint to the next.

Lineage is cut at its ends: it begins by loading a checkpoint and ends by writing one. Within it,
a place loads the samples of a group when it is done with those of the group before, and begins to
read those of the next: it has no more than two groups' in memory.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import zip_longest
from typing import Any, NamedTuple

from deepstrata.ops import backend, models
from deepstrata.ops.partials import Batch, add_stats
from deepstrata.pipelines import ahead, feeds
from deepstrata.pipelines.ahead import Read
from deepstrata.pipelines.control import Control
from deepstrata.pipelines.feeds import Feed, Saved
from deepstrata.pipelines.graph import Graph, Ref
from deepstrata.pipelines.meter import measure
from deepstrata.pipelines.rounds import Round, all_rounds
from deepstrata.pipelines.strategies import (
    Learning,
    Local,
    Parts,
    Replica,
    Rounded,
    TrainState,
    computing,
    fresh_params,
    initial_replica,
    initial_state,
    memory,
    param_shapes,
    replica_count,
    replica_of,
    write_round,
)
from deepstrata.schemas.keys import fold
from deepstrata.storage import checkpoints, stores
from deepstrata.storage.checkpoints import Checkpoint
from deepstrata.storage.shards import Shard

GROUPS_IN_FLIGHT = 2  #: groups of shards at a place: one computed on, one read ahead


class Training(NamedTuple):
    """One training: a layer, or a whole net."""

    name: str
    """Path below the run's stages: ``pretrain/layer-0``."""
    part: str
    """For people: ``layer 1 of 3``; may be empty."""
    settings: Learning
    feed: Feed
    grid: tuple[Shard, ...]
    counts: tuple[tuple[int, int, int], ...]
    """Training, validation and test samples of every shard."""
    epochs: int
    monitor: int
    every: int | None
    url: str
    """Directory for checkpoints and history."""
    start: Saved | None = None
    """Parameters to begin with; fresh ones by default."""
    control: Control = Control()
    """What the ends of epochs decide; by default nothing."""

    @property
    def train_counts(self) -> list[int]:
        """Training samples of every shard."""
        return [counts[0] for counts in self.counts]

    def rounds(self) -> list[Round]:
        """Return every round of the training."""
        settings = self.settings
        return all_rounds(
            self.grid, self.train_counts, settings.strategy, settings.key, self.epochs
        )

    def example(self) -> TrainState:
        """Return what the state looks like."""
        return initial_state(self.settings, param_shapes(self.settings))

    def part_names(self) -> list[str]:
        """Return the names of the state's parts, newest state first."""
        names = ["state", *(f"replica-{i}" for i in range(replica_count(self.settings)))]
        ages = range(memory(self.settings.strategy))
        return [f"{name}@{age}" if age else name for age in ages for name in names]


def checkpoint_url(training: Training, index: int) -> str:
    """Return the directory of the checkpoint after ``index`` rounds."""
    return checkpoints.checkpoint_url(stores.join(training.url, "checkpoints"), index)


def begin_state(settings: Learning, start: Saved | None) -> Rounded:
    """Make the state before the first round."""
    with measure("compute"):
        params = start.load(settings.backend) if start else fresh_params(settings)
        return Rounded(initial_state(settings, params), 0, {})


def begin_replica(settings: Learning, rounded: Rounded, place: int) -> Replica:
    """Make what a place of the round starts with."""
    return initial_replica(settings, rounded.state.params, place)


def save(url: str, part: Rounded | Replica | Local) -> str:
    """Write one part of the state and return its digest."""
    tree = part.state if isinstance(part, Rounded) else replica_of(part)
    return checkpoints.save_part(url, backend.on_host(tree))


def load_state(settings: Learning, url: str, like: TrainState, digest: str) -> Rounded:
    """Read the shared part of the state."""
    state = checkpoints.load_part(url, like, digest)
    return Rounded(backend.on_device(state, settings.backend), 0, {})


def load_replica(
    settings: Learning, url: str, like: TrainState, place: int, digest: str
) -> Replica:
    """Read the part of the state that stays with a place."""
    example = initial_replica(settings._replace(backend="numpy"), like.params, place)
    replica = checkpoints.load_part(url, example, digest)
    found: Replica = backend.on_device(replica, settings.backend)
    return found


def report_of(rounded: Rounded) -> tuple[float, dict[str, Any]]:
    """Return what is told of a round, without its state."""
    return rounded.n, rounded.stats


def watch(settings: Learning, rounded: Rounded, *batches: Batch) -> dict[str, Any]:
    """Measure the model on a fixed sample."""
    with computing():
        found = [models.evaluate(settings.model, rounded.state.params, batch) for batch in batches]
        return reduce(add_stats, found)


class Window(NamedTuple):
    """A graph from one checkpoint to the next, and its outputs."""

    graph: Graph
    reports: list[Ref]
    monitors: list[tuple[Round, str, Ref]]
    saves: list[tuple[str, Ref]]


def begin_graph(training: Training) -> tuple[Graph, list[tuple[str, Ref]]]:
    """Write the graph that makes the checkpoint before the first round."""
    graph, settings = Graph(), training.settings
    state = graph.call("begin", (0,), begin_state, settings, training.start)
    made = [state]
    made += [
        graph.call("begin-replica", (i,), begin_replica, settings, state, i)
        for i in range(replica_count(settings))
    ]
    made *= memory(settings.strategy)
    return graph, _saves(graph, training, 0, made)


def _saves(
    graph: Graph, training: Training, index: int, parts: Sequence[Ref]
) -> list[tuple[str, Ref]]:
    directory = checkpoint_url(training, index)
    return [
        (name, graph.call("save", (index, name), save, checkpoints.part_url(directory, name), ref))
        for name, ref in zip(training.part_names(), parts, strict=True)
    ]


def window_graph(training: Training, window: Sequence[Round], begin: Checkpoint) -> Window:
    """Write the graph of some rounds: load, train, watch, save."""
    graph, settings = Graph(), training.settings
    states = _load_states(graph, training, begin)
    watched = _watched(graph, training)
    reports: list[Ref] = []
    monitors: list[tuple[Round, str, Ref]] = []
    groups = {this.group: this for this in reversed(window)}
    batches: list[Ref] = []
    for this in window:
        if this is groups[this.group]:
            done = states[-1].done
            batches = _load_group(graph, training, this, groups.get(this.group + 1), done)
        states.append(write_round(settings.strategy, graph, settings, this, states, batches))
        del states[0]
        newest = states[-1].state
        reports.append(graph.call("report", (this.index,), report_of, newest))
        if this.ends_epoch:
            monitors += [
                (
                    this,
                    name,
                    graph.call("watch", (this.index, name), watch, settings, newest, *refs),
                )
                for name, refs in watched.items()
            ]
    parts = [ref for state in reversed(states) for ref in (state.state, *state.replicas)]
    return Window(graph, reports, monitors, _saves(graph, training, window[-1].index + 1, parts))


def _load_states(graph: Graph, training: Training, begin: Checkpoint) -> list[Parts]:
    """Add the tasks that read a checkpoint; oldest state first."""
    settings, directory = training.settings, checkpoint_url(training, begin.round)
    like, states = training.example(), []
    digests = begin.parts
    for age in reversed(range(memory(settings.strategy))):
        suffix = f"@{age}" if age else ""

        def place(name: str, suffix: str = suffix) -> tuple[str, str]:
            name += suffix
            return checkpoints.part_url(directory, name), digests[name]

        url, digest = place("state")
        state = graph.call("load-state", (age,), load_state, settings, url, like, digest)
        replicas = []
        for i in range(replica_count(settings)):
            url, digest = place(f"replica-{i}")
            replicas.append(
                graph.call("load-replica", (age, i), load_replica, settings, url, like, i, digest)
            )
        states.append(Parts(state, tuple(replicas)))
    return states


def _load_group(
    graph: Graph, training: Training, this: Round, following: Round | None, done: Sequence[Ref]
) -> list[Ref]:
    """Add the tasks that load a group; each follows what its place did before, where that was."""
    reads = _reads(graph, training, this)
    later = _reads(graph, training, following) if following else []
    return [
        graph.call("load", read.place, ahead.take, read, then, last)
        for read, then, last in zip_longest(reads, later[: len(reads)], done[: len(reads)])
    ]


def _reads(graph: Graph, training: Training, this: Round) -> list[Read]:
    order = fold(training.settings.key, "rows", this.epoch)
    found = []
    for place, indices in enumerate(this.places):
        shards = [training.grid[index] for index in indices]
        pieces = tuple((training.feed.narrow(shard), shard) for shard in shards)
        found.append(Read(graph.token, (this.group, place), feeds.load_mixed, (pieces, order)))
    return found


def _watched(graph: Graph, training: Training) -> dict[str, list[Ref]]:
    """Add the tasks that read the fixed samples for the learning curves."""
    watched: dict[str, list[Ref]] = {}
    for part, name in enumerate(("train", "validation")):
        counts = [c[part] for c in training.counts]
        chosen = feeds.spread(counts, training.monitor, training.settings.key)
        refs = [
            graph.call(
                "load-watched",
                (name, index),
                feeds.load,
                training.feed.narrow(training.grid[index]),
                training.grid[index],
                part,
                fold(training.settings.key, "watched"),
                rows,
            )
            for index, rows in chosen
        ]
        if refs:
            watched[name] = refs
    return watched
