"""Nets that learn targets, and samples with weights."""

import numpy as np
import pytest

from deepstrata.ops import finetuning, models, network, optimisers
from deepstrata.ops.learning import local_steps
from deepstrata.ops.partials import Batch, take
from deepstrata.ops.random import normal, uniform
from deepstrata.schemas.errors import DataError, DeclarationError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.layers import Convolution, Dense, Flatten, Pooling, Softmax
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import DBN, Network
from deepstrata.schemas.optimisers import SGD, Adam
from deepstrata.schemas.trees import leaves, tree_map

KEY, V, N = Key(6), 12, 9
NETS = [
    Network(layers=(Dense(units=5, activation="tanh"), Dense(units=3)), loss="squared_error"),
    Network(layers=(Dense(units=5, activation="tanh"), Dense(units=3)), loss="cross_entropy"),
    Network(layers=(RBM(hidden=5), RBM(hidden=3)), loss="cross_entropy"),
    Network(
        layers=(
            Convolution(maps=2, kernel=(3,), activation="tanh"),
            Pooling(size=(2,), function="average"),
            Convolution(maps=1, kernel=(3,), activation="linear"),
        ),
        input_shape=(V, 1),
        loss="squared_error",
    ),
    Network(layers=(Dense(units=5), Softmax(classes=3))),
    DBN(layers=(RBM(hidden=5), Softmax(classes=3))),
]
WEIGHTS = np.array([1, 2, 0, 1, 3, 1, 1, 0, 2], np.float32)
OFTEN = np.repeat(np.arange(N), WEIGHTS.astype(int))


def batch(dtype=np.float32, weights=WEIGHTS):
    rows = np.arange(N)
    targets = uniform(fold(KEY, "targets"), rows, 3).astype(dtype)
    targets[4, 1] = np.nan
    x = uniform(fold(KEY, "x"), rows, V).astype(dtype)
    return Batch(rows, x, rows % 3, targets=targets, weights=weights)


def chosen(samples, rows):
    """Return some rows of a batch, as often as they are named, without weights."""
    parts = [part[rows] for part in (samples.rows, samples.x, samples.labels, samples.targets)]
    return Batch(*parts[:3], targets=parts[3])


@pytest.mark.parametrize("model", NETS, ids=str)
def test_gradient_agrees_with_finite_differences_of_the_loss(model):
    net = tree_map(lambda a: a.astype(np.float64), finetuning.start_net(model, None, V, KEY))
    samples = batch(np.float64)
    partial, _ = models.gradient(model, net, samples, KEY)
    directions = tree_map(
        lambda a: normal(Key(2), np.arange(a.size), 1).reshape(a.shape).astype(np.float64), net
    )
    ends = [
        models.evaluate(model, tree_map(lambda a, d, s=s: a + s * d, net, directions), samples)
        for s in (1e-6, -1e-6)
    ]
    along = sum(
        (g * d).sum() for g, d in zip(*map(leaves, (partial.total, directions)), strict=True)
    )
    assert along == pytest.approx((ends[0]["loss"] - ends[1]["loss"]) / 2e-6, rel=1e-5)
    measured = models.evaluate(model, net, samples)
    assert partial.n == measured["n"] == WEIGHTS.sum()
    for name, value in partial.stats.items():
        assert float(value) == pytest.approx(measured[name]), name


@pytest.mark.parametrize("model", NETS, ids=str)
def test_a_weight_is_how_often_a_sample_comes(model):
    net, samples = finetuning.start_net(model, None, V, KEY), batch()
    weighted, _ = models.gradient(model, net, samples, KEY)
    repeated, _ = models.gradient(model, net, chosen(samples, OFTEN), KEY)
    assert weighted.n == repeated.n == len(OFTEN)
    for a, b in zip(*map(leaves, (weighted.total, repeated.total)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimiser", [SGD(learning_rate=0.1, momentum=0.9), Adam()])
def test_no_step_is_taken_where_no_sample_counts(optimiser):
    """Steps on the samples that count, with others between them, are steps on those alone."""
    model = NETS[0]
    net, rates = finetuning.start_net(model, None, V, KEY), optimisers.rates(optimiser, 0)
    weights = np.repeat(np.array([1, 0, 1], np.float32), 3)
    samples = batch(weights=weights)
    start = (model, optimiser, rates, net, optimisers.init(optimiser, net), ())
    moved, _, _, n, _ = local_steps(*start, samples, 3, KEY)
    some = chosen(samples, np.flatnonzero(weights))
    alone, _, _, m, _ = local_steps(*start, some, 3, KEY)
    assert n == m == 6
    for a, b in zip(*map(leaves, (moved, alone)), strict=True):
        np.testing.assert_array_equal(a, b)
    still, _, _, n, _ = local_steps(*start, take(samples, 3, 6), 3, KEY)
    assert n == 0
    for a, b in zip(*map(leaves, (still, net)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_predictions_are_what_the_last_layer_gives():
    samples = batch()
    for model in NETS[:3]:
        net = finetuning.start_net(model, None, V, KEY)
        y = models.predict(model, net, samples.x)
        np.testing.assert_array_equal(y, models.encode(model, net, samples.x, 1))
        assert ((y > 0) & (y < 1)).all()
        assert models.code_width(model, V) == models.encode(model, net, samples.x).shape[1] == 5
        assert network.output_width(model, V) == 3
    with pytest.raises(DeclarationError, match=r"a Network\(loss=\.\.\.\) without one"):
        models.predict(Network(layers=(Dense(units=2),)), (), samples.x)
    with pytest.raises(DeclarationError, match="neither is true"):
        models.predict(RBM(hidden=2), (), samples.x)


def test_targets_and_labels_that_are_not_there_are_said():
    for model, missing in ((NETS[0], "no targets variable"), (NETS[-1], "no labels variable")):
        net = finetuning.start_net(model, None, V, KEY)
        with pytest.raises(DataError, match=missing):
            models.gradient(model, net, batch()._replace(targets=None, labels=None), KEY)


def test_the_layers_below_the_last_are_the_body():
    assert [model.body for model in NETS] == [1, 1, 1, 2, 1, 1]
    assert Network(layers=(Dense(units=2), Flatten())).body == 2
    bottom = NETS[0].bottom(1)
    assert (bottom.layers, bottom.loss) == (NETS[0].layers[:1], None)
