"""Whatever calls itself a strategy: the same bits everywhere, exact resume, every sample once."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from support import StopAfter, same, stopping

from deepstrata import (
    PSD,
    RBM,
    SGD,
    Adam,
    Delayed,
    LocalSteps,
    Pipeline,
    Pretrain,
    Synchronous,
    ZarrSource,
)
from deepstrata.pipelines.rounds import all_rounds, windows
from deepstrata.pipelines.run import resume, run
from deepstrata.schemas.keys import Key
from deepstrata.schemas.strategies import Strategy
from deepstrata.storage.shards import shard_grid

STRATEGIES = [
    Synchronous(batch=15, shards=2),
    Synchronous(batch=30, shards=8),
    LocalSteps(batch=10, steps=2, shards=2),
    LocalSteps(batch=7, steps=1, shards=1),
    LocalSteps(
        batch=10, steps=3, shards=3, outer=SGD(learning_rate=0.7, momentum=0.9, nesterov=True)
    ),
    LocalSteps(batch=10, steps=2, shards=2, buffer=2),
    Delayed(rounds=1, batch=15, shards=2),
    Delayed(rounds=3, batch=10, shards=3, buffer=2),
]
GRID, EVEN = shard_grid(180, 30), shard_grid(240, 30)
MODELS = [RBM(hidden=6), RBM(hidden=6, persistent=True, chains=10), PSD(atoms=6, penalty=0.5)]
OPTIMISERS = [
    SGD(learning_rate=0.1, momentum=0.5),
    Adam(learning_rate=0.01),
    SGD(learning_rate=0.02),
]
CASES = [
    pytest.param(strategy, model, optimiser, id=f"{strategy.kind}-{i}")
    for i, (strategy, (model, optimiser)) in enumerate(
        zip(STRATEGIES, itertools.cycle(zip(MODELS, OPTIMISERS, strict=True)), strict=False)
    )
]


def pipeline(
    path: str, strategy: Strategy, model: RBM | PSD, optimiser: SGD | Adam, **more: int
) -> Pipeline:
    stage = Pretrain(model=model, optimiser=optimiser, strategy=strategy, epochs=4, **more)
    return Pipeline(
        name="conformance", source=ZarrSource(path=path, features="image"), stages=(stage,), seed=3
    )


@pytest.mark.parametrize(("strategy", "model", "optimiser"), CASES)
class TestStrategy:
    def test_uses_every_sample_once_an_epoch(self, strategy, model, optimiser) -> None:
        counts = [30, 17, 0, 30, 5, 30]
        for epoch, group in itertools.groupby(
            all_rounds(GRID, counts, strategy, Key(1), 3), key=lambda r: r.epoch
        ):
            rounds = list(group)
            places = {place for r in rounds for place in r.places}
            mixed = sorted(shard for place in places for shard in place)
            assert mixed == [i for i, n in enumerate(counts) if n], epoch
            used = {place: np.zeros(sum(counts[i] for i in place), int) for place in places}
            for r in rounds:
                for place in r.places:
                    used[place][r.start : r.stop] += 1
            assert all((times == 1).all() for times in used.values()), epoch
            assert sum(r.rows for r in rounds) == sum(counts)
            assert rounds[-1].ends_epoch
            assert not any(r.ends_epoch for r in rounds[:-1])

    def test_order_differs_from_epoch_to_epoch(self, strategy, model, optimiser) -> None:
        epochs = [
            [r.places for r in group]
            for _, group in itertools.groupby(
                all_rounds(EVEN, [30] * 8, strategy, Key(1), 3), key=lambda r: r.epoch
            )
        ]
        assert epochs[0] != epochs[1] or epochs[1] != epochs[2]

    @pytest.mark.parametrize("every", [1, 5, None])
    def test_windows_cover_every_round(self, strategy, model, optimiser, every) -> None:
        rounds = all_rounds(EVEN, [30] * 8, strategy, Key(1), 5)
        cut = list(windows(rounds, every))
        assert [r for window in cut for r in window] == rounds
        assert all(window[-1].ends_group for window in cut)

    def test_checkpoints_do_not_change_the_result(
        self, strategy, model, optimiser, bars_path, client: Client, tmp_path: Path
    ) -> None:
        runs = [
            run(
                pipeline(bars_path, strategy, model, optimiser, **more),
                client,
                out=str(tmp_path / str(i)),
            )
            for i, more in enumerate(({}, {"checkpoint_rounds": 1}))
        ]
        same(*runs)

    def test_resume_equals_the_uninterrupted_run(
        self, strategy, model, optimiser, bars_path, client: Client, tmp_path: Path
    ) -> None:
        declared = pipeline(bars_path, strategy, model, optimiser, checkpoint_rounds=1)
        whole = run(declared, client, out=str(tmp_path / "whole"))
        stopped = str(tmp_path / "stopped")
        with pytest.raises(StopAfter):
            run(declared, client, out=stopped, observer=stopping(2))
        for done in (4, 7):
            try:
                resume(stopped, client, observer=stopping(done))
            except StopAfter:
                continue
        same(whole, resume(stopped, client))

    def test_training_changes_weights_and_lowers_the_error(
        self, strategy, model, optimiser, bars_path, client: Client, tmp_path: Path
    ) -> None:
        declared = pipeline(bars_path, strategy, model, optimiser).replace(
            **{"pretrain.epochs": 30}
        )
        history = run(declared, client, out=str(tmp_path / "run")).history["pretrain/layer-0"]
        error = history["train_squared_error"].values
        assert error[-1] < 0.9 * error[0]
