"""Dense layers: finite differences in float64."""

import array_api_strict
import numpy as np
import pytest

from deepstrata.ops import dense, losses
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.random import normal
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.trees import tree_map

LABELS = np.array([0, 2, 1, 2, 3])


def drawn(seed, n, m, dtype=np.float64):
    return normal(fold(Key(1), seed), np.arange(n), m).astype(dtype)


def params(dtype=np.float64):
    return DenseParams(drawn(1, 6, 4, dtype), drawn(2, 1, 4, dtype)[0])


@pytest.mark.parametrize("activation", dense.ACTIVATIONS)
def test_backward_agrees_with_finite_differences(activation):
    """The loss of two layers, along one random direction of each array."""
    x, below = drawn(3, 5, 7), DenseParams(drawn(4, 7, 6), drawn(5, 1, 6)[0])

    def loss(below, above):
        h = dense.forward(activation, below, x)
        return h, losses.categorical(dense.forward("linear", above, h), LABELS)

    h, found = loss(below, params())
    delta = dense.ACTIVATIONS[activation][1](found.delta @ params().weights.T, h)
    slopes = (dense.gradient(x, delta), dense.gradient(h, found.delta))
    for layer, name in ((0, "weights"), (0, "bias"), (1, "weights"), (1, "bias")):
        nets = []
        direction = drawn(6, *np.atleast_2d(getattr((below, params())[layer], name)).shape)
        direction = direction.reshape(getattr((below, params())[layer], name).shape)
        for step in (1e-6, -1e-6):
            net = [below, params()]
            moved = getattr(net[layer], name) + step * direction
            net[layer] = net[layer]._replace(**{name: moved})
            nets.append(float(loss(*net)[1].stats["loss"]))
        slope = (nets[0] - nets[1]) / 2e-6
        along = (getattr(slopes[layer], name) * direction).sum()
        assert along == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_outputs_are_what_the_names_say():
    x, p = drawn(3, 5, 6), params()
    into = x @ p.weights + p.bias
    expected = {
        "logistic": 1 / (1 + np.exp(-into)),
        "tanh": np.tanh(into),
        "scaled_tanh": 1.7159 * np.tanh(into * 2 / 3),
        "relu": np.maximum(into, 0),
        "softplus": np.log1p(np.exp(into)),
        "linear": into,
    }
    assert expected.keys() == dense.ACTIVATIONS.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(dense.forward(name, p, x), values, rtol=1e-12)


def test_softmax_survives_huge_logits():
    p = dense.softmax(np.array([[1e4, 0.0], [-1e4, -1e4]], np.float32))
    np.testing.assert_allclose(p, [[1, 0], [0.5, 0.5]])
    assert p.dtype == np.float32


@pytest.mark.parametrize("activation", dense.ACTIVATIONS)
def test_other_libraries_and_buffers_give_the_same(activation):
    x, p = drawn(3, 5, 6, np.float32), params(np.float32)
    xp = array_api_strict
    here = dense.forward(activation, p, x)
    out = np.empty_like(here)
    assert dense.forward(activation, p, x, out) is out
    np.testing.assert_array_equal(out, here)
    there = dense.forward(activation, tree_map(xp.asarray, p), xp.asarray(x))
    assert here.dtype == np.float32
    assert there.dtype == xp.float32
    np.testing.assert_allclose(np.asarray(there), here, rtol=1e-5, atol=1e-6)
    deltas, chain = drawn(7, 5, 4, np.float32), dense.ACTIVATIONS[activation][1]
    also = chain(xp.asarray(deltas, copy=True), there)
    np.testing.assert_allclose(np.asarray(also), chain(deltas, here), rtol=1e-5, atol=1e-5)
