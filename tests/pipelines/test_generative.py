"""Generative deep belief nets through the engine: learned, resumed, used, reported."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from support import SIDE, StopAfter, same, stopping

from deepstrata import (
    RBM,
    SGD,
    AssociativeMemory,
    DataError,
    Delayed,
    Encode,
    Evaluate,
    FineTune,
    GenerativeDBN,
    LocalSteps,
    Pipeline,
    Pretrain,
    Report,
    Scale,
    SchemaError,
    Split,
    Synchronous,
    ZarrSource,
    load_encoder,
)
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.run import Run, resume, run

MODEL = GenerativeDBN(
    layers=(RBM(hidden=24, weight_scale=0.1),),
    memory=AssociativeMemory(hidden=40, classes=2, weight_scale=0.1),
)


def pipeline(path: str, strategy: object = None, model: GenerativeDBN = MODEL) -> Pipeline:
    strategy = strategy or LocalSteps(batch=10, steps=10, shards=2)
    tune = SGD(learning_rate=0.05, momentum=0.8)
    return Pipeline(
        name="generative",
        source=ZarrSource(path=path, features="image", labels="label"),
        stages=(
            Split(validation=0.1, test=0.2),
            Scale(minimum=0, maximum=1),
            Pretrain(
                model=model,
                epochs=40,
                optimiser=SGD(learning_rate=0.3, momentum=0.8),
                strategy=strategy,
            ),
            Evaluate(name="greedy"),
            FineTune(name="updown", epochs=20, gibbs_steps=2, optimiser=tune, strategy=strategy),
            Evaluate(),
            Encode(),
            Report(examples=8),
        ),
        seed=3,
    )


@pytest.fixture(scope="module")
def reference(bars_path: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(pipeline(bars_path), client, out=str(tmp_path_factory.mktemp("generative") / "run"))


def test_it_learns_the_classes(reference: Run) -> None:
    metrics = reference.metrics
    assert max(metrics["greedy_test_error"], metrics["test_error"]) <= 0.1
    assert metrics["validation_loss"] < 0.9 * metrics["greedy_validation_loss"]
    assert {"squared_error", "train_error", "validation_loss"} <= set(reference.history["updown"])
    assert reference.codes["code"].shape == (240, 24)


SHORT = {"pretrain.epochs": 1, "updown.epochs": 2, "updown.checkpoint_rounds": 1}


def test_it_is_the_same_in_processes(bars_path: str, client: Client, tmp_path: Path) -> None:
    declared = pipeline(bars_path).replace(**SHORT)
    threads = run(declared, client, out=str(tmp_path / "threads"))
    with connect("local", workers=2) as processes:
        same(threads, run(declared, processes, out=str(tmp_path / "processes")))


def test_it_is_tuned_on_a_few_labels(bars_path: str, client: Client, out: str) -> None:
    few = pipeline(bars_path).replace(**SHORT, **{"updown.labelled": 6})
    assert run(few, client, out=out).history["updown"]["n"].sum() == 2 * 2 * 6


@pytest.mark.parametrize(
    "strategy",
    [
        Synchronous(batch=15, shards=2),
        Delayed(rounds=1, batch=15, shards=2),
        LocalSteps(batch=10, steps=3, shards=3, outer=SGD(learning_rate=0.7, momentum=0.9)),
    ],
)
def test_resume_equals_the_uninterrupted_run(
    strategy: object, bars_path: str, client: Client, tmp_path: Path
) -> None:
    declared = pipeline(bars_path, strategy).replace(**SHORT)
    whole = run(declared, client, out=str(tmp_path / "whole"))
    stopped = str(tmp_path / "stopped")
    with pytest.raises(StopAfter):
        run(declared, client, out=stopped, observer=stopping(3, "updown"))
    same(whole, resume(stopped, client))


def test_the_model_is_used_by_itself(reference: Run, bars_path: str, client: Client) -> None:
    model = load_encoder(f"{reference.path}/model")
    dataset = xr.open_zarr(bars_path, consolidated=False)
    np.testing.assert_array_equal(model.encode(dataset), reference.codes["code"])
    guessed = model.predict(dataset).argmax("class")
    assert (guessed != dataset["label"]).mean() < 0.25
    again = model.decode(model.encode(dataset))
    assert again.dims[1:] == ("y", "x")
    assert (
        abs(again - dataset["image"]).mean()
        < abs(dataset["image"].mean() - dataset["image"]).mean()
    )


def test_it_generates_what_its_labels_say(reference: Run) -> None:
    made = reference.model.generate(n=60, steps=60)
    assert made.dims == ("sample", "y", "x")
    assert made.shape == (120, SIDE, SIDE)
    assert made.name == "image"
    np.testing.assert_array_equal(made["label"], np.repeat([0, 1], 60))
    guessed = reference.model.predict(made).argmax("class")
    assert (guessed == made["label"]).mean() > 0.7
    one = reference.model.generate(1, n=3, steps=5, seed=4)
    assert set(one["label"].values) == {1}
    xr.testing.assert_identical(one, reference.model.generate(1, n=3, steps=5, seed=4))
    assert (one != reference.model.generate(1, n=3, steps=5, seed=5)).any()
    with pytest.raises(SchemaError, match="label 2: expected 0 to 1"):
        reference.model.generate(2)


def test_samples_are_in_the_units_of_the_data(reference: Run) -> None:
    model = reference.model
    made, affine = model.generate(n=4, steps=2), model.affine[0]
    doubled = type(model)(model.info, model.params, (affine._replace(divisor=2 * affine.divisor),))
    np.testing.assert_allclose(doubled.generate(n=4, steps=2), 2 * made, rtol=1e-6)


def test_other_models_generate_nothing(bars_path: str, client: Client, out: str) -> None:
    declared = Pipeline(
        name="rbm",
        source=ZarrSource(path=bars_path, features="image"),
        stages=(Pretrain(model=RBM(hidden=4), epochs=1),),
    )
    with pytest.raises(SchemaError, match="a rbm model does not generate"):
        run(declared, client, out=out).model.generate()


def test_the_report_shows_samples_of_each_class(reference: Run) -> None:
    text = Path(reference.report).read_text(encoding="utf-8")
    assert ">Generated</h2>" in text
    assert text.count('alt="Samples of class') == 2
    assert ">Reconstructions</h2>" in text
    assert "layer 2" in text


def test_labels_of_more_classes_are_refused(bars_path: str, client: Client, out: str) -> None:
    one = MODEL.model_copy(update={"memory": AssociativeMemory(hidden=4, classes=1)})
    with pytest.raises(DataError, match=r"expected class numbers 0 to 0 \(classes=1\), found 1"):
        run(pipeline(bars_path, model=one), client, out=out)
