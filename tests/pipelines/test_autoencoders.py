"""Autoencoders through the engine: pretrained as layers, fine-tuned, unrolled, beside a PCA."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
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
from deepstrata.ops import models
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.model import TrainedEncoder, load_encoder, save_encoder
from deepstrata.pipelines.planning import plan
from deepstrata.pipelines.run import run
from deepstrata.schemas.keys import Key
from deepstrata.storage.models import ModelInfo

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
    assert "Reconstructions" in Path(done.report).read_text()
    with connect("local", workers=2) as processes:
        same(done, run(stacked(bars_path), processes, out=f"{out}-processes"))


def test_an_unrolled_stack_makes_the_samples_again(
    bars_path: str, client: Client, out: str
) -> None:
    pipeline = unrolled(bars_path)
    done = run(pipeline, client, out=out)
    found = done.metrics["test_squared_error"]
    with_rbms = done.history["finetune"]["train_squared_error"]
    assert 0 < found < with_rbms[0]
    assert done.codes["code"].shape == (240, 3)
    bars = xr.open_zarr(bars_path, consolidated=False)
    np.testing.assert_allclose(done.model.encode(bars), done.codes["code"], atol=1e-5)
    weights = 16 * 12 + 12 + 12 * 3 + 3 + 3 * 12 + 12 + 12 * 16 + 16
    assert plan(pipeline).steps[-4].weights == weights


def test_a_pca_is_measured_beside(bars_path: str, client: Client, out: str) -> None:
    done = run(unrolled(bars_path).replace(**{"finetune.epochs": 0}), client, out=out)
    bars = xr.open_zarr(bars_path, consolidated=False)["image"].values.reshape(240, 16)
    exact = np.linalg.svd(bars - bars.mean(0), compute_uv=False)
    assert 0 < done.metrics["test_pca_squared_error"] < (exact**2).sum() / 240


@pytest.mark.parametrize("layers", [(LAYER, LAYER), (RBM(hidden=5), LAYER, RBM(hidden=2))])
def test_a_stack_is_read_back_as_it_was_pretrained(
    layers: tuple[RBM | Autoencoder, ...], tmp_path: Path
) -> None:
    info = ModelInfo(
        model=Network(layers=layers),
        visible=6,
        features="image",
        feature_dims=("y", "x"),
        feature_shape=(2, 3),
    )
    params = models.init(info.model, 6, Key(1))
    save_encoder(str(tmp_path / "model"), TrainedEncoder(info, params, ()))
    x = np.linspace(0, 1, 24, dtype=np.float32)
    data = xr.DataArray(x.reshape(4, 2, 3), dims=("sample", "y", "x"), name="image")
    found = load_encoder(str(tmp_path / "model")).encode(data)
    np.testing.assert_array_equal(found, models.encode(info.model, params, x.reshape(4, 6)))
