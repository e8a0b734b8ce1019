"""The inner loop: minibatches of one shard, one after the other.

A layer is frozen where its factor on the learning rate is 0. What is trained has ``()`` in its
place: no gradient is computed for it, and the optimiser remembers nothing of it.
"""

from typing import Any

from deepstrata.ops import models, optimisers
from deepstrata.ops.backend import Scratch, namespace
from deepstrata.ops.optimisers import Rates, copied
from deepstrata.ops.partials import Batch, Into, add_stats, take, weight_of
from deepstrata.schemas.keys import Key
from deepstrata.schemas.models import Trainable
from deepstrata.schemas.optimisers import Optimiser
from deepstrata.schemas.trees import Array, Tree, tree_map


def trained(params: Tree, factors: tuple[float, ...]) -> Tree:
    """Return the parameters (arrays or specs) with ``()`` in place of frozen layers.

    Parameters
    ----------
    factors
        One for each layer; ``()`` where all layers are trained.
    """
    if not factors:
        return params
    return tuple(own if factor else () for factor, own in zip(factors, params, strict=True))


def with_trained(params: Tree, moved: Tree, factors: tuple[float, ...]) -> Tree:
    """Return the parameters with those of ``moved`` in place of the layers that are trained."""
    if not factors:
        return moved
    layers = zip(factors, params, moved, strict=True)
    return tuple(new if factor else own for factor, own, new in layers)


def gradient_buffers(params: Tree, factors: tuple[float, ...]) -> Into | None:
    """Return where the gradient of trained layers is written; None where all of them are."""
    return Into(tree_map(_empty, trained(params, factors))) if factors else None


def _empty(leaf: Array) -> Array:
    return namespace(leaf).empty_like(leaf)


def local_steps(
    model: Trainable,
    optimiser: Optimiser,
    rates: Rates,
    params: Tree,
    state: Tree,
    carry: Tree,
    batch: Batch,
    size: int,
    key: Key,
) -> tuple[Tree, Tree, Tree, float, dict[str, Any]]:
    """Take steps on at most ``size`` samples each, in the order given; all on as many, up to one.

    Parameters
    ----------
    rates
        With the factors that freeze layers.
    params, state, carry
        Where to start; not changed. ``state`` is that of what is trained.
    key
        The round's key; rows make addresses unique below it, so no row may come twice.

    Returns
    -------
    params, state, carry
        New ones.
    n
        How much the samples seen count together; a step on none that counts is not taken.
    stats
        Summed over the samples.
    """
    samples = batch.x.shape[0]
    steps = -(-samples // size)
    moved = tree_map(copied, trained(params, rates.factors))
    params, state = with_trained(params, moved, rates.factors), tree_map(copied, state)
    straight = optimisers.accumulates(optimiser)
    buffers = () if straight else tree_map(_empty, moved)
    scratch, factor = Scratch(), 1.0
    stats: dict[str, Any] = {}
    for step in range(steps):
        part = take(batch, samples * step // steps, samples * (step + 1) // steps)
        n = weight_of(part)
        if not n:
            continue
        into = Into(buffers)
        if straight:
            factor = optimisers.decayed(factor * rates.momentum, state)
            into = optimisers.into_velocity(n, factor, state)
        partial, carry = models.gradient(model, params, part, key, carry, into, scratch)
        if straight:
            optimisers.follow_in_place(optimiser, rates, factor, state, moved)
        else:
            optimisers.update_in_place(optimiser, rates, partial.total, n, state, moved)
        models.project_in_place(model, params)
        stats = add_stats(stats, partial.stats)
    if straight:
        optimisers.settle(factor, state)
    return params, state, carry, weight_of(batch), stats
