"""The command line: what it parses, what it promises to programs, how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support import dbn_pipeline

from deepstrata import __version__
from deepstrata.pipelines import cluster, doctor, planning, verify
from deepstrata.pipelines import run as running
from deepstrata.pipelines.cli import cli
from deepstrata.schemas.datasets import DatasetSchema, Variable
from deepstrata.schemas.runs import Environment, RunManifest
from deepstrata.storage import ingest, runs

ROOT = Path(__file__).parents[2]
CLIENT = SimpleNamespace(run=lambda *_, **__: None)
COMMANDS = (
    "ingest",
    "recipes",
    "plan",
    "run",
    "resume",
    "show",
    "verify",
    "export",
    "doctor",
    "schema",
)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def program(*arguments: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deepstrata.pipelines.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout)


@pytest.fixture
def pipeline_file(bars_path: str, tmp_path: Path) -> str:
    path = tmp_path / "bars.json"
    path.write_text(dbn_pipeline(bars_path).to_json())
    return str(path)


def manifest(path: str, bars_path: str) -> RunManifest:
    return RunManifest(
        run=path,
        pipeline=dbn_pipeline(bars_path),
        status="finished",
        started="2026-03-02T14:03:11+00:00",
        environment=Environment(bits={}),
        metrics={"test_error": 0.0261},
        fingerprint="f" * 64,
        examples_per_second=18432.0,
        data_wait=0.013,
        peak_worker_bytes=2**29,
    )


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, bars_path: str) -> list[dict[str, Any]]:
    """Stand in for cluster and engine; collect how they are called."""
    calls: list[dict[str, Any]] = []

    @contextmanager
    def connect(kind: str, workers: int | None, **_: object) -> Iterator[SimpleNamespace]:
        calls.append({"cluster": kind, "workers": workers})
        yield CLIENT

    def run(pipeline: Any, client: object, *, out: str, observer: Any) -> SimpleNamespace:
        calls.append({"pipeline": pipeline, "client": client, "out": out})
        return SimpleNamespace(
            path=out, manifest=manifest(out, bars_path), report=f"{out}/report.html"
        )

    monkeypatch.setattr(cluster, "connect", connect)
    monkeypatch.setattr(running, "run", run)
    return calls


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "--debug" in result.stdout
    assert command in call("--help").stdout


def test_every_format_is_in_the_help() -> None:
    words = call("ingest", "--help").stdout.replace(",", " ").split()
    assert set(ingest.FORMATS) <= set(words)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from deepstrata.pipelines.cli import cli; "
        "cli(['run', '--help'], standalone_mode=False); "
        "heavy = {'dask', 'numba', 'matplotlib', 'xarray', 'zarr', 'rich'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_version_and_schema() -> None:
    assert __version__ in call("--version").stdout
    schema = json.loads(call("schema").stdout)
    assert {"name", "source", "stages", "seed"} <= set(schema["properties"])


def test_recipes_are_listed() -> None:
    result = call("recipes")
    assert result.exit_code == 0
    assert "dbn-digits" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "no-such-recipe"), "expected a recipe"),
        (("run", "nowhere.py"), "no such file"),
        (("plan", "dbn-digits", "--set", "pretrain.epoch=1"), "no field 'epoch'"),
        (("plan", "dbn-digits", "--set", "pretrain.epochs=-1"), "pretrain"),
        (("plan", "dbn-digits", "--set", "pretrain.epochs"), "expected stage.field=value"),
        (("run", "dbn-digits", "--workers", "0"), "--workers"),
        (("run", "dbn-digits", "--cluster", "nonsense"), "--cluster 'nonsense'"),
        (("run", "dbn-digits", "--cluster", "tcp://127.0.0.1:1", "--workers", "2"), "--workers"),
        (("resume", "no-such-run"), "no such run directory"),
        (("show", "."), "not a run directory"),
        (("verify", "a", "b"), "no such run directory"),
        (("export", "nowhere", "a.onnx"), "not a model"),
        (("ingest", "no-such-format", "a", "b"), "no-such-format"),
        (("ingest", "wav", "a", "b", "--option", "rat=8000"), "no field 'rat'"),
        (("ingest", "wav", "a", "b", "--option", "source=8000"), "no field 'source'"),
        (("ingest", "wav", "a", "b", "--option", "rate"), "expected name=value"),
        (("ingest", "csv", "a", "b", "--option", "rate=8000"), "expected none, found rate"),
    ],
)
def test_bad_input_is_one_message_and_status_2(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("--debug", "plan", "x"), ("plan", "x", "--debug")])
def test_debug_shows_the_traceback(arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "DeclarationError" in result.stderr


def test_escapes_in_a_message_are_shown_not_obeyed() -> None:
    assert "\x1b" not in call("plan", "\x1b[31mred").stderr


def test_values_are_json_or_text(
    pipeline_file: str, bars_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    there = {"source.path": bars_path}
    made = planning.plan
    monkeypatch.setattr(planning, "plan", lambda p: seen.append(p) or made(p.replace(**there)))
    result = call(
        "plan", pipeline_file, "--set", "seed=7", "--set", "pretrain.epochs=2",
        "--set", "source.path=1.zarr", "--set", 'source.labels="label"',
    )  # fmt: skip
    assert result.stdout.startswith("plan of bars")
    (pipeline,) = seen
    assert (pipeline.seed, pipeline.stage("pretrain").epochs) == (7, 2)
    assert (pipeline.source.path, pipeline.source.labels) == ("1.zarr", "label")


def test_a_plan_is_a_table_or_json(pipeline_file: str) -> None:
    assert "pretrain" in call("plan", pipeline_file).stdout
    assert json.loads(call("plan", pipeline_file, "--json").stdout)


def test_a_source_of_its_own_is_a_hyphen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    schema = DatasetSchema(
        sample_dim="sample",
        variables=(Variable(name="x", dims=("sample",), dtype="f4", shape=(3,), chunks=(2,)),),
    )

    def write(*arguments: Any, sample_dim: str | None, **options: Any) -> DatasetSchema:
        seen.append((*arguments, sample_dim, *options.items()))
        return schema

    monkeypatch.setattr(ingest, "ingest", write)
    assert "sample 3" in call("ingest", "digits", "-", "out.zarr").stdout
    call("ingest", "netcdf", "a.nc", "out.zarr", "--sample-dim", "time")
    values = ("--option", "frame=256", "--option", "hop=0.5", "--option", "test=_[0-4]\\.wav$")
    call("ingest", "wav", "a", "out.zarr", *values)
    assert seen == [
        ("digits", None, "out.zarr", None),
        ("netcdf", "a.nc", "out.zarr", "time"),
        ("wav", "a", "out.zarr", None, ("frame", 256), ("hop", 0.5), ("test", "_[0-4]\\.wav$")),
    ]


def test_a_run_ends_with_a_table(
    pipeline_file: str, engine: list[dict[str, Any]], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "bars-1").mkdir(parents=True)
    result = call("run", pipeline_file, "--cluster", "threads", "--workers", "3")
    assert result.exit_code == 0, result.output
    assert engine[0] == {"cluster": "threads", "workers": 3}
    assert engine[1]["out"].endswith("runs/bars-2")
    assert engine[1]["client"] is CLIENT
    for shown in ("2.61 %", "18,400", "1.3 %", "512 MiB", "f" * 64, "runs/bars-2/report.html"):
        assert shown in result.stdout


def test_the_last_line_of_json_is_one_object(
    pipeline_file: str, engine: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    result = call("run", pipeline_file, "--out", out, "--json")
    assert json.loads(result.stdout) == {
        "run": out,
        "fingerprint": "f" * 64,
        "metrics": {"test_error": 0.0261},
        "examples_per_second": 18432.0,
        "data_wait": 0.013,
        "peak_worker_bytes": 2**29,
    }
    assert "2.61 %" in result.stderr


def test_a_taken_directory_is_refused_before_a_cluster_starts(
    pipeline_file: str, engine: list[dict[str, Any]], tmp_path: Path
) -> None:
    result = call("run", pipeline_file, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert engine == []


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupt_says_how_to_go_on(
    begun: bool,
    pipeline_file: str,
    engine: list[dict[str, Any]],
    bars_path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(pipeline: Any, client: object, *, out: str, observer: Any) -> None:
        if begun:
            runs.write_manifest(out, manifest(out, bars_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run", run)
    monkeypatch.setattr("logging.disable", lambda _: None)
    out = tmp_path / "with a space"
    result = call("run", pipeline_file, "--out", str(out))
    assert result.exit_code == 130
    assert (f"deepstrata resume '{out}'" in result.stderr) == begun
    assert ("nothing is kept" in result.stderr) != begun


@pytest.mark.parametrize(("same", "status"), [(True, 0), (False, 1)])
def test_verify_tells_by_its_status(
    same: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "verify", lambda a, b: verify.Verdict(same, f"{a} and {b}"))
    result = call("verify", "x", "y")
    assert (result.exit_code, result.stdout) == (status, "x and y\n")


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor_tells_by_its_status(
    status: Any, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [doctor.Check("[bold]thing", status, "found", "do this")]
    monkeypatch.setattr(doctor, "examine", lambda *_: iter(checks))
    result = call("doctor")
    assert result.exit_code == code
    for shown in (status, "[bold]thing", "found", "do this"):
        assert shown in result.stdout


def test_from_pipeline_to_verified_runs(pipeline_file: str, tmp_path: Path) -> None:
    first = program("run", pipeline_file, "--cluster", "threads", "--json", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)
    assert summary["run"] == str(tmp_path / "runs" / "bars-1")
    assert 0 <= summary["metrics"]["test_error"] <= 1
    assert "pretrain: done" in first.stderr
    second = program("run", pipeline_file, "--cluster", "threads", "--out", "other", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert summary["fingerprint"] in second.stdout
    shown = call("show", str(tmp_path / "other"))
    assert "finished" in shown.stdout
    assert "finetune" in shown.stdout
    compared = call("verify", summary["run"], str(tmp_path / "other"))
    assert (compared.exit_code, compared.stdout.split()[0].strip(":")) == (0, "same")
    again = program("resume", "other", "--cluster", "threads", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "kept from before" in again.stderr


STOPPED = """
import os, signal, time
from deepstrata.pipelines import run
from deepstrata.pipelines.cli import main
from deepstrata.storage import runs

