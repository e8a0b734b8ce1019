"""Convolutional RBMs against enumeration of all states, and against RBMs without places."""

import itertools

import numpy as np
import pytest

from deepstrata.ops import convolutional_rbm, models, rbm
from deepstrata.ops.partials import Batch
from deepstrata.ops.random import normal, uniform
from deepstrata.ops.rbm import RBMParams
from deepstrata.schemas.convolutional import ConvolutionalRBM
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.trees import tree_map

KINDS = ("bernoulli", "gaussian")
V, PLACES, MAPS = 6, 3, 2


def machine(kind, **more):
    """Three places, two channels, filters of two places with a zero at each end: 3 x 2 hidden."""
    settings = {"maps": MAPS, "kernel": (3,), "padding": 1, "input_shape": (PLACES, 2)} | more
    return ConvolutionalRBM(visible_units=kind, **settings)


def small_params(scale=0.7, dtype=np.float64):
    shapes = {"weights": (3, 2, MAPS), "visible_bias": (2,), "hidden_bias": (MAPS,)}
    drawn = {
        name: normal(fold(Key(5), name), np.arange(np.prod(shape)), 1).reshape(shape)
        for name, shape in shapes.items()
    }
    return RBMParams(**{name: (scale * values).astype(dtype) for name, values in drawn.items()})


def unshared(params):
    """Return the RBM with a weight for each pair of units that the same machine is."""
    weights = np.zeros((PLACES, 2, PLACES, MAPS), params.weights.dtype)
    for hidden, tap in itertools.product(range(PLACES), range(3)):
        if 0 <= hidden + tap - 1 < PLACES:
            weights[hidden + tap - 1, :, hidden] = params.weights[tap]
    return RBMParams(
        weights.reshape(V, PLACES * MAPS),
        np.tile(params.visible_bias, PLACES),
        np.tile(params.hidden_bias, PLACES),
    )


def states(units):
    return np.array(list(itertools.product([0.0, 1.0], repeat=units)))


