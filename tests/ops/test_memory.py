"""Associative memories against enumeration of all states: features, labels and hidden units."""

import itertools

import array_api_strict
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from deepstrata.ops import memory, rbm
from deepstrata.ops.partials import Batch
from deepstrata.ops.random import normal, uniform
from deepstrata.ops.rbm import RBMParams
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.machines import AssociativeMemory
from deepstrata.schemas.trees import tree_map

V, K, H = 4, 3, 3
MODEL = AssociativeMemory(hidden=H, classes=K)


def small_params(scale=1.0, dtype=np.float64):
    drawn = (
        scale * normal(fold(Key(5), i), np.arange(n), m).astype(dtype)
        for i, (n, m) in enumerate([(V + K, H), (1, V + K), (1, H)])
    )
    weights, visible_bias, hidden_bias = drawn
    return RBMParams(weights.astype(dtype), visible_bias[0].astype(dtype), hidden_bias[0])


def binary(units):
    return np.array(list(itertools.product([0.0, 1.0], repeat=units)))


def labelled():
    """Return every state of features and label: one row each."""
    return np.array([[*v, *y] for v in binary(V) for y in np.eye(K)])


def minus_energies(params, joint, hs):
    return (
        joint @ params.weights @ hs.T
        + (joint @ params.visible_bias)[:, None]
        + hs @ params.hidden_bias
    )


def data(n, dtype=np.float32):
    rows = np.arange(n)
    x = (uniform(Key(8), rows, V) < 0.4).astype(dtype)
    return Batch(rows, x, rows % K)


def test_classes_have_the_probabilities_that_enumeration_gives():
    params, vs, hs = small_params(), binary(V), binary(H)
    joint = labelled()
    logs = logsumexp(minus_energies(params, joint, hs), axis=1).reshape(len(vs), K)
    found = memory.class_logits(MODEL, params, vs)
    np.testing.assert_allclose(log_softmax(found, axis=1), log_softmax(logs, axis=1), atol=1e-12)
    many = np.tile(vs, (40, 1))  # more than one block
    again = memory.class_logits(MODEL, params, many)
    np.testing.assert_allclose(again, np.tile(found, (40, 1)), rtol=1e-12)
    assert memory.class_logits(MODEL, params, vs[:0]).shape == (0, K)


def test_large_inputs_do_not_overflow():
    params = tree_map(lambda a: (1000 * a).astype(np.float32), small_params())
    assert np.isfinite(memory.class_logits(MODEL, params, binary(V).astype(np.float32))).all()


def label_and_features(params, hs):
    """Return p(features, label | h): (hidden states, states of features and label)."""
    mean, joint = rbm.visible_mean(MODEL, params, hs)[:, None, :], labelled()
    features = joint[:, :V] * mean[..., :V] + (1 - joint[:, :V]) * (1 - mean[..., :V])
    return features.prod(-1) * (joint[:, V:] * mean[..., V:]).sum(-1)


def hidden_given(params, joint, hs):
    """Return p(h | features, label): (rows of ``joint``, hidden states)."""
    mean = rbm.hidden_mean(params, joint)[:, None, :]
    return (hs * mean + (1 - hs) * (1 - mean)).prod(-1)


def test_gibbs_sampling_leaves_the_exact_distribution_unchanged():
    params, joint, hs = small_params(), labelled(), binary(H)
    logs = logsumexp(minus_energies(params, joint, hs), axis=1)
    p = np.exp(logs - logsumexp(logs))
    moved = p @ hidden_given(params, joint, hs) @ label_and_features(params, hs)
    np.testing.assert_allclose(moved, p, rtol=1e-12)


def test_sampled_states_have_the_probabilities_of_the_mean():
    params, n = small_params(dtype=np.float32), 40_000
    h = np.tile(np.float32([1, 0, 1]), (n, 1))
    mean = rbm.visible_mean(MODEL, params, h)
    sampled = memory.sample_visible(MODEL, params, h, np.arange(n), Key(2), 1)
    np.testing.assert_array_equal(np.unique(sampled), [0, 1])
    np.testing.assert_array_equal(sampled[:, V:].sum(1), 1)
    np.testing.assert_allclose(sampled.mean(0), mean[0], atol=0.012)
    other = memory.sample_visible(MODEL, params, h, np.arange(n), Key(2), 2)
    for part in (slice(V), slice(V, None)):
        assert (sampled[:, part] != other[:, part]).any()


