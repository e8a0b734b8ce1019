"""Optimisers: rates from schedules, and one step from a summed gradient.

The definitions are those of torch.optim, so that results can be compared. A gradient is
``total / n``, clipped where that is declared. Weight decay reaches matrices and leaves biases
alone. ``update`` is pure; ``update_in_place`` overwrites buffers that its caller owns, in one pass
over the memory.
"""

import math
from collections.abc import Callable
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np

from deepstrata.ops import compiled
from deepstrata.ops.backend import is_fast, namespace
from deepstrata.ops.gradients import clipped
from deepstrata.ops.partials import Into
from deepstrata.schemas.optimisers import (
    SGD,
    Adagrad,
    Adam,
    Cosine,
    Exponential,
    Linear,
    Optimiser,
    Rate,
    ReduceOnPlateau,
    Steps,
    WarmUp,
)
from deepstrata.schemas.trees import Array, ArraySpec, Tree, leaves, tree_map

LEAST_FACTOR = 2.0**-16  #: by which a velocity may be left unmultiplied


class Rates(NamedTuple):
    """An optimiser's settings at one moment."""

    learning_rate: float
    momentum: float
    factors: tuple[float, ...] = ()
    """Of the learning rate, one for each layer of the parameters; ``()`` where all are 1."""


class SGDState(NamedTuple):
    """What SGD remembers."""

    velocity: Tree
    """Shaped like the parameters; ``()`` without momentum."""


class AdagradState(NamedTuple):
    """What Adagrad remembers."""

    squares: Tree
    """Sums of squared gradients, shaped like the parameters."""


class AdamState(NamedTuple):
    """What Adam remembers."""

    step: Array
    """() int64: steps taken."""
    mean: Tree
    """Decaying mean of gradients, shaped like the parameters."""
    squares: Tree
    """Decaying mean of squared gradients, shaped like the parameters."""


@singledispatch
def schedule_value(schedule: Rate, epoch: float) -> float:
    """Return the value of a schedule, or of a constant, at an epoch; 1.5 is half-way in the 2nd."""
    return float(schedule)  # type: ignore[arg-type]


@schedule_value.register
def _(schedule: Steps, epoch: float) -> float:
    return schedule.values[sum(epoch >= boundary for boundary in schedule.boundaries)]


@schedule_value.register
def _(schedule: Linear, epoch: float) -> float:
    part = min(epoch / schedule.epochs, 1.0)
    return schedule.start + (schedule.end - schedule.start) * part


@schedule_value.register
def _(schedule: Exponential, epoch: float) -> float:
    return schedule.start * math.pow(schedule.decay, epoch)


@schedule_value.register
def _(schedule: Cosine, epoch: float) -> float:
    part = min(epoch / schedule.epochs, 1.0)
    half = 0.5 * (1.0 + math.cos(math.pi * part))
    return schedule.end + (schedule.start - schedule.end) * half


@schedule_value.register
def _(schedule: ReduceOnPlateau, epoch: float) -> float:
    return max(schedule.start * math.pow(schedule.factor, schedule.reductions), schedule.minimum)


@schedule_value.register
def _(schedule: WarmUp, epoch: float) -> float:
    if epoch >= schedule.epochs:
        return schedule_value(schedule.then, epoch - schedule.epochs)
    end = schedule_value(schedule.then, 0.0)
    return schedule.start + (end - schedule.start) * (epoch / schedule.epochs)


def rates(optimiser: Optimiser, epoch: float, factors: tuple[float, ...] = ()) -> Rates:
    """Return learning rate and momentum at an epoch, with the factors of layers."""
    momentum = optimiser.momentum if isinstance(optimiser, SGD) else 0.0
    rate = schedule_value(optimiser.learning_rate, epoch)
    return Rates(rate, schedule_value(momentum, epoch), factors)


def _zeros(leaf: Any) -> Any:
    return leaf if isinstance(leaf, ArraySpec) else namespace(leaf).zeros_like(leaf)


@singledispatch
def init(optimiser: Optimiser, params: Tree) -> Tree:
    """Return the state before the first step.

    Parameters
    ----------
    params
        Arrays, or their ``ArraySpec``; the state has the same kind of leaves.
    """
    raise NotImplementedError(f"no optimiser is registered for {type(optimiser).__name__}")


