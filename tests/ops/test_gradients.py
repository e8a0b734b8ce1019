"""Norms, clipping and what is no number, against NumPy and from library to library."""

import math

import array_api_strict
import numpy as np
import pytest

from deepstrata.ops import gradients
from deepstrata.ops.random import normal
from deepstrata.schemas.keys import Key
from deepstrata.schemas.optimisers import SGD

SIZES = [0, 1, 7, 1024, 1025, 5000]


def vector(size):
    return normal(Key(3), np.arange(size), 1).reshape(-1)


@pytest.mark.parametrize("size", SIZES)
def test_sums_of_squares_have_the_oracles_bits(size):
    x = vector(size)
    found = gradients.square_sums(x)
    assert found.shape == (-(-size // 1024),)
    for other in (np.repeat(x, 2)[::2], array_api_strict.asarray(x)):
        np.testing.assert_array_equal(gradients.square_sums(other), found)


def test_the_norm_is_over_all_leaves():
    tree = ({"a": vector(3000).reshape(30, 100)}, vector(5))
    flat = np.concatenate([tree[0]["a"].ravel(), tree[1]]).astype(np.float64)
    assert gradients.norm(tree) == pytest.approx(np.linalg.norm(flat), rel=1e-14)
    assert gradients.norm((tree[1], tree[0])) == gradients.norm(tree)


def test_a_norm_does_not_overflow_where_float32_would():
    assert gradients.norm(np.full(2, 3e38, np.float32)) == pytest.approx(math.sqrt(2) * 3e38)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_norm_of_what_is_no_number_is_none(bad):
    assert not math.isfinite(gradients.norm(np.array([1, bad], np.float32)))


def test_short_gradients_are_left_alone():
    total = vector(10)
    for optimiser in (SGD(), SGD(clip_norm=100.0)):
        same, scale = gradients.clipped(optimiser, total, 4)
        assert same is total
        assert scale == 0.25


def test_long_gradients_are_shortened_to_the_norm():
    total = (10 * vector(10), 10 * vector(3))
    same, scale = gradients.clipped(SGD(clip_norm=0.5), total, 4)
    assert same is total
    assert scale * gradients.norm(total) == pytest.approx(0.5, rel=1e-6)


def test_components_are_cut_at_the_value():
    total = np.array([-8.0, -1.0, 0.0, 3.0, 9.0], np.float32)
    cut, scale = gradients.clipped(SGD(clip_value=0.5), total, 4)
    np.testing.assert_array_equal(scale * cut, [-0.5, -0.25, 0.0, 0.5, 0.5])
    assert total[0] == -8.0


def test_leaves_that_are_no_numbers_are_named():
    good, bad = np.ones(3, np.float32), np.array([1, np.nan, np.inf], np.float32)
    assert gradients.not_finite((good, {"a": good})) == []
    assert gradients.not_finite((good, {"a": bad, "b": good}, bad)) == ["1/a", "2"]
    assert gradients.not_finite(array_api_strict.asarray(bad)) == [""]
