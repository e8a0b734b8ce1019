"""How a strategy writes a round into a graph.

The state of a training is partitioned: ``state`` holds parameters and the (outer) optimiser,
``replica-0``, ``replica-1``, ... what stays with a place of the round (inner optimiser, persistent
chains). Each part is a task of its own, so a strategy may spread them over workers. A
strategy reads the parts of the last ``memory(strategy)`` rounds and adds those of the next one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np

from deepstrata.ops import finetuning, learning, models, optimisers, pretraining
from deepstrata.ops.backend import Backend
from deepstrata.ops.partials import Batch, Partial, merge, take
from deepstrata.pipelines import divergence
from deepstrata.pipelines.graph import FAN_IN, Graph, Ref
from deepstrata.pipelines.meter import measure
from deepstrata.pipelines.rounds import Round
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.models import Layered, Trainable
from deepstrata.schemas.optimisers import Optimiser
from deepstrata.schemas.strategies import Delayed, LocalSteps, Strategy, Synchronous
from deepstrata.schemas.trees import Tree, leaves, tree_map


class Learning(NamedTuple):
    """The frozen settings of one training."""

    model: Trainable
    optimiser: Optimiser
    strategy: Strategy
    visible: int
    key: Key
    backend: Backend = "numpy"
    factors: tuple[float, ...] = ()
    """Of the learning rate, one for each layer, 0 where it is frozen; ``()`` where all are 1."""


class TrainState(NamedTuple):
    """Parameters and the state of the optimiser that updates them."""

    params: Tree
    optimiser: Tree


class Replica(NamedTuple):
    """What stays with one place of the round."""

    optimiser: Tree
    carry: Tree


class Rounded(NamedTuple):
    """The state after a round, and what is reported of the round: sums over ``n`` samples."""

    state: TrainState
    n: float
    stats: dict[str, Any]


class Parts(NamedTuple):
    """References to the parts of one round's state."""

    state: Ref
    replicas: tuple[Ref, ...]
    done: tuple[Ref, ...] = ()
    """What was computed at each place of the round: those no longer need the round's samples."""


class Local(NamedTuple):
    """What a place gives to a round when part of the state stays with it."""

    partial: Partial
    replica: Replica


class Moment(NamedTuple):
    """When the shared parameters are updated, and how far."""

    round: int
    epoch: int
    """Counted from 1."""
    rates: optimisers.Rates


@contextmanager
def computing() -> Iterator[None]:
    """Measure what a task of training computes.

    Overflows pass without a word: ``update_task`` finds what became of them, and names it.
    """
    with measure("compute"), np.errstate(over="ignore", invalid="ignore"):
        yield


@singledispatch
def memory(strategy: Strategy) -> int:
    """Return how many past states a round reads; 1 is the newest alone."""
    return 1


@memory.register
def _(strategy: Delayed) -> int:
    return strategy.rounds + 1


@singledispatch
def outer_optimiser(strategy: Strategy, inner: Optimiser) -> Optimiser:
    """Return the optimiser that updates the shared parameters."""
    return inner


@outer_optimiser.register
def _(strategy: LocalSteps, inner: Optimiser) -> Optimiser:
    return strategy.outer


@singledispatch
def write_round(
    strategy: Strategy,
    graph: Graph,
    settings: Learning,
    this: Round,
    states: Sequence[Parts],
    batches: Sequence[Ref],
) -> Parts:
    """Add one round to ``graph`` and return the references to the state after it.

    Parameters
    ----------
    this
        The rows to use.
    states
        The parts of the last ``memory(strategy)`` rounds, newest last.
    batches
        References to the ``Batch`` of each of the round's places.
    """
    raise TypeError(f"no rule for a {type(strategy).__name__}")


def replica_count(settings: Learning) -> int:
    """Return how many replica parts a training has; 0 where nothing stays with a place."""
    carries = leaves(models.carry(settings.model, settings.visible, settings.key))
    local = isinstance(settings.strategy, LocalSteps)
    return settings.strategy.shards if local or carries else 0


def param_shapes(settings: Learning) -> Tree:
    """Return what the trained parameters look like; layers are trained as a feed-forward net."""
    shapes = models.shapes(settings.model, settings.visible)
    return pretraining.feed_forward(shapes) if isinstance(settings.model, Layered) else shapes


def fresh_params(settings: Learning) -> Tree:
    """Draw the parameters that a training without a trained model begins with."""
    key = fold(settings.key, "init")
    if isinstance(settings.model, Layered | Autoencoder):
        return finetuning.start_net(settings.model, None, settings.visible, key, settings.backend)
    return models.init(settings.model, settings.visible, key, settings.backend)


def initial_state(settings: Learning, params: Tree) -> TrainState:
    """Return the state before the first round, as arrays (or as specs, for specs)."""
    outer = outer_optimiser(settings.strategy, settings.optimiser)
    moving = learning.trained(params, settings.factors)
    return TrainState(params, optimisers.init(outer, moving))


