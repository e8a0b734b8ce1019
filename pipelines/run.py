"""Running a pipeline: ``run``, ``resume`` and what they return."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import xarray as xr
from distributed import Client

from deepstrata.ops.backend import Backend
from deepstrata.pipelines import cluster, environment, meter, sources
from deepstrata.pipelines.context import Context, digest_of, pipeline_digest, stage_digest
from deepstrata.pipelines.events import (
    Checkpointed,
    Event,
    Notice,
    Observer,
    StageFinished,
    StageStarted,
)
from deepstrata.pipelines.history import history_tree
from deepstrata.pipelines.lowering import lower, save_final_model
from deepstrata.pipelines.model import TrainedEncoder, load_encoder
from deepstrata.pipelines.pipeline import Pipeline
from deepstrata.schemas import pipelines
from deepstrata.schemas.runs import CheckpointRecord, Digests, RunManifest, StageRecord
from deepstrata.schemas.stages import Report
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
        manifest = RunManifest(
            run=path.rstrip("/").rsplit("/", 1)[-1],
            pipeline=pipeline,
            started=_now(),
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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
        state = _State(path, manifest, client, observer)
        try:
            state.go(data)
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            state.update(status=status, error=str(error) or type(error).__name__)
            raise
    return Run(path)


class _State:
    """Keeps the manifest on disk in step with the run."""

    def __init__(
        self, path: str, manifest: RunManifest, client: Client, observer: Observer
    ) -> None:
        self.path, self.manifest, self.client, self.listener = path, manifest, client, observer
        self.done = {record.name: record for record in manifest.stages}

    def observer(self, event: Event) -> None:
        """Put checkpoints into the manifest as they are reached; pass everything on."""
        if isinstance(event, Checkpointed):
            record = CheckpointRecord(stage=event.training, round=event.round, digest=event.digest)
            self.passed([record])
        self.listener(event)

    def passed(self, records: Iterable[CheckpointRecord]) -> None:
        """Record checkpoints, each once."""
        found = {(r.stage, r.round): r for r in (*self.manifest.checkpoints, *records)}
        self.update(checkpoints=tuple(found.values()))

    def update(self, **changes: Any) -> None:
        """Change the manifest and write it."""
        self.manifest = self.manifest.model_copy(update=changes)
        runs.write_manifest(self.path, self.manifest)

    def finished(self, record: StageRecord) -> None:
        """Record a finished stage."""
        self.done[record.name] = record
        names = ["ingest", "inspect", *(stage.name for stage in self.manifest.pipeline.stages)]
        stages = tuple(self.done[name] for name in names if name in self.done)
        self.update(stages=stages, metrics=_metrics([r for r in stages if r.kind == "evaluate"]))

    def go(self, data: Any) -> None:
        """Run every stage that is not done."""
        pipeline = self.manifest.pipeline
        before = _seconds(self.client)
        source, record = sources.ingest_source(
            pipeline, self.path, list(self.done.values()), self.observer
        )
        if record is not None:
            self.finished(record)
        context = self._open(source, data)
        record, data_digest = sources.inspect(context)
        self.finished(record)
        context.chain = digest_of(context.chain, data_digest)
        for stage in pipeline.stages:
            if not isinstance(stage, Report):
                self._stage(stage, context)
        weights = save_final_model(context, stores.join(self.path, "model"))
        self._conclude(context, data_digest, weights, before)
        for stage in pipeline.stages:
            if isinstance(stage, Report):
                self._report(stage, context)
        self.update(status="finished", finished=_now())

    def _open(self, source: Any, data: Any) -> Context:
        pipeline = self.manifest.pipeline
        opened = sources.open_source(pipeline, source, data)
        split = sources.split_of(pipeline)
        return Context(
            client=self.client,
            pipeline=pipeline,
            path=self.path,
            observer=self.observer,
            feed=sources.feed_of(pipeline, opened, self._backend()),
            grid=opened.grid,
            visible=opened.visible,
            coords=opened.coords,
            chain=stage_digest(pipeline.source, str(pipeline.seed), stage_digest(split)),
            records=list(self.done.values()),
        )

    def _backend(self) -> Backend:
        return "numpy" if self.manifest.environment.bits["device"] == "cpu" else "cupy"

    def _stage(self, stage: Any, context: Context) -> None:
        before = context.record(stage.name)
        self.observer(StageStarted(stage.name, stage.kind, 0))
        waited = _seconds(self.client)
        record = lower(stage, context)
        if record is None:
            self.observer(StageFinished(stage.name, stage.kind, 0.0, {}, reused=False))
            return
        if record is not before:
            record = record.model_copy(update={"wait": _wait(waited, _seconds(self.client))})
            self.finished(record)
        self.passed(context.checkpoints)
        self.observer(
            StageFinished(
                stage.name, stage.kind, record.seconds, record.metrics, reused=record is before
            )
        )

    def _conclude(
        self, context: Context, data: str, weights: str, before: dict[str, float]
    ) -> None:
        """Say what the whole run came to."""
        trainings = [r for r in self.manifest.stages if r.kind in ("pretrain", "finetune")]
        seconds = sum(r.seconds for r in trainings)
        digests = Digests(
            data=data,
            pipeline=pipeline_digest(self.manifest.pipeline),
            code=environment.code_digest(),
            environment=digest_of(self.manifest.environment.bits),
            weights=weights,
        )
        peaks = self.client.run(meter.peak_bytes)
        self.update(
            digests=digests,
            weights_sha256=weights,
            fingerprint=digest_of(
                digests.data, digests.pipeline, digests.environment, digests.weights
            ),
            examples_per_second=sum(r.examples for r in trainings) / seconds if seconds else 0.0,
            data_wait=_wait(before, _seconds(self.client)),
            peak_worker_bytes=max(peaks.values()),
        )

    def _report(self, stage: Report, context: Context) -> None:
        from deepstrata.pipelines.summary import write_run_report

        self.observer(StageStarted(stage.name, stage.kind, 0))
        started = time.perf_counter()
        path = stores.join(self.path, "report.html")
        write_run_report(Run(self.path), context, stage, path)
        seconds = time.perf_counter() - started
        self.finished(
            StageRecord(
                name=stage.name,
                kind=stage.kind,
                key=stage_digest(stage),
                seconds=seconds,
                outputs={"report": stores.relative(path, self.path)},
            )
        )
        self.observer(StageFinished(stage.name, stage.kind, seconds, {}, reused=False))


def _metrics(evaluated: Sequence[StageRecord]) -> dict[str, float]:
    """Return all results; those of any evaluation but the last carry the name of its stage."""
    found: dict[str, float] = {}
    for i, record in enumerate(evaluated):
        prefix = "" if i == len(evaluated) - 1 else f"{record.name}_"
        found |= {prefix + name: value for name, value in record.metrics.items()}
    return found


def _seconds(client: Client) -> dict[str, float]:
    """Return what all workers have spent on reading and computing so far."""
    total: dict[str, float] = {}
    for spent in client.run(meter.seconds).values():
        for what, value in spent.items():
            total[what] = total.get(what, 0.0) + value
    return total


def _wait(before: dict[str, float], after: dict[str, float]) -> float:
    """Return the share of the time since ``before`` that was spent reading."""
    read, compute = (
        max(after.get(what, 0.0) - before.get(what, 0.0), 0.0) for what in ("read", "compute")
    )
    return read / (read + compute) if read + compute else 0.0
