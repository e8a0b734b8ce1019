"""Losses: finite differences, torch as an oracle, and what weights and absent targets mean."""

import array_api_strict
import numpy as np
import pytest

from deepstrata.ops import losses
from deepstrata.ops.losses import LOSSES, check_targets
from deepstrata.ops.random import normal, uniform
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.keys import Key, fold

N, K, KEY = 7, 40, Key(3)
LABELS = np.arange(N) * 5 % K
WEIGHTS = np.array([1.0, 2.0, 0.0, 0.5, 3.0, 1.0, 0.25], np.float32)
OF_TARGETS = [name for name in LOSSES if name != "categorical"]


def drawn(name, dtype=np.float64, scale=3.0):
    return (scale * normal(fold(KEY, name), np.arange(N), K)).astype(dtype)


def wanted(loss, dtype=np.float64, masked=True):
    """Return labels, or targets of which some are absent."""
    if loss == "categorical":
        return LABELS
    targets = uniform(fold(KEY, "targets"), np.arange(N), K).astype(dtype)
    if masked:
        targets[uniform(fold(KEY, "absent"), np.arange(N), K) < 0.2] = np.nan
        targets[3] = np.nan
    return targets


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("loss", LOSSES)
def test_slopes_are_those_of_finite_differences(loss, weights):
    y, direction = drawn("y"), drawn("direction", scale=1.0)
    found = LOSSES[loss](y, wanted(loss), weights)
    ends = [
        float(LOSSES[loss](y + step * direction, wanted(loss), weights).stats["loss"])
        for step in (1e-6, -1e-6)
    ]
    assert (found.delta * direction).sum() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


def torch_loss(torch, loss, y, targets):
    """Return torch's loss of every value, (N, K); of classes of every sample, (N, 1)."""
    functional = torch.nn.functional
    if loss == "categorical":
        return functional.cross_entropy(y, torch.tensor(targets), reduction="none")[:, None]
    if loss == "squared_error":
        return functional.mse_loss(y, torch.tensor(targets), reduction="none") / 2
    return functional.binary_cross_entropy_with_logits(y, torch.tensor(targets), reduction="none")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_torch_agrees_with_masks_and_weights(loss, dtype):
    torch = pytest.importorskip("torch", reason="torch is the oracle; install deepstrata[oracle]")
    y, targets = drawn("y", dtype, 20.0), wanted(loss, dtype)
    leaf = torch.tensor(y, requires_grad=True)
    there = ~np.isnan(targets)
    each = torch_loss(torch, loss, leaf, np.where(there, targets, targets.dtype.type(0)))
    there = there if there.ndim == 2 else np.ones((N, 1), bool)
    total = (each * torch.tensor(there) * torch.tensor(WEIGHTS)[:, None]).sum()
    total.backward()
    found = LOSSES[loss](y, targets, WEIGHTS)
    tolerance = 1e-12 if dtype == np.float64 else 2e-6
    assert float(found.stats["loss"]) == pytest.approx(total.item(), rel=tolerance)
    np.testing.assert_allclose(found.delta, leaf.grad.numpy(), rtol=tolerance, atol=tolerance)
    assert found.delta.dtype == dtype


@pytest.mark.parametrize("loss", OF_TARGETS)
def test_compiled_loops_give_what_their_oracle_gives(loss):
    y, targets = drawn("y", np.float32, 20.0), wanted(loss, np.float32)
    here, xp = LOSSES[loss](y, targets, WEIGHTS), array_api_strict
    there = LOSSES[loss](xp.asarray(y), xp.asarray(targets), WEIGHTS)
    np.testing.assert_array_equal(np.asarray(there.delta), here.delta)
    assert here.stats.keys() == there.stats.keys()
    for name, value in here.stats.items():
        assert float(there.stats[name]) == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_is_how_often_a_sample_comes(loss):
    y, targets = drawn("y", np.float32), wanted(loss, np.float32)
    weights = np.array([1, 2, 0, 1, 3, 1, 0], np.float32)
    often = np.repeat(np.arange(N), weights.astype(int))
    weighted, repeated = LOSSES[loss](y, targets, weights), LOSSES[loss](y[often], targets[often])
    for name, value in repeated.stats.items():
        assert float(weighted.stats[name]) == pytest.approx(float(value), rel=1e-6), name
    sums = np.zeros_like(y)
    np.add.at(sums, often, repeated.delta)
    np.testing.assert_allclose(weighted.delta, sums, rtol=1e-6)
    assert not weighted.delta[weights == 0].any()


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_of_1_change_no_bit(loss):
    y, targets = drawn("y", np.float32), wanted(loss, np.float32)
    plain, weighted = LOSSES[loss](y, targets), LOSSES[loss](y, targets, np.ones(N, np.float32))
    np.testing.assert_array_equal(plain.delta, weighted.delta)
    assert plain.stats == pytest.approx(weighted.stats, rel=1e-7)


@pytest.mark.parametrize("loss", OF_TARGETS)
def test_absent_targets_are_as_if_their_units_were_right(loss):
    y, targets = drawn("y", np.float32), wanted(loss, np.float32, masked=False)
    absent = np.isnan(wanted(loss, np.float32))
    found = LOSSES[loss](y, np.where(absent, np.float32(np.nan), targets))
    whole = LOSSES[loss](y, targets)
    np.testing.assert_array_equal(found.delta, np.where(absent, 0, whole.delta))
    there = ~absent[0]
    left = LOSSES[loss](y[:1, there], targets[:1, there])
    found = LOSSES[loss](y[:1], wanted(loss, np.float32)[:1])
    assert float(found.stats["loss"]) == pytest.approx(float(left.stats["loss"]), rel=1e-6)


def test_a_sample_is_wrong_where_any_of_its_labels_is():
    logits = np.array([[3, -3], [3, 3], [-3, -3], [-3, 3]], np.float32)
    targets = np.array([[1, 0], [1, 0], [np.nan, 0], [np.nan, np.nan]], np.float32)
    assert losses.cross_entropy(logits, targets).stats["errors"] == 1
    weights = np.array([1, 2.5, 1, 1], np.float32)
    assert losses.cross_entropy(logits, targets, weights).stats["errors"] == 2.5
    np.testing.assert_array_equal(
        losses.is_wrong(logits, targets), [[0, 0], [0, 1], [0, 0], [0, 0]]
    )


def test_huge_logits_lose_what_they_should():
    logits = np.array([[1e4, -1e4, 1e4]], np.float32)
    found = losses.cross_entropy(logits, np.array([[1, 0, 0]], np.float32))
    assert found.stats["loss"] == pytest.approx(1e4)
    np.testing.assert_allclose(found.delta, [[0, 0, 1]], atol=1e-30)


@pytest.mark.parametrize("loss", OF_TARGETS)
def test_what_is_no_number_stays_none(loss):
    y = drawn("y", np.float32)
    y[1, 2] = np.nan
    found = LOSSES[loss](y, wanted(loss, np.float32, masked=False))
    assert np.isnan(found.stats["loss"])
    assert np.isnan(found.delta[1, 2])


def test_targets_must_be_there_for_each_output():
    targets = np.zeros((2, 3), np.float32)
    assert check_targets(targets, 3) is targets
    with pytest.raises(DataError, match="expected 4 targets a sample.*found 3"):
        check_targets(targets, 4)
    with pytest.raises(DataError, match="names no targets variable"):
        check_targets(None, 3)
