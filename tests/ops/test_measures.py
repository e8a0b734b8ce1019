"""Measures of networks, with scikit-learn as the oracle."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, hamming_loss, r2_score

from deepstrata.ops import measures
from deepstrata.ops.partials import add_stats
from deepstrata.ops.random import normal, uniform
from deepstrata.schemas.keys import Key

N, K, KEY = 60, 3, Key(5)
WEIGHTS = 3 * uniform(KEY, np.arange(N), 1)[:, 0]


def drawn(draw):
    return normal(KEY, np.arange(N), K, draw)


def in_parts(measure, y, targets, weights):
    """Return the sums of two parts, added up."""
    parts = [slice(0, 25), slice(25, N)]
    found = [measure(y[p], targets[p], None if weights is None else weights[p]) for p in parts]
    return add_stats(*found)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_regression_is_measured_as_scikit_learn_does(weights):
    targets = drawn(0) * [1, 10, 0.1] + [280, 0, -3]
    targets = targets.astype(np.float32)
    y = targets + np.float32(0.3) * drawn(1)
    sums = in_parts(measures.regression, y, targets, weights)
    found = measures.means(sums, sums["n"])
    assert found["r2"] == pytest.approx(r2_score(targets, y, sample_weight=weights), rel=1e-6)
    squares = ((y - targets).astype(float) ** 2).sum(axis=1)
    assert found["squared_error"] == pytest.approx(np.average(squares, weights=weights), rel=1e-5)
    assert found["loss"] == pytest.approx(found["squared_error"] / 2)
    assert "n" not in found


def test_absent_targets_take_no_part_in_r2():
    targets, y = drawn(0), drawn(0) + np.float32(0.3) * drawn(1)
    targets[10:, 0] = np.nan
    targets[:, 2] = np.nan
    found = measures.means(measures.regression(y, targets), N)
    each = [r2_score(targets[:10, 0], y[:10, 0]), r2_score(targets[:, 1], y[:, 1])]
    assert found["r2"] == pytest.approx(np.mean(each), rel=1e-6)


@pytest.mark.parametrize(("found", "score"), [(0.1, 1.0), (0.5, 0.0)])
def test_targets_that_never_change_are_right_or_not(found, score):
    targets, y = np.full((N, 1), 0.1, np.float32), np.full((N, 1), found, np.float32)
    assert r2_score(targets, y) == score
    assert measures.means(measures.regression(y, targets), N)["r2"] == score


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_labels_are_measured_as_scikit_learn_does(weights):
    targets, logits = (drawn(0) > 0).astype(np.float32), drawn(0) + drawn(1)
    sums = in_parts(measures.labelling, logits, targets, weights)
    found, predicted = measures.means(sums, sums["n"]), logits > 0
    right = accuracy_score(targets, predicted, sample_weight=weights)
    assert found["error"] == pytest.approx(1 - right)
    wrong = hamming_loss(targets, predicted, sample_weight=weights)
    assert found["hamming_loss"] == pytest.approx(wrong)


def test_classes_are_counted_by_weight_and_the_confusion_by_samples():
    labels, logits = np.arange(N) % K, drawn(0)
    sums = in_parts(measures.classification, logits, labels, WEIGHTS)
    right = accuracy_score(labels, logits.argmax(axis=1), sample_weight=WEIGHTS)
    assert measures.means(sums, sums["n"])["error"] == pytest.approx(1 - right)
    assert sums["confusion"].sum() == N
    assert np.trace(sums["confusion"]) == (labels == logits.argmax(axis=1)).sum()


def test_samples_that_weigh_nothing_come_to_nothing():
    targets, weights = drawn(0), np.zeros(N, np.float32)
    sums = measures.regression(drawn(1), targets, weights)
    assert sums["n"] == 0
    assert measures.means(sums, sums["n"]) == {}
