"""Values that are absent: learned around, measured around, the same bits on any workers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from support import same

from deepstrata import (
    RBM,
    Autoencoder,
    DataError,
    DeclarationError,
    Dense,
    Encode,
    Evaluate,
    LocalSteps,
    MaskingNoise,
    Pipeline,
    Pretrain,
    Split,
    Standardise,
    ZarrSource,
    plan,
)
from deepstrata.ops import gaps, pca
from deepstrata.ops.gaps import Gaps
from deepstrata.ops.partials import Batch
from deepstrata.pipelines import summary
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.lowering import principal
from deepstrata.pipelines.report import Report
from deepstrata.pipelines.report.page import page
from deepstrata.pipelines.run import Run, run
from deepstrata.schemas import stages
from deepstrata.schemas.keys import Key, fold

TIMES, LAT, LON, SHARD = 40, 6, 10, 5
STAGES = (
    Split(test=0.2, shuffle=False),
    Standardise(),
    Pretrain(
        model=Autoencoder(
            encoder=(Dense(units=3, activation="tanh"),), output="linear", noise=MaskingNoise()
        ),
        epochs=3,
        strategy=LocalSteps(batch=4, steps=2, shards=2),
    ),
    Evaluate(pca=3, gaps=0.2),
    Encode(),
)


def field(gaps: bool = True) -> xr.Dataset:
    """Return waves over a sea with land in it, and some gaps if they are wanted."""
    random, months = np.random.default_rng(0), np.arange(TIMES)
    time = months[:, None, None]
    lat, lon = np.meshgrid(np.linspace(-50, 50, LAT), np.arange(0, 360, 36), indexing="ij")
    values = np.cos(lon / 57 + time / 3) * np.cos(lat / 57) + np.sin(time / 5) * lat / 50
    values = (values + 0.1 * random.normal(size=values.shape)).astype(np.float32)
    values[:, 2:4, 3:5] = np.nan
    if gaps:
        values[random.random(values.shape) < 0.1] = np.nan
    return xr.Dataset(
        {"sst": (("time", "lat", "lon"), values, {"units": "degC"})},
        coords={
            "time": np.datetime64("2010-01-01", "ns") + months * np.timedelta64(31, "D"),
            "lat": ("lat", np.linspace(-50, 50, LAT), {"units": "degrees_north"}),
            "lon": ("lon", np.arange(0.0, 360, 36), {"units": "degrees_east"}),
        },
    )


def store(path: Path, dataset: xr.Dataset) -> str:
    dataset.chunk(time=SHARD).to_zarr(path, zarr_format=3, consolidated=False)
    return str(path)


def masked(path: str, **changes: Any) -> Pipeline:
    source = ZarrSource(path=path, features="sst", missing="absent")
    return Pipeline(name="sea", source=source, stages=STAGES, seed=3).replace(**changes)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return store(tmp_path_factory.mktemp("data") / "sea.zarr", field())


@pytest.fixture(scope="module")
def done(path: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(masked(path), client, out=str(tmp_path_factory.mktemp("runs") / "run"))


def test_one_and_two_processes_give_the_same_bits(done: Run, path: str, out: str) -> None:
    for workers in (1, 2):
        with connect("local", workers=workers) as processes:
            other = run(masked(path), processes, out=f"{out}-{workers}")
        same(done, other)
        assert done.metrics == other.metrics


def test_runs_of_snapshots_give_the_same_bits_on_one_thread_and_two(
    done: Run, path: str, client: Client, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run of a shard: every two of them are multiplied by a task of their own."""
    monkeypatch.setattr(principal, "RUN_BYTES", 1)
    many = run(masked(path), client, out=f"{out}-two")
    with connect("threads", workers=1) as one:
        assert run(masked(path), one, out=f"{out}-one").metrics == many.metrics
    for name, value in done.metrics.items():
        assert many.metrics[name] == pytest.approx(value, rel=1e-4)


