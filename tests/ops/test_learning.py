"""Local steps are the steps one would take by hand."""

import itertools

import numpy as np
import pytest

from deepstrata.ops import models, optimisers
from deepstrata.ops.learning import local_steps
from deepstrata.ops.partials import Batch, take
from deepstrata.ops.random import uniform
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import Softmax
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import DBN
from deepstrata.schemas.optimisers import SGD, Adam
from deepstrata.schemas.trees import leaves, tree_map

MODELS = [
    RBM(hidden=9),
    RBM(hidden=9, persistent=True, chains=5),
    DBN(layers=(Softmax(classes=2),)),
]
N, V, KEY = 23, 6, Key(3)


def setting(model, optimiser):
    x = (uniform(Key(1), np.arange(N), V) < 0.4).astype(np.float32)
    batch = Batch(np.arange(N) * 7 % 50, x, x[:, 0].astype(np.int64))
    params, carry = models.init(model, V, KEY), models.carry(model, V, KEY)
    return params, optimisers.init(optimiser, params), carry, batch


OPTIMISERS = {
    "adam": Adam(),
    "nesterov": SGD(momentum=0.9, nesterov=True),
    # Its gradients are added to the velocity as they are computed: the last bits are others.
    "momentum": SGD(momentum=0.9),
    "decay": SGD(momentum=0.9, weight_decay=1e-3),
}


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("model", MODELS)
def test_steps_are_those_of_pure_updates(model, name):
    optimiser = OPTIMISERS[name]
    params, state, carry, batch = setting(model, optimiser)
    rates = optimisers.rates(optimiser, 0)
    fast = local_steps(model, optimiser, rates, params, state, carry, batch, 5, KEY)
    stats = dict.fromkeys(fast[4], 0.0)
    for start, stop in itertools.pairwise((0, 4, 9, 13, 18, N)):  # five steps, 4 or 5 samples each
        part = take(batch, start, stop)
        partial, carry = models.gradient(model, params, part, KEY, carry)
        params, state = optimisers.update(optimiser, rates, partial.total, partial.n, state, params)
        stats = {name: value + partial.stats[name] for name, value in stats.items()}
    for a, b in zip(leaves(fast[:3]), leaves((params, state, carry)), strict=True):
        if optimisers.accumulates(optimiser):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        else:
            np.testing.assert_array_equal(a, b)
    assert fast[3] == N
    assert fast[4] == pytest.approx(stats, rel=1e-6 if optimisers.accumulates(optimiser) else 0)


@pytest.mark.parametrize("model", MODELS)
def test_no_samples_change_nothing(model):
    params, state, carry, batch = setting(model, SGD(momentum=0.5))
    rates = optimisers.rates(SGD(), 0)
    result = local_steps(
        model, SGD(momentum=0.5), rates, params, state, carry, take(batch, 0, 0), 5, KEY
    )
    for a, b in zip(leaves(result[:3]), leaves((params, state, carry)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert result[3:] == (0, {})


def test_results_share_no_memory_with_arguments():
    params, state, carry, batch = setting(MODELS[0], SGD(momentum=0.5))
    rates = optimisers.rates(SGD(), 0)
    result = local_steps(MODELS[0], SGD(momentum=0.5), rates, params, state, carry, batch, 5, KEY)
    given = leaves((params, state))
    assert not any(np.shares_memory(a, b) for a in leaves(result[:2]) for b in given)
    frozen = tree_map(np.copy, result[:2])
    local_steps(MODELS[0], SGD(momentum=0.5), rates, *result[:3], batch, 5, KEY)
    for a, b in zip(leaves(frozen), leaves(result[:2]), strict=True):
        np.testing.assert_array_equal(a, b)
