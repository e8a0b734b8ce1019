"""Restricted Boltzmann machines: energies, Gibbs sampling and contrastive divergence.

Hinton (2002), "Training products of experts by minimizing contrastive divergence"; Tieleman
(2008) for persistent chains; Hinton (2010), "A practical guide to training restricted Boltzmann
machines" for what is sampled and what is a probability; Salakhutdinov, Mnih, Hinton (2007) for
samples with missing values; Hinton & Salakhutdinov (2006) for Gaussian hidden units.

With binary units the energy is ``E(v, h) = -v W h - v b - h c``; with Gaussian visible ones of
unit variance the term ``-v b`` becomes ``|v - b|**2 / 2``, with hidden ones ``-h c`` becomes
``|h - c|**2 / 2``.

Letters: N samples, V visible units, H hidden units, C chains, b visible and c hidden biases.
"""

import math
from functools import singledispatch
from typing import Any, NamedTuple, TypeGuard

from deepstrata.ops.backend import (
    Backend,
    Scratch,
    add_product,
    namespace,
    negative,
    product,
    store,
)
from deepstrata.ops.initial import drawn
from deepstrata.ops.kernels import sigmoid, sigmoid_sample, squared_error
from deepstrata.ops.partials import Batch, Into, Partial, present, put
from deepstrata.ops.random import normal
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.machines import RBM, Machine
from deepstrata.schemas.trees import Array, ArraySpec, Tree


class RBMParams(NamedTuple):
    """The parameters of an RBM."""

    weights: Array
    """(V, H)"""
    visible_bias: Array
    """(V,)"""
    hidden_bias: Array
    """(H,)"""


def shapes(model: Machine, visible: int) -> RBMParams:
    """Return an ``ArraySpec`` for each array of a machine with ``visible`` visible units."""
    weights = ArraySpec((visible, model.hidden))
    return RBMParams(weights, ArraySpec((visible,)), ArraySpec((model.hidden,)))


def init(model: Machine, visible: int, key: Key, backend: Backend = "numpy") -> RBMParams:
    """Return small random weights, and biases of zero."""
    found: RBMParams = drawn(shapes(model, visible), model.weight_scale, key, backend)
    return found


def hidden_mean(
    params: RBMParams, v: Array, out: Array | None = None, units: str = "bernoulli"
) -> Array:
    """Return the mean of h given v, P(h = 1 | v) of binary units: (N, V) -> (N, H)."""
    into = product(v, params.weights, out)
    if units == "bernoulli":
        return sigmoid(into, params.hidden_bias, out=into)
    into += params.hidden_bias
    return into


@singledispatch
def visible_mean(model: Machine, params: RBMParams, h: Array, out: Array | None = None) -> Array:
    """Return the mean of v given h: (N, H) -> (N, V), into ``out`` where given."""
    raise NotImplementedError(f"no machine is registered for {type(model).__name__}")


@visible_mean.register
def _(model: RBM, params: RBMParams, h: Array, out: Array | None = None) -> Array:
    into = product(h, params.weights.T, out)
    if model.visible_units == "bernoulli":
        return sigmoid(into, params.visible_bias, out=into)
    into += params.visible_bias
    return into


@singledispatch
def free_energy(model: Any, params: RBMParams, v: Array, mask: Array | None = None) -> Array:
    """Return F with ``p(v) = exp(-F(v)) / Z``.

    Parameters
    ----------
    v
        (N, V); zeros where ``mask`` is false.
    mask
        (N, V); an absent unit has no term.

    Returns
    -------
    (N,)
    """
    raise NotImplementedError(f"no machine is registered for {type(model).__name__}")


