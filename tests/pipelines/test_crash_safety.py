"""A run dies at any of its writes, its disk fills up or vanishes: resuming ends all the same."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from distributed import Client
from support import SHARD, StopAfter, bars, dbn_pipeline, same, stopping

from deepstrata import RBM, Encode, Pipeline, Pretrain, Report, Split, StorageError, ZarrSource
from deepstrata.pipelines import events
from deepstrata.pipelines.events import Checkpointed, ignore
from deepstrata.pipelines.run import Run, open_run, resume, run
from deepstrata.schemas.errors import DeepstrataError
from deepstrata.storage import checkpoints, runs, stores, writing
from deepstrata.storage.layout import Layout


@pytest.fixture
def memory_out() -> Iterator[str]:
    url = f"memory://{uuid4().hex}/run"
    yield url
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(url):
        filesystem.rm(url, recursive=True)


def small(path: str) -> Pipeline:
    """Two rounds of training, a checkpoint after each, and codes."""
    return Pipeline(
        name="small",
        source=ZarrSource(path=path, features="image", labels="label"),
        stages=(
            Split(test=0.2),
            Pretrain(model=RBM(hidden=3), epochs=1, checkpoint_rounds=1),
            Encode(),
        ),
    )


@pytest.fixture
def short_path(tmp_path: Path) -> str:
    path = str(tmp_path / "short.zarr")
    writing.write_dataset(bars(2 * SHARD), path, layout=Layout(SHARD, SHARD))
    return path


class Lost(OSError):
    """What a store says from the moment that it is gone."""


def failing(monkeypatch: pytest.MonkeyPatch, at: int) -> list[str]:
    """Let every write from number ``at`` on fail; return the URLs that are written."""
    seen: list[str] = []
    for module, name in ((stores, "write_bytes"), (writing, "write_rows"), (writing, "finish")):
        function = getattr(module, name)

        def wrapped(
            url: str, *arguments: Any, function: Callable[..., Any] = function, **options: Any
        ) -> Any:
            seen.append(url)
            if len(seen) >= at:
                raise Lost(f"{url}: lost")
            return function(url, *arguments, **options)

        monkeypatch.setattr(module, name, wrapped)
    return seen


def test_a_run_may_end_at_any_write(
    short_path: str, client: Client, out: str, memory_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = small(short_path)
    with monkeypatch.context() as patched:
        seen = failing(patched, 10_000)
        whole = run(pipeline, client, out=out, observer=ignore)
    assert len(seen) > 20
    for at in range(1, len(seen) + 1):
        path = f"{memory_out}-{at}" if at % 2 else f"{out}-{at}"
        with monkeypatch.context() as patched:
            failing(patched, at)
            with pytest.raises((Lost, DeepstrataError), match="lost"):
                run(pipeline, client, out=path, observer=ignore)
        if not stores.exists(runs.manifest_url(stores.absolute(path))):
            stores.remove(stores.absolute(path))
            again = run(pipeline, client, out=path, observer=ignore)
        else:
            again = resume(path, client, observer=ignore)
        assert again.manifest.weights_sha256 == whole.manifest.weights_sha256
        assert again.manifest.status == "finished"
        assert again.codes.compute().identical(whole.codes.compute())
        stores.remove(stores.absolute(path))


def test_codes_that_were_not_recorded_are_known_again(
    short_path: str, client: Client, out: str, tmp_path: Path
) -> None:
    """The run dies when codes outside of its directory are complete, and nothing says so yet."""
    pipeline = small(short_path).replace(**{"encode.path": str(tmp_path / "codes.zarr")})

    def die(event: object) -> None:
        if isinstance(event, events.Progress) and event.stage == "encode" and event.done == 2:
            writing.finish(str(tmp_path / "codes.zarr"))
            raise StopAfter

    with pytest.raises(StopAfter):
        run(pipeline, client, out=out, observer=die)
    assert writing.is_complete(str(tmp_path / "codes.zarr"))
    assert resume(out, client, observer=ignore).manifest.status == "finished"
    with pytest.raises(StorageError, match="exists already"):
        run(pipeline, client, out=out + "-other", observer=ignore)


def reported(path: str) -> Pipeline:
    pipeline = dbn_pipeline(path)
    return pipeline.model_copy(update={"stages": (*pipeline.stages, Report())})


def test_a_run_in_an_object_store(
    bars_path: str, client: Client, out: str, memory_out: str
) -> None:
    pipeline = reported(bars_path).replace(**{"pretrain.activations": "store"})
    whole = run(pipeline, client, out=f"local://{out}", observer=ignore)
    assert whole.path == out
    with pytest.raises(StopAfter):
        run(pipeline, client, out=memory_out, observer=stopping(3, "finetune"))
    done = resume(memory_out, client, observer=ignore)
    same(done, whole)
    assert done.codes.compute().identical(whole.codes.compute())
    assert done.report == f"{memory_out}/report.html"
    assert stores.read_bytes(done.report).startswith(b"<!doctype html>")
    assert done.model.encode(bars()).shape == (240, 8)
    assert runs.read_manifest(memory_out).status == "finished"


DAMAGED = {
    "run.json": b'"seed": 7',
    "model/model.json": b'"hidden": 12',
    "stages/finetune/*/history/*.json": b'"round": 1',
}


@pytest.mark.parametrize("pattern", DAMAGED)
@pytest.mark.parametrize("how", ["flip", "truncate"])
def test_damaged_documents_of_a_run_are_named(
    pattern: str, how: str, bars_path: str, client: Client, out: str
) -> None:
    run(dbn_pipeline(bars_path), client, out=out, observer=ignore)
    path = max(Path(out).glob(pattern))
    text = path.read_bytes()
    found = text.index(DAMAGED[pattern]) + len(DAMAGED[pattern]) - 1
    bad = bytearray(text[:-9] if how == "truncate" else text)
    bad[found] ^= 1
    path.write_bytes(bad)
    with pytest.raises(DeepstrataError, match=path.name):
        use(open_run(out))


def use(done: Run) -> None:
    assert done.model
    assert done.history


@pytest.mark.parametrize("bad", [b"", b"{", b"[1, 2]"])
def test_what_inspection_found_is_made_anew(
    bad: bytes, bars_path: str, client: Client, out: str
) -> None:
    first = run(dbn_pipeline(bars_path), client, out=out, observer=ignore)
    path = Path(out) / "stages" / "inspect" / "inspected.json"
    text = path.read_bytes()
    path.write_bytes(bad or text.replace(b"[[", b"[[1", 1))
    again = resume(out, client, observer=ignore)
    assert path.read_bytes() == text
    same(first, again)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.name != "posix" or os.geteuid() or shutil.which("mount") is None:
        pytest.skip("mounting a tmpfs needs root on Linux")
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine mounts no tmpfs, not even for root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=False)


def checkpointed(then: Callable[[], None], rounds: int) -> Callable[[object], None]:
    done: list[int] = []

    def observe(event: object) -> None:
        if isinstance(event, Checkpointed) and event.round == rounds and not done:
            done.append(event.round)
            then()

    return observe


def frequent(path: str) -> Pipeline:
    return dbn_pipeline(path).replace(**{"finetune.checkpoint_rounds": 1})


def newest(out: Path) -> int:
    (directory,) = out.glob("stages/finetune/*/checkpoints")
    found = checkpoints.latest(str(directory))
    assert found is not None
    return found.round


def remounted(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)


def test_a_disk_that_fills_up(bars_path: str, client: Client, tiny_disk: Path, out: str) -> None:
    place = tiny_disk / "run"
    ballast = tiny_disk / "ballast"

    def fill() -> None:
        with open(ballast, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            file.writelines(repeat(bytes(4096)))

    observer = checkpointed(fill, 6)
    with pytest.raises(StorageError, match="disk is full"):
        run(frequent(bars_path), client, out=str(place), observer=observer)
    assert newest(place) >= 6
    ballast.unlink()
    whole = run(frequent(bars_path), client, out=out, observer=ignore)
    same(resume(str(place), client, observer=ignore), whole)


def test_a_disk_that_becomes_read_only(
    bars_path: str, client: Client, tiny_disk: Path, out: str
) -> None:
    place = tiny_disk / "run"

    def freeze() -> None:
        # The open lock file keeps the mount busy for an ordinary remount.
        subprocess.run(["mount", "--bind", str(tiny_disk), str(tiny_disk)], check=True)
        remounted(tiny_disk, "bind,ro")

    with pytest.raises(StorageError, match="read-only"):
        run(frequent(bars_path), client, out=str(place), observer=checkpointed(freeze, 6))
    assert newest(place) >= 5
    subprocess.run(["umount", "-l", str(tiny_disk)], check=True)
    whole = run(frequent(bars_path), client, out=out, observer=ignore)
    same(resume(str(place), client, observer=ignore), whole)


def test_a_directory_that_vanishes(bars_path: str, client: Client, out: str) -> None:
    """As when a mount is lost: what is written meanwhile goes to the empty mount point."""
    away = Path(f"{out}-away")
    observer = checkpointed(lambda: shutil.move(out, away), 6)
    with pytest.raises(DeepstrataError):
        run(frequent(bars_path), client, out=out, observer=observer)
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(away, out)
    assert newest(Path(out)) >= 6
    whole = run(frequent(bars_path), client, out=f"{out}-whole", observer=ignore)
    same(resume(out, client, observer=ignore), whole)
