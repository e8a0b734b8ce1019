"""What every layer must do; a new one is one line in a list."""

import math

import array_api_strict
import numpy as np
import pytest

from deepstrata.ops import layers, models
from deepstrata.ops.backend import Scratch
from deepstrata.ops.layers import Pass
from deepstrata.ops.partials import Into
from deepstrata.ops.random import normal
from deepstrata.schemas.convolutional import ConvolutionalPSD
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.layers import (
    Activation,
    ContrastNormalisation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    LocallyConnected,
    Pooling,
    Rectification,
    Softmax,
    TransposedConvolution,
)
from deepstrata.schemas.models import Network
from deepstrata.schemas.shapes import shape_after
from deepstrata.schemas.sparse import PSD
from deepstrata.schemas.trees import flatten, leaves, tree_map

VECTOR, SOUND, IMAGE = (11,), (12, 3), (7, 6, 4)
N, KEY = 5, Key(3)
CASES = [
    *((Dense(units=6, activation=f), VECTOR) for f in ("logistic", "tanh", "scaled_tanh")),
    *((Dense(units=6, activation=f), IMAGE) for f in ("relu", "softplus", "linear")),
    (Dense(units=6, initial_weights=0.1), VECTOR),
    (Softmax(classes=3), IMAGE),
    (Flatten(), IMAGE),
    (Activation(function="tanh"), VECTOR),
    (Activation(function="relu"), IMAGE),
    (Dropout(rate=0.4), IMAGE),
    (PSD(atoms=6), VECTOR),
    (PSD(atoms=6), IMAGE),
    (ConvolutionalPSD(maps=5, kernel=(3, 2), stride=2, padding=1), IMAGE),
    (ConvolutionalPSD(maps=5, kernel=(4,)), SOUND),
    (Convolution(maps=5, kernel=(3, 2)), IMAGE),
    (Convolution(maps=5, kernel=(3, 2), stride=2, padding=1, activation="tanh"), IMAGE),
    (Convolution(maps=5, kernel=(3, 3), stride=(2, 1), padding="same", dilation=2), IMAGE),
    (Convolution(maps=6, kernel=(2, 2), groups=2, initial_weights="he"), IMAGE),
    (Convolution(maps=3, kernel=(3, 3), table=((0, 1), (1, 2, 3), (0,))), IMAGE),
    (Convolution(maps=5, kernel=(4,), stride=3, activation="scaled_tanh"), SOUND),
    (Convolution(maps=5, kernel=(3, 2), pooling=Pooling(size=(2, 2))), IMAGE),
    (
        Convolution(
            maps=3,
            kernel=(3, 3),
            padding="same",
            table=((0, 1), (1, 2, 3), (0,)),
            activation="tanh",
            pooling=Pooling(size=(3, 2), stride=(2, 1)),
        ),
        IMAGE,
    ),
    *(
        (
            Convolution(
                maps=6,
                kernel=(2, 2),
                groups=2,
                activation=f,
                pooling=Pooling(size=(3, 2), function=p),
            ),
            IMAGE,
        )
        for f, p in (("logistic", "average"), ("scaled_tanh", "l2"), ("softplus", "max"))
    ),
    (Convolution(maps=5, kernel=(4,), pooling=Pooling(size=(3,), stride=2)), SOUND),
    (TransposedConvolution(maps=3, kernel=(3, 2), stride=2, padding=1), IMAGE),
    (TransposedConvolution(maps=3, kernel=(3,), activation="logistic"), SOUND),
    (LocallyConnected(maps=3, kernel=(3, 2), stride=2, activation="tanh"), IMAGE),
    (LocallyConnected(maps=3, kernel=(4,)), SOUND),
    (Pooling(size=(2, 2)), IMAGE),
    (Pooling(size=(3, 2), stride=(2, 1), function="average"), IMAGE),
    (Pooling(size=(3, 3), stride=1, function="l2"), IMAGE),
    (Pooling(size=(3,)), SOUND),
    (ContrastNormalisation(size=3), IMAGE),
    (ContrastNormalisation(size=5), SOUND),
    (Rectification(), IMAGE),
]
NAMES = [f"{i}-{layer.kind}" for i, (layer, _) in enumerate(CASES)]


def drawn(name, shape, dtype=np.float64):
    flat = normal(fold(KEY, name), np.arange(math.prod(shape)), 1)
    return flat.reshape(shape).astype(dtype)


def made(layer, shape, dtype=np.float64):
    """Return parameters, with biases that are not zero, and samples."""
    specs = layers.specs(layer, shape)
    params = tree_map(lambda spec: drawn(str(spec.shape), spec.shape, dtype), specs)
    if params:
        layers.connect(layer, params.weights)
    return params, drawn("x", (N, *shape), dtype)


def passing(n=N, key=KEY):
    return Pass(10 + np.arange(n), key, Scratch())


