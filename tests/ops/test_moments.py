"""Moments against NumPy, whatever the split."""

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstrata.ops import moments
from deepstrata.ops.random import normal, uniform
from deepstrata.schemas.keys import Key


def split_moments(x, mask, cuts):
    edges = [0, *sorted(min(c, len(x)) for c in cuts), len(x)]
    return moments.merge(
        *(
            moments.moments(x[a:b], None if mask is None else mask[a:b])
            for a, b in zip(edges[:-1], edges[1:], strict=True)
        )
    )


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 40),
    features=st.integers(1, 5),
    cuts=st.lists(st.integers(0, 40), max_size=5),
    offset=st.sampled_from([0.0, 1e3, -1e6, 1e9]),
    masked=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_split_agrees_with_numpy(n, features, cuts, offset, masked, seed):
    rows = np.arange(n)
    x = normal(Key(seed), rows, features).astype(np.float64) + offset
    mask = uniform(Key(seed), rows, features) < 0.7 if masked else None
    found = split_moments(x, mask, cuts)
    for j in range(features):
        column = x[:, j] if mask is None else x[mask[:, j], j]
        assert found.n[j] == len(column)
        if not len(column):
            assert found.minimum[j] == np.inf
            assert moments.mean(found)[j] == moments.variance(found)[j] == 0
            continue
        assert moments.mean(found)[j] == pytest.approx(column.mean(), rel=1e-12, abs=1e-12)
        spread = 1e-15 * abs(offset) + 1e-12
        assert moments.variance(found)[j] == pytest.approx(column.var(), rel=1e-6, abs=spread)
        assert found.minimum[j] == column.min()
        assert found.maximum[j] == column.max()


def test_a_large_offset_leaves_the_variance_alone():
    x = (np.arange(1000) % 2)[:, None] + 1e8
    # Means near 1e8 are known to 1e-8, so what merges them cannot be surer than that.
    assert moments.variance(moments.moments(x))[0] == pytest.approx(0.25, rel=1e-15)
    assert moments.variance(split_moments(x, None, [1, 500]))[0] == pytest.approx(0.25, rel=1e-8)


def test_masked_nan_does_not_leak():
    x = np.array([[1.0, np.nan], [3.0, 5.0]], np.float32)
    found = moments.moments(x, ~np.isnan(x))
    np.testing.assert_array_equal(moments.mean(found), [2, 5])
    np.testing.assert_array_equal(found.n, [2, 1])


def test_blocks_change_only_the_rounding(monkeypatch):
    x = normal(Key(1), np.arange(100), 7) + 5
    whole = moments.moments(x)
    monkeypatch.setattr(moments, "BLOCK", 21)
    for a, b in zip(moments.moments(x), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


def test_integers_and_no_samples_and_the_standard_library():
    x = np.array([[0, 255], [10, 250]], np.uint8)
    np.testing.assert_array_equal(moments.mean(moments.moments(x)), [5, 252.5])
    empty = moments.moments(x[:0])
    np.testing.assert_array_equal(empty.n, [0, 0])
    merged = moments.merge(empty, moments.moments(x))
    np.testing.assert_array_equal(moments.variance(merged), [25, 6.25])
    strict = moments.moments(array_api_strict.asarray(x))
    strict = moments.merge(strict, strict)
    np.testing.assert_array_equal(np.asarray(moments.variance(strict)), [25, 6.25])
