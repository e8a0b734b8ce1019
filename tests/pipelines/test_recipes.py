"""Recipes on their real data, cut short; whole, they are what docs/results.md reports."""

import numpy as np
import xarray as xr
from distributed import Client

from deepstrata.pipelines.loading import load_pipeline
from deepstrata.pipelines.run import run


def test_digits_are_learned(client: Client, out: str) -> None:
    short = {"pretrain.epochs": 5, "finetune.epochs": 25}
    done = run(load_pipeline("dbn-digits").replace(**short), client, out=out)
    assert done.metrics["test_error"] < 0.08
    assert done.codes["code"].shape == (1797, 256)
    assert done.codes["label"].shape == (1797,)
    gap = done.history["pretrain/layer-0"]
    assert {"train_free_energy", "validation_free_energy"} <= set(gap.data_vars)


def test_patches_have_sparse_codes(client: Client, out: str) -> None:
    short = {"pretrain.epochs": 1, "pretrain.model.atoms": 36, "report.examples": 36}
    done = run(load_pipeline("psd-patches").replace(**short), client, out=out)
    assert done.metrics["test_squared_error"] < 50
    assert done.metrics["test_nonzero_share"] < 0.5
    assert done.codes["code"].shape == (20_000, 36)


def test_mnist_comes_with_its_own_split(client: Client, out: str, shared_data) -> None:
    short = {"pretrain.epochs": 1, "finetune.epochs": 1, "pretrain.activations": "recompute"}
    small = {f"pretrain.model.layers.{i}.hidden": 32 for i in range(3)}
    pipeline = load_pipeline("dbn-mnist", str(shared_data / "mnist")).replace(**short, **small)
    done = run(pipeline, client, out=out)
    inspected = next(r for r in done.manifest.stages if r.name == "inspect")
    assert inspected.metrics == {
        "train_samples": 60_000, "validation_samples": 0, "test_samples": 10_000,
    }  # fmt: skip
    assert done.metrics["test_error"] < 0.25


def test_climate_codes_keep_their_times(client: Client, out: str, shared_data) -> None:
    data = shared_data / "air_temperature_zarr"
    pipeline = load_pipeline("rbm-climate", str(data)).replace(**{"pretrain.epochs": 2})
    done = run(pipeline, client, out=out)
    air = xr.open_zarr(data / "air_temperature.zarr", consolidated=False)
    xr.testing.assert_equal(done.codes["time"], air["time"])
    assert done.codes.attrs["title"] == air.attrs["title"]
    again = done.model.encode(air.isel(time=slice(100, 110)))
    np.testing.assert_allclose(again, done.codes["code"][100:110], atol=1e-5)
