"""The inner loop: minibatches of one shard, one after the other."""

from typing import Any

from deepstrata.ops import models, optimisers
from deepstrata.ops.backend import Scratch, namespace
from deepstrata.ops.optimisers import Rates, copied
from deepstrata.ops.partials import Batch, Into, add_stats, take
from deepstrata.schemas.keys import Key
from deepstrata.schemas.models import Trainable
from deepstrata.schemas.optimisers import Optimiser
from deepstrata.schemas.trees import Tree, tree_map


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
) -> tuple[Tree, Tree, Tree, int, dict[str, Any]]:
    """Take steps on at most ``size`` samples each, in the order given; all on as many, up to one.

    Parameters
    ----------
    params, state, carry
        Where to start; not changed.
    key
        The round's key; rows make addresses unique below it, so no row may come twice.

    Returns
    -------
    params, state, carry
        New ones.
    n
        Number of samples seen.
    stats
        Summed over the samples.
    """
    n = batch.x.shape[0]
    steps = -(-n // size)
    params, state = tree_map(copied, params), tree_map(copied, state)
    straight = optimisers.accumulates(optimiser)
    buffers = () if straight else tree_map(lambda leaf: namespace(leaf).empty_like(leaf), params)
    scratch, factor = Scratch(), 1.0
    stats: dict[str, Any] = {}
    for step in range(steps):
        part = take(batch, n * step // steps, n * (step + 1) // steps)
        rows = part.x.shape[0]
        into = Into(buffers)
        if straight:
            factor = optimisers.decayed(factor * rates.momentum, state)
            into = optimisers.into_velocity(rows, factor, state)
        partial, carry = models.gradient(model, params, part, key, carry, into, scratch)
        if straight:
            optimisers.follow_in_place(optimiser, rates, factor, state, params)
        else:
            optimisers.update_in_place(optimiser, rates, partial.total, rows, state, params)
        stats = add_stats(stats, partial.stats)
    if straight:
        optimisers.settle(factor, state)
    return params, state, carry, n, stats
