"""Closed-form autoencoders and classifiers across domains, from a store to the report."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from support import same

from deepstrata import (
    MSDA,
    Autoencoder,
    CrossDomain,
    DataError,
    Dense,
    Encode,
    Evaluate,
    FineTune,
    LocalSteps,
    MaskingNoise,
    Pipeline,
    Pretrain,
    Report,
    SchemaError,
    Solve,
    Split,
    ZarrSource,
)
from deepstrata.ops import adaptation, linear_svm, marginalised
from deepstrata.ops.marginalised import Subset
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.lowering import solving
from deepstrata.pipelines.planning import plan
from deepstrata.pipelines.run import Run, resume, run
from deepstrata.schemas.keys import Key, fold
from deepstrata.storage import sealed
from deepstrata.storage.shards import Shard

SAMPLES, FEATURES, SHARD = 240, 24, 20
NAMES = ["books", "dvd", "kitchen"]


def reviews() -> xr.Dataset:
    """Words of three domains: some mean the same in all, some have a meaning in one alone."""
    random = np.random.default_rng(3)
    label, domain = np.arange(SAMPLES) % 2, np.arange(SAMPLES) // (SAMPLES // 3)
    chance = np.full((SAMPLES, FEATURES), 0.15)
    chance[:, :6] += np.where(label[:, None] == np.arange(6) % 2, 0.2, 0.0)
    for d in range(3):
        own = np.arange(6 + 4 * d, 10 + 4 * d)
        agrees = (domain[:, None] == d) & (label[:, None] == own % 2)
        chance[:, own] += np.where(agrees, 0.4, 0.0)
    words = (random.random(chance.shape) < chance).astype(np.float32)
    flags = {"flag_values": np.arange(3), "flag_meanings": " ".join(NAMES)}
    parts = {"flag_values": np.arange(2), "flag_meanings": "train test"}
    return xr.Dataset(
        {"features": (("sample", "feature"), words), "label": ("sample", label)},
        coords={
            "domain": ("sample", domain, flags),
            "subset": ("sample", np.arange(SAMPLES) // 2 % 2, parts),
        },
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "reviews.zarr"
    reviews().chunk(sample=SHARD, feature=-1).to_zarr(path, zarr_format=3, consolidated=False)
    return str(path)


def adaptation_pipeline(path: str, model: MSDA | None = None) -> Pipeline:
    model = model or MSDA(depth=2, noise=0.4)
    return Pipeline(
        name="reviews",
        source=ZarrSource(path=path, features="features", labels="label"),
        stages=(
            Split(by="subset"),
            Solve(model=model, parts=("train", "test")),
            CrossDomain(domain="domain", costs=(0.01, 0.1), folds=2),
            Encode(),
            Report(),
        ),
        seed=5,
    )


@pytest.fixture(scope="module")
def done(path: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    return run(adaptation_pipeline(path), client, out=str(out))


def table_of(done: Run) -> dict[str, object]:
    return sealed.read(f"{done.path}/stages/cross_domain/transfer.json")


def test_weights_are_solved_from_all_samples_of_the_parts(done: Run) -> None:
    x, whole = reviews()["features"].values, Subset(None, FEATURES, None)
    for found in done.model.params:
        wanted = marginalised.solve(done.model.model, whole, marginalised.second_moments(x, whole))
        np.testing.assert_allclose(found.weights, wanted.weights, atol=1e-4)
        np.testing.assert_allclose(found.bias, wanted.bias, atol=1e-4)
        x = marginalised.layer_outputs(found, x)
    assert done.codes["code"].shape == (SAMPLES, 3 * FEATURES)
    np.testing.assert_array_equal(done.codes["code"][:, :FEATURES], reviews()["features"])
    np.testing.assert_allclose(done.codes["code"][:, 2 * FEATURES :], x, atol=1e-4)


def test_labels_and_parts_that_are_not_named_say_nothing(path, done, client, out) -> None:
    pipeline = adaptation_pipeline(path).replace(**{"solve.parts": ["train"]})
    train = reviews().isel(sample=reviews()["subset"].values == 0)["features"].values
    found = run(pipeline, client, out=out)
    whole = Subset(None, FEATURES, None)
    wanted = marginalised.solve(found.model.model, whole, marginalised.second_moments(train, whole))
    np.testing.assert_allclose(found.model.params[0].weights, wanted.weights, atol=1e-4)
    assert found.manifest.weights_sha256 != done.manifest.weights_sha256


def test_the_table_is_that_of_machines_trained_apart(done: Run) -> None:
    data, codes, table = reviews(), done.codes["code"].values, table_of(done)
    assert table["domains"] == NAMES
    domain, train = data["domain"].values, data["subset"].values == 0
    key = fold(Key(5), "stage", "cross_domain")
    for name, x in (("features", data["features"].values), ("codes", codes)):
        for s in range(3):
            own = train & (domain == s)
            labels = data["label"].values
            machine = linear_svm.train(x[own], labels[own], (0.01, 0.1), 2, fold(key, "folds", s))
            assert table["costs"][name][s] == machine.cost
            for t in range(3):
                there = ~train & (domain == t)
                wrong = linear_svm.classify(machine, x[there]) != labels[there]
                assert table["errors"][name][s][t] == wrong.mean()
    raw, found = (np.array(table["errors"][name]) for name in ("features", "codes"))
    assert done.metrics["transfer_ratio"] == adaptation.transfer_ratio(found, raw)
    assert done.metrics["raw_transfer_ratio"] == adaptation.transfer_ratio(raw, raw)


def test_machines_may_see_the_square_roots_of_codes(path, done, client, out) -> None:
    pipeline = adaptation_pipeline(path).replace(**{"cross_domain.square_roots": True})
    table, data = table_of(run(pipeline, client, out=out)), reviews()
    assert table["errors"]["features"] == table_of(done)["errors"]["features"]
    x, label = linear_svm.square_roots(done.codes["code"].values), data["label"].values
    domain, train = data["domain"].values, data["subset"].values == 0
    key = fold(Key(5), "stage", "cross_domain")
    for s in range(3):
        own = train & (domain == s)
        machine = linear_svm.train(x[own], label[own], (0.01, 0.1), 2, fold(key, "folds", s))
        wrong = linear_svm.classify(machine, x) != label
        alone = [wrong[~train & (domain == t)].mean() for t in range(3)]
        assert table["errors"]["codes"][s] == alone


@pytest.mark.parametrize("model", [MSDA(depth=2, noise=0.4), MSDA(depth=2, targets=7)])
def test_any_number_of_workers_and_stops_give_the_same_bits(path, client, out, model) -> None:
    pipeline = adaptation_pipeline(path, model)
    whole = run(pipeline, client, out=f"{out}-whole")

    def stop(event: object) -> None:
        if getattr(event, "part", "").startswith("layer 2") and getattr(event, "done", 0) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(pipeline, client, out=out, observer=stop)
    first = Path(next(Path(out).glob("stages/solve/*/layer-0.safetensors")))
    before = first.stat().st_mtime_ns
    assert not list(Path(out).glob("stages/solve/*/layer-1.json"))
    with connect("threads", workers=1) as one:
        again = resume(out, one)
    assert first.stat().st_mtime_ns == before  # the layer that was solved is kept
    same(whole, again)
    assert table_of(whole) == table_of(again)
    assert whole.fingerprint == again.fingerprint


def test_the_codes_of_any_stage_are_compared(path: str, client: Client, out: str) -> None:
    again = CrossDomain(name="again", domain="domain", start="solve", costs=(0.1,), folds=2)
    pipeline = Pipeline(
        name="several",
        source=ZarrSource(path=path, features="features", labels="label"),
        stages=(
            Split(by="subset"),
            Solve(model=MSDA(depth=1)),
            Pretrain(
                model=Autoencoder(encoder=(Dense(units=6),), noise=MaskingNoise(rate=0.4)),
                epochs=1,
                strategy=LocalSteps(batch=10, steps=2, shards=2),
            ),
            again,
            again.model_copy(update={"name": "sdae", "start": "pretrain"}),
            Report(),
        ),
    )
    found = run(pipeline, client, out=out)
    metrics = found.metrics
    assert metrics["again_raw_transfer_ratio"] == metrics["raw_transfer_ratio"]
    assert metrics["again_transfer_ratio"] != metrics["transfer_ratio"]
    page = Path(str(found.report)).read_text()
    assert page.count("errors in percent of a classifier of the codes") == 2


def test_codes_are_no_way_back_to_samples(done: Run) -> None:
    with pytest.raises(SchemaError, match="makes samples of codes.*found a msda"):
        done.model.decode(done.codes["code"])


def test_the_report_shows_both_tables(done: Run) -> None:
    page = Path(str(done.report)).read_text()
    assert "Transfer" in page
    table = table_of(done)
    for name in ("features", "codes"):
        for row in table["errors"][name]:
            assert all(f"{100 * value:.1f}" in page for value in row)


def test_runs_are_of_whole_shards_and_few() -> None:
    grid = [Shard(i, 10 * i, 10 * i + 10) for i in range(19)]
    runs = solving.runs_of(grid)
    assert len(runs) == 7
    assert [run.start for run in runs] == [0, 30, 60, 90, 120, 150, 180]
    assert runs[-1].stop == 190
    assert solving.runs_of(grid[:3]) == tuple(grid[:3])


def test_the_plan_says_what_a_layer_takes(path: str) -> None:
    wide, narrow = (
        plan(adaptation_pipeline(path, MSDA(depth=2, targets=targets))) for targets in (None, 7)
    )
    steps = {step.stage: step for step in narrow.steps}
    assert steps["solve/layer-0"].passes == 5  # one counts words, four see a subset each
    assert steps["solve/layer-1"].passes == 1
    assert steps["solve/layer-0"].weights == FEATURES * 7 + 7
    assert steps["solve/layer-1"].peak < next(
        step.peak for step in wide.steps if step.stage == "solve/layer-1"
    )


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"cross_domain.domain": "genre"}, SchemaError, "no such variable"),
        ({"cross_domain.domain": "features"}, SchemaError, "whole numbers along 'sample'"),
        ({"cross_domain.samples": 39}, DataError, "found 40 of 'books'"),
        ({"cross_domain.domain": "subset"}, DataError, "training and test samples of every"),
    ],
)
def test_what_cannot_be_compared_is_refused(path, client, out, changes, error, match) -> None:
    with pytest.raises(error, match=match):
        run(adaptation_pipeline(path).replace(**changes), client, out=out)


def test_what_has_no_labels_or_nothing_to_measure_is_refused(path: str) -> None:
    source, solve = ZarrSource(path=path, features="features"), Solve(model=MSDA())
    with pytest.raises(ValueError, match="'cross_domain' needs labels"):
        Pipeline(name="p", source=source, stages=(solve, CrossDomain(domain="domain")))
    with pytest.raises(ValueError, match="neither classifies nor reconstructs"):
        Pipeline(name="p", source=source, stages=(solve, Evaluate()))
    with pytest.raises(ValueError, match="nothing to pretrain"):
        Pretrain(model=MSDA())
    with pytest.raises(ValueError, match="no Softmax on top"):
        Pipeline(name="p", source=source, stages=(solve, FineTune()))
    with pytest.raises(ValueError, match="has the layers 0 to 2"):
        Pipeline(name="p", source=source, stages=(solve, Encode(layer=3)))