def data(n, kind="bernoulli", dtype=np.float64, visible=V):
    if kind == "gaussian":
        return normal(Key(8), np.arange(n), visible).astype(dtype)
    return (uniform(Key(8), np.arange(n), visible) < 0.4).astype(dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_free_energy_sums_over_all_hidden_states(kind):
    """The energy is written out place by place, with each hidden state in turn."""
    model, params, v = machine(kind), small_params(), data(5, kind)
    padded = np.pad(v.reshape(5, PLACES, 2), ((0, 0), (1, 1), (0, 0)))
    exponents = []
    for h in states(PLACES * MAPS).reshape(-1, PLACES, MAPS):
        total = (h @ params.hidden_bias).sum()
        for place, tap in itertools.product(range(PLACES), range(3)):
            total = total + padded[:, place + tap] @ params.weights[tap] @ h[place]
        exponents.append(total)
    bias = np.tile(params.visible_bias, PLACES)
    rest = v @ bias if kind == "bernoulli" else -0.5 * ((v - bias) ** 2).sum(axis=1)
    exact = -np.logaddexp.reduce(exponents, axis=0) - rest
    np.testing.assert_allclose(rbm.free_energy(model, params, v), exact, rtol=1e-12)


def test_free_energies_are_those_of_a_distribution():
    """Over all visible states, hidden means are what Bayes' rule makes of the joint energy."""
    model, params, vs = machine("bernoulli"), small_params(), states(V)
    p = np.exp(-rbm.free_energy(model, params, vs))
    hs, flat = states(PLACES * MAPS), unshared(params)
    joint = np.exp(
        vs @ flat.weights @ hs.T + (vs @ flat.visible_bias)[:, None] + hs @ flat.hidden_bias
    )
    np.testing.assert_allclose(p, joint.sum(axis=1), rtol=1e-12)
    mean = joint @ hs / joint.sum(axis=1)[:, None]
    np.testing.assert_allclose(models.encode(model, params, vs), mean, rtol=1e-10)
    back = joint.T @ vs / joint.sum(axis=0)[:, None]
    made = convolutional_rbm.visible_mean(model, params, hs, V)
    np.testing.assert_allclose(made, back, rtol=1e-10)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_contrastive_divergence_is_that_of_the_machine_without_places(kind, steps):
    """Addresses of random numbers are alike, so both draw the same states."""
    sparse = {"sparsity_target": 0.2, "sparsity_cost": 0.3}
    model = machine(kind, gibbs_steps=steps, **sparse)
    dense = RBM(hidden=PLACES * MAPS, visible_units=kind, gibbs_steps=steps, **sparse)
    params = small_params(dtype=np.float32)
    batch = Batch(100 + np.arange(40), data(40, kind, np.float32))
    ours, _ = models.gradient(model, params, batch, Key(2))
    theirs, _ = models.gradient(dense, unshared(params), batch, Key(2))
    assert ours.stats == pytest.approx(theirs.stats, rel=1e-5)
    blocks = theirs.total.weights.reshape(PLACES, 2, PLACES, MAPS)
    pairs = [
        [(hidden + tap - 1, hidden) for hidden in range(PLACES) if 0 <= hidden + tap - 1 < PLACES]
        for tap in range(3)
    ]
    shared = [sum(blocks[seen, :, hidden] for seen, hidden in tap) for tap in pairs]
    np.testing.assert_allclose(ours.total.weights, shared, atol=1e-4)
    for name, units in (("visible_bias", 2), ("hidden_bias", MAPS)):
        summed = getattr(theirs.total, name).reshape(PLACES, units).sum(axis=0)
        np.testing.assert_allclose(getattr(ours.total, name), summed, atol=1e-4)


def test_a_filter_of_the_whole_picture_makes_the_dense_machine():
    shape, visible = (4, 3, 2), 24
    wide = ConvolutionalRBM(maps=9, kernel=shape[:2], gibbs_steps=2, input_shape=shape)
    dense, x = RBM(hidden=9, gibbs_steps=2), data(12, visible=visible, dtype=np.float32)
    params, flat = models.init(wide, visible, Key(1)), models.init(dense, visible, Key(1))
    np.testing.assert_array_equal(params.weights.reshape(visible, 9), flat.weights)
    codes = models.encode(wide, params, x)
    np.testing.assert_allclose(codes, models.encode(dense, flat, x), rtol=1e-5)
    batch = Batch(np.arange(12), x)
    ours, theirs = (
        models.gradient(model, own, batch, Key(3))[0]
        for model, own in ((wide, params), (dense, flat))
    )
    weights = ours.total.weights.reshape(visible, 9)
    np.testing.assert_allclose(weights, theirs.total.weights, atol=1e-4)
    np.testing.assert_allclose(ours.total.hidden_bias, theirs.total.hidden_bias, atol=1e-4)
    assert models.evaluate(wide, params, batch) == pytest.approx(
        models.evaluate(dense, flat, batch), rel=1e-5
    )


def test_learning_makes_the_data_likely():
    """The likelihood, by enumeration, rises under contrastive divergence."""
    model, x = machine("bernoulli"), np.repeat([[1, 0, 1, 0, 0, 1]], 30, axis=0)
    x = np.abs(x - (uniform(Key(4), np.arange(30), V) < 0.05)).astype(np.float32)
    params = models.init(model, V, Key(1))

    def likelihood(params):
        exact = tree_map(lambda leaf: leaf.astype(np.float64), params)
        log_z = np.logaddexp.reduce(-rbm.free_energy(model, exact, states(V)))
        return -rbm.free_energy(model, exact, x.astype(np.float64)).mean() - log_z

    begin = likelihood(params)
    for step in range(200):
        partial, _ = models.gradient(model, params, Batch(np.arange(30), x), Key(step))
        params = tree_map(lambda a, g: a - np.float32(0.2 / 30) * g, params, partial.total)
    assert begin == pytest.approx(-V * np.log(2), abs=0.1)
    assert likelihood(params) > begin + 1.5


def test_there_is_one_layer():
    model, params = machine("bernoulli"), small_params()
    with pytest.raises(DeclarationError, match="has one layer, 0; found layer 1"):
        models.encode(model, params, data(2), 1)
