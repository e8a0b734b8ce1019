"""Factors on the learning rate, whatever the optimiser or the strategy; 0 freezes a layer."""

from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from support import StopAfter, same, stopping

from deepstrata import (
    SGD,
    Adagrad,
    Adam,
    Delayed,
    Dense,
    Dropout,
    FineTune,
    LocalSteps,
    Network,
    Pipeline,
    Softmax,
    Synchronous,
    ZarrSource,
)
from deepstrata.ops import models, optimisers
from deepstrata.ops.learning import local_steps, trained
from deepstrata.ops.partials import Batch
from deepstrata.ops.random import uniform
from deepstrata.pipelines.run import Run, resume, run
from deepstrata.schemas.keys import Key
from deepstrata.schemas.trees import leaves

OPTIMISERS = [
    SGD(learning_rate=0.1, weight_decay=0.01),
    SGD(learning_rate=0.1, momentum=0.9, weight_decay=0.01),
    SGD(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    Adagrad(learning_rate=0.1, weight_decay=0.01),
    Adam(learning_rate=0.01, weight_decay=0.01),
]
NAMES = [f"{i}-{optimiser.kind}" for i, optimiser in enumerate(OPTIMISERS)]
V, N, KEY = 6, 23, Key(5)
NET = Network(layers=(Dense(units=7), Dense(units=5, activation="tanh"), Softmax(classes=3)))
TOP = Network(layers=NET.layers[1:])
x = uniform(Key(1), np.arange(N), V)
BATCH = Batch(np.arange(N), x, np.arange(N) % 3)


def steps(optimiser, params, factors=(), model=NET, batch=BATCH):
    """Take five local steps from ``params``."""
    state = optimisers.init(optimiser, trained(params, factors))
    rates = optimisers.rates(optimiser, 0, factors)
    return local_steps(model, optimiser, rates, params, state, (), batch, 5, KEY)


def start():
    return models.start_net(NET, None, V, KEY)


def assert_same(a, b):
    for one, other in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=NAMES)
class TestOptimiser:
    @pytest.mark.parametrize("factors", [(0.0, 1.0, 0.5), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)])
    def test_a_frozen_layer_stays_what_it_is_and_the_others_learn(self, optimiser, factors):
        params = start()
        moved, state, *_ = steps(optimiser, params, factors)
        for factor, before, after in zip(factors, params, moved, strict=True):
            changed = [(a != b).any() for a, b in zip(before, after, strict=True)]
            assert changed == [factor > 0] * 2
        frozen = params[factors.index(0.0)].weights.shape
        assert all(leaf.shape != frozen for leaf in leaves(state))

    def test_a_factor_is_one_on_the_rate(self, optimiser):
        half = optimiser.model_copy(update={"learning_rate": optimiser.learning_rate / 2})
        assert_same(steps(optimiser, start(), (0.5,) * 3)[:2], steps(half, start())[:2])
        assert_same(steps(optimiser, start(), (1.0,) * 3)[:2], steps(optimiser, start())[:2])

    def test_layers_over_frozen_ones_learn_as_a_net_of_their_own(self, optimiser):
        params = start()
        codes = models.encode(NET, params, x, 0)
        whole = steps(optimiser, params, (0.0, 1.0, 1.0))[0]
        alone = steps(optimiser, params[1:], (), TOP, BATCH._replace(x=codes))[0]
        for a, b in zip(leaves(whole[1:]), leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


DEEP = Network(
    layers=(
        Dense(units=8, name="below"),
        Dropout(rate=0.2),
        Dense(units=7, activation="relu"),
        Dense(units=6, name="between"),
        Softmax(classes=2, name="top"),
    )
)
LOCAL = LocalSteps(batch=10, steps=2, shards=2)
OUTER = SGD(learning_rate=0.7, momentum=0.9, nesterov=True)
CASES = [
    (Synchronous(batch=15, shards=2), Adam(learning_rate=0.01)),
    (LOCAL, SGD(learning_rate=0.1, momentum=0.5, weight_decay=0.01)),
    (LOCAL.model_copy(update={"outer": OUTER}), Adagrad(learning_rate=0.05)),
    (Delayed(rounds=2, batch=10, shards=3), SGD(learning_rate=0.1, momentum=0.5, nesterov=True)),
]


@pytest.mark.parametrize(
    ("strategy", "optimiser"), CASES, ids=[f"{i}-{s.kind}" for i, (s, _) in enumerate(CASES)]
)
class TestStrategy:
    def train(self, path: str, out: Path, strategy, optimiser, client: Client, **more) -> Run:
        stage = FineTune(
            model=DEEP,
            optimiser=optimiser,
            strategy=strategy,
            learning_rates={"below": 0, "2": 0.5, "between": 0},
            **{"epochs": 2} | more,
        )
        source = ZarrSource(path=path, features="image", labels="label")
        pipeline = Pipeline(name="frozen", source=source, stages=(stage,), seed=3)
        return run(pipeline, client, out=str(out))

    def test_frozen_layers_keep_their_bits(
        self, strategy, optimiser, bars_path: str, client: Client, tmp_path: Path
    ) -> None:
        arguments = (strategy, optimiser, client)
        before, after = (
            self.train(bars_path, tmp_path / str(epochs), *arguments, epochs=epochs)
            for epochs in (0, 2)
        )
        for i, layer in enumerate(DEEP.layers):
            pairs = list(zip(*(leaves(r.model.params[i]) for r in (before, after)), strict=True))
            if getattr(layer, "name", "") in ("below", "between"):
                assert all((a == b).all() for a, b in pairs), i
            else:
                assert all((a != b).any() for a, b in pairs), i

    def test_resume_equals_the_uninterrupted_run(
        self, strategy, optimiser, bars_path: str, client: Client, tmp_path: Path
    ) -> None:
        arguments = (strategy, optimiser, client)
        whole = self.train(bars_path, tmp_path / "whole", *arguments)
        stopped = tmp_path / "stopped"
        stage = whole.pipeline.stages[0].model_copy(update={"checkpoint_rounds": 1})
        pipeline = whole.pipeline.model_copy(update={"stages": (stage,)})
        with pytest.raises(StopAfter):
            run(pipeline, client, out=str(stopped), observer=stopping(3, "finetune"))
        same(whole, resume(str(stopped), client))