def initial_replica(settings: Learning, params: Tree, place: int) -> Replica:
    """Return what a place of the round starts with."""
    local = isinstance(settings.strategy, LocalSteps)
    key = fold(settings.key, "carry", place)
    carry = models.carry(settings.model, settings.visible, key, settings.backend)
    moving = learning.trained(params, settings.factors)
    return Replica(optimisers.init(settings.optimiser, moving) if local else (), carry)


def partial_of(local: Local) -> Partial:
    """Return what leaves the place, without what stays."""
    return local.partial


def replica_of(local: Local | Replica) -> Replica:
    """Return what stays with the place."""
    return local.replica if isinstance(local, Local) else local


def gradient_task(
    settings: Learning,
    rounded: Rounded,
    replica: Local | Replica | None,
    batch: Batch,
    rows: tuple[int, int],
    key: Key,
) -> Local | Partial:
    """Sum the gradient over some rows of a place."""
    with computing():
        carry = replica_of(replica).carry if replica is not None else ()
        piece = take(batch, *rows)
        params = rounded.state.params
        into = learning.gradient_buffers(params, settings.factors)
        partial, carry = models.gradient(settings.model, params, piece, key, carry, into)
        return partial if replica is None else Local(partial, Replica((), carry))


def update_task(settings: Learning, at: Moment, rounded: Rounded, *partials: Partial) -> Rounded:
    """Merge the last partials and step the shared parameters, unless no sample counts.

    Raises
    ------
    DivergenceError
        The round has come to infinity or NaN: there is no state after it, and no checkpoint.
    """
    with computing():
        whole = merge(*partials)
        if not whole.n:
            return Rounded(rounded.state, whole.n, whole.stats)
        outer = outer_optimiser(settings.strategy, settings.optimiser)
        before = rounded.state.params
        moving = learning.trained(before, settings.factors)
        moved, state = optimisers.update(
            outer, at.rates, whole.total, whole.n, rounded.state.optimiser, moving
        )
        params = learning.with_trained(before, moved, settings.factors)
        models.project_in_place(settings.model, params)
        divergence.check_round(at.round, at.epoch, whole, moved)
        return Rounded(TrainState(params, state), whole.n, whole.stats)


def local_steps_task(
    settings: Learning,
    rounded: Rounded,
    replica: Local | Replica,
    batch: Batch,
    rows: tuple[int, int],
    key: Key,
    rates: optimisers.Rates,
) -> Local:
    """Take local steps through some rows of a place; the partial is the change times the rows."""
    assert isinstance(settings.strategy, LocalSteps)
    with computing():
        start, own = rounded.state.params, replica_of(replica)
        params, state, carry, n, stats = learning.local_steps(
            settings.model,
            settings.optimiser,
            rates,
            start,
            own.optimiser,
            own.carry,
            take(batch, *rows),
            settings.strategy.batch,
            key,
        )
        ends = (learning.trained(tree, settings.factors) for tree in (start, params))
        change = tree_map(lambda before, after: (before - after) * n, *ends)
        return Local(Partial(change, n, stats), Replica(state, carry))


def _map_reduce(
    graph: Graph,
    settings: Learning,
    this: Round,
    states: Sequence[Parts],
    batches: Sequence[Ref],
    name: str,
    task: Callable[..., Any],
    *more: Any,
) -> Parts:
    """Map ``task`` over the places from the oldest state, reduce in a tree, update the newest.

    ``more`` are further arguments of ``task``, the same for every place.
    """
    oldest, newest = states[0].state, states[-1].state
    key, rows = fold(settings.key, "round", this.index), (this.start, this.stop)
    done, partials, replicas = [], [], list(states[-1].replicas)
    for place, batch in enumerate(batches):
        own = replicas[place] if replicas else None
        where = (this.index, place)
        found = graph.call(name, where, task, settings, oldest, own, batch, rows, key, *more)
        done.append(found)
        if replicas:
            replicas[place] = found
            found = graph.call("partial", where, partial_of, found)
        partials.append(found)
    tops = graph.reduce("merge", (this.index,), merge, partials, down_to=FAN_IN)
    outer = outer_optimiser(settings.strategy, settings.optimiser)
    # Local steps are the ones that layers take at rates of their own.
    factors = () if isinstance(settings.strategy, LocalSteps) else settings.factors
    rates = optimisers.rates(outer, this.progress, factors)
    at = Moment(this.index, this.epoch + 1, rates)
    state = graph.call("update", (this.index,), update_task, settings, at, newest, *tops)
    return Parts(state, tuple(replicas), tuple(done))


@write_round.register
def _(
    strategy: Synchronous | Delayed,
    graph: Graph,
    settings: Learning,
    this: Round,
    states: Sequence[Parts],
    batches: Sequence[Ref],
) -> Parts:
    return _map_reduce(graph, settings, this, states, batches, "gradient", gradient_task)


@write_round.register
def _(
    strategy: LocalSteps,
    graph: Graph,
    settings: Learning,
    this: Round,
    states: Sequence[Parts],
    batches: Sequence[Ref],
) -> Parts:
    inner = optimisers.rates(settings.optimiser, this.progress, settings.factors)
    return _map_reduce(graph, settings, this, states, batches, "steps", local_steps_task, inner)
