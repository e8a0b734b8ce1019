"""What every optimiser and schedule must do; a new one is one line in a list."""

import warnings

import array_api_strict
import numpy as np
import pytest

from deepstrata.ops import optimisers
from deepstrata.ops.optimisers import Rates
from deepstrata.ops.random import normal
from deepstrata.pipelines import control
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.optimisers import (
    SGD,
    Adagrad,
    Adam,
    Cosine,
    Exponential,
    Linear,
    ReduceOnPlateau,
    Steps,
    WarmUp,
)
from deepstrata.schemas.trees import ArraySpec, leaves, tree_map

OPTIMISERS = [
    SGD(learning_rate=0.1),
    SGD(learning_rate=0.1, weight_decay=0.01),
    SGD(learning_rate=0.1, momentum=0.9),
    SGD(learning_rate=0.1, momentum=0.9, weight_decay=0.01),
    SGD(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    Adagrad(learning_rate=0.5),
    Adagrad(learning_rate=0.5, weight_decay=0.01),
    Adam(learning_rate=0.05),
    Adam(learning_rate=0.05, beta1=0.5, beta2=0.9, weight_decay=0.01),
    SGD(learning_rate=0.1, clip_norm=0.8, weight_decay=0.01),
    SGD(learning_rate=0.1, momentum=0.9, clip_norm=0.8),
    SGD(learning_rate=0.1, momentum=0.9, nesterov=True, clip_value=0.3),
    Adagrad(learning_rate=0.5, clip_norm=0.8),
    Adam(learning_rate=0.05, clip_norm=0.8, weight_decay=0.01),
    Adam(learning_rate=0.05, clip_value=0.3),
]
NAMES = [f"{i}-{optimiser.kind}" for i, optimiser in enumerate(OPTIMISERS)]
NEEDS_TORCH = "torch is the oracle; install deepstrata[oracle]"
N = 7


def params(dtype=np.float32):
    weights, bias = (normal(fold(Key(1), i), np.arange(n), 5) for i, n in enumerate((6, 1)))
    return (weights.astype(dtype), {"bias": bias[0].astype(dtype)})


def totals(step, dtype=np.float32):
    return tree_map(
        lambda a: (
            N * normal(fold(Key(2), step), np.arange(a.size), 1).reshape(a.shape).astype(dtype)
        ),
        params(),
    )


def walk(optimiser, steps=5, dtype=np.float32, convert=lambda a: a):
    """Take some steps and return parameters and state."""
    moved = tree_map(convert, params(dtype))
    state = optimisers.init(optimiser, moved)
    for step in range(steps):
        total = tree_map(convert, totals(step, dtype))
        rates = optimisers.rates(optimiser, step / 4)
        moved, state = optimisers.update(optimiser, rates, total, N, state, moved)
    return moved, state


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=NAMES)
class TestOptimiser:
    def test_agrees_with_torch(self, optimiser):
        torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
        kinds = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam}
        settings = optimiser.model_dump(exclude={"kind"})
        if "epsilon" in settings:
            settings["eps"] = settings.pop("epsilon")
        if "beta1" in settings:
            settings["betas"] = settings.pop("beta1"), settings.pop("beta2")
        clip_norm, clip_value = settings.pop("clip_norm"), settings.pop("clip_value")
        settings["lr"], decay = settings.pop("learning_rate"), settings.pop("weight_decay")
        tensors = [torch.tensor(leaf) for leaf in leaves(params(np.float64))]
        groups = [
            {"params": [tensors[0]], "weight_decay": decay},
            {"params": [tensors[1]], "weight_decay": 0.0},
        ]
        peer = kinds[optimiser.kind](groups, **settings)
        for step in range(5):
            for tensor, total in zip(tensors, leaves(totals(step, np.float64)), strict=True):
                tensor.grad = torch.tensor(total / N)
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(tensors, clip_norm)
            if clip_value is not None:
                torch.nn.utils.clip_grad_value_(tensors, clip_value)
            peer.step()
        for found, wanted in zip(leaves(walk(optimiser, 5, np.float64)[0]), tensors, strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-10, atol=1e-12)

    def test_compiled_kernels_give_the_oracles_bits(self, optimiser, monkeypatch):
        fused = walk(optimiser)
        strict = walk(optimiser, convert=array_api_strict.asarray)
        monkeypatch.setattr(optimisers, "is_fast", lambda *arrays: False)
        for a, b, c in zip(*map(leaves, (fused, walk(optimiser), strict)), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, np.asarray(c))

    def test_float32_stays_float32(self, optimiser):
        moved, state = walk(optimiser)
        for leaf in leaves(moved) + leaves(state):
            assert leaf.dtype == (np.int64 if leaf.ndim == 0 else np.float32)

    def test_arguments_are_left_alone(self, optimiser):
        moved, state = walk(optimiser, 2)
        total = totals(3)
        before = tree_map(np.copy, (moved, state, total))
        optimisers.update(optimiser, Rates(0.1, 0.9), total, N, state, moved)
        for a, b in zip(leaves(before), leaves((moved, state, total)), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_in_place_writes_the_callers_buffers(self, optimiser):
        moved, state = walk(optimiser, 2)
        rates, total = Rates(0.1, 0.9), totals(3)
        expected = optimisers.update(optimiser, rates, total, N, state, moved)
        optimisers.update_in_place(optimiser, rates, total, N, state, moved)
        for a, b in zip(leaves(expected), leaves((moved, state)), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_state_can_be_described_before_there_are_arrays(self, optimiser):
        specs = tree_map(lambda a: ArraySpec(a.shape, str(a.dtype)), params())
        described = leaves(optimisers.init(optimiser, specs))
        made = leaves(optimisers.init(optimiser, params()))
        assert [(s.shape, s.dtype) for s in described] == [(a.shape, str(a.dtype)) for a in made]
        assert all(isinstance(s, ArraySpec) for s in described)
        assert not any(a.any() for a in made)

    def test_a_bowl_is_descended(self, optimiser):
        moved = params()
        state = optimisers.init(optimiser, moved)
        for _ in range(200):
            rates = optimisers.rates(optimiser, 0)
            moved, state = optimisers.update(optimiser, rates, moved, 1, state, moved)
        assert max(np.abs(leaf).max() for leaf in leaves(moved)) < 0.1


#: Schedules, and torch's scheduler of the same meaning where the rate starts at 0.8.
SCHEDULES = [
    (
        Steps(values=(0.8, 0.08, 0.008), boundaries=(3, 6)),
        "MultiStepLR",
        {"milestones": [3, 6], "gamma": 0.1},
    ),
    (
        Linear(start=0.8, end=0.2, epochs=5),
        "LinearLR",
        {"start_factor": 1.0, "end_factor": 0.25, "total_iters": 5},
    ),
    (Exponential(start=0.8, decay=0.7), "ExponentialLR", {"gamma": 0.7}),
    (Cosine(start=0.8, end=0.1, epochs=10), "CosineAnnealingLR", {"T_max": 10, "eta_min": 0.1}),
]


@pytest.mark.parametrize(("schedule", "name", "settings"), SCHEDULES)
def test_schedules_agree_with_torch_at_whole_epochs(schedule, name, settings):
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    peer = getattr(torch.optim.lr_scheduler, name)(optimiser, **settings)
    for epoch in range(10):
        value = optimisers.schedule_value(schedule, float(epoch))
        assert value == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9), epoch
        optimiser.step()
        peer.step()


def test_a_warm_up_agrees_with_torch():
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    schedulers = torch.optim.lr_scheduler
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    rise = schedulers.LinearLR(optimiser, start_factor=0.1, total_iters=4)
    fall = schedulers.CosineAnnealingLR(optimiser, T_max=6, eta_min=0.1)
    with warnings.catch_warnings():  # torch's own: it calls a scheduler in a way it deprecates
        warnings.simplefilter("ignore", UserWarning)
        peer = schedulers.SequentialLR(optimiser, [rise, fall], milestones=[4])
        schedule = WarmUp(start=0.08, epochs=4, then=Cosine(start=0.8, end=0.1, epochs=6))
        for epoch in range(10):
            value = optimisers.schedule_value(schedule, float(epoch))
            assert value == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9), epoch
            optimiser.step()
            peer.step()


