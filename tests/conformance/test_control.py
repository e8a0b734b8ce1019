"""What the ends of epochs decide is decided alike on any windows, after any stop."""

import pytest
from distributed import Client
from support import StopAfter, same, stopping

from deepstrata import (
    RBM,
    SGD,
    Delayed,
    EarlyStopping,
    LocalSteps,
    Pipeline,
    Pretrain,
    ReduceOnPlateau,
    Split,
    Synchronous,
    WarmUp,
    ZarrSource,
)
from deepstrata.pipelines.run import Run, resume, run
from deepstrata.schemas.strategies import Strategy
from deepstrata.storage import checkpoints, stores

STRATEGIES = [
    Synchronous(batch=30, shards=4),
    LocalSteps(
        batch=10,
        steps=3,
        shards=4,
        outer=SGD(
            learning_rate=ReduceOnPlateau(start=1, factor=0.7, patience=1),
            momentum=0.9,
            clip_norm=9.0,
        ),
    ),
    Delayed(rounds=2, batch=30, shards=4),
]
EPOCHS = 12
NAME = "pretrain/layer-0"


def pipeline(path: str, strategy: Strategy, **more: object) -> Pipeline:
    plateau = ReduceOnPlateau(start=0.9, factor=0.5, patience=0)
    optimiser = SGD(learning_rate=WarmUp(epochs=1, then=plateau), momentum=0.6, clip_norm=1.0)
    stage = Pretrain(
        model=RBM(hidden=6),
        optimiser=optimiser,
        strategy=strategy,
        epochs=EPOCHS,
        **{"early_stopping": EarlyStopping(patience=4, min_delta=0.2), "keep": "best"} | more,
    )
    return Pipeline(
        name="control",
        source=ZarrSource(path=path, features="image"),
        stages=(Split(validation=0.2), stage),
        seed=3,
    )


@pytest.fixture(scope="module", params=STRATEGIES, ids=lambda strategy: strategy.kind)
def whole(request, bars_path: str, client: Client, tmp_path_factory) -> Run:
    """An undisturbed run that stops early, having been best before."""
    out = str(tmp_path_factory.mktemp("whole") / "run")
    return run(pipeline(bars_path, request.param), client, out=out)


def strategy_of(done: Run) -> Strategy:
    return done.pipeline.stages[-1].strategy


def test_it_stops_early_and_keeps_the_best(whole: Run) -> None:
    curves = whole.history[NAME]
    scores = curves["validation_squared_error"].values.tolist()
    best = scores.index(min(scores)) + 1
    assert len(scores) < EPOCHS
    assert best < len(scores)
    assert int(curves["kept_epoch"][-1]) == best
    record = whole.manifest.stages[-1]
    assert record.metrics["layer_0_epochs"] == len(scores)
    assert record.metrics["layer_0_kept_epoch"] == best
    assert record.metrics["layer_0_validation_squared_error"] == min(scores)


def test_what_is_kept_are_the_weights_of_that_epoch(
    whole: Run, bars_path: str, client: Client, out: str
) -> None:
    epochs = int(whole.history[NAME]["kept_epoch"][-1])
    declared = pipeline(bars_path, strategy_of(whole), early_stopping=None, keep="last")
    short = run(declared.replace(**{"pretrain.epochs": epochs}), client, out=out)
    assert short.manifest.weights_sha256 == whole.manifest.weights_sha256
    assert "kept_epoch" not in short.history[NAME]


def test_plateaus_lower_the_rate(whole: Run) -> None:
    rates = whole.history[NAME]["learning_rate"].values
    assert rates[0] == 0.0
    assert rates[-1] < 0.9
    assert rates.max() == 0.9


@pytest.mark.parametrize("every", [1, 1000])
def test_checkpoints_do_not_change_what_is_decided(
    every: int, whole: Run, bars_path: str, client: Client, out: str
) -> None:
    declared = pipeline(bars_path, strategy_of(whole), checkpoint_rounds=every)
    same(whole, run(declared, client, out=out))


def test_resume_decides_as_the_uninterrupted_run(
    whole: Run, bars_path: str, client: Client, out: str
) -> None:
    rounds = whole.history[NAME].sizes["round"]
    declared = pipeline(bars_path, strategy_of(whole), checkpoint_rounds=2)
    with pytest.raises(StopAfter):
        run(declared, client, out=out, observer=stopping(rounds // 3))
    for done in (rounds // 2, rounds):
        with pytest.raises(StopAfter):
            resume(out, client, observer=stopping(done))
    same(whole, resume(out, client))


def directory(path: str) -> str:
    (key,) = stores.children(stores.join(path, "stages", NAME))
    return stores.join(path, "stages", NAME, key)


@pytest.mark.parametrize("whole", STRATEGIES[-1:], indirect=True)
@pytest.mark.parametrize("lost", ["newest", "best", "history"])
def test_what_is_damaged_is_trained_again(
    lost: str, whole: Run, bars_path: str, client: Client, out: str
) -> None:
    rounds = whole.history[NAME].sizes["round"]
    with pytest.raises(StopAfter):
        run(
            pipeline(bars_path, strategy_of(whole), checkpoint_rounds=1),
            client,
            out=out,
            observer=stopping(rounds),
        )
    there = stores.join(directory(out), "checkpoints")
    indices = sorted(int(name) for name in stores.children(there))
    assert len(indices) > 2  # the best is not among the two newest
    if lost == "history":
        stores.remove(stores.join(directory(out), "history", f"{indices[0]:08d}.json"))
    else:
        index = indices[-1 if lost == "newest" else 0]
        part = checkpoints.part_url(checkpoints.checkpoint_url(there, index), "state")
        stores.write_bytes(part, stores.read_bytes(part)[:-9])
    same(whole, resume(out, client))
