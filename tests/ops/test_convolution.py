"""Convolution against torch, finite differences, its own adjoint, and another library's arrays."""

import tracemalloc

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstrata.ops import convolution
from deepstrata.ops.backend import Scratch
from deepstrata.ops.partials import Into
from deepstrata.ops.windows import Geometry, geometry, output_shape
from deepstrata.schemas.errors import DeclarationError

#: Geometry, spatial shape, channels, maps.
CASES = {
    "plain": (geometry((3, 3)), (9, 8), 3, 5),
    "lenet": (geometry((5, 5)), (14, 14), 6, 16),
    "one channel": (geometry((5, 5)), (12, 12), 1, 20),
    "wide maps": (geometry((3, 3), padding=1), (6, 5), 8, 64),
    "more maps than a vector": (geometry((2, 2)), (5, 5), 3, 50),
    "padded": (geometry((3, 3), padding=2), (5, 6), 2, 4),
    "padding on one side": (
        Geometry((2, 3), (1, 1), ((0, 1), (2, 0)), (1, 1)),
        (5, 6),
        2,
        3,
    ),
    "stride": (geometry((3, 3), stride=2, padding=1), (9, 10), 4, 6),
    "stride over the kernel": (geometry((2, 2), stride=3), (9, 11), 2, 3),
    "strides apart": (Geometry((3, 2), (2, 3), ((1, 1), (0, 2)), (2, 1)), (11, 12), 4, 4),
    "dilation": (geometry((3, 3), padding=2, dilation=2), (9, 7), 3, 4),
    "groups": (geometry((3, 3), padding=1, groups=2), (7, 7), 4, 6),
    "wide groups": (geometry((3, 3), groups=2), (5, 5), 4, 64),
    "depthwise": (geometry((3, 3), groups=4), (6, 6), 4, 4),
    "one tap": (geometry((1, 1)), (4, 4), 5, 7),
    "whole": (geometry((4, 4)), (4, 4), 2, 3),
    "sound": (geometry((5,), padding=2), (17,), 3, 4),
    "sound, apart": (geometry((4,), stride=3, dilation=2, groups=2), (25,), 4, 6),
}


def arrays(case, samples=3, dtype=np.float32, seed=0):
    """Return a geometry, inputs, weights, and derivatives by the outputs."""
    shape, spatial, channels, maps = case
    random = np.random.default_rng(seed)
    x = random.normal(size=(samples, *spatial, channels)).astype(dtype)
    weights = random.normal(size=(*shape.kernel, channels // shape.groups, maps)).astype(dtype)
    dy = random.normal(size=(samples, *output_shape(shape, spatial), maps)).astype(dtype)
    return shape, x, weights, dy


def passes(shape, x, weights, dy, **options):
    """Return outputs and both gradients."""
    return (
        convolution.convolve(shape, x, weights, **options),
        convolution.convolve_input_gradient(shape, dy, weights, x.shape, **options),
        convolution.convolve_weight_gradient(shape, x, dy, **options),
    )


def torch_passes(shape, x, weights, dy):
    """Return the same from torch."""
    torch = pytest.importorskip("torch")
    dims = len(shape.kernel)
    inputs = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    filters = torch.tensor(np.moveaxis(weights, (-1, -2), (0, 1)).copy(), requires_grad=True)
    flat = [pad for pads in reversed(shape.padding) for pad in pads]
    function = torch.nn.functional.conv2d if dims == 2 else torch.nn.functional.conv1d
    options = {"stride": shape.stride, "dilation": shape.dilation, "groups": shape.groups}
    y = function(torch.nn.functional.pad(inputs, flat), filters, **options)
    y.backward(torch.tensor(np.moveaxis(dy, -1, 1).copy()))
    return (
        np.moveaxis(y.detach().numpy(), 1, -1),
        np.moveaxis(inputs.grad.numpy(), 1, -1),
        np.moveaxis(filters.grad.numpy(), (0, 1), (-1, -2)),
    )


@pytest.mark.parametrize("name", CASES)
def test_torch_gives_the_same(name):
    made = arrays(CASES[name])
    for found, expected in zip(passes(*made), torch_passes(*made), strict=True):
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_other_arrays_take_the_plain_path(name):
    shape, *made = arrays(CASES[name])
    plain = passes(shape, *(array_api_strict.asarray(a) for a in made))
    for found, other in zip(passes(shape, *made), plain, strict=True):
        assert other.dtype == array_api_strict.float32
        np.testing.assert_allclose(found, np.asarray(other), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_finite_differences(name):
    shape, x, weights, dy = arrays(CASES[name], samples=2, dtype=np.float64)
    random = np.random.default_rng(1)
    to_x, to_weights = random.normal(size=x.shape), random.normal(size=weights.shape)
    step = 1e-4

    def value(side):
        y = convolution.convolve(shape, x + side * step * to_x, weights + side * step * to_weights)
        return np.sum(y * dy)

    _, dx, dw = passes(shape, x, weights, dy)
    expected = np.sum(dx * to_x) + np.sum(dw * to_weights)
    np.testing.assert_allclose((value(1) - value(-1)) / (2 * step), expected, rtol=1e-7, atol=1e-7)


@st.composite
def geometries(draw):
    """Draw a case that fits."""
    dims = draw(st.integers(1, 2))
    numbers = st.tuples(*[st.integers(1, 3)] * dims)
    pads = st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * dims)
    shape = Geometry(draw(numbers), draw(numbers), draw(pads), draw(numbers), draw(st.just(1)))
    groups = draw(st.integers(1, 2))
    more = draw(st.tuples(*[st.integers(0, 5)] * dims))
    spatial = tuple(
        (k - 1) * d + 1 + extra
        for k, d, extra in zip(shape.kernel, shape.dilation, more, strict=True)
    )
    channels, maps = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 20))
    return shape._replace(groups=groups), spatial, channels, maps