def work(pipeline, client, *, out, observer):
    futures = client.map(time.sleep, [600] * 4, pure=False)
    open(os.environ["BEGUN"], "w").close()
    client.gather(futures)

run.run = work
if __name__ == "__main__":
    # What a shell starts in the background without job control ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs process groups of POSIX")
def test_ctrl_c_reaches_the_whole_job_and_ends_quietly(pipeline_file: str, tmp_path: Path) -> None:
    script, begun = tmp_path / "stopped.py", tmp_path / "begun"
    script.write_text(STOPPED)
    command = [sys.executable, str(script), "run", pipeline_file, "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")], env=os.environ | {"BEGUN": str(begun)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 130, errors
    # Not a word from the workers: they were never told.
    assert errors.splitlines() == ["interrupted before the run began; nothing is kept"]


def test_a_store_is_rechunked(bars_path: str, tmp_path: Path) -> None:
    dest = str(tmp_path / "b.zarr")
    result = call("rechunk", bars_path, dest, "--rows", "60", "--variables", "image")
    assert result.exit_code == 0, result.output
    assert "60 x 4 x 4" in result.stdout
    assert "image: 15.0 KiB in one pass, each byte of the source decoded 1 times" in result.stdout
    again = call("rechunk", bars_path, dest)
    assert again.exit_code == 2
    assert "exists already" in again.stderr


@pytest.mark.parametrize("size", ["much", "-1GiB", "0"])
def test_memory_is_a_size(size: str, bars_path: str) -> None:
    result = call("rechunk", bars_path, "x.zarr", "--memory", size)
    assert result.exit_code == 2
    assert "expected a size such as 512MiB" in result.stderr


def test_a_plan_that_cannot_be_is_shown_and_refused(pipeline_file: str) -> None:
    result = call("plan", pipeline_file, "--worker-memory", "100MiB", "--json")
    assert result.exit_code == 2
    assert "deepstrata rechunk SRC DEST" in result.stderr
    assert json.loads(result.stdout)["refusals"]
