"""Discriminative pretraining in runs: each step goes on from the last, with the same bits."""

from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from support import StopAfter, bars, same, stopping

from deepstrata import (
    SGD,
    DataError,
    Delayed,
    Dense,
    DiscriminativePretrain,
    Dropout,
    Evaluate,
    FineTune,
    LocalSteps,
    Network,
    Pipeline,
    Report,
    Softmax,
    Split,
    Synchronous,
    ZarrSource,
)
from deepstrata.ops import finetuning
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.planning import plan
from deepstrata.pipelines.run import Run, resume, run
from deepstrata.pipelines.visualize import draw_pipeline, draw_round
from deepstrata.schemas.strategies import Strategy
from deepstrata.schemas.trees import leaves
from deepstrata.storage import checkpoints

NET = Network(
    layers=(
        Dense(units=9, activation="tanh"),
        Dropout(rate=0.1),
        Dense(units=7, activation="tanh"),
        Dense(units=6, activation="relu"),
        Softmax(classes=2),
    )
)
STRATEGIES: list[Strategy] = [
    LocalSteps(batch=10, steps=2, shards=2),
    Synchronous(batch=15, shards=2),
    Delayed(rounds=1, batch=15, shards=2),
]
LOCAL = STRATEGIES[0]


def pipeline(path: str, strategy: Strategy = LOCAL, **more: object) -> Pipeline:
    growing = DiscriminativePretrain(
        name="grow",
        model=NET,
        optimiser=SGD(learning_rate=0.1, momentum=0.5),
        strategy=strategy,
        checkpoint_rounds=1,
        **{"epochs": 2} | more,  # type: ignore[arg-type]
    )
    tuning = FineTune(epochs=1, optimiser=SGD(learning_rate=0.1), strategy=strategy)
    return Pipeline(
        name="growing",
        source=ZarrSource(path=path, features="image", labels="label"),
        stages=(Split(validation=0.1, test=0.2), growing, tuning, Evaluate(), Report()),
        seed=5,
    )


def params_of(done: Run, step: int, part: str) -> list[np.ndarray]:
    """Return the arrays of a step, in the order of their layers."""
    (directory,) = (Path(done.path) / "stages" / "grow" / f"layer-{step}").iterdir()
    arrays = checkpoints.load_arrays(str(directory / f"{part}.safetensors"))
    return [arrays[name] for name in sorted(arrays)]


@pytest.fixture(scope="module")
def whole(bars_path: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("growing") / "run"
    return run(pipeline(bars_path), client, out=str(out))


def test_a_step_begins_with_the_hidden_layers_of_the_last(whole: Run) -> None:
    """What stands above them is drawn anew: the hidden layer and a softmax close to zero."""
    for step, hidden in ((1, 1), (2, 2)):
        before, begun = params_of(whole, step - 1, "params"), params_of(whole, step, "start")
        assert len(begun) == len(before) + 2
        for a, b in zip(before[: 2 * hidden], begun[: 2 * hidden], strict=True):
            np.testing.assert_array_equal(a, b)
        softmax = begun[-1]
        assert 0 < np.abs(softmax).max() < 6 * finetuning.SMALL
        after = params_of(whole, step, "params")
        assert all((a != b).any() for a, b in zip(begun, after, strict=True))


def test_history_metrics_plan_and_pictures_show_the_steps(whole: Run) -> None:
    names = [f"grow/layer-{i}" for i in range(3)]
    assert {node.path.strip("/") for node in whole.history.leaves} == {*names, "finetune"}
    record = next(r for r in whole.manifest.stages if r.name == "grow")
    assert {f"layer_{i}_train_loss" for i in range(3)} <= record.metrics.keys()
    steps = {step.stage: step for step in plan(whole.pipeline).steps}
    for name in names:
        assert steps[name].rounds == whole.history[name].sizes["round"]
    assert steps[names[0]].weights < steps[names[1]].weights < steps[names[2]].weights
    assert "tanh 9" in draw_pipeline(whole.pipeline).svg
    assert "One round of grow" in draw_round(whole.pipeline, "grow").svg
    assert "grow, layer 2" in (Path(whole.path) / "report.html").read_text()


def test_fine_tuning_goes_on_from_the_whole_net(
    whole: Run, bars_path: str, client: Client, out: str
) -> None:
    still = pipeline(bars_path).replace(**{"finetune.epochs": 0})
    done = run(still, client, out=out)
    grown = params_of(whole, 2, "params")
    for a, b in zip(leaves(done.model.params), sorted_as_tree(grown), strict=True):
        np.testing.assert_array_equal(a, b)


def sorted_as_tree(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Return arrays sorted by name, bias before weights, with weights before bias."""
    return [arrays[i ^ 1] for i in range(len(arrays))]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.kind)
def test_a_run_that_stops_in_any_step_goes_on_with_the_same_bits(
    strategy: Strategy, bars_path: str, client: Client, tmp_path: Path
) -> None:
    declared = pipeline(bars_path, strategy)
    whole = run(declared, client, out=str(tmp_path / "whole"))
    out = str(tmp_path / "stopped")
    parts = ("layer 1 of 3", "layer 2 of 3", "layer 3 of 3")
    with pytest.raises(StopAfter):
        run(declared, client, out=out, observer=in_part(parts[0]))
    for part in parts[1:]:
        with pytest.raises(StopAfter):
            resume(out, client, observer=in_part(part))
    with pytest.raises(StopAfter):
        resume(out, client, observer=stopping(1, "finetune"))
    same(whole, resume(out, client))


def in_part(part: str):
    """Return an observer that ends the run when a part of a stage has done two rounds."""

    def observe(event: object) -> None:
        if getattr(event, "part", "") == part and getattr(event, "done", 0) >= 2:
            raise StopAfter

    return observe


def test_two_processes_give_the_bits_of_two_threads_and_of_one(
    whole: Run, bars_path: str, tmp_path: Path
) -> None:
    for kind, workers in (("threads", 1), ("local", 2)):
        with connect(kind, workers=workers) as own:
            same(whole, run(pipeline(bars_path), own, out=str(tmp_path / kind)))


def test_samples_that_weigh_nothing_teach_nothing(client: Client, tmp_path: Path) -> None:
    path = str(tmp_path / "bars.zarr")
    light = bars(60).assign(weight=("sample", np.zeros(60, np.float32)))
    light.chunk(sample=30).to_zarr(path, zarr_format=3, consolidated=False)
    declared = pipeline(path).replace(**{"source.weights": "weight"})
    with pytest.raises(DataError, match=r"the train part .*none counts.*; stage 'grow' needs"):
        run(declared, client, out=str(tmp_path / "run"))


def test_few_labels_are_those_of_fine_tuning(bars_path: str, client: Client, out: str) -> None:
    declared = pipeline(bars_path, labelled=12).replace(**{"finetune.labelled": 12})
    done = run(declared, client, out=out)
    for name, epochs in (("grow/layer-0", 2), ("grow/layer-2", 2), ("finetune", 1)):
        assert int(done.history[name]["n"].sum()) == epochs * 24