@settings(max_examples=60, deadline=None)
@given(geometries(), st.integers(0, 3))
def test_gradients_are_adjoints(case, samples):
    shape, x, weights, dy = arrays(case, samples=samples)
    y, dx, dw = (a.astype(np.float64) for a in passes(shape, x, weights, dy))
    product = np.sum(y * dy)
    close = {"rtol": 1e-4, "atol": 1e-3}
    np.testing.assert_allclose(np.sum(dx * x), product, **close)
    np.testing.assert_allclose(np.sum(dw * weights), product, **close)


@settings(max_examples=20, deadline=None)
@given(geometries(), st.floats(-2, 2, width=32))
def test_linear_in_inputs_and_weights(case, factor):
    shape, x, weights, _ = arrays(case)
    _, other, others, _ = arrays(case, seed=5)
    factor = np.float32(factor)
    y = convolution.convolve(shape, x + factor * other, weights)
    parts = convolution.convolve(shape, x, weights), convolution.convolve(shape, other, weights)
    np.testing.assert_allclose(y, parts[0] + factor * parts[1], rtol=1e-4, atol=1e-4)
    y = convolution.convolve(shape, x, weights + factor * others)
    part = convolution.convolve(shape, x, others)
    np.testing.assert_allclose(y, parts[0] + factor * part, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lenet", "padded", "strides apart", "wide groups", "sound"])
def test_a_sample_has_the_same_bits_in_any_batch(name):
    shape, x, weights, dy = arrays(CASES[name], samples=5)
    y, dx, _ = passes(shape, x, weights, dy)
    for n in range(5):
        one = passes(shape, x[n : n + 1], weights, dy[n : n + 1])
        np.testing.assert_array_equal(one[0][0], y[n])
        np.testing.assert_array_equal(one[1][0], dx[n])


@pytest.mark.parametrize("name", ["lenet", "padded", "groups", "more maps than a vector"])
def test_the_gradient_by_weights_is_a_sum_over_samples_in_order(name):
    shape, x, _, dy = arrays(CASES[name], samples=4)
    total = convolution.convolve_weight_gradient(shape, x[:1], dy[:1])
    for n in range(1, 4):
        total = total + convolution.convolve_weight_gradient(shape, x[n : n + 1], dy[n : n + 1])
    np.testing.assert_array_equal(convolution.convolve_weight_gradient(shape, x, dy), total)


def test_buffers_are_reused_and_keep_no_trace():
    scratch = Scratch()
    for name in ("padded", "lenet", "stride", "padded"):
        shape, x, weights, dy = arrays(CASES[name])
        y, dx, dw = passes(shape, x, weights, dy)
        to_y, to_x, to_w = np.full_like(y, 7), np.full_like(dx, 7), np.full_like(dw, 7)
        assert convolution.convolve(shape, x, weights, to_y, scratch) is to_y
        found = convolution.convolve_input_gradient(shape, dy, weights, x.shape, to_x, scratch)
        assert found is to_x
        into = Into(to_w, keep=0.5, scale=2.0)
        convolution.convolve_weight_gradient(shape, x, dy, into, scratch)
        np.testing.assert_array_equal(to_y, y)
        np.testing.assert_array_equal(to_x, dx)
        np.testing.assert_allclose(to_w, 3.5 + 2.0 * dw, rtol=1e-6)


def test_arrays_that_cannot_be_written_are_read():
    shape, x, weights, dy = arrays(CASES["padded"])
    expected = passes(shape, x, weights, dy)
    for array in (x, weights, dy):
        array.flags.writeable = False
    for found, before in zip(passes(shape, x, weights, dy), expected, strict=True):
        np.testing.assert_array_equal(found, before)


@pytest.mark.parametrize("name", ["plain", "padded", "stride"])
def test_an_empty_batch(name):
    shape, x, weights, dy = arrays(CASES[name], samples=0)
    y, dx, dw = passes(shape, x, weights, dy)
    assert y.shape == dy.shape
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dw, np.zeros_like(weights))


