"""Networks that learn targets: regression, several labels a sample, weights of samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from sklearn.metrics import accuracy_score, hamming_loss, r2_score
from support import SAMPLES, SHARD, same

from deepstrata import (
    RBM,
    SGD,
    DatasetSource,
    Dense,
    Encode,
    Evaluate,
    FineTune,
    LocalSteps,
    Network,
    Pipeline,
    Pretrain,
    Report,
    Softmax,
    Split,
    Standardise,
    Synchronous,
    ZarrSource,
)
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.model import load_encoder
from deepstrata.pipelines.planning import plan
from deepstrata.pipelines.run import Run, run
from deepstrata.schemas.errors import DataError, DeclarationError, SchemaError

FEATURES, HEIGHT, WIDTH = 6, 2, 3
REGRESSION = Network(
    layers=(Dense(units=12, activation="tanh"), Dense(units=HEIGHT * WIDTH, activation="linear")),
    loss="squared_error",
)
LABELLING = Network(
    layers=(Dense(units=12, activation="tanh"), Dense(units=3)), loss="cross_entropy"
)
STEPS = LocalSteps(batch=10, steps=2, shards=2)


def stations() -> xr.Dataset:
    """Return samples with a field to predict, some of it missing, three labels and a weight."""
    random = np.random.default_rng(4)
    x = random.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    mixing = random.normal(size=(FEATURES, HEIGHT * WIDTH))
    field = np.tanh(x @ mixing).reshape(SAMPLES, HEIGHT, WIDTH)
    field[random.random(field.shape) < 0.1] = np.nan
    field[5::17] = np.nan
    return xr.Dataset(
        {
            "state": (("time", "station"), x),
            "field": (("y", "time", "x"), np.moveaxis(field, 1, 0)),
            "labels": (("time", "kind"), x[:, :3] > 0),
            "first": ("time", (x[:, 0] > 0).astype(np.int8)),
            "area": ("time", random.integers(0, 3, SAMPLES)),
        },
        coords={"time": np.arange(SAMPLES) * 10},
    )


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return stations()


@pytest.fixture(scope="module")
def path(data: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("data") / "stations.zarr"
    data.chunk(time=SHARD).to_zarr(place, zarr_format=3, consolidated=False)
    return str(place)


def declared(source: Any, model: Network, *stages: Any, **settings: Any) -> Pipeline:
    settings = {
        "epochs": 20,
        "optimiser": SGD(learning_rate=0.05, momentum=0.9),
        "strategy": STEPS,
    } | settings
    tune = FineTune(model=model, **settings)
    return Pipeline(
        name="stations",
        source=source,
        stages=(Split(validation=0.1, test=0.3), Standardise(), tune, Evaluate(), *stages),
        seed=2,
    )


def regression(path: str, *stages: Any, **settings: Any) -> Pipeline:
    source = ZarrSource(path=path, features="state", targets="field", weights="area")
    return declared(source, REGRESSION, *stages, **settings)


@pytest.fixture(scope="module")
def fitted(path: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = str(tmp_path_factory.mktemp("regression") / "run")
    return run(regression(path, Encode(), Report()), client, out=out)


def rows_tested(path: str) -> np.ndarray[Any, Any]:
    """Return which samples are tested; the split is that of the seed."""
    from deepstrata.pipelines import feeds, sources

    pipeline = regression(path)
    opened = sources.open_source(pipeline, pipeline.source)
    feed = sources.feed_of(pipeline, opened)
    return np.concatenate([feeds.codes_of(feed, shard) for shard in opened.grid]) == 2


def test_a_field_is_predicted_with_its_dimensions(fitted: Run, data: xr.Dataset) -> None:
    found = fitted.model.predict(data.chunk(time=50))
    assert found.chunks is not None
    assert (found.name, found.dims, found.dtype) == ("field", ("time", "y", "x"), np.float32)
    np.testing.assert_array_equal(found["time"], data["time"])
    np.testing.assert_array_equal(found, fitted.model.predict(data))
    again = load_encoder(fitted.path).predict(data["state"])
    np.testing.assert_array_equal(found, again)
    assert fitted.codes["code"].sizes["unit"] == 12


def test_measures_are_those_of_scikit_learn(fitted: Run, data: xr.Dataset, path: str) -> None:
    rows = rows_tested(path)
    wanted = data["field"].transpose("time", "y", "x").values[rows].reshape(-1, HEIGHT * WIDTH)
    made = fitted.model.predict(data).values[rows].reshape(-1, HEIGHT * WIDTH)
    area = data["area"].values[rows]
    there = ~np.isnan(wanted)
    each = [
        r2_score(wanted[t, k], made[t, k], sample_weight=area[t]) for k, t in enumerate(there.T)
    ]
    assert fitted.metrics["test_r2"] == pytest.approx(np.mean(each), rel=1e-5)
    assert fitted.metrics["test_r2"] > 0.7
    squares = np.where(there, (np.nan_to_num(wanted) - made) ** 2, 0).sum(axis=1)
    error = np.average(squares, weights=area * there.any(axis=1))
    assert fitted.metrics["test_squared_error"] == pytest.approx(error, rel=1e-5)
    assert fitted.metrics["test_loss"] == pytest.approx(error / 2, rel=1e-5)
    assert set(fitted.history["finetune"].data_vars) >= {"validation_r2", "train_loss"}


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_give_the_same_bits(workers: int, path: str, fitted: Run, out: str) -> None:
    with connect("local", workers=workers) as processes:
        same(fitted, run(regression(path, Encode(), Report()), processes, out=out))


@pytest.mark.parametrize("strategy", [Synchronous(batch=20, shards=2), STEPS])
def test_samples_that_weigh_nothing_change_nothing(
    strategy: Any, data: xr.Dataset, client: Client, tmp_path: Path
) -> None:
    """Whatever stands in them, and in targets that are missing."""
    source = DatasetSource(features="state", targets="field", weights="area", rows_per_shard=SHARD)
    pipeline = declared(source, REGRESSION, strategy=strategy, epochs=2)
    pipeline = pipeline.replace(stages=[s for s in pipeline.stages if s.kind != "standardise"])
    nothing = (data["area"] == 0) | data["field"].isnull().all(("y", "x"))
    other = data.assign(
        state=xr.where(nothing, np.float32(7), data["state"]).transpose(*data["state"].dims),
        field=xr.where(data["area"] == 0, 1e6, data["field"]).transpose(*data["field"].dims),
    )
    runs = [
        run(pipeline, client, out=str(tmp_path / name), data=values)
        for name, values in (("one", data), ("other", other))
    ]
    same(*runs)


def test_labels_of_which_a_sample_has_several(
    path: str, data: xr.Dataset, client: Client, out: str
) -> None:
    source = ZarrSource(path=path, features="state", targets="labels")
    optimiser = SGD(learning_rate=0.3, momentum=0.9)
    done = run(declared(source, LABELLING, optimiser=optimiser), client, out=out)
    rows = rows_tested(path)
    wanted = data["labels"].values[rows]
    made = done.model.predict(data)
    assert made.dims == ("time", "kind")
    assert 0 <= made.min() < made.max() <= 1
    found = made.values[rows] > 0.5
    assert done.metrics["test_error"] == pytest.approx(1 - accuracy_score(wanted, found))
    assert done.metrics["test_hamming_loss"] == pytest.approx(hamming_loss(wanted, found))
    assert done.metrics["test_hamming_loss"] < 0.1


def test_a_pretrained_net_goes_on_to_its_targets(path: str, client: Client, out: str) -> None:
    model = Network(
        layers=(
            RBM(hidden=10, visible_units="gaussian"),
            Dense(units=HEIGHT * WIDTH, activation="linear"),
        ),
        loss="squared_error",
    )
    pipeline = Pipeline(
        name="stations",
        source=ZarrSource(path=path, features="state", targets="field", weights="area"),
        stages=(
            Split(test=0.3),
            Standardise(),
            Pretrain(model=model, epochs=2, optimiser=SGD(learning_rate=0.01), strategy=STEPS),
            Evaluate(name="before"),
            FineTune(epochs=20, strategy=STEPS),
            Evaluate(),
            Report(),
        ),
    )
    done = run(pipeline, client, out=out)
    assert done.metrics["test_r2"] > 0.3
    assert (Path(out) / "report.html").exists()


def test_softmax_nets_weigh_samples_too(path: str, client: Client, tmp_path: Path) -> None:
    model = Network(layers=(Dense(units=8, activation="tanh"), Softmax(classes=2)))
    plain = ZarrSource(path=path, features="state", labels="first")
    weighted = plain.model_copy(update={"weights": "area"})
    a, b = (
        run(declared(source, model), client, out=str(tmp_path / str(i)))
        for i, source in enumerate((plain, weighted))
    )
    assert a.manifest.weights_sha256 != b.manifest.weights_sha256
    assert b.metrics["test_error"] < 0.15


def test_a_plan_counts_targets_where_they_are_read(path: str) -> None:
    steps = {step.stage: step for step in plan(regression(path)).steps}
    column = SAMPLES * (HEIGHT * WIDTH * 8 + 8)
    features = SAMPLES * FEATURES * 4
    assert steps["standardise"].bytes_used == features
    assert steps["inspect"].bytes_used == features + column
    assert steps["finetune"].bytes_used == 20 * (features + column)
    source = ZarrSource(path=path, features="state")
    alone = Pipeline(name="alone", source=source, stages=(Standardise(),))
    peaks = {step.stage: step.peak for step in plan(alone).steps}
    assert steps["standardise"].peak == peaks["standardise"]
    assert steps["inspect"].peak >= peaks["inspect"] + SHARD * (HEIGHT * WIDTH * 8 + 8)


def refusal(pipeline: Pipeline, data: xr.Dataset | None, client: Client, out: str) -> str:
    with pytest.raises((DataError, SchemaError, DeclarationError)) as caught:
        run(pipeline, client, out=out, data=data)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d.assign(area=d["area"].where(d["time"] != 1230, -1)),
            "variable 'area', sample 123: expected a finite weight, 0 or more, found -1",
        ),
        (
            lambda d: d.assign(area=d["area"].where(d["time"] != 1230)),
            "variable 'area', sample 123: expected a finite weight, 0 or more, found nan",
        ),
        (
            lambda d: d.assign(field=d["field"].where(d["time"] != 1230, np.inf)),
            "variable 'field', sample 123: expected finite targets",
        ),
        (
            lambda d: d.assign(field=d["field"] * np.nan),
            "the train part has 144 samples, and none counts: where the weights 'area' are not 0, "
            "all of the targets 'field' are missing (NaN); stage 'finetune'",
        ),
        (
            lambda d: d.isel(x=slice(2)),
            "stage 'finetune': its last layer (dense) gives 6 numbers for a sample; the targets "
            "'field' have 4, of shape (2, 2)",
        ),
        (
            lambda d: d.assign(field=d["field"].isel(time=0, drop=True)),
            "targets 'field': expected the sample dimension 'time', found y, x",
        ),
        (
            lambda d: d.assign(area=d["area"].expand_dims(z=2)),
            "weights 'area': expected the dimension 'time' alone, found z, time",
        ),
        (lambda d: d.drop_vars("field"), "no variable 'field' for the targets"),
        (
            lambda d: d.assign(area=d["area"].astype(str)),
            "weights 'area': expected numbers (bool, integer or float)",
        ),
    ],
)
def test_what_cannot_be_learned_is_said_before_training(
    change: Any, message: str, data: xr.Dataset, client: Client, out: str
) -> None:
    source = DatasetSource(
        features="state", targets="field", weights="area", sample_dim="time", rows_per_shard=SHARD
    )
    assert message in refusal(declared(source, REGRESSION), change(data), client, out)


def test_a_cross_entropy_takes_probabilities(data: xr.Dataset, client: Client, out: str) -> None:
    source = DatasetSource(features="state", targets="labels")
    wrong = data.assign(labels=2 * data["labels"].astype(float))
    found = refusal(declared(source, LABELLING), wrong, client, out)
    assert "variable 'labels'" in found
    assert "expected values from 0 to 1, found 2.0 in sample" in found
