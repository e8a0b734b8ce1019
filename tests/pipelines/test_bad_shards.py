"""Chunks that are flipped, truncated or deleted: named, mended or skipped, never trained on."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask import delayed
from distributed import Client
from support import SHARD, bars, dbn_pipeline, same

from deepstrata import RBM, DataError, DatasetSource, Encode, Pipeline, Pretrain, StorageError
from deepstrata.pipelines import feeds
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.events import Notice, Progress
from deepstrata.pipelines.feeds import Feed
from deepstrata.pipelines.report.terminal import results
from deepstrata.pipelines.run import Run, open_run, resume, run
from deepstrata.schemas.errors import BadShardError
from deepstrata.storage import writing
from deepstrata.storage.layout import Layout

ROWS = slice(3 * SHARD, 4 * SHARD)


def flip(chunk: Path) -> None:
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(data)


def truncate(chunk: Path) -> None:
    with open(chunk, "r+b") as file:
        file.truncate(chunk.stat().st_size // 2)


def delete(chunk: Path) -> None:
    chunk.unlink()


DAMAGE = pytest.mark.parametrize("damage", [flip, truncate, delete])


@pytest.fixture
def ours(tmp_path: Path) -> str:
    """The bars, as ``ingest`` would write them."""
    path = str(tmp_path / "ours.zarr")
    writing.write_dataset(bars(), path, layout=Layout(SHARD, SHARD))
    return path


def chunk_of(path: str, name: str = "image") -> Path:
    return Path(path) / name / "c" / ("3/0/0" if name == "image" else "3")


@pytest.fixture(scope="module")
def processes() -> Iterator[Client]:
    with connect("local", workers=2) as client:
        yield client


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Run:
    """A run over a store in which a shard was bad from the start."""
    folder = tmp_path_factory.mktemp("without")
    path = str(folder / "data.zarr")
    writing.write_dataset(bars(), path, layout=Layout(SHARD, SHARD))
    truncate(chunk_of(path))
    pipeline = dbn_pipeline(path).replace(on_bad_shard="skip")
    return run(pipeline, client, out=str(folder / "run"))


def damaging(chunk: Path, damage: Callable[[Path], None], stage: str) -> Callable[[object], None]:
    """Return an observer that damages a chunk once, when a stage has begun to train."""
    done: list[Path] = []

    def observe(event: object) -> None:
        if isinstance(event, Progress) and event.stage == stage and not done:
            done.append(chunk)
            damage(chunk)

    return observe


@DAMAGE
def test_stop_names_the_chunk_and_resume_goes_on(
    damage: Callable[[Path], None], ours: str, processes: Client, out: str
) -> None:
    pids = sorted(processes.run(os.getpid).values())
    backup = shutil.copytree(ours, ours + ".backup")
    pipeline = dbn_pipeline(ours)
    observer = damaging(chunk_of(ours), damage, "pretrain")
    with pytest.raises(BadShardError, match="rows 90 to 120.*chunk c/3/0/0.*resume RUN") as found:
        run(pipeline, processes, out=out, observer=observer)
    assert ours in str(found.value)
    assert ("was there when the run began" in str(found.value)) == (damage is delete)
    assert open_run(out).manifest.status == "failed"
    with pytest.raises(BadShardError):
        resume(out, processes)
    shutil.copy(chunk_of(str(backup)), chunk_of(ours))
    resumed = resume(out, processes)
    same(resumed, run(pipeline, processes, out=out + "-whole"))
    assert sorted(processes.run(os.getpid).values()) == pids


@DAMAGE
def test_a_shard_that_is_bad_from_the_start_is_skipped(
    damage: Callable[[Path], None], ours: str, without: Run, processes: Client, out: str
) -> None:
    damage(chunk_of(ours))
    said: list[object] = []
    pipeline = dbn_pipeline(ours).replace(on_bad_shard="skip")
    done = run(pipeline, processes, out=out, observer=said.append)
    same(done, without)
    assert done.metrics["skipped_shards"] == 1
    assert done.metrics["skipped_samples"] == SHARD
    assert ("skipped shards", "1") in list(results(done.manifest))
    assert any(isinstance(e, Notice) and "samples 90 to 119 are skipped" in e.text for e in said)
    assert sum(done.manifest.stages[0].metrics[f"{p}_samples"] for p in PARTS) == 240 - SHARD


PARTS = ("train", "validation", "test")


def test_codes_of_skipped_samples_are_nan(without: Run) -> None:
    codes = without.codes
    assert codes is not None
    missing = np.isnan(codes["code"].compute()).all("unit")
    assert np.flatnonzero(missing).tolist() == list(range(ROWS.start, ROWS.stop))
    np.testing.assert_array_equal(codes["label"], bars()["label"])


@DAMAGE
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_shard_that_turns_bad_is_skipped_from_the_start(
    stage: str,
    damage: Callable[[Path], None],
    ours: str,
    without: Run,
    processes: Client,
    out: str,
) -> None:
    pids = sorted(processes.run(os.getpid).values())
    pipeline = dbn_pipeline(ours).replace(on_bad_shard="skip")
    observer = damaging(chunk_of(ours), damage, stage)
    done = run(pipeline, processes, out=out, observer=observer)
    same(done, without)
    assert done.manifest.digests.data == without.manifest.digests.data
    xr.testing.assert_identical(done.codes.compute(), without.codes.compute())
    assert sorted(processes.run(os.getpid).values()) == pids
    same(resume(out, processes), without)


def test_skipping_can_be_chosen_after_a_stop(
    ours: str, without: Run, client: Client, out: str
) -> None:
    """A deleted chunk is known to have been there, although the store now reads as fill values."""
    with pytest.raises(BadShardError):
        run(
            dbn_pipeline(ours),
            client,
            out=out,
            observer=damaging(chunk_of(ours), delete, "finetune"),
        )
    same(resume(out, client, changes={"on_bad_shard": "skip"}), without)


def test_a_skipped_shard_that_was_mended_takes_part_again(
    ours: str, bars_path: str, without: Run, client: Client, out: str
) -> None:
    backup = chunk_of(ours).read_bytes()
    chunk_of(ours).unlink()
    pipeline = dbn_pipeline(ours).replace(on_bad_shard="skip")
    same(run(pipeline, client, out=out), without)
    chunk_of(ours).write_bytes(backup)
    whole = resume(out, client, changes={"on_bad_shard": "stop"})
    same(whole, run(dbn_pipeline(bars_path), client, out=out + "-whole"))
    assert "skipped_shards" not in whole.metrics


def test_labels_that_cannot_be_read_are_left_out_of_the_codes(
    ours: str, without: Run, client: Client, out: str
) -> None:
    flip(chunk_of(ours, "label"))
    said: list[object] = []
    pipeline = dbn_pipeline(ours).replace(on_bad_shard="skip")
    done = run(pipeline, client, out=out, observer=said.append)
    same(done, without)
    assert "label" not in done.codes.coords
    assert any(isinstance(e, Notice) and "'label' is left out" in e.text for e in said)


def test_a_missing_chunk_is_legal_in_what_others_wrote(
    tmp_path: Path, client: Client, out: str
) -> None:
    dataset = bars()
    dataset["image"] = dataset["image"].astype(np.uint8)
    dataset["image"][ROWS] = 0
    path = str(tmp_path / "theirs.zarr")
    encoding = {"image": {"chunks": (SHARD, 4, 4)}}
    dataset.to_zarr(path, zarr_format=3, consolidated=False, encoding=encoding)
    assert not chunk_of(path).exists()
    done = run(dbn_pipeline(path), client, out=out)
    assert "skipped_shards" not in done.metrics
    assert not np.isnan(done.codes["code"]).any()


def test_a_missing_chunk_is_a_loss_in_what_we_wrote(ours: str, client: Client, out: str) -> None:
    delete(chunk_of(ours, "label"))
    with pytest.raises(BadShardError, match="chunk c/3 of array 'label' is missing in .*written"):
        run(dbn_pipeline(ours), client, out=out)


def test_data_that_changed_between_stop_and_resume(ours: str, client: Client, out: str) -> None:
    run(dbn_pipeline(ours), client, out=out)
    writing.discard(ours)
    writing.write_dataset(bars(seed=1), ours, layout=Layout(SHARD, SHARD))
    with pytest.raises(BadShardError, match=r"'(image|label)', rows .*has changed since the run"):
        resume(out, client, changes={"finetune.epochs": 1})


def test_a_store_that_vanished_is_no_bad_shard(ours: str, client: Client, out: str) -> None:
    pipeline = dbn_pipeline(ours).replace(on_bad_shard="skip")

    def vanish(path: Path) -> None:
        shutil.rmtree(path)

    with pytest.raises(StorageError, match="gone|nothing there"):
        run(pipeline, client, out=out, observer=damaging(Path(ours), vanish, "pretrain"))
    assert open_run(out).manifest.status == "failed"


def test_only_bad_shards_are_skipped(ours: str, client: Client, out: str) -> None:
    for chunk in (Path(ours) / "image" / "c").rglob("0"):
        if chunk.is_file():
            truncate(chunk)
    with pytest.raises(DataError, match="no samples; shards that cannot be read are skipped"):
        run(dbn_pipeline(ours).replace(on_bad_shard="skip"), client, out=out)


def test_stored_activations_that_are_lost_are_named(ours: str, client: Client, out: str) -> None:
    pipeline = dbn_pipeline(ours).replace(
        **{"pretrain.activations": "store", "on_bad_shard": "skip"}
    )

    def lose(event: object) -> None:
        if isinstance(event, Progress) and event.part == "layer 2 of 2":
            for chunk in Path(out).rglob("activations.zarr/activation/c/3/0"):
                chunk.unlink()

    with pytest.raises(StorageError, match=r"activations\.zarr.*c/3/0.*missing.*remove"):
        run(pipeline, client, out=out, observer=lose)


def only_layer(name: str) -> Pipeline:
    return Pipeline(
        name=name,
        source=DatasetSource(features="image"),
        stages=(Pretrain(model=RBM(hidden=5), epochs=3),),
    )


def test_a_graph_that_gives_other_values_is_named(client: Client, out: str) -> None:
    def noise(block: np.ndarray) -> np.ndarray:
        return np.random.default_rng().random(block.shape, np.float32)

    image = da.zeros((120, 4), chunks=(30, 4), dtype="f4").map_blocks(noise, dtype="f4")
    data = xr.Dataset({"image": (("sample", "x"), image)})
    with pytest.raises(BadShardError, match="'image', rows .*other values"):
        run(only_layer("noise"), client, out=out, data=data)


def ragged(bad: bool) -> xr.Dataset:
    """Chunks of 20, 50, 30 and 20 samples, the second of which may fail."""
    values = bars(120)["image"].values

    @delayed
    def block(start: int, stop: int) -> np.ndarray:
        if bad and start == 20:
            raise OSError("lost sector")
        return values[start:stop]

    borders = [(0, 20), (20, 70), (70, 100), (100, 120)]
    blocks = [da.from_delayed(block(a, b), (b - a, 4, 4), "f4") for a, b in borders]
    return xr.Dataset({"image": (("sample", "y", "x"), da.concatenate(blocks))})


def test_bad_chunks_of_a_graph_are_named_and_skipped(client: Client, out: str) -> None:
    pipeline = only_layer("ragged")
    pipeline = pipeline.model_copy(update={"stages": (*pipeline.stages, Encode())})
    with pytest.raises(BadShardError, match="'image', rows 20 to 70: .*lost sector"):
        run(pipeline, client, out=out, data=ragged(bad=True))
    skipping = pipeline.replace(on_bad_shard="skip")
    done = run(skipping, client, out=out + "-skip", data=ragged(bad=True))
    codes = done.codes["code"].compute()
    assert np.flatnonzero(np.isnan(codes).all("unit")).tolist() == list(range(20, 70))
    whole = done.model.encode(ragged(bad=False)).compute()
    np.testing.assert_array_equal(codes[70:], whole[70:])
    np.testing.assert_array_equal(codes[:20], whole[:20])


def test_a_task_carries_the_checksums_of_its_shard_alone() -> None:
    from deepstrata.storage.shards import shard_grid

    known = tuple(feeds.Known(shard, {"image": 1}, False) for shard in shard_grid(100, 10))

    class Anything:
        def narrow(self, start: int, stop: int) -> tuple[int, int]:
            return start, stop

    feed = Feed(reader=Anything(), columns=None, split=None, split_key=None, known=known)  # type: ignore[arg-type]
    assert feed.narrow(known[3].shard).known == known[3:4]
    assert feed.narrow(known[0].shard).known == known[:1]
    across = feed.narrow(feeds.Shard(0, 15, 35))
    assert across.known == known[1:4]
    assert across.reader == (10, 40)
