"""A convolutional layer and its pooling in tiles: the bits of one step after the other."""

import array_api_strict
import numpy as np
import pytest

from deepstrata.ops import fused, pooling
from deepstrata.ops.convolution import convolve
from deepstrata.ops.dense import ACTIVATIONS
from deepstrata.ops.pooling import Pool
from deepstrata.ops.windows import geometry

SHAPE, POOL = geometry((3, 3), padding=1), Pool((2, 2), (2, 2))


def arrays(samples):
    random = np.random.default_rng(0)
    shapes = (samples, 7, 6, 3), (3, 3, 3, 5), (5,)
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("tile", [1, 2000, 1 << 22])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
@pytest.mark.parametrize("pooled", fused.POOLINGS)
def test_the_bits_of_the_steps(pooled, activation, tile, monkeypatch):
    monkeypatch.setattr(fused, "TILE", tile)
    x, weights, bias = arrays(5)
    maps = convolve(SHAPE, x, weights)
    maps = ACTIVATIONS[activation][0](maps.reshape(-1, 5), bias).reshape(maps.shape)
    expected = np.empty((5, 3, 3, 5), np.float32)
    fused.POOLINGS[pooled](POOL, maps, expected)
    found = fused.convolve_and_pool(SHAPE, POOL, x, weights, bias, activation, pooled)
    np.testing.assert_array_equal(found, expected)


def test_other_arrays_and_an_empty_batch():
    x, weights, bias = arrays(2)
    found = fused.convolve_and_pool(SHAPE, POOL, x, weights, bias)
    strict = [array_api_strict.asarray(a) for a in (x, weights, bias)]
    other = fused.convolve_and_pool(SHAPE, POOL, *strict)
    np.testing.assert_allclose(found, np.asarray(other), rtol=1e-5, atol=1e-5)
    assert fused.convolve_and_pool(SHAPE, POOL, x[:0], weights, bias).shape == (0, 3, 3, 5)


def test_the_output_is_written():
    x, weights, bias = arrays(2)
    out = np.full((2, 3, 3, 5), 7, np.float32)
    assert fused.convolve_and_pool(SHAPE, POOL, x, weights, bias, out=out) is out
    maps = np.maximum(convolve(SHAPE, x, weights) + bias, 0)
    np.testing.assert_array_equal(out, pooling.maximum(POOL, maps).y)