@init.register
def _(optimiser: SGD, params: Tree) -> SGDState:
    return SGDState(() if optimiser.momentum == 0.0 else tree_map(_zeros, params))


@init.register
def _(optimiser: Adagrad, params: Tree) -> AdagradState:
    return AdagradState(tree_map(_zeros, params))


@init.register
def _(optimiser: Adam, params: Tree) -> AdamState:
    first = leaves(params)[0]
    is_spec = isinstance(first, ArraySpec)
    step = ArraySpec((), "int64") if is_spec else np.zeros((), np.int64)
    return AdamState(step, tree_map(_zeros, params), tree_map(_zeros, params))


def update(
    optimiser: Optimiser, rates: Rates, total: Tree, n: float, state: Tree, params: Tree
) -> tuple[Tree, Tree]:
    """Take one step and return new parameters and a new state.

    Parameters
    ----------
    total, n
        The gradient summed over samples, and their number or the sum of their weights; not 0.
    """
    params, state = tree_map(copied, params), tree_map(copied, state)
    update_in_place(optimiser, rates, total, n, state, params)
    return params, state


def copied(leaf: Array) -> Array:
    """Return a copy of an array."""
    return namespace(leaf).asarray(leaf, copy=True)


@singledispatch
def update_in_place(
    optimiser: Optimiser, rates: Rates, total: Tree, n: float, state: Tree, params: Tree
) -> None:
    """Take one step, overwriting ``state`` and ``params``, which the caller must own."""
    raise NotImplementedError(f"no optimiser is registered for {type(optimiser).__name__}")


@update_in_place.register
def _(optimiser: SGD, rates: Rates, total: Tree, n: float, state: Tree, params: Tree) -> None:
    rate, decay = rates.learning_rate, optimiser.weight_decay
    total, scale = clipped(optimiser, total, n)
    if isinstance(state.velocity, tuple) and not state.velocity:
        plain = _settings(rates, params, lambda factor: (scale, factor * rate))
        _each(compiled.descend, descend_oracle, plain, decay, params, total)
        return
    kernel, oracle = compiled.momentum, momentum_oracle
    if optimiser.nesterov:
        kernel, oracle = compiled.nesterov, nesterov_oracle
    settings = _settings(rates, params, lambda factor: (scale, factor * rate, rates.momentum))
    _each(kernel, oracle, settings, decay, params, state.velocity, total)


def accumulates(optimiser: Optimiser) -> bool:
    """Tell whether gradients may be added to the state straight away: plain momentum, unclipped."""
    if optimiser.clip_norm is not None or optimiser.clip_value is not None:
        return False
    return isinstance(optimiser, SGD) and optimiser.momentum != 0.0 and not optimiser.nesterov


def decayed(factor: float, state: SGDState) -> float:
    """Return by what the buffers of a velocity are still to be multiplied, of ``factor``.

    A factor that has become small is applied now, in a pass over the memory of its own.
    """
    if factor >= LEAST_FACTOR:
        return factor
    settle(factor, state)
    return 1.0


def settle(factor: float, state: SGDState) -> None:
    """Multiply the buffers of a velocity by ``factor``."""
    if factor != 1.0:
        for velocity in leaves(state.velocity):
            velocity *= factor


def into_velocity(n: float, factor: float, state: SGDState) -> Into:
    """Return where the gradient of ``n`` samples is added to a velocity."""
    return Into(state.velocity, keep=1.0, scale=1.0 / (n * factor))


def follow_in_place(
    optimiser: Optimiser, rates: Rates, factor: float, state: SGDState, params: Tree
) -> None:
    """Take the rest of a step whose gradient is in the velocity, overwriting both arguments.

    Parameters
    ----------
    factor
        The velocity is this many times what its buffers hold.
    """
    trees, rate = (params, state.velocity), rates.learning_rate * factor
    settings = _settings(rates, params, lambda own: (own * rate,))
    _each(compiled.follow, follow_oracle, settings, optimiser.weight_decay / factor, *trees)


