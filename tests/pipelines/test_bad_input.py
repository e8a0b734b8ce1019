"""What users get wrong: one error that names the thing, before anything is half-done."""

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from support import SHARD, bars, dbn_pipeline

from deepstrata import (
    RBM,
    Apply,
    ClusterError,
    DataError,
    DatasetSource,
    DeclarationError,
    Pipeline,
    Pretrain,
    Scale,
    SchemaError,
    StorageError,
    ZarrSource,
)
from deepstrata.pipelines import cluster
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.run import open_run, resume, run
from deepstrata.storage import stores


@pytest.fixture
def store(tmp_path: Path) -> Callable[[xr.Dataset], str]:
    def write(dataset: xr.Dataset) -> str:
        path = tmp_path / "data.zarr"
        chunks = {"sample": min(SHARD, max(dataset.sizes["sample"], 1))}
        dataset.chunk(chunks).to_zarr(path, zarr_format=3, consolidated=False)
        return str(path)

    return write


def test_missing_variable(bars_path: str, client: Client, out: str) -> None:
    pipeline = dbn_pipeline(bars_path).replace(**{"source.features": "picture"})
    with pytest.raises(SchemaError, match="'picture'.*image"):
        run(pipeline, client, out=out)


def test_missing_dimension(bars_path: str, client: Client, out: str) -> None:
    pipeline = dbn_pipeline(bars_path).replace(**{"source.sample_dim": "time"})
    with pytest.raises(SchemaError, match="'time'"):
        run(pipeline, client, out=out)


def test_missing_split_variable(bars_path: str, client: Client, out: str) -> None:
    pipeline = dbn_pipeline(bars_path).replace(**{"split.by": "subset"})
    with pytest.raises(SchemaError, match="'subset'"):
        run(pipeline, client, out=out)


def test_wrong_dtype(store, client: Client, out: str) -> None:
    dataset = bars()
    dataset["label"] = dataset["label"].astype(np.float32)
    with pytest.raises(SchemaError, match="label.*float32"):
        run(dbn_pipeline(store(dataset)), client, out=out)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_names_the_rows(value: float, store, client: Client, out: str) -> None:
    dataset = bars()
    dataset["image"][100, 1, 1] = value
    with pytest.raises(DataError, match=r"'image', rows 90 to 120.*sample 100.*mask"):
        run(dbn_pipeline(store(dataset)), client, out=out)


def test_a_mask_makes_nan_usable(store, client: Client, out: str) -> None:
    dataset = bars()
    dataset["present"] = xr.ones_like(dataset["image"], dtype=bool)
    dataset["present"][100, 1, 1] = False
    dataset["image"][100, 1, 1] = np.nan
    pipeline = Pipeline(
        name="masked",
        source=ZarrSource(path=store(dataset), features="image", mask="present"),
        stages=(Pretrain(model=RBM(hidden=5), epochs=2),),
    )
    history = run(pipeline, client, out=out).history["pretrain/layer-0"]
    assert np.isfinite(history["squared_error"]).all()


def test_label_out_of_range(store, client: Client, out: str) -> None:
    dataset = bars()
    dataset["label"][64] = 2
    with pytest.raises(DataError, match=r"'label', samples 60 to 89.*0 to 1.*found 2"):
        run(dbn_pipeline(store(dataset)), client, out=out)


def test_a_value_out_of_its_declared_range(bars_path: str, client: Client, out: str) -> None:
    declared = {"name": "image", "dims": ["sample", "y", "x"], "dtype": "float32", "maximum": 0.5}
    expected = {"sample_dim": "sample", "variables": [declared]}
    pipeline = dbn_pipeline(bars_path).replace(**{"source.expected": expected})
    with pytest.raises(DataError, match=r"'image'.*-inf to 0.5, found 1.0 in sample \d+"):
        run(pipeline, client, out=out)


def test_empty_dataset(store, client: Client, out: str) -> None:
    with pytest.raises(SchemaError, match="sample"):
        run(dbn_pipeline(store(bars().isel(sample=slice(0, 0)))), client, out=out)


