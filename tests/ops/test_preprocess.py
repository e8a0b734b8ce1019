"""Preprocessing: values, dtypes and large offsets."""

import array_api_strict
import numpy as np
import pytest

from deepstrata.ops.preprocess import Affine, apply, flatten, undo
from deepstrata.ops.random import normal
from deepstrata.schemas.keys import Key


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float16", "float32", "float64"])
def test_every_dtype_becomes_float32(dtype):
    x = np.array([[0, 50], [100, 100], [200, 60]]).astype(dtype)
    found = apply((Affine(np.float32(0), np.float32(200)),), x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.array([[0, 0.25], [0.5, 0.5], [1, 0.3]]), rtol=1e-6)
    found = apply((Affine(x.min(0), np.asarray([200, 50])),), x)
    np.testing.assert_allclose(found, [[0, 0], [0.5, 1], [1, 0.2]], rtol=1e-6)


def test_digits_are_kept_beside_a_large_shift():
    x = (normal(Key(1), np.arange(50), 3) + 1e6).astype(np.float32)
    mean, std = x.astype(np.float64).mean(0) + 1e-3, x.astype(np.float64).std(0)
    exact = (x.astype(np.float64) - mean) / std
    affines = (Affine(mean, std),)
    np.testing.assert_allclose(apply(affines, x), exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(apply(affines, x.astype(np.float64)), exact, rtol=1e-6)


def test_flatten():
    x = np.arange(24).reshape(2, 3, 4)
    assert flatten(x).shape == (2, 12)
    assert np.shares_memory(flatten(x), x)
    assert flatten(np.arange(3)).shape == (3, 1)
    assert flatten(x[:0]).shape == (0, 12)


def test_any_library():
    xp = array_api_strict
    x = xp.asarray([[1.0, 2.0], [3.0, 6.0]], dtype=xp.float32)
    found = apply((Affine(xp.asarray([1.0, 2.0]), xp.asarray([2.0, 4.0])),), x)
    assert found.dtype == xp.float32
    np.testing.assert_array_equal(np.asarray(found), [[0, 0], [1, 1]])


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


def test_what_was_applied_can_be_undone():
    x = np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32)
    affines = (
        Affine(np.float32(250.0), np.float32(0.5)),
        Affine(np.arange(4, dtype=np.float32), np.full(4, 3, np.float32)),
    )
    back = undo(affines, apply(affines, x))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, x, atol=1e-4)
