"""The promise: the same bits on any cluster, through death, stop and resume."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from support import StopAfter, dbn_pipeline, same, stopping

from deepstrata import Delayed, LocalSteps, Synchronous
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.events import Notice, Progress, StageFinished
from deepstrata.pipelines.planning import plan
from deepstrata.pipelines.run import Run, open_run, resume, run
from deepstrata.pipelines.verify import verify
from deepstrata.schemas.errors import StorageError
from deepstrata.storage import checkpoints, runs


@pytest.fixture(scope="module")
def reference(bars_path, client: Client, tmp_path_factory) -> Run:
    """One uninterrupted run on threads."""
    out = str(tmp_path_factory.mktemp("reference") / "run")
    return run(dbn_pipeline(bars_path), client, out=out)


def test_results_are_labelled(reference: Run) -> None:
    codes = reference.codes
    assert codes is not None
    assert codes["code"].dims == ("sample", "unit")
    assert codes["code"].shape == (240, 8)
    np.testing.assert_array_equal(codes["sample"], np.arange(240) * 10)
    assert set(reference.metrics) == {
        "test_error", "test_loss", "validation_error", "validation_loss",
    }  # fmt: skip
    assert set(reference.history.children) == {"pretrain", "finetune"}
    assert reference.history["finetune"]["validation_loss"].sizes == {"epoch_end": 3}


def test_model_encodes_as_the_encode_stage_did(reference: Run, bars_path: str) -> None:
    dataset = xr.open_zarr(bars_path, consolidated=False)
    lazy = reference.model.encode(dataset)
    assert lazy.chunks is not None
    np.testing.assert_array_equal(lazy.compute(), reference.codes["code"].compute())
    np.testing.assert_array_equal(lazy["sample"], dataset["sample"])
    probability = reference.model.predict(dataset).compute()
    np.testing.assert_allclose(probability.sum("class"), 1, rtol=1e-5)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_processes_give_the_same_bits(workers: int, reference: Run, bars_path, out: str) -> None:
    with connect("local", workers=workers) as processes:
        same(reference, run(dbn_pipeline(bars_path), processes, out=out))


def test_a_killed_worker_changes_nothing(reference: Run, bars_path: str, out: str) -> None:
    killed: list[int] = []
    said: list[str] = []

    with connect("local", workers=2) as processes:
        pids = list(processes.run(os.getpid).values())

        def kill(event: object) -> None:
            if isinstance(event, Notice):
                said.append(event.text)
            if isinstance(event, Progress) and event.stage == "finetune" and not killed:
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

        same(reference, run(dbn_pipeline(bars_path), processes, out=out, observer=kill))
    assert killed
    assert any("is gone; what it held is computed again" in text for text in said)


def test_a_worker_that_joins_changes_nothing(reference: Run, bars_path: str, out: str) -> None:
    with connect("local", workers=1) as processes:
        joined = threading.Event()

        def join(event: object) -> None:
            if isinstance(event, Progress) and event.stage == "pretrain" and not joined.is_set():
                joined.set()
                processes.cluster.scale(2)

        same(reference, run(dbn_pipeline(bars_path), processes, out=out, observer=join))
        deadline = time.monotonic() + 30
        while len(processes.scheduler_info()["workers"]) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(processes.scheduler_info()["workers"]) == 2


@pytest.mark.parametrize(("stage", "done"), [("pretrain", 5), ("finetune", 3), ("encode", 2)])
def test_resume_goes_on_where_it_stopped(
    stage: str, done: int, reference: Run, bars_path: str, client: Client, out: str
) -> None:
    declared = dbn_pipeline(bars_path)
    with pytest.raises(StopAfter):
        run(declared, client, out=out, observer=stopping(done, stage))
    assert open_run(out).manifest.status == "failed"
    resumed = resume(out, client)
    same(reference, resumed)
    assert resumed.manifest.status == "finished"
    assert verify(reference.path, out).same
    xr.testing.assert_identical(resumed.codes.compute(), reference.codes.compute())


def test_codes_that_were_written_and_not_recorded_are_kept(
    reference: Run, bars_path: str, client: Client, out: str
) -> None:
    """The process ended between the last code and the manifest."""
    done = run(dbn_pipeline(bars_path), client, out=out)
    stages = tuple(record for record in done.manifest.stages if record.kind != "encode")
    runs.write_manifest(out, done.manifest.model_copy(update={"stages": stages}))
    chunk = next(path for path in Path(out, "codes.zarr/code/c").rglob("*") if path.is_file())
    written = chunk.stat().st_mtime_ns
    xr.testing.assert_identical(resume(out, client).codes.compute(), reference.codes.compute())
    assert chunk.stat().st_mtime_ns == written


@pytest.mark.parametrize("name", [".00000003.json.0f.part", "00000003.json"])
def test_what_a_kill_leaves_of_a_history_file_is_no_history(
    name: str, reference: Run, bars_path: str, client: Client, out: str
) -> None:
    with pytest.raises(StopAfter):
        run(dbn_pipeline(bars_path), client, out=out, observer=stopping(3, "finetune"))
    (directory,) = Path(out, "stages/finetune").glob("*/history")
    (directory / name).write_text('{"checkpoint": 3, "rou')
    same(reference, resume(out, client))


def test_finished_stages_are_not_run_again(bars_path: str, client: Client, out: str) -> None:
    first = run(dbn_pipeline(bars_path), client, out=out)
    events: list[object] = []
    again = resume(out, client, observer=events.append)
    same(first, again)
    finished = [event for event in events if isinstance(event, StageFinished)]
    assert {e.stage for e in finished if e.reused} == {
        "inspect", "pretrain", "finetune", "evaluate", "encode",
    }  # fmt: skip


def test_a_change_runs_only_what_depends_on_it(bars_path: str, client: Client, out: str) -> None:
    run(dbn_pipeline(bars_path), client, out=out)
    events: list[object] = []
    changed = resume(out, client, changes={"finetune.epochs": 1}, observer=events.append)
    reused = {e.stage: e.reused for e in events if isinstance(e, StageFinished)}
    assert reused["pretrain"]
    assert not reused["finetune"]
    assert not reused["evaluate"]
    assert changed.history["finetune"].sizes["epoch_end"] == 1


def test_a_missing_checkpoint_part_means_the_one_before(
    reference: Run, bars_path: str, client: Client, out: str
) -> None:
    declared = dbn_pipeline(bars_path).replace(**{"finetune.checkpoint_rounds": 1})
    with pytest.raises(StopAfter):
        run(declared, client, out=out, observer=stopping(6, "finetune"))
    (training,) = (
        os.path.join(out, "stages", "finetune", d) for d in os.listdir(f"{out}/stages/finetune")
    )
    directory = os.path.join(training, "checkpoints")
    newest = checkpoints.latest(directory)
    assert newest is not None
    part = checkpoints.part_url(checkpoints.checkpoint_url(directory, newest.round), "state")
    with open(part, "r+b") as file:
        file.truncate(10)
    resumed = resume(out, client)
    assert resumed.manifest.weights_sha256 == reference.manifest.weights_sha256


def test_another_seed_gives_other_weights(reference: Run, bars_path, client: Client, out) -> None:
    other = run(dbn_pipeline(bars_path).replace(seed=8), client, out=out)
    assert other.manifest.weights_sha256 != reference.manifest.weights_sha256
    verdict = verify(reference.path, out)
    assert not verdict.same
    assert "seed is 7 and 8" in verdict.text


def test_stored_activations_give_the_same_weights(
    reference: Run, bars_path: str, client: Client, out: str
) -> None:
    declared = dbn_pipeline(bars_path).replace(**{"pretrain.activations": "store"})
    stored = run(declared, client, out=out)
    assert stored.manifest.weights_sha256 == reference.manifest.weights_sha256


def test_synchronous_is_the_gradient_of_all_shards(bars_path, client: Client, out: str) -> None:
    wide = Synchronous(batch=30, shards=8)
    history = run(dbn_pipeline(bars_path, wide), client, out=out).history["finetune"]
    assert history.sizes["round"] == 3
    assert int(history["n"][0]) == 168


def test_an_existing_run_is_not_overwritten(reference: Run, bars_path, client: Client) -> None:
    with pytest.raises(StorageError, match="exists"):
        run(dbn_pipeline(bars_path), client, out=reference.path)


def test_a_directory_that_is_no_run_is_refused(tmp_path) -> None:
    with pytest.raises(StorageError, match=r"run\.json"):
        open_run(str(tmp_path))


def test_memory_stays_under_the_plan(bars_path: str, out: str) -> None:
    pipeline = dbn_pipeline(bars_path)
    with connect("local", workers=1) as processes:
        done = run(pipeline, processes, out=out)
    assert 0 < done.manifest.peak_worker_bytes <= plan(pipeline).peak


def test_resume_keeps_what_is_known_of_every_checkpoint(
    reference: Run, bars_path: str, client: Client, out: str
) -> None:
    with pytest.raises(StopAfter):
        run(dbn_pipeline(bars_path), client, out=out, observer=stopping(3, "finetune"))
    assert resume(out, client).manifest.checkpoints == reference.manifest.checkpoints


def test_the_place_of_the_data_is_no_difference(
    reference: Run, bars_path: str, client: Client, out: str, tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(bars_path, tmp_path / "elsewhere.zarr")
    run(dbn_pipeline(str(elsewhere)), client, out=out)
    assert verify(reference.path, out).same


def test_a_run_can_be_moved(bars_path: str, client: Client, tmp_path: Path) -> None:
    run(dbn_pipeline(bars_path), client, out=str(tmp_path / "before"))
    shutil.move(tmp_path / "before", tmp_path / "after")
    moved = open_run(str(tmp_path / "after"))
    assert moved.codes["code"].shape == (240, 8)
    assert resume(moved.path, client).manifest.weights_sha256 == moved.manifest.weights_sha256
    assert moved.pipeline.replace(seed=1).seed == 1


def test_codes_of_others_are_not_overwritten(
    reference: Run, bars_path: str, client: Client, out: str
) -> None:
    theirs = os.path.join(reference.path, "codes.zarr")
    with pytest.raises(StorageError, match="exists already"):
        run(dbn_pipeline(bars_path).replace(**{"encode.path": theirs}), client, out=out)
    assert reference.codes["code"].shape == (240, 8)


def test_a_delay_of_no_rounds_is_synchronous(bars_path: str, client: Client, tmp_path) -> None:
    strategies = (Synchronous(batch=15, shards=3), Delayed(rounds=0, batch=15, shards=3))
    runs = [
        run(dbn_pipeline(bars_path, strategy), client, out=str(tmp_path / strategy.kind))
        for strategy in strategies
    ]
    same(*runs)


def test_mixing_more_shards_gives_other_weights(reference: Run, bars_path, client, out) -> None:
    strategy = LocalSteps(batch=10, steps=2, shards=2, buffer=2)
    mixed = run(dbn_pipeline(bars_path, strategy), client, out=out)
    assert mixed.manifest.weights_sha256 != reference.manifest.weights_sha256
