"""Autoencoders through the engine: pretrained as layers, fine-tuned, unrolled, beside a PCA."""

import numpy as np
import pytest
from distributed import Client
from support import dbn_pipeline, same

from deepstrata import (
    RBM,
    SGD,
    Autoencoder,
    Dense,
    Encode,
    Evaluate,
    FineTune,
    LocalSteps,
    MaskingNoise,
    Network,
    Pipeline,
    Pretrain,
    Report,
    Softmax,
    Split,
)
from deepstrata.pipelines.planning import plan
from deepstrata.pipelines.run import resume, run

STRATEGY = LocalSteps(batch=10, steps=2, shards=2)
RATE = SGD(learning_rate=0.3, momentum=0.5)
LAYER = Autoencoder(
    encoder=(Dense(units=12),), tied=True, loss="cross_entropy", noise=MaskingNoise()
)
DEEP = Autoencoder(
    encoder=(RBM(hidden=12), RBM(hidden=3, hidden_units="gaussian")), loss="cross_entropy"
)


def with_stages(path: str, *stages: object) -> Pipeline:
    bars = dbn_pipeline(path)
    return Pipeline(
        name="bars", source=bars.source, stages=(Split(test=0.2), *stages, Report()), seed=7
    )


def stacked(path: str) -> Pipeline:
    net = Network(layers=(LAYER, LAYER, Softmax(classes=2)))
    return with_stages(
        path,
        Pretrain(model=net, epochs=2, optimiser=RATE, strategy=STRATEGY),
        FineTune(epochs=5, optimiser=RATE, strategy=STRATEGY),
        Evaluate(),
        Encode(),
    )


def unrolled(path: str) -> Pipeline:
    slow = SGD(learning_rate=0.02, momentum=0.5)
    return with_stages(
        path,
        Pretrain(model=DEEP, epochs=6, optimiser=(RATE, slow), strategy=STRATEGY),
        FineTune(epochs=25, optimiser=RATE, strategy=STRATEGY),
        Evaluate(pca=3),
        Encode(),
    )


def test_denoising_layers_give_the_same_bits_on_threads_and_processes(
    bars_path: str, client: Client, out: str
) -> None:
    done = run(stacked(bars_path), client, out=out)
    assert done.metrics["test_error"] < 0.5
    assert set(done.history["pretrain"].children) == {"layer-0", "layer-1"}
    assert {"loss", "squared_error"} <= set(done.history["pretrain/layer-1"].data_vars)
    assert done.codes["code"].shape == (240, 12)
    assert "Reconstructions" in done.report.read_text()


def test_an_unrolled_stack_makes_the_samples_again(
    bars_path: str, client: Client, out: str
) -> None:
    pipeline = unrolled(bars_path)
    done = run(pipeline, client, out=out)
    assert done.codes["code"].shape == (240, 3)
    assert 0 < done.metrics["test_squared_error"] < done.metrics["layer_0_train_squared_error"]
