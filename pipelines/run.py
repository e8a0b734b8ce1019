"""Running a pipeline: ``run``, ``resume`` and what they return."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property, partial
from typing import Any, NamedTuple

import xarray as xr
from distributed import Client

from deepstrata.pipelines import cluster, environment, planning, sources
from deepstrata.pipelines.events import (
    Notice,
    Observer,
)
from deepstrata.pipelines.execution import Execution, now
from deepstrata.pipelines.executor import DaskExecutor, Executor
from deepstrata.pipelines.history import history_tree
from deepstrata.pipelines.model import TrainedEncoder, load_encoder
from deepstrata.pipelines.parents import check_parents
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
        return load_encoder(runs.model_url(self.path))

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
    client: "Client | Cluster | None" = None,
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
        Or what else carries out graphs: see ``deepstrata.pipelines.inprocess``.
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
    with _watched(observer) as watch, _cluster(client, watch) as there:
        found = _check_plan(pipeline, there.limits, data, watch)
        check_parents(pipeline, found.visible)
        return begin(path, pipeline, there, data, watch)


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
    if changes:
        manifest = manifest.model_copy(update={"pipeline": manifest.pipeline.replace(**changes)})
    with _watched(observer) as watch, _cluster(client, watch) as there:
        _check_plan(manifest.pipeline, there.limits, data, watch)
        return go_on(path, manifest, there, data, watch)


class Cluster(NamedTuple):
    """What carries out a run, and what is known of it."""

    executor: Executor
    description: dict[str, Any]
    """What a worker says of its environment."""
    notes: dict[str, str]
    check_shared: Callable[[str], None]
    """Raises a ClusterError unless every worker sees a file."""
    limits: planning.Limits = planning.NO_LIMITS


def begin(
    path: str, pipeline: pipelines.Pipeline, there: Cluster, data: Any, observer: Observer
) -> Run:
    """Run a pipeline in a directory that is free, on whatever cluster; ``run`` ends here."""
    manifest = RunManifest(
        run=path.rstrip("/").rsplit("/", 1)[-1],
        pipeline=pipeline,
        started=now(),
        environment=environment.environment(there.description),
        cluster=there.notes,
    )
    return _execute(path, manifest, there, data, observer)


def go_on(path: str, manifest: RunManifest, there: Cluster, data: Any, observer: Observer) -> Run:
    """Go on with what a manifest says, on whatever cluster; ``resume`` ends here."""
    found = environment.environment(there.description)
    for what, before, after in environment.changes(manifest.environment, found):
        observer(
            Notice(
                f"the environment has changed: {what} was {before!r}, is {after!r}; results may "
                "differ in their last bits"
            )
        )
    update = {
        "status": "running",
        "error": None,
        "finished": None,
        "environment": environment.continued(manifest.environment, found),
        "cluster": there.notes,
    }
    return _execute(path, manifest.model_copy(update=update), there, data, observer)


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
def _cluster(client: Client | Cluster | None, observer: Observer) -> Iterator[Cluster]:
    """Yield the caller's Dask cluster or one that is started, prepared and checked."""
    if isinstance(client, Cluster):
        yield client
        return
    with nullcontext(client) if client is not None else cluster.connect() as session:
        description = cluster.check(session, observer)
        address = cluster.dashboard(session)
        if address:
            observer(Notice(f"dashboard: {address}"))
        executor = DaskExecutor(session, observer)
        try:
            yield Cluster(
                executor,
                description,
                _cluster_notes(session),
                partial(cluster.check_shared, session),
                planning.limits_of(session),
            )
        finally:
            executor.close()


def _check_plan(
    pipeline: pipelines.Pipeline, limits: planning.Limits, data: Any, observer: Observer
) -> planning.Plan:
    """Refuse what cannot end well on a cluster, and say what might not; return the plan."""
    found = planning.plan(pipeline, data=data)
    planning.check_plan(found, limits)
    for finding in planning.warnings(found, limits):
        observer(Notice(f"warning: {finding}"))
    return found


def _cluster_notes(client: Client) -> dict[str, str]:
    info = client.scheduler_info(n_workers=-1)
    return {
        "scheduler": cluster.address_of(client).partition("://")[0],
        "workers": str(len(info["workers"])),
        "threads": str(sum(worker["nthreads"] for worker in info["workers"].values())),
    }


def _execute(
    path: str, manifest: RunManifest, there: Cluster, data: Any, observer: Observer
) -> Run:
    """Run every stage, writing the manifest as each is finished."""
    with runs.lock(path):
        runs.write_manifest(path, manifest)
        there.check_shared(runs.manifest_url(path))
        state = Execution(path, manifest, there.executor, observer)
        try:
            state.go(data)
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(StorageError):  # a full disk may be what ended the run
                state.update(status=status, error=str(error) or type(error).__name__)
            raise
    return Run(path)
