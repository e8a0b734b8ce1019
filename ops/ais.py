"""How likely an RBM finds data: partition functions by annealing, or exactly when small.

Neal (2001), "Annealed importance sampling"; Salakhutdinov & Murray (2008), "On the quantitative
analysis of deep belief networks". Chains move from the RBM without weights and hidden biases,
whose partition function is known, to the RBM itself: at inverse temperature t the weights and
hidden biases count t times, the visible biases in full.

Letters: C chains, T temperatures, V visible units, H hidden units.
"""

import math
from collections.abc import Sequence

import numpy as np

from deepstrata.ops.backend import namespace, product, to_numpy
from deepstrata.ops.random import bernoulli, normal
from deepstrata.ops.rbm import RBMParams, free_energy, sample
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.trees import Array

MOST_UNITS = 20  #: units of the smaller side that are enumerated: a million states
STATES = 4096  # enumerated at once


def log_partition(
    model: RBM, params: RBMParams, key: Key, chains: int, temperatures: int | Sequence[float]
) -> tuple[float, float]:
    """Estimate log Z by annealed importance sampling.

    Parameters
    ----------
    chains
        Independent runs; the error falls with their root.
    temperatures
        Rising inverse temperatures from 0 to 1, or how many steps to space evenly between them.

    Returns
    -------
    estimate, standard_error
        In nats; the standard error is that of the mean weight, by the delta method, and says
        nothing of modes that no chain found.

    Raises
    ------
    ValueError
        The temperatures do not rise from 0 to 1, or there are fewer than two chains.
    DeclarationError
        The hidden units are not binary.
    """
    if model.hidden_units != "bernoulli":
        raise DeclarationError(
            f"annealing takes binary hidden units, found {model.hidden_units} ones; "
            "exact_log_partition enumerates the visible units of a small RBM"
        )
    steps = np.linspace(0, 1, temperatures + 1) if isinstance(temperatures, int) else temperatures
    ladder = [float(t) for t in steps]
    if len(ladder) < 2 or ladder[0] != 0 or ladder[-1] != 1 or sorted(ladder) != ladder:
        raise ValueError(f"temperatures must rise from 0 to 1, found {temperatures}")
    if chains < 2:
        raise ValueError(f"a standard error takes at least 2 chains, found {chains}")
    weights = _log_weights(model, params, key, chains, ladder)
    largest = float(weights.max())
    ratios = np.exp(weights - largest)
    mean = float(ratios.mean())
    error = float(ratios.std(ddof=1)) / (mean * math.sqrt(chains))
    return _base_log_partition(model, params) + largest + math.log(mean), error


def _tempered(params: RBMParams, t: float) -> RBMParams:
    return RBMParams(params.weights * t, params.visible_bias, params.hidden_bias * t)


def _log_weights(
    model: RBM, params: RBMParams, key: Key, chains: int, ladder: list[float]
) -> Array:
    """Return the chains' log importance weights, (C,) float64 in NumPy."""
    xp = namespace(params.weights)
    rows = np.arange(chains, dtype=np.int64)
    v = _base_sample(model, params, rows, key)
    total = xp.zeros((chains,), dtype=xp.float64)
    for step in range(1, len(ladder)):
        before, after = ladder[step - 1], ladder[step]
        into = product(v, params.weights) + params.hidden_bias
        zero = xp.zeros_like(into)
        gain = xp.logaddexp(into * after, zero) - xp.logaddexp(into * before, zero)
        total = total + xp.sum(xp.astype(gain, xp.float64), axis=1)
        if step < len(ladder) - 1:
            warmer = _tempered(params, after)
            v = sample(model, warmer, v, rows, fold(key, "temperature", step), 1)
    return to_numpy(total)


def _base_sample(model: RBM, params: RBMParams, rows: Array, key: Key) -> Array:
    """Return (C, V) samples of the RBM without weights."""
    xp = namespace(params.weights)
    base_key, bias = fold(key, "base"), params.visible_bias
    into = xp.zeros((len(rows), bias.shape[0]), dtype=bias.dtype) + bias
    if model.visible_units == "gaussian":
        return into + xp.astype(normal(base_key, rows, bias.shape[0], like=into), bias.dtype)
    return bernoulli(base_key, 1.0 / (1.0 + xp.exp(-into)), rows)


def _base_log_partition(model: RBM, params: RBMParams) -> float:
    bias = to_numpy(params.visible_bias).astype(np.float64)
    hidden: float = params.hidden_bias.shape[0] * math.log(2.0)
    if model.visible_units == "gaussian":
        return 0.5 * len(bias) * math.log(2.0 * math.pi) + hidden
    return float(np.logaddexp(bias, 0.0).sum()) + hidden


def exact_log_partition(model: RBM, params: RBMParams) -> float:
    """Return log Z by enumerating the states of the smaller side, in float64 NumPy.

    Raises
    ------
    DeclarationError
        There are too many states; ``log_partition`` estimates.
    """
    w, b, c = (to_numpy(p).astype(np.float64) for p in params)
    if model.hidden_units == "gaussian":
        w, b, c = w.T, c, b
    is_gaussian = "gaussian" in (model.visible_units, model.hidden_units)
    units = w.shape[1] if is_gaussian else min(w.shape)
    if units > MOST_UNITS:
        raise DeclarationError(
            f"log Z of an RBM with {w.shape[0]} visible and {w.shape[1]} hidden units takes "
            f"2**{units} states, and 2**{MOST_UNITS} is the limit; estimate it by log_partition"
        )
    if not is_gaussian and w.shape[0] < w.shape[1]:
        w, b, c = w.T, c, b
    logs = []
    for start in range(0, 2**units, STATES):
        numbers = np.arange(start, min(start + STATES, 2**units))
        h = (numbers[:, None] >> np.arange(units) & 1).astype(np.float64)
        into = h @ w.T
        if is_gaussian:
            rest = (into * b + 0.5 * into * into + 0.5 * math.log(2.0 * math.pi)).sum(axis=1)
        else:
            rest = np.logaddexp(into + b, 0.0).sum(axis=1)
        logs.append(np.logaddexp.reduce(h @ c + rest))
    return float(np.logaddexp.reduce(logs))


def log_likelihood(model: RBM, params: RBMParams, v: Array, log_z: float) -> Array:
    """Return log p(v) in nats, given log Z: (N, V) -> (N,)."""
    return -free_energy(model, params, v) - log_z