def test_values_outside_the_unit_interval(store, client: Client, out: str) -> None:
    dataset = bars()
    dataset["image"] = dataset["image"] * 16
    with pytest.raises(DataError, match=r"\[0, 1\] for Bernoulli units.*0 to 16.*Scale"):
        run(dbn_pipeline(store(dataset)), client, out=out)


def test_scale_finds_the_range(store, client: Client, out: str) -> None:
    dataset = bars()
    dataset["image"] = dataset["image"] * 16 - 3
    pipeline = dbn_pipeline(store(dataset))
    scaled = pipeline.model_copy(
        update={"stages": (pipeline.stages[0], Scale(), *pipeline.stages[1:])}
    )
    found = run(scaled, client, out=out).model.affine[0]
    assert (float(found.shift), float(found.divisor)) == (-3, 16)


def test_no_store(tmp_path: Path, client: Client, out: str) -> None:
    with pytest.raises(StorageError, match="nothing.zarr"):
        run(dbn_pipeline(str(tmp_path / "nothing.zarr")), client, out=out)


def test_a_format_version_from_the_future(bars_path: str, client: Client, out: str) -> None:
    done = run(dbn_pipeline(bars_path), client, out=out)
    path = Path(done.path) / "run.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(DeclarationError, match="99"):
        open_run(out)


def test_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    match = r"no scheduler answers at tcp://127\.0\.0\.1:1 "
    with pytest.raises(ClusterError, match=match), connect("tcp://127.0.0.1:1"):
        pass


def test_an_unknown_kind_of_cluster() -> None:
    with pytest.raises(ClusterError, match="local, threads, cuda"), connect("nowhere"):
        pass


def test_a_full_disk_while_checkpointing(
    bars_path: str, client: Client, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = stores.write_bytes, []

    def full(url: str, data: bytes) -> None:
        if url.endswith("state.safetensors") and "finetune" in url:
            calls.append(url)
            if len(calls) == 3:
                with stores.explained(url, "write"):
                    raise OSError(errno.ENOSPC, "No space left on device")
        write(url, data)

    monkeypatch.setattr(stores, "write_bytes", full)
    pipeline = dbn_pipeline(bars_path).replace(**{"finetune.checkpoint_rounds": 1})
    with pytest.raises(StorageError, match="disk is full"):
        run(pipeline, client, out=out)
    assert open_run(out).manifest.status == "failed"
    done = resume(out, client)
    monkeypatch.undo()
    whole = run(pipeline, client, out=out + "-whole")
    assert done.manifest.weights_sha256 == whole.manifest.weights_sha256


def brighten(dataset: xr.Dataset, by: float) -> xr.Dataset:
    """Move pictures towards white: an ``Apply`` function."""
    return dataset.assign(image=(dataset["image"] + by).clip(0, 1))


def test_apply_and_datasets_of_the_user(bars_path: str, client: Client, out: str) -> None:
    pipeline = Pipeline(
        name="applied",
        source=DatasetSource(features="image"),
        stages=(Apply(function=brighten, arguments={"by": 0.25}), Pretrain(model=RBM(hidden=5))),
    )
    dataset = bars()
    lazy = run(pipeline, client, out=out + "-lazy", data=dataset.chunk(sample=SHARD))
    eager = Pipeline(
        name="applied",
        source=DatasetSource(features="image"),
        stages=(Pretrain(model=RBM(hidden=5)),),
    )
    ready = brighten(dataset, 0.25).chunk(sample=SHARD)
    done = run(eager, client, out=out + "-eager", data=ready)
    assert done.manifest.weights_sha256 == lazy.manifest.weights_sha256
    with pytest.raises(DeclarationError, match="data="):
        run(pipeline, client, out=out)


def test_apply_takes_module_level_functions_only() -> None:
    with pytest.raises(ValueError, match="top level"):
        Apply(function=lambda dataset: dataset)
