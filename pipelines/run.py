"""Running a pipeline: ``run``, ``resume`` and what they return."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from typing import Any

import xarray as xr
from distributed import Client

from deepstrata.pipelines import cluster, environment, planning, sources
from deepstrata.pipelines.events import (
    Notice,
    Observer,
)
from deepstrata.pipelines.execution import Execution, now
from deepstrata.pipelines.executor import DaskExecutor
from deepstrata.pipelines.history import history_tree
from deepstrata.pipelines.model import TrainedEncoder, load_encoder
from deepstrata.pipelines.pipeline import Pipeline
from deepstrata.schemas import pipelines
from deepstrata.schemas.errors import StorageError
from deepstrata.schemas.runs import RunManifest
from deepstrata.storage import runs, stores
from deepstrata.storage.datasets import open_dataset


class Run:
    """A run directory: what was declared, what came of it, and how to use it.

    Attributes
    ----------
    path : str
        The directory.
    manifest : RunManifest
        What ``run.json`` says.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.manifest: RunManifest = runs.read_manifest(path)

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline, to run again or to change."""
        return Pipeline.model_validate(self.manifest.pipeline.model_dump())

    @property
    def metrics(self) -> dict[str, float]:
        """Results by name: ``test_error`` (a fraction), ``test_squared_error`` (per sample)."""
        return dict(self.manifest.metrics)

    @property
    def fingerprint(self) -> str | None:
        """One SHA-256 over data, pipeline, environment and weights; None before the end."""
        return self.manifest.fingerprint

    @cached_property
    def history(self) -> xr.DataTree:
        """Learning curves: a node for each training, over ``round`` and over ``epoch_end``."""
        return history_tree(self.path)

    @cached_property
    def model(self) -> TrainedEncoder:
        """The model that the last training stage ended with."""
        return load_encoder(stores.join(self.path, "model"))

    @property
    def codes(self) -> xr.Dataset | None:
        """What the (last) encode stage wrote, lazily; None without such a stage."""
        for record in reversed(self.manifest.stages):
            if record.kind == "encode":
                return open_dataset(
                    stores.resolved(record.outputs["codes"], self.path), chunked=True
                )
        return None

    @property
    def report(self) -> str | None:
        """Path of the report; None without one."""
        for record in self.manifest.stages:
            if record.kind == "report":
                return stores.resolved(record.outputs["report"], self.path)
        return None

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v:.4g}" for k, v in self.metrics.items())
        return f"<deepstrata.Run {self.path} {self.manifest.status}: {shown or 'no metrics'}>"


def open_run(path: str) -> Run:
    """Open a run directory.

    Raises
    ------
    StorageError
        It is not one.
    """
    return Run(runs.open_run_directory(path))


def run(
    pipeline: pipelines.Pipeline,
    client: Client | None = None,
    *,
    out: str | None = None,
    data: Any = None,
    observer: Observer | None = None,
) -> Run:
    """Run a pipeline and return the run.

    Parameters
    ----------
    client
        A Dask client; by default a local cluster with a process for every core is started.
    out
        Directory for the run, not there yet; ``runs/<name>-<n>`` by default. The workers must
        reach it under the same path or URL.
    data
        The ``xarray.Dataset`` that a ``DatasetSource`` reads.
    observer
        Called with every event (see ``deepstrata.pipelines.events``); by default progress is shown
        in the notebook or on standard error. ``deepstrata.pipelines.events.ignore`` keeps silent.

    Raises
    ------
    DeepstrataError
        Something cannot be read, used or reached; the message says what to do.
    """
    sources.check_source(pipeline, data)
    path = runs.check_free(out or runs.free_path(pipeline.name))
    with _watched(observer) as watch, _session(client) as session:
        description = cluster.check(session)
        _check_plan(pipeline, session, data, watch)
        manifest = RunManifest(
            run=path.rstrip("/").rsplit("/", 1)[-1],
            pipeline=pipeline,
            started=now(),
            environment=environment.environment(description, {}),
            cluster=_cluster_notes(session),
        )
        return _execute(path, manifest, session, data, watch)


def resume(
    path: str,
    client: Client | None = None,
    *,
    changes: dict[str, Any] | None = None,
    data: Any = None,
    observer: Observer | None = None,
) -> Run:
    """Go on with a run from its last checkpoint; what is finished and unchanged is kept.

    Parameters
    ----------
    changes
        Fields to declare anew, as ``Pipeline.replace`` takes them: ``{"finetune.epochs": 20}``.
        Only stages that depend on a change are run again.
    """
    path = runs.open_run_directory(path)
    manifest = runs.read_manifest(path)
    pipeline = manifest.pipeline.replace(**changes) if changes else manifest.pipeline
    with _watched(observer) as watch, _session(client) as session:
        description = cluster.check(session)
        _check_plan(pipeline, session, data, watch)
        now = environment.environment(description, {})
        for what, before in manifest.environment.bits.items():
            if now.bits.get(what) != before:
                watch(
                    Notice(
                        f"the environment has changed: {what} was {before!r}, is "
                        f"{now.bits.get(what)!r}; results may differ in their last bits"
                    )
                )
        update = {
            "pipeline": pipeline,
            "status": "running",
            "error": None,
            "finished": None,
            "environment": now,
            "cluster": _cluster_notes(session),
        }
        return _execute(path, manifest.model_copy(update=update), session, data, watch)


@contextmanager
def _watched(observer: Observer | None) -> Iterator[Observer]:
    """Yield the observer, or one that suits the notebook, terminal or log that this writes to."""
    if observer is not None:
        yield observer
        return
    from deepstrata.pipelines.progress import observer_for

    with observer_for() as watcher:
        yield watcher


@contextmanager
def _session(client: Client | None) -> Iterator[Client]:
    with nullcontext(client) if client is not None else cluster.connect() as session:
        yield session


def _check_plan(
    pipeline: pipelines.Pipeline, client: Client, data: Any, observer: Observer
) -> None:
    """Refuse what cannot end well on this cluster, and say what might not."""
    found, limits = planning.plan(pipeline, data=data), planning.limits_of(client)
    planning.check_plan(found, limits)
    for finding in planning.warnings(found, limits):
        observer(Notice(f"warning: {finding}"))


def _cluster_notes(client: Client) -> dict[str, str]:
    info = client.scheduler_info(n_workers=-1)
    return {
        "scheduler": cluster.address_of(client).partition("://")[0],
        "workers": str(len(info["workers"])),
        "threads": str(sum(worker["nthreads"] for worker in info["workers"].values())),
    }


def _execute(
    path: str, manifest: RunManifest, client: Client, data: Any, observer: Observer
) -> Run:
    """Run every stage, writing the manifest as each is finished."""
    address = cluster.dashboard(client)
    if address:
        observer(Notice(f"dashboard: {address}"))
    with runs.lock(path):
        runs.write_manifest(path, manifest)
        cluster.check_shared(client, runs.manifest_url(path))
        executor = DaskExecutor(client, observer)
        state = Execution(path, manifest, executor, observer)
        try:
            state.go(data)
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(StorageError):  # a full disk may be what ended the run
                state.update(status=status, error=str(error) or type(error).__name__)
            raise
        finally:
            executor.close()
    return Run(path)
