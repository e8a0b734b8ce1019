"""Weights that layers share: gradients of all uses, against finite differences and torch."""

import math

import numpy as np
import pytest

from deepstrata.ops import chain, finetuning, models, network, transfer, tying
from deepstrata.ops.backend import Scratch
from deepstrata.ops.dense import BiasParams
from deepstrata.ops.partials import Batch, Into
from deepstrata.ops.random import normal
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.layers import (
    Convolution,
    Dense,
    Pooling,
    Softmax,
    TransposedConvolution,
)
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import DBN, Network
from deepstrata.schemas.trees import flatten, leaves, tree_map

N, KEY = 6, Key(4)
TABLE = ((0, 1), (1, 2, 3), (0,), (3,))
TOP = Softmax(classes=3)
NETS = {
    "dense": (
        Network(
            layers=(
                Dense(units=5, activation="tanh"),
                Dense(units=4, activation="softplus", name="low"),
                Dense(units=5, activation="tanh", weights_of="low", transposed=True),
                Dense(units=7, weights_of="0", transposed=True),
                TOP,
            )
        ),
        (7,),
    ),
    "twice": (
        Network(
            layers=(
                Dense(units=7, name="w"),
                Dense(units=7, weights_of="w", activation="tanh"),
                Dense(units=7, weights_of="w", transposed=True),
                TOP,
            )
        ),
        (7,),
    ),
    "machine": (
        DBN(layers=(RBM(hidden=5), Dense(units=7, weights_of="0", transposed=True), TOP)),
        (7,),
    ),
    "convolutions": (
        Network(
            input_shape=(6, 5, 4),
            layers=(
                Convolution(maps=4, kernel=(3, 3), padding="same", activation="tanh", table=TABLE),
                Convolution(
                    maps=4,
                    kernel=(3, 3),
                    padding="same",
                    activation="logistic",
                    table=TABLE,
                    weights_of="0",
                    pooling=Pooling(size=(2, 2)),
                ),
                TOP,
            ),
        ),
        (6, 5, 4),
    ),
    "transposed convolution": (
        Network(
            input_shape=(7, 6, 2),
            layers=(
                Convolution(maps=3, kernel=(3, 2), stride=2, activation="tanh"),
                TransposedConvolution(
                    maps=2, kernel=(3, 2), stride=2, weights_of="0", activation="tanh"
                ),
                TOP,
            ),
        ),
        (7, 6, 2),
    ),
}


def drawn(name, shape, dtype=np.float64):
    flat = normal(fold(KEY, name), np.arange(math.prod(shape)), 1)
    return flat.reshape(shape).astype(dtype)


def made(name, dtype=np.float64):
    """Return a feed-forward net, parameters with biases that are not zero, and samples."""
    model, shape = NETS[name]
    fresh = finetuning.start_net(model, None, math.prod(shape), KEY)
    params = tree_map(lambda leaf: leaf.astype(dtype), fresh)
    for path, leaf in flatten(params).items():
        if path.endswith("bias"):
            leaf += 0.3 * drawn(path, leaf.shape, dtype)
    return network.feed_forward_layers(model), params, drawn("x", (N, *shape), dtype)


def passing(net):
    return chain.passes(len(net), np.arange(N), KEY, Scratch())


def gradients(net, params, x, weights, out=None):
    at = passing(net)
    y, saved = chain.forward(net, params, x, at)
    return y, chain.backward(net, params, saved, weights.copy(), at, out)[1]


@pytest.mark.parametrize("name", NETS)
def test_gradients_agree_with_finite_differences(name):
    net, params, x = made(name)
    weights = drawn("loss", (N, 3))

    def loss(params):
        return (chain.forward(net, params, x, passing(net))[0] * weights).sum()

    _, grads = gradients(net, params, x, weights)
    for path in flatten(params):
        way = tree_map(np.zeros_like, params)
        # Along the parameters themselves: zeros of a connection table stay zeros.
        leaf = flatten(params)[path]
        flatten(way)[path][...] = drawn(path, leaf.shape) * (leaf != 0)
        ends = [loss(tree_map(lambda p, w, s=s: p + s * w, params, way)) for s in (1e-6, -1e-6)]
        along = (flatten(grads)[path] * flatten(way)[path]).sum()
        assert along == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-7), path


