"""RBMs against enumeration of all states, finite differences and smaller machines."""

import itertools

import array_api_strict
import numpy as np
import pytest

from deepstrata.ops import rbm
from deepstrata.ops.ais import exact_log_partition
from deepstrata.ops.backend import Scratch
from deepstrata.ops.models import carry as start_chains
from deepstrata.ops.partials import Batch, Into
from deepstrata.ops.random import normal, uniform
from deepstrata.ops.rbm import RBMParams, contrastive_divergence
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.trees import tree_map

KINDS = ("bernoulli", "gaussian")


def small_params(visible=4, hidden=3, scale=1.0, dtype=np.float64):
    drawn = (
        normal(fold(Key(5), i), np.arange(n), m)
        for i, (n, m) in enumerate([(visible, hidden), (1, visible), (1, hidden)])
    )
    weights, b, c = (scale * d.astype(dtype) for d in drawn)
    return RBMParams(weights.astype(dtype), b[0].astype(dtype), c[0].astype(dtype))


def states(units):
    return np.array(list(itertools.product([0.0, 1.0], repeat=units)))


def data(n, visible=4, dtype=np.float32, kind="bernoulli"):
    if kind == "gaussian":
        return normal(Key(8), np.arange(n), visible).astype(dtype)
    return (uniform(Key(8), np.arange(n), visible) < 0.4).astype(dtype)


