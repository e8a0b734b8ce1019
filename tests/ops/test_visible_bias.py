"""Visible biases that give the mean of the data before anything is learned."""

import numpy as np
import pytest

from deepstrata.ops import models, moments, visible_bias
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import Dense
from deepstrata.schemas.machines import RBM

N, V = 50, 7
X = (np.random.default_rng(1).random((N, V)) < np.linspace(0.1, 0.9, V)).astype(np.float32)
X[:, 0] = 0.0
ENCODER = (Dense(units=3),)


def begun(model, x, mask=None):
    fresh = models.init(model, V, Key(0))
    return visible_bias.at_mean(model, fresh, moments.moments(x, mask))


def without_hidden_units(model, params):
    """What a code of zeros is decoded to, (V,)."""
    code = np.zeros((1, models.code_width(model, V)), np.float32)
    return models.pretraining.decode(model, params, code, V)[0]


@pytest.mark.parametrize(
    "model",
    [
        RBM(hidden=3),
        Autoencoder(encoder=ENCODER, tied=True, loss="cross_entropy"),
        Autoencoder(encoder=ENCODER),
        Autoencoder(encoder=ENCODER, decoder=(Dense(units=V),), loss="cross_entropy"),
    ],
)
def test_logistic_units_begin_at_their_mean_however_rare(model):
    found = without_hidden_units(model, begun(model, X))
    np.testing.assert_allclose(found, (X.sum(axis=0) + 1) / (N + 2), rtol=1e-5)


@pytest.mark.parametrize(
    "model",
    [RBM(hidden=3, visible_units="gaussian"), Autoencoder(encoder=ENCODER, output="linear")],
)
def test_linear_units_begin_at_their_mean(model):
    found = without_hidden_units(model, begun(model, 3.0 * X - 1.0))
    np.testing.assert_allclose(found, (3.0 * X - 1.0).mean(axis=0), rtol=1e-5)


def test_only_what_is_present_counts():
    mask = np.random.default_rng(2).random(X.shape) < 0.6
    found = without_hidden_units(RBM(hidden=3), begun(RBM(hidden=3), X, mask))
    counts = mask.sum(axis=0)
    np.testing.assert_allclose(found, ((X * mask).sum(axis=0) + 1) / (counts + 2), rtol=1e-5)


def test_nothing_else_changes():
    fresh, found = models.init(RBM(hidden=3), V, Key(0)), begun(RBM(hidden=3), X)
    np.testing.assert_array_equal(found.weights, fresh.weights)
    assert found.visible_bias.dtype == np.float32
