"""Batches and sums over them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstrata.ops.partials import Batch, Partial, add_stats, merge, present, shuffle, take
from deepstrata.ops.preprocess import Affine


def partial(i):
    return Partial((np.full(3, float(i)), {"a": np.array([i])}), i, {"loss": i / 2})


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 5))
def test_merge_sums_in_any_grouping_and_changes_no_argument(numbers, cut):
    parts = [partial(i) for i in numbers]
    whole = merge(*parts)
    halves = [merge(*half) for half in (parts[:cut], parts[cut:]) if half]
    for merged in (whole, merge(*halves)):
        np.testing.assert_array_equal(merged.total[0], sum(numbers))
        assert merged.total[1]["a"] == merged.n == sum(numbers)
        assert merged.stats == {"loss": sum(numbers) / 2}
    for part, i in zip(parts, numbers, strict=True):
        np.testing.assert_array_equal(part.total[0], i)
        assert part.stats == {"loss": i / 2}


def test_merge_goes_from_left_to_right():
    values = [np.array([v], np.float32) for v in (1e8, 1.0, -1e8)]
    merged = merge(*(Partial(v, 1, {}) for v in values))
    assert merged.total[0] == np.float32(np.float32(1e8) + np.float32(1)) - np.float32(1e8)
    assert merged.total.dtype == np.float32


def test_missing_statistics_count_as_zero():
    assert add_stats({"a": 1}, {"a": 2, "b": 3}) == {"a": 3, "b": 3}
    assert add_stats({"a": 1}, {}) == {"a": 1}


def test_take_is_a_view_and_present_fills_zeros():
    x = np.array([[1.0, np.nan], [3.0, 4.0]], np.float32)
    batch = Batch(np.array([8, 9]), x, None, ~np.isnan(x))
    np.testing.assert_array_equal(present(batch), [[1, 0], [3, 4]])
    assert present(batch).dtype == np.float32
    part = take(batch, 1, 2)
    assert part.rows == [9]
    assert part.labels is None
    assert part.mask.shape == (1, 2)
    assert np.shares_memory(part.x, x)
    assert present(batch._replace(mask=None)) is x


def test_shuffle_puts_the_samples_of_all_batches_in_order():
    batches = [
        Batch(np.arange(3), np.arange(6).reshape(3, 2), np.arange(3)),
        Batch(np.arange(7, 9), np.arange(6, 10).reshape(2, 2), np.arange(3, 5)),
    ]
    order = np.array([4, 0, 3, 1, 2])
    found = shuffle(batches, order)
    np.testing.assert_array_equal(found.rows, np.array([0, 1, 2, 7, 8])[order])
    np.testing.assert_array_equal(found.x, np.arange(10).reshape(5, 2)[order])
    np.testing.assert_array_equal(found.labels, order)
    assert found.mask is None


def test_small_integers_are_scaled_when_they_are_used():
    scaling = (Affine(np.float32(10), np.float32(2)),)
    batch = Batch(np.arange(4), np.arange(8, dtype=np.uint8).reshape(4, 2), scaling=scaling)
    np.testing.assert_array_equal(present(take(batch, 1, 2)), [[-4, -3.5]])
    assert present(batch).dtype == np.float32
