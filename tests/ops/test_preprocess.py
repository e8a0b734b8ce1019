"""Preprocessing: values, dtypes and large offsets."""

import array_api_strict
import numpy as np
import pytest

from deepstrata.ops.preprocess import Affine, apply, flatten, scale, standardise
from deepstrata.ops.random import normal
from deepstrata.schemas.keys import Key


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float16", "float32", "float64"])
def test_scale_reaches_zero_and_one_in_float32(dtype):
    x = np.array([[0, 50], [100, 100], [200, 60]]).astype(dtype)
    found = scale(x, 0.0, 200.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.array([[0, 0.25], [0.5, 0.5], [1, 0.3]]), rtol=1e-6)
    found = scale(x, x.min(0), x.max(0))
    np.testing.assert_allclose(found, [[0, 0], [0.5, 1], [1, 0.2]], rtol=1e-6)


def test_a_constant_feature_becomes_zero():
    np.testing.assert_array_equal(scale(np.full((2, 1), 7.0), np.array([7.0]), np.array([7.0])), 0)


def test_standardise_keeps_its_digits_beside_a_large_offset():
    x = (normal(Key(1), np.arange(50), 3) + 1e6).astype(np.float32)
    mean, std = x.astype(np.float64).mean(0) + 1e-3, x.astype(np.float64).std(0)
    found = standardise(x, mean, std, 1e-6)
    assert found.dtype == np.float32
    exact = (x.astype(np.float64) - mean) / (std + 1e-6)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(standardise(x.astype(np.float64), mean, std, 1e-6), exact, rtol=1e-6)


def test_statistics_of_the_whole_dataset_are_numbers():
    x = np.array([[1.0, 3.0]], np.float32)
    np.testing.assert_allclose(standardise(x, 2.0, 1.0, 1e-6), [[-1, 1]], rtol=1e-5)


def test_flatten():
    x = np.arange(24).reshape(2, 3, 4)
    assert flatten(x).shape == (2, 12)
    assert np.shares_memory(flatten(x), x)
    assert flatten(np.arange(3)).shape == (3, 1)
    assert flatten(x[:0]).shape == (0, 12)


def test_any_library():
    xp = array_api_strict
    x = xp.asarray([[1.0, 2.0], [3.0, 6.0]], dtype=xp.float32)
    found = scale(x, xp.asarray([1.0, 2.0]), xp.asarray([3.0, 6.0]))
    assert found.dtype == xp.float32
    np.testing.assert_array_equal(np.asarray(found), [[0, 0], [1, 1]])
    assert standardise(x, 2.0, 1.0, 1e-6).dtype == xp.float32


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("per_feature", [True, False])
def test_small_integers_are_scaled_with_the_same_bits_by_the_compiled_loop(dtype, per_feature):
    x = np.random.default_rng(0).integers(0, 100, (37, 70)).astype(dtype)
    shape = (70,) if per_feature else ()
    shift = np.asarray(normal(Key(1), np.arange(1), 70)[0] * 50 if shape else 33.3, np.float32)
    affine = Affine(shift, np.abs(shift) + np.float32(0.1))
    found = apply((affine, Affine(np.float32(0.5), np.float32(3))), x)
    assert found.dtype == np.float32
    wide = apply((affine, Affine(np.float32(0.5), np.float32(3))), x.astype(np.float32))
    np.testing.assert_array_equal(found, wide)