@pytest.mark.parametrize(("layer", "shape"), CASES, ids=NAMES)
class TestLayer:
    def test_the_declared_shape_is_the_computed_one(self, layer, shape):
        params, x = made(layer, shape, np.float32)
        y, _ = layers.forward(layer, params, x, passing())
        assert y.shape == (N, *shape_after(layer, shape))
        assert y.dtype == np.float32

    def test_backward_agrees_with_finite_differences(self, layer, shape):
        """Along one random direction of the input and of each parameter."""
        params, x = made(layer, shape)
        weights = drawn("loss", (N, *shape_after(layer, shape)))

        def loss(params, x):
            return (layers.forward(layer, params, x, passing())[0] * weights).sum()

        at = passing()
        _, saved = layers.forward(layer, params, x, at)
        slope, grads = layers.backward(layer, params, saved, weights.copy(), at)
        tree, slopes = (params, x), (grads, slope)
        for name in flatten(tree):
            way = tree_map(np.zeros_like, tree)
            flatten(way)[name][...] = drawn(name, flatten(tree)[name].shape)
            if name.endswith("weights"):
                layers.connect(layer, flatten(way)[name])
            ends = [loss(*tree_map(lambda a, w, s=s: a + s * w, tree, way)) for s in (1e-6, -1e-6)]
            along = sum((s * w).sum() for s, w in zip(leaves(slopes), leaves(way), strict=True))
            assert along == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-6), name

    def test_compiled_kernels_agree_with_any_librarys_operations(self, layer, shape):
        (params, x), at = made(layer, shape, np.float32), passing()
        delta = drawn("loss", (N, *shape_after(layer, shape)), np.float32)
        fast, saved = layers.forward(layer, params, x, at)
        fast = fast.copy()
        fast_back = layers.backward(layer, params, saved, delta.copy(), at)
        strict, at = tree_map(array_api_strict.asarray, (params, x)), passing()
        slow, saved = layers.forward(layer, *strict, at)
        back = layers.backward(layer, strict[0], saved, array_api_strict.asarray(delta), at)
        np.testing.assert_allclose(fast, np.asarray(slow), rtol=1e-4, atol=1e-5)
        for a, b in zip(leaves(fast_back), leaves(back), strict=True):
            np.testing.assert_allclose(a, np.asarray(b), rtol=1e-4, atol=1e-4)

    def test_a_gradient_is_added_where_it_is_wanted(self, layer, shape):
        params, x = made(layer, shape, np.float32)
        if not params:
            return
        delta = drawn("loss", (N, *shape_after(layer, shape)), np.float32)
        before = tree_map(lambda leaf: np.ones_like(leaf), params)
        layers.connect(layer, before.weights)
        found = []
        for out in (None, Into(tree_map(np.copy, before), keep=0.5, scale=0.25)):
            at = passing()
            _, saved = layers.forward(layer, params, x, at)
            below, grads = layers.backward(
                layer, params, saved, delta.copy(), at, out, below=out is None
            )
            assert (below is None) == (out is not None)
            found.append(grads)
        for alone, added, old in zip(*map(leaves, (*found, before)), strict=True):
            np.testing.assert_allclose(added, 0.5 * old + 0.25 * alone, rtol=1e-4, atol=1e-4)
        assert found[1].weights is out.tree.weights

    def test_a_frozen_layer_passes_on_what_a_trained_one_does(self, layer, shape):
        params, x = made(layer, shape, np.float32)
        delta = drawn("loss", (N, *shape_after(layer, shape)), np.float32)
        found = []
        for pass_on in (lambda *known: layers.backward(*known)[0], layers.through):
            at = passing()
            _, saved = layers.forward(layer, params, x, at)
            found.append(pass_on(layer, params, saved, delta.copy(), at).copy())
        np.testing.assert_array_equal(*found)

    def test_a_sample_alone_gives_what_it_gives_among_others(self, layer, shape):
        params, x = made(layer, shape, np.float32)
        whole = layers.forward(layer, params, x, passing())[0].copy()
        at = passing()._replace(rows=passing().rows[2:4])
        some, _ = layers.forward(layer, params, x[2:4], at)
        np.testing.assert_allclose(some, whole[2:4], rtol=1e-5, atol=1e-6)

    def test_no_samples_give_zeros(self, layer, shape):
        params, x = made(layer, shape, np.float32)
        at = passing(0)
        y, saved = layers.forward(layer, params, x[:0], at)
        assert y.shape == (0, *shape_after(layer, shape))
        below, grads = layers.backward(layer, params, saved, y.copy(), at)
        assert below.shape == (0, *shape)
        assert not any(leaf.any() for leaf in leaves(grads))

    def test_an_initialised_network_holds_it(self, layer, shape):
        net = Network(layers=(layer,), input_shape=shape)
        params = models.init(net, math.prod(shape), KEY)
        specs = models.shapes(net, math.prod(shape))
        assert {k: v.shape for k, v in flatten(params).items()} == {
            k: v.shape for k, v in flatten(specs).items()
        }
        codes = models.encode(net, params, drawn("x", (N, math.prod(shape)), np.float32))
        assert codes.shape == (N, models.code_width(net, math.prod(shape)))
        assert codes.dtype == np.float32


def test_dropout_keeps_the_mean_and_does_nothing_in_use():
    x, rows = np.ones((200, 300), np.float32), np.arange(200)
    y, _ = layers.forward(Dropout(rate=0.3), (), x, Pass(rows, KEY, Scratch()))
    assert set(np.unique(y)) == {0, np.float32(1 / 0.7)}
    assert y.mean() == pytest.approx(1, abs=0.01)
    assert layers.forward(Dropout(rate=0.3), (), x, Pass(rows, None, Scratch()))[0] is x


@pytest.mark.parametrize(
    ("initial", "variance"), [("glorot", 2 / (300 + 200)), ("he", 2 / 300), ("lecun", 1 / 300)]
)
def test_initial_weights_have_the_declared_variance(initial, variance):
    net = Network(layers=(Dense(units=200, initial_weights=initial),))
    (params,) = models.init(net, 300, KEY)
    assert params.weights.var() == pytest.approx(variance, rel=0.03)
