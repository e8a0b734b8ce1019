"""Recipes on their real data, cut short; whole, they are what docs/results.md reports."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from distributed import Client

from deepstrata.pipelines.loading import load_pipeline
from deepstrata.pipelines.recipes.digits_mnist16 import shrink
from deepstrata.pipelines.recipes.ssts_climate import anomalies
from deepstrata.pipelines.report.numbers import published
from deepstrata.pipelines.run import Run, run
from deepstrata.schemas.stages import Report
from deepstrata.storage import sealed
from deepstrata.storage.formats import FORMATS


def has_what_others_published(done: Run) -> None:
    """Every published figure stands beside one of the run's."""
    declared = next(s for s in done.manifest.pipeline.stages if isinstance(s, Report)).published
    assert declared.keys() == published(done.manifest).keys() != set()


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
    has_what_others_published(done)


def test_a_deep_net_is_grown_on_mnist(client: Client, out: str, shared_data) -> None:
    short = {"grow.epochs": 1, "finetune.epochs": 1}
    small = {f"grow.model.layers.{i}.units": 32 for i in range(3)}
    pipeline = load_pipeline("deep-mnist", str(shared_data / "mnist")).replace(**short, **small)
    done = run(pipeline, client, out=out)
    assert done.metrics["test_error"] < 0.15
    assert {f"grow/layer-{i}" for i in range(3)} < {n.path.strip("/") for n in done.history.leaves}


def test_climate_codes_keep_their_times(client: Client, out: str, shared_data) -> None:
    data = shared_data / "air_temperature_zarr"
    pipeline = load_pipeline("rbm-climate", str(data)).replace(**{"pretrain.epochs": 2})
    done = run(pipeline, client, out=out)
    air = xr.open_zarr(data / "air_temperature.zarr", consolidated=False)
    xr.testing.assert_equal(done.codes["time"], air["time"])
    assert done.codes.attrs["title"] == air.attrs["title"]
    again = done.model.encode(air.isel(time=slice(100, 110)))
    np.testing.assert_allclose(again, done.codes["code"][100:110], atol=1e-5)


def test_sea_surface_temperatures_are_learned_around_the_land(
    client: Client, out: str, shared_data
) -> None:
    data = str(shared_data / "ersst" / "ersst_v5_sst.mnmean.nc")
    done = run(
        load_pipeline("ssts-climate", data).replace(**{"pretrain.epochs": 2}), client, out=out
    )
    inspected = next(r for r in done.manifest.stages if r.name == "inspect")
    assert inspected.metrics == {
        "train_samples": 96, "validation_samples": 0, "test_samples": 32,
    }  # fmt: skip
    found = done.metrics
    assert found["test_pca_gap_squared_error"] < 0.7 < found["test_gap_variance"]
    assert found["train_gap_squared_error"] < found["train_gap_variance"]
    assert done.codes["code"].shape == (128, 30)
    assert np.isfinite(done.codes["code"]).all()
    assert ">Maps</h2>" in Path(str(done.report)).read_text()


def test_anomalies_are_those_of_xarray() -> None:
    time = xr.date_range("2010-01-01", periods=40, freq="MS")
    sst = np.random.default_rng(0).normal(size=(40, 3, 4)).astype(np.float32)
    sst[:, 0, 0] = np.nan
    sst[5, 1, 1] = np.nan
    dataset = xr.Dataset({"sst": (("time", "lat", "lon"), sst, {"units": "degC"})}, {"time": time})
    found = anomalies(dataset.chunk(time=16), variable="sst", until="2012-06")
    months = dataset["sst"].groupby("time.month")
    wanted = months - dataset["sst"][:30].groupby("time.month").mean()
    xr.testing.assert_allclose(found["sst"].drop_vars("part"), wanted.drop_vars("month"), atol=1e-6)
    assert found["sst"].chunks == ((16, 16, 8), (3,), (4,))
    assert found["sst"].attrs["units"] == "degC"
    assert found["sst"].dtype == np.float32
    assert list(found["part"].values) == ["train"] * 30 + ["test"] * 10


def test_reviews_are_read_by_domain_and_part(client: Client, out: str, tmp_path: Path) -> None:
    for d, domain in enumerate(("books", "dvd", "electronics", "kitchen")):
        for part, samples in (("train", 12), ("test", 8)):
            lines = [f"{'+-'[i % 2]}1 {i % 2}:2 {d + 2}:{i + 1}" for i in range(samples)]
            (tmp_path / f"{domain}_{part}.svmlight").write_text("\n".join(lines))
    pipeline = load_pipeline("adapt-amazon", str(tmp_path)).replace(
        **{"source.options.features": 50, "msda.model.depth": 1, "denoising.epochs": 1},
        **{f"{stage}.folds": 2 for stage in ("sdae", "cross_domain")},
    )
    done = run(pipeline, client, out=out)
    inspected = next(r for r in done.manifest.stages if r.name == "inspect")
    assert inspected.metrics["train_samples"] == 48
    assert inspected.metrics["test_samples"] == 32
    for stage in ("sdae", "cross_domain"):
        table = sealed.read(f"{out}/stages/{stage}/transfer.json")
        assert table["domains"] == ["books", "dvd", "electronics", "kitchen"]
        assert table["errors"]["features"] == [[0.0] * 4] * 4
    words = xr.open_zarr(f"{out}/data.zarr", consolidated=False)["features"].values
    assert set(np.unique(words)) == {0.0, 1.0}


def test_pixels_are_averaged_over_areas() -> None:
    """20 pixels to 16: as if each were 4 alike, of which 5 make one."""
    images = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    small = shrink(xr.Dataset({"image": (("sample", "y", "x"), images)}))["image"]
    fine = np.kron(images[:, 4:24, 4:24], np.ones((1, 4, 4)))
    wanted = fine.reshape(2, 16, 5, 16, 5).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(small.values, wanted, rtol=1e-5)
    assert small.dtype == np.float32


def test_usps_profits_from_mnist(client: Client, tmp_path: Path, shared_data) -> None:
    if "hdf5" not in FORMATS:
        pytest.skip("USPS is an HDF5 file, and there is no format hdf5")
    narrow = {f"model.layers.{i}.units": 64 for i in (0, 2)}
    short = {"finetune.epochs": 1} | {f"finetune.{name}": n for name, n in narrow.items()}
    pipeline = load_pipeline("digits-mnist16", str(shared_data / "mnist")).replace(**short)
    parent = run(pipeline, client, out=str(tmp_path / "parent"))
    few = {f"{stage}.epochs": 30 for stage in ("scratch", "finetune")}
    few |= {f"{s}.{name}": n for s in ("scratch", "transfer") for name, n in narrow.items()}
    pipeline = load_pipeline("transfer-digits", str(shared_data / "usps" / "usps.h5"))
    pipeline = pipeline.replace(**{"transfer.run": parent.path}, **few)
    found = run(pipeline, client, out=str(tmp_path / "child")).metrics
    assert found["test_error"] < found["without_test_error"]