@free_energy.register
def _(model: RBM, params: RBMParams, v: Array, mask: Array | None = None) -> Array:
    xp = namespace(v)
    if model.hidden_units == "gaussian":
        into = product(v, params.weights)
        rest = xp.sum(into * (0.5 * into + params.hidden_bias), axis=1)
        constant = 0.5 * into.shape[1] * math.log(2.0 * math.pi)
        return -(v @ params.visible_bias) - rest - constant
    into = product(v, params.weights) + params.hidden_bias
    softplus = xp.sum(xp.logaddexp(into, xp.zeros_like(into)), axis=1)
    return visible_energy(model, params.visible_bias, v, mask) - softplus


def visible_energy(model: Any, bias: Array, v: Array, mask: Array | None = None) -> Array:
    """Return the terms of an energy that no hidden unit takes part in: (N, V) -> (N,)."""
    if model.visible_units == "bernoulli":
        return -(v @ bias)
    xp, centred = namespace(v), v - bias
    if mask is not None:
        centred = xp.where(mask, centred, xp.zeros_like(centred))
    return 0.5 * xp.sum(centred * centred, axis=1)


def sample_hidden(
    model: Machine,
    params: RBMParams,
    v: Array,
    rows: Array,
    key: Key,
    draw: int,
    mean: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Return hidden states sampled given v: (N, V) -> (N, H), into ``out`` where given.

    ``mean`` is overwritten with their means, where given.
    """
    into = product(v, params.weights, mean)
    if model.hidden_units == "bernoulli":
        return sigmoid_sample(into, params.hidden_bias, key, rows, draw, mean=into, out=out)[1]
    into += params.hidden_bias
    noise = normal(key, rows, into.shape[1], draw, like=into)
    return store(into + namespace(into).astype(noise, into.dtype), out)


def sample_visible(
    model: RBM, params: RBMParams, h: Array, rows: Array, key: Key, draw: int
) -> Array:
    """Return visible states sampled given h: (N, H) -> (N, V)."""
    into = product(h, params.weights.T)
    if model.visible_units == "bernoulli":
        return sigmoid_sample(into, params.visible_bias, key, rows, draw, mean=into)[1]
    into += params.visible_bias
    noise = normal(key, rows, into.shape[1], draw, like=into)
    return into + namespace(into).astype(noise, into.dtype)


def sample(model: RBM, params: RBMParams, v: Array, rows: Array, key: Key, steps: int) -> Array:
    """Run ``steps`` sweeps of Gibbs sampling, v -> h -> v, from each row of ``v``.

    Parameters
    ----------
    v
        (N, V) states to start from; not changed.
    rows
        (N,) int64 addresses of the chains.

    Returns
    -------
    (N, V) states
    """
    for step in range(steps):
        h = sample_hidden(model, params, v, rows, key, 2 * step)
        v = sample_visible(model, params, h, rows, key, 2 * step + 1)
    return v


def reconstruct(model: Machine, params: RBMParams, v: Array) -> Array:
    """Return the mean of v given the mean of h given v: (N, V) -> (N, V), without noise."""
    return visible_mean(model, params, hidden_mean(params, v, units=model.hidden_units))


def contrastive_divergence(
    model: Machine,
    params: RBMParams,
    batch: Batch,
    key: Key,
    carry: Tree = (),
    out: Into | None = None,
    scratch: Scratch | None = None,
) -> tuple[Partial, Tree]:
    """Return the gradient to descend, summed over the batch: minus CD's learning rule.

    Hidden states are sampled, the last statistics use probabilities, and reconstructions are
    means. Positive and negative statistics are one matrix product, ``[-v0; v1]' [h0; h1]``.

    Parameters
    ----------
    key
        The round's key; the batch's rows address the numbers below it.
    carry
        Chains (C, V) of a persistent model, else ``()``; not changed.
    out
        Where to write it; its tree becomes ``Partial.total``.
    scratch
        Buffers to use again from call to call.

    Returns
    -------
    Partial
        ``stats``: ``squared_error`` summed over samples and units.
    Tree
        The new carry.

    Raises
    ------
    DataError
        A persistent model is given a mask: its chains know no missing values.
    """
    scratch = Scratch() if scratch is None else scratch
    n, (visible, hidden) = batch.x.shape[0], params.weights.shape
    ends = n + (carry.shape[0] if _is_persistent(model) else n)
    v = scratch.empty("visible", (ends, visible), params.weights)
    h = scratch.empty("hidden", (ends, hidden), params.weights)
    if _is_persistent(model):
        error, carry = _persistent_phases(model, params, batch, key, carry, v, h)
    else:
        error = _reconstruction_phases(model, params, batch, key, v, h, scratch)
    total = statistics(model, v, h, n, out)
    return Partial(total, n, {"squared_error": error}), carry


def _is_persistent(model: Machine) -> TypeGuard[RBM]:
    return isinstance(model, RBM) and model.persistent


def _reconstruction_phases(
    model: Machine,
    params: RBMParams,
    batch: Batch,
    key: Key,
    v: Array,
    h: Array,
    scratch: Scratch,
) -> Array | float:
    """Fill ``v`` with [-v0; v1] and ``h`` with [h0; h1]; return the first error."""
    x, n = present(batch), batch.x.shape[0]
    v1, h0, h1 = v[n:, :], h[:n, :], h[n:, :]
    states = scratch.empty("states", h0.shape, h0)
    sample_hidden(model, params, x, batch.rows, key, 0, h0, states)
    error: Array | float = 0.0
    for step in range(1, model.gibbs_steps + 1):
        visible_mean(model, params, states, out=v1)
        if batch.mask is not None:
            v1 *= namespace(v1).astype(batch.mask, v1.dtype)
        if step == 1:
            error = squared_error(x, v1)
        if step < model.gibbs_steps:
            sample_hidden(model, params, v1, batch.rows, key, step, h1, states)
    hidden_mean(params, v1, h1, model.hidden_units)
    negative(x, v[:n, :])
    return error


def _persistent_phases(
    model: RBM, params: RBMParams, batch: Batch, key: Key, chains: Array, v: Array, h: Array
) -> tuple[Array | float, Array]:
    """Fill ``v`` and ``h`` from data and chains, the chains weighted as if there were N."""
    if batch.mask is not None:
        raise DataError("an RBM with persistent=True takes no mask; set persistent=False")
    x, n, count = present(batch), batch.x.shape[0], chains.shape[0]
    if n:
        # The first sample's row tells the steps of a round, and its shards, apart.
        chain_key = fold(key, "chains", int(batch.rows[0]))
        rows = namespace(x).arange(count, dtype=namespace(x).int64)
        chains = sample(model, params, chains, rows, chain_key, model.gibbs_steps)
    negative(x, v[:n, :])
    store(chains * (n / count), v[n:, :])
    hidden_mean(params, x, h[:n, :], model.hidden_units)
    hidden_mean(params, chains, h[n:, :], model.hidden_units)
    return squared_error(x, visible_mean(model, params, h[:n, :])), chains


def statistics(model: Machine, v: Array, h: Array, n: int, out: Into | None = None) -> RBMParams:
    """Return the gradient from stacked phases; the sign and weight of a row are in ``v``.

    Parameters
    ----------
    v, h
        (N + C, V) and (N + C, H): minus the N samples, then what the model makes, C rows.
    n
        N.
    out
        Where to write it.
    """
    xp = namespace(v)
    positive = xp.sum(h[:n, :], axis=0)
    scale = n / (h.shape[0] - n) if n else 0.0
    hidden_bias = xp.sum(h[n:, :], axis=0) * scale - positive
    if model.sparsity_target is not None:
        hidden_bias += model.sparsity_cost * (positive - n * model.sparsity_target)
    visible_bias = xp.sum(v, axis=0)
    if out is None:
        return RBMParams(product(v.T, h), visible_bias, hidden_bias)
    tree: RBMParams = out.tree
    return RBMParams(
        add_product(v, h, tree.weights, out.scale, out.keep),
        put(visible_bias, tree.visible_bias, out),
        put(hidden_bias, tree.hidden_bias, out),
    )
