"""Unshared filters against a convolution at each position, and finite differences."""

import array_api_strict
import numpy as np
import pytest

from deepstrata.ops import convolution, locally_connected
from deepstrata.ops.partials import Into
from deepstrata.ops.windows import Geometry, geometry
from deepstrata.schemas.errors import DeclarationError

#: Geometry, spatial shape, channels, maps.
CASES = {
    "plain": (geometry((3, 3)), (6, 5), 2, 4),
    "padded and strided": (geometry((3, 2), stride=2, padding=1), (7, 6), 3, 2),
    "dilated": (Geometry((2, 2), (1, 2), ((0, 1), (0, 0)), (2, 1)), (5, 6), 1, 3),
    "sound": (geometry((4,), stride=3, padding=1), (14,), 2, 3),
}


def arrays(name, samples=3, dtype=np.float32):
    """Return a geometry, inputs, weights, and derivatives by the outputs."""
    shape, spatial, channels, maps = CASES[name]
    random = np.random.default_rng(0)
    size = locally_connected.weights_shape(shape, spatial, channels, maps)
    x = random.normal(size=(samples, *spatial, channels)).astype(dtype)
    weights = random.normal(size=size).astype(dtype)
    dy = random.normal(size=(samples, *size[:-2], maps)).astype(dtype)
    return shape, x, weights, dy


def passes(shape, x, weights, dy):
    """Return outputs and both gradients."""
    return (
        locally_connected.connect(shape, x, weights),
        locally_connected.connect_input_gradient(shape, dy, weights, x.shape),
        locally_connected.connect_weight_gradient(shape, x, dy),
    )


@pytest.mark.parametrize("name", CASES)
def test_each_position_is_one_of_a_convolution(name):
    shape, x, weights, _ = arrays(name)
    y = locally_connected.connect(shape, x, weights)
    for place in np.ndindex(weights.shape[:-2]):
        filters = weights[place].reshape(*shape.kernel, x.shape[-1], -1)
        all_of_them = convolution.convolve(shape, x, filters)
        at = (slice(None), *place)
        np.testing.assert_allclose(y[at], all_of_them[at], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("workspace", [1, 1 << 24])
@pytest.mark.parametrize("name", CASES)
def test_finite_differences(name, workspace, monkeypatch):
    monkeypatch.setattr(locally_connected, "WORKSPACE", workspace)
    shape, x, weights, dy = arrays(name, dtype=np.float64)
    random = np.random.default_rng(1)
    to_x, to_weights = random.normal(size=x.shape), random.normal(size=weights.shape)
    step = 1e-4
    ends = [
        locally_connected.connect(shape, x + s * step * to_x, weights + s * step * to_weights)
        for s in (1, -1)
    ]
    _, dx, dw = passes(shape, x, weights, dy)
    rise = np.sum((ends[0] - ends[1]) * dy) / (2 * step)
    np.testing.assert_allclose(rise, np.sum(dx * to_x) + np.sum(dw * to_weights), rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_other_arrays_give_the_same(name):
    shape, *made = arrays(name)
    plain = passes(shape, *(array_api_strict.asarray(a) for a in made))
    for found, other in zip(passes(shape, *made), plain, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.asarray(other), rtol=1e-5, atol=1e-5)


def test_buffers_are_written():
    shape, x, weights, dy = arrays("padded and strided")
    y, dx, dw = passes(shape, x, weights, dy)
    to_y, to_x, to_w = np.full_like(y, 7), np.full_like(dx, 7), np.full_like(dw, 7)
    assert locally_connected.connect(shape, x, weights, to_y) is to_y
    found = locally_connected.connect_input_gradient(shape, dy, weights, x.shape, to_x)
    assert found is to_x
    into = Into(to_w, keep=0.5, scale=2.0)
    assert locally_connected.connect_weight_gradient(shape, x, dy, into) is to_w
    np.testing.assert_array_equal(to_y, y)
    np.testing.assert_array_equal(to_x, dx)
    np.testing.assert_allclose(to_w, 3.5 + 2 * dw, rtol=1e-5, atol=1e-5)


def test_an_empty_batch():
    shape, x, weights, dy = arrays("plain", samples=0)
    y, dx, dw = passes(shape, x, weights, dy)
    assert (y.shape, dx.shape) == (dy.shape, x.shape)
    np.testing.assert_array_equal(dw, np.zeros_like(weights))


def test_what_does_not_fit_is_named():
    shape, x, weights, dy = arrays("plain")
    with pytest.raises(DeclarationError, match="locally connected"):
        locally_connected.connect(shape, x, weights[1:])
    with pytest.raises(DeclarationError, match="locally connected"):
        locally_connected.connect_weight_gradient(shape, x, dy[:, 1:])
    with pytest.raises(DeclarationError, match="one group"):
        locally_connected.connect(shape._replace(groups=2), x, weights)
