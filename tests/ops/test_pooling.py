"""Pooling against torch, enumerated windows, finite differences, and another library's arrays."""

import array_api_strict
import numpy as np
import pytest

from deepstrata.ops import pooling
from deepstrata.ops.pooling import Pool
from deepstrata.schemas.errors import DeclarationError

#: Windows, spatial shape, channels.
CASES = {
    "halves": (Pool((2, 2), (2, 2)), (8, 6), 5),
    "left over": (Pool((2, 3), (2, 3)), (7, 11), 3),
    "overlapping": (Pool((3, 3), (2, 2)), (9, 8), 20),
    "gaps": (Pool((2, 2), (3, 3)), (8, 8), 2),
    "whole": (Pool((4, 5), (1, 1)), (4, 5), 4),
    "sound": (Pool((4,), (3,)), (15,), 6),
}
EPSILON = 0.1


def arrays(name, samples=3, dtype=np.float32):
    """Return windows, inputs, and derivatives by the outputs."""
    pool, spatial, channels = CASES[name]
    random = np.random.default_rng(0)
    x = random.normal(size=(samples, *spatial, channels)).astype(dtype)
    dy = random.normal(size=pooling.average(pool, x).shape).astype(dtype)
    return pool, x, dy


def passes(pool, x, dy):
    """Return the outputs and gradients of each kind."""
    mean = pooling.average(pool, x)
    best, where = pooling.maximum(pool, x)
    root = pooling.norm(pool, x, EPSILON)
    return (
        mean,
        pooling.average_gradient(pool, dy, x.shape),
        best,
        where,
        pooling.maximum_gradient(pool, dy, where, x.shape),
        root,
        pooling.norm_gradient(pool, x, root, dy),
    )


@pytest.mark.parametrize("name", CASES)
def test_the_loops_give_the_oracles_bits(name):
    pool, x, dy = arrays(name)
    plain = passes(pool, array_api_strict.asarray(x), array_api_strict.asarray(dy))
    for found, other in zip(passes(pool, x, dy), plain, strict=True):
        assert found.dtype == np.asarray(other).dtype
        np.testing.assert_array_equal(found, np.asarray(other))


@pytest.mark.parametrize("name", CASES)
def test_torch_gives_the_same(name):
    torch = pytest.importorskip("torch")
    pool, x, dy = arrays(name)
    dims = len(pool.size)
    functional = torch.nn.functional
    averaging = functional.avg_pool2d if dims == 2 else functional.avg_pool1d
    greatest = functional.max_pool2d if dims == 2 else functional.max_pool1d
    found = passes(pool, x, dy)
    for function, y, dx in ((averaging, found[0], found[1]), (greatest, found[2], found[4])):
        inputs = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
        outputs = function(inputs, pool.size, pool.stride)
        outputs.backward(torch.tensor(np.moveaxis(dy, -1, 1).copy()))
        expected = np.moveaxis(outputs.detach().numpy(), 1, -1)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
        expected = np.moveaxis(inputs.grad.numpy(), 1, -1)
        np.testing.assert_allclose(dx, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_finite_differences(name):
    pool, x, dy = arrays(name, dtype=np.float64)
    to = np.random.default_rng(1).normal(size=x.shape)
    step = 1e-6
    functions = (
        lambda x: pooling.average(pool, x),
        lambda x: pooling.maximum(pool, x).y,
        lambda x: pooling.norm(pool, x, EPSILON),
    )
    found = passes(pool, x, dy)
    for function, dx in zip(functions, (found[1], found[4], found[6]), strict=True):
        rise = np.sum((function(x + step * to) - function(x - step * to)) * dy) / (2 * step)
        np.testing.assert_allclose(rise, np.sum(dx * to), rtol=1e-6, atol=1e-6)


def test_the_first_of_equals_is_the_maximum():
    x = np.array([[1.0, 3.0, 3.0, 0.0, 0.0, 0.0]], np.float32)[..., None]
    y, where = pooling.maximum(Pool((3,), (3,)), x)
    np.testing.assert_array_equal(y[0, :, 0], [3, 0])
    np.testing.assert_array_equal(where[0, :, 0], [1, 0])
    dx = pooling.maximum_gradient(Pool((3,), (3,)), np.ones_like(y), where, x.shape)
    np.testing.assert_array_equal(dx[0, :, 0], [0, 1, 0, 1, 0, 0])


def test_nan_is_the_maximum():
    x = np.array([[1.0, np.nan, 3.0, -np.inf, -np.inf, -np.inf]], np.float32)[..., None]
    for library in (np, array_api_strict):
        y, where = pooling.maximum(Pool((3,), (3,)), library.asarray(x))
        np.testing.assert_array_equal(np.asarray(y)[0, :, 0], [np.nan, -np.inf])
        np.testing.assert_array_equal(np.asarray(where)[0, :, 0], [1, 0])


def test_places_take_the_smallest_type():
    for size, kind in ((256, np.uint8), (257, np.uint16)):
        x = np.zeros((1, size, 1), np.float32)
        x[0, -1] = 1
        where = pooling.maximum(Pool((size,), (1,)), x).where
        assert where.dtype == kind
        assert where.item() == size - 1


def test_a_root_of_nothing_has_no_gradient():
    pool, x = Pool((2,), (2,)), np.zeros((1, 4, 1), np.float32)
    y = pooling.norm(pool, x, 0.0)
    np.testing.assert_array_equal(pooling.norm_gradient(pool, x, y, np.ones_like(y)), 0 * x)


def test_buffers_are_written():
    pool, x, dy = arrays("overlapping")
    mean, by_mean, best, where, by_best, root, by_root = passes(pool, x, dy)
    y, dx = np.full_like(mean, 7), np.full_like(x, 7)
    np.testing.assert_array_equal(pooling.average(pool, x, y), mean)
    np.testing.assert_array_equal(pooling.maximum(pool, x, y).y, best)
    np.testing.assert_array_equal(pooling.norm(pool, x, EPSILON, y), root)
    assert pooling.average_gradient(pool, dy, x.shape, dx) is dx
    np.testing.assert_array_equal(dx, by_mean)
    np.testing.assert_array_equal(pooling.maximum_gradient(pool, dy, where, x.shape, dx), by_best)
    np.testing.assert_array_equal(pooling.norm_gradient(pool, x, root, dy, dx), by_root)


@pytest.mark.parametrize("name", ["halves", "sound"])
def test_an_empty_batch(name):
    pool, x, dy = arrays(name, samples=0)
    for found in passes(pool, x, dy):
        assert found.shape in (x.shape, dy.shape)


def test_a_window_that_does_not_fit_is_named():
    with pytest.raises(DeclarationError, match="spatial dimension 1 has 2 values"):
        pooling.average(Pool((2, 3), (1, 1)), np.zeros((1, 4, 2, 1), np.float32))
