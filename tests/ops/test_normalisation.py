"""Local contrast normalisation against its definition, and finite differences."""

import array_api_strict
import numpy as np
import pytest

from deepstrata.ops import normalisation
from deepstrata.schemas.errors import DeclarationError

SIZE, SIGMA = 5, 1.3
SHAPES = {"image": (3, 8, 6, 2), "sound": (2, 11, 3), "smaller than the window": (2, 3, 2, 1)}


def inputs(name, dtype=np.float32):
    return np.random.default_rng(0).normal(size=SHAPES[name]).astype(dtype)


def by_hand(x):
    """Return the definition for (N, H, W, C), position by position."""

    def window_sum(values, i, j):
        total = weight = 0.0
        for a in range(max(0, i - SIZE // 2), min(x.shape[1], i + SIZE // 2 + 1)):
            for b in range(max(0, j - SIZE // 2), min(x.shape[2], j + SIZE // 2 + 1)):
                gaussian = np.exp(-((a - i) ** 2 + (b - j) ** 2) / (2 * SIGMA**2))
                total += gaussian * values[:, a, b].sum(axis=-1)
                weight += gaussian * x.shape[3]
        return (total / weight)[:, None]

    places = list(np.ndindex(x.shape[1:3]))
    g, r = np.empty_like(x), np.empty((*x.shape[:3], 1))
    for i, j in places:
        g[:, i, j] = x[:, i, j] - window_sum(x, i, j)
    for i, j in places:
        r[:, i, j] = np.sqrt(window_sum(g * g, i, j))
    return g / np.maximum(r.mean(axis=(1, 2), keepdims=True), r)


@pytest.mark.parametrize("name", ["image", "smaller than the window"])
def test_the_definition(name):
    x = inputs(name, np.float64)
    made = normalisation.contrast(x, SIZE, SIGMA)
    np.testing.assert_allclose(made.y, by_hand(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SHAPES)
def test_finite_differences(name):
    x = inputs(name, np.float64)
    random = np.random.default_rng(1)
    to, dy = random.normal(size=x.shape), random.normal(size=x.shape)
    step = 1e-6
    ends = [normalisation.contrast(x + side * step * to, SIZE, SIGMA).y for side in (1, -1)]
    made = normalisation.contrast(x, SIZE, SIGMA)
    dx = normalisation.contrast_gradient(made, dy, SIZE, SIGMA)
    rise = np.sum((ends[0] - ends[1]) * dy) / (2 * step)
    np.testing.assert_allclose(rise, np.sum(dx * to), rtol=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_float32_stays_and_other_arrays_give_the_same(name):
    x = inputs(name)
    dy = x[::-1].copy()
    made = normalisation.contrast(x, SIZE, SIGMA)
    dx = normalisation.contrast_gradient(made, dy, SIZE, SIGMA)
    other = normalisation.contrast(array_api_strict.asarray(x), SIZE, SIGMA)
    strict = normalisation.contrast_gradient(other, array_api_strict.asarray(dy), SIZE, SIGMA)
    for found, plain in ((made.y, other.y), (dx, strict)):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.asarray(plain), rtol=1e-4, atol=1e-5)


def test_brightness_and_contrast_do_not_matter():
    x = inputs("image", np.float64)
    y = normalisation.contrast(x, SIZE, SIGMA).y
    np.testing.assert_allclose(normalisation.contrast(3 * x + 7, SIZE, SIGMA).y, y, atol=1e-10)


def test_a_sample_has_the_same_bits_in_any_batch():
    x = inputs("image")
    y = normalisation.contrast(x, SIZE, SIGMA).y
    one = normalisation.contrast(x[1:2].copy(), SIZE, SIGMA).y
    np.testing.assert_array_equal(one[0], y[1])


def test_nothing_stays_nothing():
    x = np.zeros((1, 4, 4, 2), np.float32)
    made = normalisation.contrast(x, SIZE, SIGMA)
    np.testing.assert_array_equal(made.y, x)
    dx = normalisation.contrast_gradient(made, np.ones_like(x), SIZE, SIGMA)
    assert np.all(np.isfinite(dx))


def test_buffers_and_an_empty_batch():
    x = inputs("image")
    y, dx = np.full_like(x, 7), np.full_like(x, 7)
    made = normalisation.contrast(x, SIZE, SIGMA, y)
    assert made.y is y
    assert normalisation.contrast_gradient(made, x, SIZE, SIGMA, dx) is dx
    expected = normalisation.contrast_gradient(made, x, SIZE, SIGMA)
    np.testing.assert_array_equal(dx, expected)
    empty = normalisation.contrast(x[:0], SIZE, SIGMA)
    assert normalisation.contrast_gradient(empty, x[:0], SIZE, SIGMA).shape == (0, *x.shape[1:])


@pytest.mark.parametrize(("size", "sigma"), [(4, 1.0), (0, 1.0), (5, 0.0), (5, float("nan"))])
def test_a_window_without_a_centre_is_refused(size, sigma):
    with pytest.raises(DeclarationError, match="expected an odd size"):
        normalisation.contrast(inputs("image"), size, sigma)
