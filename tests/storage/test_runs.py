"""Run directories: nothing is overwritten, two processes never share one, a kill frees it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepstrata.schemas.datasets import ZarrSource
from deepstrata.schemas.errors import DeclarationError, StorageError
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.runs import Environment, RunManifest
from deepstrata.storage import runs, stores


def manifest(**changes: object) -> RunManifest:
    pipeline = Pipeline(name="p", source=ZarrSource(path="x", features="f"), stages=())
    environment = Environment(bits={"numpy": "2"})
    declared = RunManifest(run="r", pipeline=pipeline, started="now", environment=environment)
    return declared.model_copy(update=changes)


def test_a_manifest_round_trips(place: str) -> None:
    url = runs.check_free(place)
    runs.write_manifest(url, manifest())
    runs.write_manifest(url, manifest(status="finished"))
    assert runs.open_run_directory(place) == url
    assert runs.read_manifest(url) == manifest(status="finished")


def test_a_torn_manifest_of_a_remote_store_is_read_from_its_copy(memory_url: str) -> None:
    runs.write_manifest(memory_url, manifest())
    runs.write_manifest(memory_url, manifest(status="finished"))
    whole = stores.read_bytes(runs.manifest_url(memory_url))
    stores.write_bytes(runs.manifest_url(memory_url), whole[:100])
    assert runs.read_manifest(memory_url) == manifest(status="finished")
    with runs.lock(memory_url):  # whoever goes on writes the copy first, and may tear that
        stores.write_bytes(stores.join(memory_url, runs.COPY), whole[:50])
    assert runs.read_manifest(memory_url) == manifest(status="finished")


def test_a_run_is_known_by_what_is_written_first(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = stores.write_bytes

    def first_only(url: str, data: bytes) -> None:
        write(url, data)
        if url == runs.manifest_url(place):
            raise KeyboardInterrupt

    monkeypatch.setattr(stores, "write_bytes", first_only)
    with pytest.raises(KeyboardInterrupt):
        runs.write_manifest(place, manifest())
    assert stores.children(place)[-1] == runs.MANIFEST
    assert runs.PIPELINE not in stores.children(place)
    assert runs.read_manifest(place) == manifest()


def test_a_path_in_use_is_refused(tmp_path: Path) -> None:
    runs.check_free(str(tmp_path / "new"))
    runs.check_free(str(tmp_path))
    (tmp_path / "file").write_text("x")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(StorageError, match="exists already"):
            runs.check_free(str(taken))


def test_what_a_run_leaves_that_ended_at_once_is_no_run(place: str) -> None:
    for name in (runs.LOCK, runs.COPY, ".run.json.0f.part"):
        stores.write_bytes(stores.join(place, name), b"{")
    assert runs.check_free(place) == stores.absolute(place)
    runs.write_manifest(place, manifest())
    with pytest.raises(StorageError, match="exists already"):
        runs.check_free(place)


def test_free_paths_are_counted(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert runs.free_path("p", root) == str(tmp_path / "p-1")
    (tmp_path / "p-1").mkdir()
    assert runs.free_path("p", root) == str(tmp_path / "p-2")


def test_what_is_not_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such run directory"):
        runs.open_run_directory(str(tmp_path / "nothing"))
    with pytest.raises(StorageError, match=r"expected a run\.json"):
        runs.open_run_directory(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", '{"format_version": 2}'])
def test_a_damaged_manifest_is_explained(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(DeclarationError, match=r"run\.json"):
        runs.read_manifest(str(tmp_path))


def test_a_format_of_the_future_is_refused(tmp_path: Path) -> None:
    data = json.loads(manifest().to_json()) | {"format_version": 99, "unheard_of": 1}
    (tmp_path / "run.json").write_text(json.dumps(data))
    with pytest.raises(DeclarationError, match="99.*upgrade deepstrata"):
        runs.read_manifest(str(tmp_path))


def test_a_run_is_not_entered_twice(tmp_path: Path) -> None:
    url = str(tmp_path / "run")
    with (
        runs.lock(url),
        pytest.raises(StorageError, match="another process"),
        runs.lock(url),
    ):
        pass
    with runs.lock(url):
        pass


HOLDS = "import sys, time\nfrom deepstrata.storage import runs\n\
with runs.lock(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)\n"


def test_a_killed_process_gives_its_lock_back(tmp_path: Path) -> None:
    url = str(tmp_path / "run")
    command = [sys.executable, "-c", HOLDS, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "held"
        with pytest.raises(StorageError, match="another process"), runs.lock(url):
            pass
        process.kill()
    deadline = time.monotonic() + 5
    while True:
        try:
            with runs.lock(url):
                return
        except StorageError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_runs_in_object_stores_are_not_locked(memory_url: str) -> None:
    with runs.lock(memory_url), runs.lock(memory_url):
        assert not stores.exists(memory_url)