@pytest.mark.parametrize("name", NETS)
def test_a_tied_layer_has_a_bias_alone(name):
    model, shape = NETS[name]
    params = models.init(model, math.prod(shape), KEY)
    specs = models.shapes(model, math.prod(shape))
    assert {k: v.shape for k, v in flatten(params).items()} == {
        k: v.shape for k, v in flatten(specs).items()
    }
    for layer, own in zip(model.layers, params, strict=True):
        assert isinstance(own, BiasParams) == bool(getattr(layer, "weights_of", ""))


@pytest.mark.parametrize("name", NETS)
def test_a_gradient_is_added_where_it_is_wanted(name):
    net, params, x = made(name, np.float32)
    weights = drawn("loss", (N, 3), np.float32)
    _, alone = gradients(net, params, x, weights)
    before = tree_map(np.copy, params)  # zeros where there is no connection
    into = Into(tree_map(np.copy, before), keep=0.5, scale=0.25)
    _, added = gradients(net, params, x, weights, into)
    for found, own, old in zip(*map(leaves, (added, alone, before)), strict=True):
        np.testing.assert_allclose(found, 0.5 * old + 0.25 * own, rtol=1e-4, atol=1e-5)
    for found, place in zip(leaves(added), leaves(into.tree), strict=True):
        assert found is place


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("frozen", ["owner", "borrower"])
def test_freezing_an_end_of_a_tie_leaves_the_other(name, frozen):
    """A frozen owner's weights stay; a frozen borrower's bias does, its use still counts."""
    net, params, x = made(name, np.float32)
    weights = drawn("loss", (N, 3), np.float32)
    _, whole = gradients(net, params, x, weights)
    ties = [tying.owner_of(net, i) for i in range(len(net))]
    still = [
        i
        for i, owner in enumerate(ties)
        if (owner is not None if frozen == "borrower" else i in ties)
    ]
    wanted = tuple(() if i in still else tree_map(np.copy, own) for i, own in enumerate(params))
    _, found = gradients(net, params, x, weights, Into(wanted))
    for i, own in enumerate(found):
        expected = () if i in still else whole[i]
        for a, b in zip(leaves(own), leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert any(leaves(own) for own in found)


def test_torch_gives_the_same():
    torch = pytest.importorskip("torch")
    net, params, x = made("dense")
    given = tree_map(lambda leaf: torch.tensor(leaf, requires_grad=True), params)
    low, high, turned, bottom, top = given
    y = torch.tanh(torch.tensor(x) @ low.weights + low.bias)
    y = torch.nn.functional.softplus(y @ high.weights + high.bias)
    y = torch.tanh(y @ high.weights.T + turned.bias)
    y = torch.sigmoid(y @ low.weights.T + bottom.bias)
    y = y @ top.weights + top.bias
    weights = drawn("loss", (N, 3))
    (y * torch.tensor(weights)).sum().backward()
    found, grads = gradients(net, params, x, weights)
    np.testing.assert_allclose(found, y.detach().numpy(), rtol=1e-12)
    for leaf, expected in zip(leaves(grads), leaves(given), strict=True):
        np.testing.assert_allclose(leaf, expected.grad.numpy(), rtol=1e-10)


def test_a_length_that_does_not_fit_is_found_with_the_data():
    net = Network(layers=(Dense(units=5), Dense(units=7, weights_of="0", transposed=True)))
    models.shapes(net, 7)
    with pytest.raises(DeclarationError, match=r"layer 1 \(dense\): .*expected weights \(5, 7\)"):
        models.shapes(net, 8)


def test_ties_are_transferred_whatever_layers_are_called():
    named, params, _ = made("dense", np.float32)
    parent, ours = NETS["dense"][0], list(named)
    ours[1] = ours[1].model_copy(update={"name": "other"})
    ours[2] = ours[2].model_copy(update={"weights_of": "other"})
    taken = transfer.take(Network(layers=tuple(ours)), 4, 7, parent, params)
    assert all(a is b for a, b in zip(taken, params, strict=False))
    ours[2] = Dense(units=5, activation="tanh")
    with pytest.raises(DeclarationError, match=r"layer 2 \(dense\): expected weights_of=''"):
        transfer.take(Network(layers=tuple(ours)), 4, 7, parent, params)


def test_codes_and_classes_use_borrowed_weights():
    model, _ = NETS["dense"]
    net, params, x = made("dense", np.float32)
    for layer in range(4):
        expected, _ = chain.forward(
            net[: layer + 1], params[: layer + 1], x, passing(net[: layer + 1])
        )
        np.testing.assert_array_equal(models.encode(model, params, x, layer), expected)
    found = models.evaluate(model, params, Batch(np.arange(N), x, np.arange(N) % 3))
    assert found["n"] == N
