"""A training that comes to infinity or NaN ends at that round, with a word on what to do."""

import re
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from support import dbn_pipeline

from deepstrata import (
    DBN,
    RBM,
    SGD,
    Dense,
    DivergenceError,
    FineTune,
    LocalSteps,
    Pipeline,
    Pretrain,
    Softmax,
    Split,
    Synchronous,
    ZarrSource,
)
from deepstrata.ops.partials import Partial
from deepstrata.pipelines import divergence
from deepstrata.pipelines.run import open_run, resume, run
from deepstrata.storage import checkpoints, stores

NET = DBN(layers=(Dense(units=8, activation="linear"), Dense(units=8, activation="linear"),
                  Softmax(classes=2)))  # fmt: skip
STRATEGIES = [Synchronous(batch=15, shards=2), LocalSteps(batch=5, steps=2, shards=2)]


def pipeline(path: str, stage: Pretrain | FineTune) -> Pipeline:
    source = ZarrSource(path=path, features="image", labels="label")
    return Pipeline(name="wild", source=source, stages=(Split(validation=0.1), stage), seed=3)


def wild(strategy: object) -> list[Pretrain | FineTune]:
    common = {"strategy": strategy, "epochs": 4, "checkpoint_rounds": 1}
    rbm = RBM(hidden=6, visible_units="gaussian")
    return [
        Pretrain(model=rbm, optimiser=SGD(learning_rate=1e4), **common),
        FineTune(model=NET, optimiser=SGD(learning_rate=1e12), **common),
    ]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.kind)
@pytest.mark.parametrize("which", [0, 1], ids=["rbm", "dbn"])
def test_it_stops_at_the_round_with_the_checkpoint_before_intact(
    which: int, strategy, bars_path: str, client: Client, out: str
) -> None:
    stage = wild(strategy)[which]
    messages = []
    for go in (
        lambda: run(pipeline(bars_path, stage), client, out=out),
        lambda: resume(out, client),
    ):
        with pytest.raises(DivergenceError) as stopped:
            go()
        messages.append(str(stopped.value))
    assert messages[0] == messages[1]
    found = re.match(
        r"stage '(pretrain/layer-0|finetune)' diverged in round (\d+) of epoch (\d+): .*"
        r"checkpoint after (\d+) rounds .*lower learning rate.*clip_norm.*WarmUp.*Standardise",
        messages[0],
    )
    assert found, messages[0]
    lost, good = int(found[2]), int(found[4])
    (directory,) = Path(out).glob(f"stages/{found[1]}/*/checkpoints")
    newest = checkpoints.latest(str(directory))
    assert newest is not None
    assert newest.round == good <= lost
    for part in Path(checkpoints.checkpoint_url(str(directory), good)).glob("state.*"):
        assert all(np.isfinite(a).all() for a in checkpoints.load_arrays(str(part)).values())
    assert open_run(out).manifest.status == "failed"
    assert open_run(out).manifest.error == messages[0]


def test_what_the_message_advises_helps(bars_path: str, client: Client, out: str) -> None:
    declared = pipeline(bars_path, wild(STRATEGIES[0])[1]).replace(**{"finetune.epochs": 2})
    with pytest.raises(DivergenceError):
        run(declared, client, out=out)
    changes = {"finetune.optimiser.clip_norm": 1.0, "finetune.optimiser.learning_rate": 0.1}
    assert resume(out, client, changes=changes).manifest.status == "finished"


def partial(total: object, **stats: float) -> Partial:
    return Partial(total, 4, stats)


GOOD, BAD = np.ones(3, np.float32), np.array([1, np.nan, 1], np.float32)


@pytest.mark.parametrize(
    ("gradient", "params", "words"),
    [
        ((GOOD, GOOD), (GOOD, BAD), r"params/1 .*\(1 of 2 .*the step was too long"),
        ((BAD, GOOD), (BAD, GOOD), r"params/0 .*\(1 of 2 .*params/0, where it was lost"),
        ((BAD, BAD), (BAD, BAD), r"params/0 .*\(2 of 2 .*on the way up, or in the loss"),
    ],
)
def test_the_message_says_where_it_began(gradient, params, words: str) -> None:
    with pytest.raises(DivergenceError, match=r"round 7 of epoch 2: " + words):
        divergence.check_round(7, 2, partial(gradient, loss=1.0), params)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), np.float64("nan")])
def test_a_loss_that_is_no_number_stops_a_round(value: float) -> None:
    with pytest.raises(DivergenceError, match=r"round 0 of epoch 1: loss is (inf|nan)$"):
        divergence.check_round(0, 1, partial(GOOD, errors=3, loss=value), GOOD)


def test_tables_and_counts_are_no_reason_to_stop() -> None:
    divergence.check_round(0, 1, partial(GOOD, errors=3, confusion=np.eye(2)), GOOD)


def test_measures_that_are_no_numbers_stop_a_training(
    bars_path: str, client: Client, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepstrata.ops import models

    evaluate = models.evaluate
    monkeypatch.setattr(
        models, "evaluate", lambda *a: evaluate(*a) | {"squared_error": float("inf")}
    )
    with pytest.raises(DivergenceError, match="layer-0' diverged in .*squared_error is inf"):
        run(dbn_pipeline(bars_path), client, out=out)
    (place,) = Path(out).glob("stages/pretrain/layer-0/*")
    assert checkpoints.latest(str(place / "checkpoints")).round == 0
    assert stores.children(str(place / "history")) == ["00000000.json"]
