"""Compiled kernels against their oracles, bit by bit, and oracles against mathematics."""

import array_api_compat.numpy as xnp
import array_api_strict
import numpy as np
import pytest
import scipy.special

from deepstrata.ops import kernels, random
from deepstrata.schemas.keys import Key

KEY = Key(99)


def inputs(n=7, units=1111, scale=8.0):
    x = scale * random.normal(KEY, np.arange(n), units)
    return x, random.normal(KEY, np.array([50]), units)[0]


def libraries(*arrays):
    """Yield the arrays in a layout that the compiled kernels refuse, and in another library."""
    yield tuple(np.repeat(a, 2, axis=-1)[..., ::2] for a in arrays)
    yield tuple(array_api_strict.asarray(a) for a in arrays)


def test_sigmoid_has_float32_accuracy():
    x = np.linspace(-87, 87, 200_001, dtype=np.float32)[None, :]
    exact = scipy.special.expit(x.astype(np.float64))
    found = kernels.sigmoid(x, np.zeros(x.shape[1], np.float32))
    assert (np.abs(found - exact) / exact).max() < 1.4e-7


def test_sigmoid_of_extremes():
    x = np.array([[-np.inf, -1e30, 0.0, 1e30, np.inf, np.nan]], np.float32)
    bias = np.zeros(6, np.float32)
    found = kernels.sigmoid(x, bias)
    np.testing.assert_allclose(found, [[0, 0, 0.5, 1, 1, np.nan]], atol=1e-37)
    np.testing.assert_array_equal(found, kernels.sigmoid_oracle(xnp, x))


def test_sigmoid_gives_the_oracles_bits():
    x, bias = inputs()
    found = kernels.sigmoid(x, bias)
    for other_x, other_bias in libraries(x, bias):
        other = kernels.sigmoid(other_x, other_bias)
        assert str(other.dtype).endswith("float32")
        np.testing.assert_array_equal(np.asarray(other), found)


def test_sigmoid_sample_gives_the_oracles_bits():
    x, bias = inputs()
    rows = np.array([3, 2**50, 1, 0, 9, 8, 4])
    mean, states = kernels.sigmoid_sample(x, bias, KEY, rows, 4, first_unit=128)
    np.testing.assert_array_equal(mean, kernels.sigmoid(x, bias))
    np.testing.assert_array_equal(states, random.bernoulli(KEY, mean, rows, 4, 128))
    for other_x, other_bias in libraries(x, bias):
        other = kernels.sigmoid_sample(other_x, other_bias, KEY, rows, 4, first_unit=128)
        np.testing.assert_array_equal(np.asarray(other[0]), mean)
        np.testing.assert_array_equal(np.asarray(other[1]), states)


def test_logistic_chain_gives_the_oracles_bits():
    delta, _ = inputs()
    h = kernels.sigmoid(*inputs(scale=1.0))
    found = kernels.logistic_chain(delta, h)
    np.testing.assert_allclose(found, delta * h * (1 - h), rtol=3e-7)
    for arrays in libraries(delta, h):
        np.testing.assert_array_equal(np.asarray(kernels.logistic_chain(*arrays)), found)


def test_relu_gives_the_oracles_bits():
    x, bias = inputs()
    x[0, :2] = np.nan, -np.inf
    found = kernels.relu(x, bias)
    np.testing.assert_array_equal(found, np.maximum(x + bias, 0))
    delta = inputs(scale=1.0)[0]
    chained = kernels.relu_chain(delta, found)
    np.testing.assert_array_equal(chained, np.where(found > 0, delta, 0))
    for other_x, other_bias, other_delta in libraries(x, bias, delta):
        other = kernels.relu(other_x, other_bias)
        np.testing.assert_array_equal(np.asarray(other), found)
        made = kernels.relu_chain(other_delta, other)
        np.testing.assert_array_equal(np.asarray(made), chained)
        assert str(made.dtype).endswith("float32")


def test_shrink_gives_the_oracles_bits():
    u, _ = inputs(scale=1.0)
    offset, z = random.normal(Key(1), np.arange(7), 1111), random.normal(Key(2), np.arange(7), 1111)
    offset[0, :4] = np.nan, np.inf, -np.inf, 0.7 - u[0, 3]
    found, new = u.copy(), z.copy()
    kernels.shrink(found, offset, new, 0.7, 0.4)
    exact = np.sign(u + offset) * np.maximum(np.abs(u + offset) - np.float32(0.7), 0)
    np.testing.assert_allclose(new, exact, rtol=1e-6)
    np.testing.assert_allclose(found, new + 0.4 * (new - z), rtol=1e-4, atol=1e-6)
    assert 0.2 < (new == 0).mean() < 0.6
    for arrays in libraries(u.copy(), offset, z.copy()):
        kernels.shrink(*arrays, 0.7, 0.4)
        np.testing.assert_array_equal(np.asarray(arrays[0]), found)
        np.testing.assert_array_equal(np.asarray(arrays[2]), new)


@pytest.mark.parametrize("units", [1, 15, 16, 1111])
def test_squared_error(units):
    x, _ = inputs(units=units)
    y = random.normal(Key(1), np.arange(7), units)
    exact = ((x - y).astype(np.float64) ** 2).sum()
    assert kernels.squared_error(x, y) == pytest.approx(exact, rel=1e-14)
    for arrays in libraries(x, y):
        assert float(kernels.squared_error(*arrays)) == pytest.approx(exact, rel=1e-14)


def test_only_out_is_written_and_it_may_be_the_input():
    x, bias = inputs()
    before = x.copy()
    rows = np.arange(7)
    expected = kernels.sigmoid(x, bias)
    buffer, states = np.empty_like(x), np.empty_like(x)
    assert kernels.sigmoid(x, bias, out=buffer) is buffer
    np.testing.assert_array_equal(buffer, expected)
    mean, made = kernels.sigmoid_sample(x, bias, KEY, rows, mean=buffer, out=states)
    assert mean is buffer
    assert made is states
    kernels.logistic_chain(x, expected, out=buffer)
    np.testing.assert_array_equal(x, before)
    kernels.sigmoid(x, bias, out=x)
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("n", [0, 1])
def test_few_samples(n):
    x, bias = inputs(n=n)
    assert kernels.sigmoid_sample(x, bias, KEY, np.arange(n))[1].shape == x.shape
    assert kernels.sigmoid(x, bias).shape == x.shape
    assert kernels.squared_error(x, x) == 0


def test_float64_takes_the_textbook_form():
    x, bias = inputs()
    x, bias = x.astype(np.float64), bias.astype(np.float64)
    found = kernels.sigmoid(x, bias)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, scipy.special.expit(x + bias), rtol=1e-14)
