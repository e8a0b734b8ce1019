"""Runs of networks whose layers share weights: checkpoints, frozen ends, models that are saved."""

from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from support import StopAfter, bars, same, stopping

from deepstrata import (
    SGD,
    Dense,
    FineTune,
    LocalSteps,
    Network,
    Pipeline,
    Softmax,
    Synchronous,
    ZarrSource,
    load_encoder,
)
from deepstrata.pipelines.run import Run, resume, run
from deepstrata.schemas.strategies import Strategy

NET = Network(
    layers=(
        Dense(units=6, name="low", activation="tanh"),
        Dense(units=16, weights_of="low", transposed=True, name="back", activation="tanh"),
        Dense(units=6, weights_of="low", activation="tanh"),
        Softmax(classes=2),
    )
)
STRATEGIES: list[Strategy] = [
    LocalSteps(batch=10, steps=2, shards=2),
    Synchronous(batch=15, shards=2),
]


def pipeline(path: str, strategy: Strategy = STRATEGIES[0], **more: object) -> Pipeline:
    stage = FineTune(
        model=NET,
        optimiser=SGD(learning_rate=0.1, momentum=0.9),
        strategy=strategy,
        checkpoint_rounds=1,
        **{"epochs": 5} | more,  # type: ignore[arg-type]
    )
    source = ZarrSource(path=path, features="image", labels="label")
    return Pipeline(name="tied", source=source, stages=(stage,), seed=3)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.kind)
def test_a_run_that_stops_goes_on_with_the_same_bits(
    strategy: Strategy, bars_path: str, client: Client, tmp_path: Path
) -> None:
    whole = run(pipeline(bars_path, strategy), client, out=str(tmp_path / "whole"))
    out = str(tmp_path / "stopped")
    with pytest.raises(StopAfter):
        run(pipeline(bars_path, strategy), client, out=out, observer=stopping(3, "finetune"))
    same(whole, resume(out, client))
    losses = whole.history["finetune"]["train_loss"].values
    assert losses[-1] < losses[0]


def test_a_saved_model_borrows_as_the_run_did(
    bars_path: str, client: Client, tmp_path: Path
) -> None:
    done: Run = run(pipeline(bars_path), client, out=str(tmp_path / "run"))
    saved = load_encoder(done.path)
    assert [hasattr(own, "weights") for own in saved.params] == [True, False, False, True]
    low, back, _, _ = saved.params
    x = bars()["image"].values.reshape(-1, 16)
    hidden = np.tanh(x @ low.weights + low.bias)
    expected = np.tanh(hidden @ low.weights.T + back.bias)
    np.testing.assert_allclose(saved.encode(bars(), layer=1), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("frozen", "still", "moves"), [("low", 0, 1), ("back", 1, 0)])
def test_either_end_of_a_tie_may_be_frozen(
    frozen: str, still: int, moves: int, bars_path: str, client: Client, tmp_path: Path
) -> None:
    before, after = (
        run(
            pipeline(bars_path, epochs=epochs, learning_rates={frozen: 0}),
            client,
            out=str(tmp_path / str(epochs)),
        ).model.params
        for epochs in (0, 1)
    )
    assert all((a == b).all() for a, b in zip(before[still], after[still], strict=True))
    assert all((a != b).any() for a, b in zip(before[moves], after[moves], strict=True))