def test_float64_stays_float64():
    for found in passes(*arrays(CASES["padded"], dtype=np.float64)):
        assert found.dtype == np.float64


def test_workspace_does_not_grow_with_the_batch():
    """A padded sample, padded weights, their sums, and tables: whatever the number of samples."""
    shape, x, weights, dy = arrays((geometry((3, 3), padding=1), (32, 32), 16, 32), samples=64)
    dx, dw = np.empty_like(x), np.empty_like(weights)
    passes(shape, x[:1], weights, dy[:1])
    tracemalloc.start()
    y = np.empty_like(dy)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    convolution.convolve(shape, x, weights, y)
    convolution.convolve_input_gradient(shape, dy, weights, x.shape, dx)
    convolution.convolve_weight_gradient(shape, x, dy, Into(dw))
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < 2 * (x[0].nbytes + dy[0].nbytes) + 6 * weights.nbytes + 2**16


@pytest.mark.parametrize(
    ("shape", "spatial", "words"),
    [
        (geometry((5, 5)), (4, 9), "spatial dimension 0 has 4 values"),
        (geometry((3,), dilation=4), (8,), "needs 9"),
        (geometry((3, 3)), (8,), "expected 2 dimensions"),
        (geometry((3, 3, 3)), (8, 8, 8), "expected 1 or 2 spatial dimensions"),
        (geometry((3, 0)), (8, 8), "kernel"),
        (geometry((3, 3), stride=0), (8, 8), "stride"),
        (geometry((3, 3), padding=-1), (8, 8), "padding"),
        (geometry((3, 3), groups=0), (8, 8), "groups"),
        (Geometry((3, 3), (1,), ((0, 0), (0, 0)), (1, 1)), (8, 8), "stride"),
    ],
)
def test_what_does_not_fit_is_named(shape, spatial, words):
    with pytest.raises(DeclarationError, match=words):
        output_shape(shape, spatial)


def test_weights_and_derivatives_that_do_not_fit_are_named():
    shape, x, weights, dy = arrays(CASES["groups"])
    with pytest.raises(DeclarationError, match=r"weights \(3, 3, 2, 5\) on 4 channels"):
        convolution.convolve(shape, x, weights[..., :5])
    with pytest.raises(DeclarationError, match="on 3 channels in 2 groups"):
        convolution.convolve(shape, x[..., :3], weights)
    with pytest.raises(DeclarationError, match="derivatives"):
        convolution.convolve_input_gradient(shape, dy[:, 1:], weights, x.shape)
    with pytest.raises(DeclarationError, match="derivatives"):
        convolution.convolve_weight_gradient(shape, x[:2], dy)


def test_a_gradient_outlives_the_buffers_that_it_was_made_in():
    random, scratch, shape = np.random.default_rng(0), Scratch(), geometry((3, 3))
    x = random.normal(size=(2, 6, 6, 1)).astype(np.float32)
    dy = random.normal(size=(2, 4, 4, 16)).astype(np.float32)
    found = convolution.convolve_weight_gradient(shape, x, dy, scratch=scratch)
    before = found.copy()
    convolution.convolve_weight_gradient(shape, x, 2 * dy, scratch=scratch)
    np.testing.assert_array_equal(found, before)