def test_a_class_is_drawn_whatever_rounding_does():
    rows = np.arange(500)
    short = np.full((500, 4), 0.1, np.float32)
    drawn = memory.sample_classes(short, rows, Key(1))
    np.testing.assert_array_equal(drawn.sum(1), 1)
    assert drawn[:, 3].mean() == pytest.approx(0.7, abs=0.08)
    certain = memory.sample_classes(np.float32([[0, 1, 0]]).repeat(500, 0), rows, Key(1))
    np.testing.assert_array_equal(certain[:, 1], 1)


@pytest.mark.parametrize("steps", [1, 2])
def test_cd_has_the_expectation_that_enumeration_gives(steps):
    model = AssociativeMemory(hidden=H, classes=K, gibbs_steps=steps)
    params, copies = small_params(1.5, np.float32), 20_000
    small, hs = data(3), binary(H).astype(np.float32)
    v0 = np.concatenate([small.x, np.eye(K, dtype=np.float32)[small.labels]], axis=1)
    h0, v1 = rbm.hidden_mean(params, v0), rbm.visible_mean(model, params, hs)
    p = hidden_given(params, v0, hs)
    error = np.einsum("ns,nsi->", p, (v0[:, None] - v1) ** 2)
    for _ in range(steps - 1):
        p = p @ hidden_given(params, v1, hs)
    h1 = rbm.hidden_mean(params, v1)
    exact = RBMParams(
        np.einsum("ns,si,sj->ij", p, v1, h1) - v0.T @ h0,
        (p @ v1 - v0).sum(0),
        (p @ h1 - h0).sum(0),
    )
    batch = Batch(
        np.arange(3 * copies), np.repeat(small.x, copies, 0), np.repeat(small.labels, copies)
    )
    partial, _ = memory.contrastive_divergence(model, params, batch, Key(2))
    assert partial.stats["squared_error"] / copies == pytest.approx(error, rel=0.02)
    for found, wanted in zip(partial.total, exact, strict=True):
        np.testing.assert_allclose(found / copies, wanted, atol=0.05)


def test_a_feature_that_is_absent_teaches_nothing():
    params, batch = small_params(dtype=np.float32), data(20)
    mask = np.ones(batch.x.shape, bool)
    mask[:, 2] = False
    masked = batch._replace(x=np.where(mask, batch.x, np.nan), mask=mask)
    total = memory.contrastive_divergence(MODEL, params, masked, Key(2))[0].total
    np.testing.assert_array_equal(total.weights[2], 0)
    assert total.visible_bias[2] == 0
    assert total.weights[V:].all()
    assert np.isfinite(memory.evaluate(MODEL, params, masked)["loss"])


def test_another_library_gives_the_same_samples():
    params, xp = small_params(dtype=np.float32), array_api_strict
    rows, h = np.arange(50), (uniform(Key(3), np.arange(50), H) < 0.5).astype(np.float32)
    here = memory.sample_visible(MODEL, params, h, rows, Key(2), 1)
    there = memory.sample_visible(
        MODEL, tree_map(xp.asarray, params), xp.asarray(h), rows, Key(2), 1
    )
    np.testing.assert_array_equal(np.asarray(there), here)


def test_labels_are_checked():
    params = small_params(dtype=np.float32)
    for batch, message in (
        (data(4)._replace(labels=None), "no labels"),
        (data(4)._replace(labels=np.arange(4)), "label 3 at row 3: expected 0 to 2"),
    ):
        with pytest.raises(DataError, match=message):
            memory.contrastive_divergence(MODEL, params, batch, Key(1))
        with pytest.raises(DataError, match=message):
            memory.evaluate(MODEL, params, batch)
