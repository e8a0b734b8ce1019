"""A convolutional layer and its pooling in tiles: what one step after the other gives, in less."""

import tracemalloc

import numpy as np
import pytest

from deepstrata.ops import dense, fused, pooling
from deepstrata.ops.backend import Scratch
from deepstrata.ops.convolution import (
    convolve,
    convolve_input_gradient,
    convolve_weight_gradient,
)
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.fused import Fused, Saved
from deepstrata.ops.pooling import Pool
from deepstrata.ops.windows import geometry
from deepstrata.schemas.trees import leaves

SHAPE = geometry((3, 3), padding=1)
POOLS = {"halves": Pool((2, 2), (2, 2)), "overlapping": Pool((3, 2), (2, 1))}
FUNCTIONS = ("max", "average", "l2")
N, SIDES, C, M = 5, (7, 6), 3, 5


def arrays(samples=N):
    random = np.random.default_rng(0)
    shapes = (samples, *SIDES, C), (3, 3, C, M), (M,)
    x, weights, bias = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    return x, DenseParams(weights, bias)


def steps(how, params, x, delta):
    """Return outputs and derivatives of one step after the other, over all samples."""
    maps = dense.activate(how.activation, convolve(how.geometry, x, params.weights), params.bias)
    if how.function == "max":
        y, where = pooling.maximum(how.pool, maps)
        deltas = pooling.maximum_gradient(how.pool, delta, where, maps.shape)
    elif how.function == "average":
        y = pooling.average(how.pool, maps)
        deltas = pooling.average_gradient(how.pool, delta, maps.shape)
    else:
        y = pooling.norm(how.pool, maps, 0.0)
        deltas = pooling.norm_gradient(how.pool, maps, y, delta)
    deltas = dense.chain(how.activation, deltas, maps)
    grads = DenseParams(
        convolve_weight_gradient(how.geometry, x, deltas), dense.bias_gradient(deltas)
    )
    return y, convolve_input_gradient(how.geometry, deltas, params.weights, x.shape), grads


def in_tiles(how, params, x, delta, scratch=None):
    y, saved = fused.forward(how, params, x, scratch)
    return y, *fused.backward(how, params, saved, delta.copy(), scratch=scratch)


@pytest.mark.parametrize("tile", [1, 2000, 1 << 21])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_one_step_after_the_other_gives(function, pool, activation, tile, monkeypatch):
    monkeypatch.setattr(fused, "TILE", tile)
    how, (x, params) = Fused(SHAPE, activation, POOLS[pool], function), arrays()
    y, _ = fused.forward(how, params, x)
    delta = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    expected, found = steps(how, params, x, delta), in_tiles(how, params, x, delta)
    np.testing.assert_array_equal(found[0], expected[0])
    if pool == "halves":
        np.testing.assert_array_equal(found[1], expected[1])
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_buffers_that_were_used_before_change_no_bit(function):
    how, (x, params) = Fused(SHAPE, "relu", POOLS["overlapping"], function), arrays()
    y, _ = fused.forward(how, params, x)
    fresh, scratch = in_tiles(how, params, x, y), Scratch()
    for samples in (2, N, 1, N):
        again = in_tiles(how, params, x[:samples], y[:samples], scratch)
    for a, b in zip(leaves(fresh), leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_maps_at_full_resolution_are_never_stored(function):
    """Twice what goes in and comes out, and two tiles of maps, bound the memory of training."""
    how, samples = Fused(geometry((3, 3)), "relu", POOLS["halves"], function), 64
    random = np.random.default_rng(0)
    x = random.random((samples, 34, 34, 1), dtype=np.float32)
    params = DenseParams(random.random((3, 3, 1, 64), np.float32), np.zeros(64, np.float32))
    in_tiles(how, params, x[:1], np.zeros((1, 16, 16, 64), np.float32))  # compiles
    delta = np.ones((samples, 16, 16, 64), np.float32)
    maps = samples * 32 * 32 * 64 * 4
    tracemalloc.start()
    y, saved = fused.forward(how, params, x)
    found = fused.backward(how, params, saved, delta)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    made = sum(leaf.nbytes for leaf in leaves((y, found)))
    kept = saved.where.nbytes if saved.where is not None else 0
    workspace = 2 * fused.TILE + (1 << 19)
    assert peak < 2 * (made + kept) + workspace
    assert peak < maps + made


def test_only_what_is_pooled_is_kept():
    x, params = arrays()
    for function in FUNCTIONS:
        y, saved = fused.forward(Fused(SHAPE, "relu", POOLS["halves"], function), params, x)
        assert isinstance(saved, Saved)
        assert saved.x is x
        assert saved.y is y
        assert (saved.where is None) == (function != "max")


def test_torch_gives_the_same():
    torch = pytest.importorskip("torch")
    how, (x, params) = Fused(SHAPE, "tanh", POOLS["overlapping"], "max"), arrays()
    given = [
        torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True),
        torch.tensor(params.weights.transpose(3, 2, 0, 1).copy(), requires_grad=True),
        torch.tensor(params.bias, requires_grad=True),
    ]
    maps = torch.tanh(torch.nn.functional.conv2d(*given, padding=1))
    y = torch.nn.functional.max_pool2d(maps, *how.pool)
    delta = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    y.backward(torch.tensor(delta))
    found = in_tiles(how, params, x, np.ascontiguousarray(np.moveaxis(delta, 1, -1)))
    expected = (
        np.moveaxis(y.detach().numpy(), 1, -1),
        np.moveaxis(given[0].grad.numpy(), 1, -1),
        given[1].grad.numpy().transpose(2, 3, 1, 0),
        given[2].grad.numpy(),
    )
    for a, b in zip(leaves(found), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