@pytest.mark.parametrize("patience", [0, 2])
@pytest.mark.parametrize("min_delta", [0.0, 0.5])
def test_plateaus_agree_with_torch(patience, min_delta):
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    scores = [5, 4, 4.2, 4.1, 3.9, 3.8, 3.8, 3.7, 3, 3.5, 3.5, 3.5, 3.5, 3.5, 3.5, 2.9, 3, 3, 3, 3]
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser,
        factor=0.5,
        patience=patience,
        threshold=min_delta,
        threshold_mode="abs",
        min_lr=0.03,
    )
    schedule = ReduceOnPlateau(
        start=0.8, factor=0.5, patience=patience, min_delta=min_delta, minimum=0.03
    )
    rates = []
    for epoch in range(len(scores)):
        now = control.settled(SGD(learning_rate=schedule), scores[:epoch])
        rates.append(optimisers.rates(now, epoch).learning_rate)
        assert rates[-1] == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9), epoch
        optimiser.step()
        peer.step(scores[epoch])
    assert rates[-1] < 0.8


def test_schedules_are_functions_of_fractional_epochs():
    value = optimisers.schedule_value
    assert value(0.3, 7.5) == 0.3
    assert value(Linear(start=1, end=0, epochs=2), 0.5) == 0.75
    assert value(Linear(start=1, end=0.5, epochs=2), 9) == 0.5
    assert value(Steps(values=(1, 2), boundaries=(1.5,)), 1.49) == 1
    assert value(Steps(values=(1, 2), boundaries=(1.5,)), 1.5) == 2
    assert value(Cosine(start=1, epochs=2), 1) == pytest.approx(0.5)
    assert value(Cosine(start=1, end=0.25, epochs=2), 5) == 0.25
    assert value(WarmUp(epochs=2, then=0.6), 0.5) == pytest.approx(0.15)
    assert value(WarmUp(epochs=2, then=0.6), 2) == 0.6
    assert value(WarmUp(epochs=0.5, then=Exponential(start=1, decay=0.5)), 1.5) == 0.5
    assert value(ReduceOnPlateau(start=1, factor=0.5, reductions=3), 7) == 0.125
    momentum = Steps(values=(0.5, 0.9), boundaries=(5,))
    assert optimisers.rates(SGD(learning_rate=0.2, momentum=momentum), 6) == Rates(0.2, 0.9)
    assert optimisers.rates(Adam(), 6) == Rates(0.001, 0.0)
