"""Convolutional filters through the engine: layer on layer, with what lies between, to a net."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from support import StopAfter, dbn_pipeline, same, stopping

from deepstrata import (
    SGD,
    Autoencoder,
    ContrastNormalisation,
    Convolution,
    ConvolutionalPSD,
    ConvolutionalRBM,
    Encode,
    Evaluate,
    FineTune,
    LocalSteps,
    Network,
    Pipeline,
    Pooling,
    Pretrain,
    Rectification,
    Report,
    Softmax,
    Split,
    Transfer,
    load_encoder,
)
from deepstrata.ops import models
from deepstrata.pipelines import feeds
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.planning import plan
from deepstrata.pipelines.run import resume, run

SHAPE, STRATEGY = (4, 4, 1), LocalSteps(batch=10, steps=2, shards=2)
SLOW = SGD(learning_rate=0.02, momentum=0.5)
TOP = (Pooling(size=(2, 2)), Softmax(classes=2))
NETS = {
    "psd": (
        ConvolutionalPSD(maps=6, kernel=(3, 3), padding=1, penalty=0.2, steps=5),
        Rectification(),
        Pooling(size=(2, 2), function="average"),
        ConvolutionalPSD(maps=5, kernel=(1, 2), penalty=0.2, steps=5),
        Softmax(classes=2),
    ),
    "normalised": (
        ContrastNormalisation(size=3),
        ConvolutionalPSD(maps=6, kernel=(3, 3), penalty=0.2, steps=5),
        Rectification(),
        *TOP,
    ),
    "rbm": (ConvolutionalRBM(maps=6, kernel=(3, 3), weight_scale=0.5), *TOP),
    "autoencoder": (Autoencoder(encoder=(Convolution(maps=6, kernel=(3, 3)),), tied=True), *TOP),
}


def pipeline(path: str, kind: str, *last: object, epochs: int = 3, **pretrain: Any) -> Pipeline:
    net = Network(layers=NETS[kind], input_shape=SHAPE)
    stages = (
        Split(test=0.2),
        Pretrain(model=net, epochs=epochs, optimiser=SLOW, strategy=STRATEGY, **pretrain),
        *last,
    )
    return Pipeline(name="filters", source=dbn_pipeline(path).source, stages=stages, seed=3)


def to_the_end(kind: str) -> tuple[object, ...]:
    optimiser = SGD(learning_rate=0.3 if kind == "rbm" else 0.1, momentum=0.9)
    tuned = FineTune(epochs=12, optimiser=optimiser, strategy=STRATEGY)
    return tuned, Evaluate(), Encode(), Report()


@pytest.mark.parametrize("kind", NETS)
def test_filters_become_a_net_with_the_same_bits_on_any_workers(
    kind: str, bars_path: str, client: Client, tmp_path: Path
) -> None:
    declared = pipeline(bars_path, kind, *to_the_end(kind), epochs=8)
    found = run(declared, client, out=str(tmp_path / "run"))
    with connect(*(("local", 2) if kind == "rbm" else ("threads", 1))) as others:
        same(found, run(declared, others, out=str(tmp_path / "others")))
    assert found.metrics["test_error"] < 0.2
    layers = len(declared.stages[1].pretrained)  # type: ignore[union-attr]
    assert set(found.history["pretrain"].children) == {f"layer-{i}" for i in range(layers)}
    again = load_encoder(str(tmp_path / "run" / "model"))
    image = xr.open_zarr(bars_path, consolidated=False)["image"]
    np.testing.assert_allclose(again.encode(image), found.codes["code"], atol=1e-5)
    page = (tmp_path / "run" / "report.html").read_text()
    assert ("Reconstructions" in page) == (kind != "normalised")
    assert "layer 2" in page if kind == "normalised" else "layer 1" in page


def test_what_is_between_is_recomputed_or_stored_with_the_same_bits(
    bars_path: str, client: Client, tmp_path: Path
) -> None:
    found = [
        run(pipeline(bars_path, "psd", activations=how), client, out=str(tmp_path / how))
        for how in ("recompute", "store")
    ]
    assert found[0].manifest.weights_sha256 == found[1].manifest.weights_sha256
    (stored,) = (tmp_path / "store").rglob("activations.zarr")
    values = xr.open_zarr(stored, consolidated=False)["activation"].values
    model, params = found[0].model.model, found[0].model.params
    image = xr.open_zarr(bars_path, consolidated=False)["image"].values.reshape(240, 16)
    exact = models.encode(model, params, image, 2)
    assert values.shape == (240, 2 * 2 * 6)
    np.testing.assert_allclose(values, exact, atol=1e-6)


def test_shards_go_through_in_blocks(
    bars_path: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On threads of this process, so that the tasks see the patch."""
    whole = run(pipeline(bars_path, "psd"), client, out=str(tmp_path / "whole"))
    monkeypatch.setattr(feeds, "BELOW_BYTES", 4 * 96 * 7)
    blocks = run(pipeline(bars_path, "psd"), client, out=str(tmp_path / "blocks"))
    for name in ("squared_error", "energy"):
        np.testing.assert_allclose(
            *(done.history["pretrain/layer-1"][f"train_{name}"] for done in (whole, blocks)),
            rtol=1e-4,
        )


def test_pretraining_goes_on_where_it_stopped(
    bars_path: str, client: Client, tmp_path: Path
) -> None:
    declared = pipeline(bars_path, "psd", checkpoint_rounds=1)
    whole = run(declared, client, out=str(tmp_path / "whole"))
    stopped = str(tmp_path / "stopped")
    with pytest.raises(StopAfter):
        run(declared, client, out=stopped, observer=stopping(6))
    again = resume(stopped, client)
    same(whole, again)
    for layer in (0, 3):
        dictionary = again.model.params[layer].dictionary
        np.testing.assert_allclose((dictionary**2).sum(axis=(0, 1, 2)), 1, rtol=1e-5)


def test_a_plan_knows_how_much_is_passed_on(bars_path: str) -> None:
    first, second = plan(pipeline(bars_path, "psd")).steps[-2:]
    assert first.weights == 9 * 6 * 2 + 6 + 6
    assert second.weights == 2 * 6 * 5 * 2 + 5 + 5


def test_filters_are_taken_over_by_another_run(
    bars_path: str, client: Client, tmp_path: Path
) -> None:
    """From a net, and from a model that learned by itself."""
    layer = ConvolutionalRBM(maps=6, kernel=(3, 3))
    alone = Pretrain(
        model=layer.model_copy(update={"input_shape": SHAPE}), epochs=1, strategy=STRATEGY
    )
    source = dbn_pipeline(bars_path).source
    parent = run(
        Pipeline(name="parent", source=source, stages=(alone,)), client, out=str(tmp_path / "a")
    )
    energy = parent.model.free_energy(xr.open_zarr(bars_path, consolidated=False))
    assert energy.shape == (240,)
    net = Network(layers=(layer, *TOP), input_shape=SHAPE)
    taking = (
        Transfer(run=str(tmp_path / "a"), model=net, layers=1),
        FineTune(epochs=1, strategy=STRATEGY, learning_rates={"0": 0}),
    )
    child = run(Pipeline(name="c", source=source, stages=taking), client, out=str(tmp_path / "b"))
    np.testing.assert_array_equal(child.model.params[0].weights, parent.model.params.weights)