def test_gibbs_sampling_leaves_the_exact_distribution_unchanged():
    model, params = RBM(hidden=3), small_params()
    vs, hs = states(4), states(3)
    p = np.exp(-rbm.free_energy(model, params, vs) - exact_log_partition(model, params))
    assert p.sum() == pytest.approx(1, abs=1e-12)
    ph = rbm.hidden_mean(params, vs)[:, None, :]
    pv = rbm.visible_mean(model, params, hs)[:, None, :]
    to_h = np.prod(hs * ph + (1 - hs) * (1 - ph), -1)
    to_v = np.prod(vs * pv + (1 - vs) * (1 - pv), -1)
    np.testing.assert_allclose(p @ to_h @ to_v, p, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_free_energy_sums_over_all_hidden_states(kind):
    model, params = RBM(hidden=3, visible_units=kind), small_params()
    v, hs = data(5, dtype=np.float64, kind=kind), states(3)
    exponent = v @ params.weights @ hs.T + hs @ params.hidden_bias
    if kind == "bernoulli":
        exponent += (v @ params.visible_bias)[:, None]
    else:
        exponent -= 0.5 * ((v - params.visible_bias) ** 2).sum(1)[:, None]
    exact = -np.log(np.exp(exponent).sum(1))
    np.testing.assert_allclose(rbm.free_energy(model, params, v), exact, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_chains_reach_the_exact_mean(kind):
    model, params = RBM(hidden=3, visible_units=kind), small_params(scale=0.7)
    hs = states(3)
    into = hs @ params.weights.T
    if kind == "bernoulli":
        rest = np.logaddexp(into + params.visible_bias, 0).sum(1)
    else:
        rest = (into * params.visible_bias + 0.5 * into**2).sum(1)
    p = np.exp(hs @ params.hidden_bias + rest)
    exact = (p / p.sum()) @ rbm.visible_mean(model, params, hs)
    n = 20_000
    start = data(n, kind=kind)
    params32 = tree_map(lambda a: a.astype(np.float32), params)
    v = rbm.sample(model, params32, start, np.arange(n), Key(3), 12)
    assert v.dtype == np.float32
    np.testing.assert_allclose(v.mean(0), exact, atol=5 * v.std() / n**0.5)


def test_gaussian_hidden_units_have_the_distribution_of_their_energy():
    """Enumerate the visible states; integrate over one hidden unit at a time."""
    model, params, vs = RBM(hidden=3, hidden_units="gaussian"), small_params(scale=0.5), states(4)
    exact = vs @ params.visible_bias
    h = np.linspace(-12, 12, 4001)
    for w, c in zip(params.weights.T, params.hidden_bias, strict=True):
        density = np.exp((vs @ w)[:, None] * h - 0.5 * (h - c) ** 2)
        exact = exact + np.log(density.sum(1) * (h[1] - h[0]))
    np.testing.assert_allclose(-rbm.free_energy(model, params, vs), exact, rtol=1e-9)
    log_z = np.logaddexp.reduce(exact)
    assert exact_log_partition(model, params) == pytest.approx(log_z)
    n, params32 = 20_000, tree_map(lambda a: a.astype(np.float32), params)
    v = rbm.sample(model, params32, data(n), np.arange(n), Key(3), 12)
    np.testing.assert_allclose(v.mean(0), np.exp(exact - log_z) @ vs, atol=0.02)
    mean = rbm.hidden_mean(params, vs, units="gaussian")
    np.testing.assert_allclose(mean, vs @ params.weights + params.hidden_bias)


def one_sweep(model, params, v, hs):
    """Return all hidden states' probabilities given each row of ``v``, and the means below."""
    h = rbm.hidden_mean(params, v)
    p = np.prod(hs * h[:, None] + (1 - hs) * (1 - h[:, None]), -1)
    return p, rbm.visible_mean(model, params, hs)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_cd_has_the_expectation_that_enumeration_gives(kind, steps):
    model = RBM(hidden=3, visible_units=kind, gibbs_steps=steps)
    params = small_params(scale=1.5, dtype=np.float32)
    copies, v0 = 20_000, data(3, kind=kind)
    hs, h0 = states(3).astype(np.float32), rbm.hidden_mean(params, v0)
    p, v1 = one_sweep(model, params, v0, hs)  # (sample, state), (state, visible)
    error = np.einsum("ns,nsi->", p, (v0[:, None] - v1) ** 2)
    for _ in range(steps - 1):
        p = p @ one_sweep(model, params, v1, hs)[0]
    h1 = rbm.hidden_mean(params, v1)
    exact = RBMParams(
        np.einsum("ns,si,sj->ij", p, v1, h1) - v0.T @ h0,
        (p @ v1 - v0).sum(0),
        (p @ h1 - h0).sum(0),
    )
    batch = Batch(np.arange(3 * copies), np.repeat(v0, copies, 0))
    partial, _ = contrastive_divergence(model, params, batch, Key(2))
    assert partial.n == 3 * copies
    assert partial.stats["squared_error"] / copies == pytest.approx(error, rel=0.02)
    for found, wanted in zip(partial.total, exact, strict=True):
        np.testing.assert_allclose(found / copies, wanted, atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_persistent_chains_give_the_gradient_of_the_likelihood(kind):
    """With many mixed chains PCD descends -log p(v), found here by finite differences."""
    model = RBM(hidden=3, visible_units=kind, persistent=True, chains=40_000, gibbs_steps=10)
    params, v = small_params(scale=0.5), data(6, kind=kind)

    def loss(p):
        return rbm.free_energy(model, p, v).sum() + len(v) * exact_log_partition(model, p)

    params32 = tree_map(lambda a: a.astype(np.float32), params)
    chains = start_chains(model, 4, Key(1))
    partial, after = contrastive_divergence(model, params32, Batch(np.arange(6), v), Key(2), chains)
    assert after.shape == chains.shape
    step = 1e-5
    for name in RBMParams._fields:
        leaf = getattr(params, name)
        direction = normal(Key(4), np.arange(leaf.size), 1).reshape(leaf.shape)
        up, down = (loss(params._replace(**{name: leaf + s * direction})) for s in (step, -step))
        slope = (up - down) / (2 * step)
        along = float((getattr(partial.total, name) * direction).sum())
        assert along == pytest.approx(slope, abs=0.15), name


def test_chains_move_on_differently_in_every_step_of_a_round():
    model, params = RBM(hidden=3, persistent=True, chains=50), small_params(dtype=np.float32)
    chains, x = start_chains(model, 4, Key(1)), data(4)
    first, second = (
        contrastive_divergence(model, params, Batch(rows, x), Key(2), chains)[1]
        for rows in (np.arange(4), np.arange(4, 8))
    )
    assert (first != second).any()


def test_more_gibbs_steps_change_the_gradient_and_not_the_error():
    params, batch = small_params(dtype=np.float32), Batch(np.arange(50), data(50))
    one, five = (
        contrastive_divergence(RBM(hidden=3, gibbs_steps=k), params, batch, Key(2))[0]
        for k in (1, 5)
    )
    assert one.stats == five.stats
    assert (one.total.weights != five.total.weights).any()


def test_a_mask_makes_an_rbm_of_the_units_that_are_present():
    model, params, x = RBM(hidden=3), small_params(dtype=np.float32), data(20)
    mask = np.ones(x.shape, bool)
    mask[:, 2] = False
    dirty = np.where(mask, x, np.nan)
    masked, _ = contrastive_divergence(
        model, params, Batch(np.arange(20), dirty, None, mask), Key(2)
    )
    kept = [0, 1, 3]
    smaller = RBMParams(params.weights[kept], params.visible_bias[kept], params.hidden_bias)
    alone, _ = contrastive_divergence(model, smaller, Batch(np.arange(20), x[:, kept]), Key(2))
    np.testing.assert_allclose(masked.total.weights[kept], alone.total.weights, atol=1e-5)
    np.testing.assert_allclose(masked.total.hidden_bias, alone.total.hidden_bias, atol=1e-5)
    np.testing.assert_array_equal(masked.total.weights[2], 0)
    assert masked.total.visible_bias[2] == 0
    assert masked.stats["squared_error"] == pytest.approx(alone.stats["squared_error"])
    gaussian, there = RBM(hidden=3, visible_units="gaussian"), np.where(mask, x, 0)
    np.testing.assert_allclose(
        rbm.free_energy(gaussian, params, there, mask),
        rbm.free_energy(gaussian, smaller, x[:, kept]),
        rtol=1e-5,
    )


def test_persistent_chains_take_no_mask():
    model, params, x = RBM(hidden=3, persistent=True), small_params(), data(2)
    with pytest.raises(DataError, match="persistent=False"):
        contrastive_divergence(
            model, params, Batch(np.arange(2), x, None, x > 0), Key(1), np.zeros((2, 4))
        )


def test_sparsity_pulls_hidden_biases_towards_the_target():
    params, batch = small_params(dtype=np.float32), Batch(np.arange(20), data(20))
    plain, sparse = (
        contrastive_divergence(
            RBM(hidden=3, sparsity_target=0.1, sparsity_cost=cost), params, batch, Key(2)
        )[0].total
        for cost in (0.0, 2.0)
    )
    pull = 2 * (rbm.hidden_mean(params, batch.x) - 0.1).sum(0)
    np.testing.assert_allclose(sparse.hidden_bias - plain.hidden_bias, pull, rtol=1e-5)
    np.testing.assert_array_equal(sparse.weights, plain.weights)


def test_lent_buffers_hold_the_same_bits():
    params, batch = small_params(70, 90, 0.1, np.float32), Batch(np.arange(30), data(30, 70))
    fresh, _ = contrastive_divergence(RBM(hidden=90), params, batch, Key(2))
    out, scratch = tree_map(np.empty_like, params), Scratch()
    for _ in range(2):
        lent, _ = contrastive_divergence(
            RBM(hidden=90), params, batch, Key(2), (), Into(out), scratch
        )
        for a, b, buffer in zip(fresh.total, lent.total, out, strict=True):
            np.testing.assert_array_equal(a, b)
            assert b is buffer
    assert lent.stats == fresh.stats


@pytest.mark.parametrize("persistent", [False, True])
def test_no_samples_give_zeros(persistent):
    model, params = RBM(hidden=3, persistent=persistent), small_params(dtype=np.float32)
    chains = start_chains(model, 4, Key(1))
    partial, after = contrastive_divergence(
        model, params, Batch(np.arange(0), data(0)), Key(2), chains
    )
    assert partial.n == partial.stats["squared_error"] == 0
    assert not any(leaf.any() for leaf in partial.total)
    assert after is chains


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("persistent", [False, True])
def test_another_library_gives_the_same_gradient(kind, persistent):
    model = RBM(hidden=3, visible_units=kind, persistent=persistent, chains=6, sparsity_target=0.2)
    params, x = small_params(dtype=np.float32), data(5, kind=kind)
    carry = start_chains(model, 4, Key(1))
    here, _ = contrastive_divergence(model, params, Batch(np.arange(5), x), Key(2), carry)
    xp = array_api_strict
    there, _ = contrastive_divergence(
        model,
        tree_map(xp.asarray, params),
        Batch(np.arange(5), xp.asarray(x)),
        Key(2),
        tree_map(xp.asarray, carry) if persistent else (),
    )
    for a, b in zip(here.total, there.total, strict=True):
        assert b.dtype == xp.float32
        np.testing.assert_allclose(np.asarray(b), a, atol=1e-5)
    assert float(there.stats["squared_error"]) == pytest.approx(here.stats["squared_error"])
