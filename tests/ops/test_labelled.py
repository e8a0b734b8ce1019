"""Labelled samples are drawn evenly, and the same however the rows are split."""

import numpy as np
import pytest

from deepstrata.ops.labelled import check_enough, check_labels, draw
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.keys import Key

KEY = Key(8)
ROWS = np.arange(100, 400)
LABELS = ROWS * 7 % 10 % 3


def test_each_class_gets_as_many() -> None:
    labels, rows = draw(LABELS, ROWS, 20, KEY)
    assert np.bincount(labels).tolist() == [20] * 3
    np.testing.assert_array_equal(labels, LABELS[rows - 100])
    assert (np.diff(rows) > 0).all()


def test_parts_and_their_order_do_not_matter() -> None:
    whole = draw(LABELS, ROWS, 5, KEY)
    parts = [draw(LABELS[part], ROWS[part], 5, KEY) for part in (slice(170, 300), slice(170))]
    merged = draw(*(np.concatenate(column) for column in zip(*parts, strict=True)), 5, KEY)
    np.testing.assert_array_equal(merged, whole)
    assert (draw(LABELS, ROWS, 5, Key(9))[1] != whole[1]).any()
    assert draw(LABELS[:0], ROWS[:0], 5, KEY)[1].size == 0


def test_rows_are_drawn_evenly() -> None:
    """Of 300 rows 60 for each of 200 keys: about 40 times each, a binomial number."""
    times = np.bincount(
        np.concatenate([draw(LABELS * 0, ROWS, 60, Key(i))[1] for i in range(200)]) - 100,
        minlength=300,
    )
    assert abs(times - 40).max() < 5 * np.sqrt(200 * 0.2 * 0.8)


def test_a_class_with_too_few_is_named() -> None:
    check_enough(np.array([0, 1, 1, 0]), 2, 2)
    with pytest.raises(DataError, match="2 training samples of each of 3 classes.*0 of class 2"):
        check_enough(np.array([0, 1, 1, 0]), 2, 3)


def test_labels_out_of_range_are_named() -> None:
    labels = np.array([0, 2, 1, 2, 3])
    rows = np.array([70, 71, 72, 73, 74])
    assert check_labels(labels, rows, 4) is labels
    with pytest.raises(DataError, match="label 3 at row 74: expected 0 to 2 for 3 classes"):
        check_labels(labels, rows, 3)
    with pytest.raises(DataError, match="label -1 at row 70"):
        check_labels(labels - 1, rows, 4)
    with pytest.raises(DataError, match="no labels variable"):
        check_labels(None, rows, 4)