@update_in_place.register
def _(optimiser: Adagrad, rates: Rates, total: Tree, n: float, state: Tree, params: Tree) -> None:
    total, scale = clipped(optimiser, total, n)
    rate, epsilon = rates.learning_rate, optimiser.epsilon
    settings = _settings(rates, params, lambda factor: (scale, factor * rate, epsilon))
    decay = optimiser.weight_decay
    _each(compiled.adagrad, adagrad_oracle, settings, decay, params, state.squares, total)


@update_in_place.register
def _(optimiser: Adam, rates: Rates, total: Tree, n: float, state: Tree, params: Tree) -> None:
    state.step[...] = state.step + 1
    step = int(state.step)
    # Both bias corrections go into the rate and epsilon, so that a weight costs one root.
    root = math.sqrt(1.0 - optimiser.beta2**step)
    rate = rates.learning_rate * root / (1.0 - optimiser.beta1**step)
    new, keep = 1.0 - optimiser.beta1, optimiser.beta2
    total, scale = clipped(optimiser, total, n)
    rest = (new, keep, 1.0 - keep, optimiser.epsilon * root)
    settings = _settings(rates, params, lambda factor: (scale, factor * rate, *rest))
    trees = (params, state.mean, state.squares, total)
    _each(compiled.adam, adam_oracle, settings, optimiser.weight_decay, *trees)


def _settings(
    rates: Rates, params: Tree, make: Callable[[float], tuple[float, ...]]
) -> list[tuple[float, ...]]:
    """Return a kernel's settings for each array, made of the factor of its layer."""
    if not rates.factors:
        return [make(1.0)] * len(leaves(params))
    layers = zip(rates.factors, params, strict=True)
    return [make(factor) for factor, own in layers for _ in leaves(own)]


def _each(
    kernel: Callable[..., None],
    oracle: Callable[..., None],
    settings: list[tuple[float, ...]],
    decay: float,
    *trees: Tree,
) -> None:
    """Update leaf by leaf, with the compiled kernel where it serves."""
    for own, *arrays in zip(settings, *map(leaves, trees), strict=True):
        numbers = (*own, decay if arrays[0].ndim > 1 else 0.0)
        if is_fast(*arrays):
            kernel(*(a.reshape(-1) for a in arrays), *(np.float32(s) for s in numbers))
        else:
            oracle(*arrays, *numbers)


def descend_oracle(w: Array, total: Array, scale: float, rate: float, decay: float) -> None:
    """``w -= rate * gradient``"""
    w -= rate * (total * scale + decay * w)


def momentum_oracle(
    w: Array, v: Array, total: Array, scale: float, rate: float, mu: float, decay: float
) -> None:
    """``v = mu * v + gradient; w -= rate * v``"""
    v[...] = mu * v + (total * scale + decay * w)
    w -= rate * v


def follow_oracle(w: Array, v: Array, rate: float, decay: float) -> None:
    """``v += decay * w; w -= rate * v``"""
    v += decay * w
    w -= rate * v


def nesterov_oracle(
    w: Array, v: Array, total: Array, scale: float, rate: float, mu: float, decay: float
) -> None:
    """``v = mu * v + gradient; w -= rate * (gradient + mu * v)``"""
    gradient = total * scale + decay * w
    v[...] = mu * v + gradient
    w -= rate * (gradient + mu * v)


def adagrad_oracle(
    w: Array, squares: Array, total: Array, scale: float, rate: float, epsilon: float, decay: float
) -> None:
    """``squares += gradient**2; w -= rate * gradient / (sqrt(squares) + epsilon)``"""
    gradient = total * scale + decay * w
    squares += gradient * gradient
    w -= rate * (gradient / (namespace(w).sqrt(squares) + epsilon))


def adam_oracle(
    w: Array,
    mean: Array,
    squares: Array,
    total: Array,
    scale: float,
    rate: float,
    new: float,
    keep_squares: float,
    new_squares: float,
    epsilon: float,
    decay: float,
) -> None:
    """Adam with the bias corrections in ``rate`` and ``epsilon``."""
    gradient = total * scale + decay * w
    mean += (gradient - mean) * new
    squares[...] = squares * keep_squares + (gradient * gradient) * new_squares
    w -= rate * (mean / (namespace(w).sqrt(squares) + epsilon))