def test_nan_and_a_mask_variable_say_the_same(done: Run, client: Client, tmp_path: Path) -> None:
    dataset = field()
    dataset["there"] = dataset["sst"].notnull()
    dataset["sst"] = dataset["sst"].fillna(-99)
    pipeline = masked(store(tmp_path / "d.zarr", dataset)).replace(
        **{"source.mask": "there", "source.missing": "refuse"}
    )
    other = run(pipeline, client, out=str(tmp_path / "run"))
    assert other.manifest.weights_sha256 == done.manifest.weights_sha256
    assert other.metrics == done.metrics


def test_a_mask_hides_more_than_nan_does(client: Client, tmp_path: Path, done: Run) -> None:
    whole, dataset = field(gaps=False), field()
    whole["there"] = dataset["sst"].notnull()
    pipeline = masked(store(tmp_path / "d.zarr", whole)).replace(**{"source.mask": "there"})
    other = run(pipeline, client, out=str(tmp_path / "run"))
    assert other.manifest.weights_sha256 == done.manifest.weights_sha256


def test_land_is_left_as_it_is_and_codes_are_finite(done: Run) -> None:
    shift, divisor = done.model.affine[0]
    land = np.isnan(field(gaps=False)["sst"]).all("time").values.ravel()
    assert not shift[land].any()
    assert (divisor[land] == 1).all()
    values = field()["sst"].values.reshape(TIMES, -1)
    train = np.arange(TIMES) % SHARD < SHARD - 1
    np.testing.assert_allclose(shift[~land], np.nanmean(values[train][:, ~land], 0), atol=1e-6)
    again = done.model.encode(field())
    assert np.isfinite(again).all()
    np.testing.assert_allclose(again, done.codes["code"], atol=1e-5)


def test_the_report_draws_maps_in_the_datas_units(
    path: str, client: Client, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Report] = []
    monkeypatch.setattr(summary, "write_report", lambda report, path: drawn.append(report))
    pipeline = masked(path)
    pipeline = pipeline.model_copy(update={"stages": (*pipeline.stages, stages.Report())})
    done = run(pipeline, client, out=out)
    (report,) = drawn
    assert report.maps is not None
    test = np.flatnonzero(np.arange(TIMES) % SHARD == SHARD - 1)
    # Examples are those of one shard: the first with samples of the part.
    first = field().isel(time=test[:1], lat=slice(None, None, -1))
    assert report.maps.titles == ("2010-05-05",)
    assert report.maps.units == "degC"
    np.testing.assert_allclose(report.maps.inputs, first["sst"], atol=1e-5)
    np.testing.assert_array_equal(report.maps.grid.latitudes, first["lat"])
    made = report.maps.reconstructions
    np.testing.assert_array_equal(np.isnan(made), np.isnan(first["sst"]))
    assert np.nanmax(np.abs(made)) < 3 * np.nanmax(np.abs(field()["sst"]))
    assert np.isnan(report.filters[0][1]).any()
    assert ">Maps</h2>" in page(report)
    assert done.report is not None


def test_gaps_are_those_of_the_key_and_the_pca_fills_them_best(done: Run) -> None:
    """The figures again, from all samples at once."""
    x = field()["sst"].values.reshape(TIMES, -1)
    test = np.arange(TIMES) % SHARD == SHARD - 1
    there, sea = ~np.isnan(x), ~np.isnan(x).all(0)
    mean, spread = np.zeros(LAT * LON), np.ones(LAT * LON)
    mean[sea], spread[sea] = np.nanmean(x[~test][:, sea], 0), np.nanstd(x[~test][:, sea], 0) + 1e-6
    standard = np.where(there, (np.nan_to_num(x) - mean) / spread, 0)
    seen = standard[~test]
    components = np.linalg.svd(seen, full_matrices=False)[2][:3].T
    linear = pca.Basis(np.zeros(LAT * LON), components)
    batch = Batch(np.flatnonzero(test), standard[test].astype(np.float32), mask=there[test])
    found = pca.evaluate(linear, batch, Gaps(0.2, fold(Key(3), "gaps")))
    each = {"pca_squared_error": found["squared_error"] / test.sum()}
    each["pca_gap_squared_error"] = found["gap_squared_error"] / found["gaps"]
    each["gap_variance"] = found["gap_variance"] / found["gaps"]
    for name, value in each.items():
        assert done.metrics[f"test_{name}"] == pytest.approx(value, rel=1e-4)
    _, hidden = gaps.hide(batch, Gaps(0.2, fold(Key(3), "gaps")))
    assert found["gaps"] == hidden.sum() > 0
    assert done.metrics["test_gap_squared_error"] != done.metrics["test_pca_gap_squared_error"]


