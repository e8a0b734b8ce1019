"""Partition functions: by enumeration of either side, by quadrature, and annealed."""

import itertools
import math

import array_api_strict
import numpy as np
import pytest
import scipy.integrate

from deepstrata.ops import ais, rbm
from deepstrata.ops.random import normal
from deepstrata.ops.rbm import RBMParams
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.trees import tree_map


def make(visible, hidden, scale=0.8, dtype=np.float32):
    weights, b, c = (
        (scale * normal(fold(Key(6), i), np.arange(n), m)).astype(dtype)
        for i, (n, m) in enumerate([(visible, hidden), (1, visible), (1, hidden)])
    )
    return RBMParams(weights, b[0], c[0])


@pytest.mark.parametrize(("visible", "hidden"), [(3, 5), (5, 3), (13, 14)])
def test_either_side_can_be_enumerated(visible, hidden):
    params, model = make(visible, hidden, dtype=np.float64), RBM(hidden=hidden)
    units = min(visible, hidden)
    if units < 6:
        vs = np.array(list(itertools.product([0.0, 1.0], repeat=visible)))
        exact = np.log(np.exp(-rbm.free_energy(model, params, vs)).sum())
    else:  # more states than are enumerated at once
        turned = RBMParams(params.weights.T, params.hidden_bias, params.visible_bias)
        exact = ais.exact_log_partition(RBM(hidden=visible), turned)
    assert ais.exact_log_partition(model, params) == pytest.approx(exact, rel=1e-12)


def test_gaussian_units_are_integrated():
    params, model = make(1, 3, dtype=np.float64), RBM(hidden=3, visible_units="gaussian")

    def density(v):
        return math.exp(-rbm.free_energy(model, params, np.array([[v]]))[0])

    exact = math.log(scipy.integrate.quad(density, -12, 12)[0])
    assert ais.exact_log_partition(model, params) == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_annealing_agrees_with_enumeration_within_its_error(kind):
    scale = 0.8 if kind == "bernoulli" else 0.3
    params, model = make(12, 8, scale), RBM(hidden=8, visible_units=kind)
    exact = ais.exact_log_partition(model, params)
    estimate, error = ais.log_partition(model, params, Key(1), 400, 150)
    assert 0 < error < 0.1
    assert abs(estimate - exact) < 4 * error


def test_annealing_without_weights_is_exact():
    params = make(6, 4)._replace(weights=np.zeros((6, 4), np.float32))
    params = params._replace(hidden_bias=np.zeros(4, np.float32))
    estimate, error = ais.log_partition(RBM(hidden=4), params, Key(1), 10, [0, 0.3, 1])
    assert estimate == pytest.approx(ais.exact_log_partition(RBM(hidden=4), params), rel=1e-6)
    assert error == pytest.approx(0, abs=1e-6)


def test_another_library_gives_the_same_estimate():
    params, model = make(5, 3), RBM(hidden=3)
    here = ais.log_partition(model, params, Key(1), 20, 10)
    there = ais.log_partition(model, tree_map(array_api_strict.asarray, params), Key(1), 20, 10)
    assert there == pytest.approx(here, rel=1e-4)


def test_likelihoods_of_all_states_sum_to_one():
    params, model = make(6, 4, dtype=np.float64), RBM(hidden=4)
    vs = np.array(list(itertools.product([0.0, 1.0], repeat=6)))
    log_z = ais.exact_log_partition(model, params)
    assert np.exp(ais.log_likelihood(model, params, vs, log_z)).sum() == pytest.approx(1)


def test_refusals_name_the_sizes():
    with pytest.raises(DeclarationError, match=r"30 visible and 21 hidden .* 2\*\*21"):
        ais.exact_log_partition(RBM(hidden=21), make(30, 21))
    for temperatures in ([0, 0.5], [0, 0.7, 0.5, 1], 0):
        with pytest.raises(ValueError, match="rise from 0 to 1"):
            ais.log_partition(RBM(hidden=3), make(4, 3), Key(1), 5, temperatures)
    with pytest.raises(ValueError, match="at least 2 chains"):
        ais.log_partition(RBM(hidden=3), make(4, 3), Key(1), 1, 5)


def test_annealing_takes_binary_hidden_units():
    model = RBM(hidden=2, hidden_units="gaussian")
    with pytest.raises(DeclarationError, match="binary hidden units, found gaussian"):
        ais.log_partition(model, make(3, 2), Key(1), 10, 10)