def test_rbms_learn_around_what_is_absent(path: str, client: Client, out: str) -> None:
    pipeline = masked(path).model_copy(
        update={
            "stages": (
                Standardise(),
                Pretrain(model=RBM(hidden=4, visible_units="gaussian"), epochs=2),
                Evaluate(parts=("train",), gaps=0.3),
            )
        }
    )
    found = run(pipeline, client, out=out).metrics
    assert 0 < found["train_gap_squared_error"] < 10


def test_a_share_that_hides_nothing_is_refused(path: str, client: Client, out: str) -> None:
    pipeline = masked(path, **{"evaluate.gaps": 1e-12})
    with pytest.raises(DataError, match="'evaluate': gaps=1e-12 hides no value of the test part"):
        run(pipeline, client, out=out)


def hides(**place: Any) -> xr.Dataset:
    dataset = field()
    dataset["sst"][place] = np.nan
    return dataset


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (hides(), "variable 'sst': every value is NaN: there is nothing to learn"),
        (
            hides(time=[t for t in range(TIMES) if t % SHARD < SHARD - 1]),
            "variable 'sst', training part: every value of its 32 samples is NaN; split otherwise",
        ),
        (
            hides(time=[17, 3]),
            r"variable 'sst', sample 3 \(time=2010-04-04\): every value of it is NaN, as in 2 of "
            r"40 samples; .*dropna",
        ),
    ],
)
def test_what_hides_everything_is_named_before_any_training(
    dataset: xr.Dataset, message: str, client: Client, tmp_path: Path
) -> None:
    seen: list[Any] = []
    pipeline = masked(store(tmp_path / "d.zarr", dataset))
    with pytest.raises(DataError, match=message):
        run(pipeline, client, out=str(tmp_path / "run"), observer=seen.append)
    assert {getattr(event, "stage", "inspect") for event in seen} == {"inspect"}


def test_more_components_than_samples_are_refused_before_any_training(
    path: str, client: Client, out: str
) -> None:
    seen: list[Any] = []
    pipeline = masked(path, **{"evaluate.pca": 32})
    with pytest.raises(DeclarationError, match="stage 'evaluate': pca=32: expected at most 31 "):
        run(pipeline, client, out=out, observer=seen.append)
    assert {getattr(event, "stage", "inspect") for event in seen} == {"inspect"}


def test_a_mask_variable_that_hides_everything_is_named(client: Client, tmp_path: Path) -> None:
    dataset = field().fillna(0)
    dataset["there"] = xr.zeros_like(dataset["sst"], dtype=bool)
    changes = {"source.mask": "there", "source.missing": "refuse"}
    pipeline = masked(store(tmp_path / "d.zarr", dataset), **changes)
    with pytest.raises(DataError, match="'sst': every value is hidden by the mask 'there'"):
        run(pipeline, client, out=str(tmp_path / "run"))


def test_infinity_is_refused_though_nan_is_not(client: Client, tmp_path: Path) -> None:
    dataset = field()
    dataset["sst"][12, 1, 1] = np.inf
    with pytest.raises(DataError, match=r"'sst', rows 10 to 15: 1 values .* sample 12 \(inf\)"):
        run(masked(store(tmp_path / "d.zarr", dataset)), client, out=str(tmp_path / "run"))


def test_the_plan_counts_what_a_pca_reads(path: str) -> None:
    steps = {step.stage: step for step in plan(masked(path)).steps}
    evaluated, read = steps["evaluate"], steps["standardise"].bytes_used
    # The mean, one run with itself, components; then the test part of every shard, twice.
    assert evaluated.bytes_used == 5 * read
    without = {s.stage: s for s in plan(masked(path, **{"evaluate.pca": None})).steps}
    assert without["evaluate"].bytes_used == read
    assert evaluated.peak > without["evaluate"].peak
