"""Carrying out a pipeline, stage by stage, with the manifest always saying how far it is."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from deepstrata.ops.backend import Backend
from deepstrata.pipelines import environment, meter, sources
from deepstrata.pipelines.context import Context, digest_of, pipeline_digest, stage_digest
from deepstrata.pipelines.control import check_validation
from deepstrata.pipelines.events import (
    Checkpointed,
    Event,
    Observer,
    StageFinished,
    StageStarted,
)
from deepstrata.pipelines.executor import Executor
from deepstrata.pipelines.lowering import lower, save_final_model
from deepstrata.pipelines.lowering.principal import check_components
from deepstrata.schemas.errors import BadShardError
from deepstrata.schemas.runs import CheckpointRecord, Digests, RunManifest, StageRecord
from deepstrata.schemas.stages import Report
from deepstrata.storage import runs, stores


def now() -> str:
    """Return the time, for people."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Execution:
    """A run while it goes on; keeps the manifest on disk in step with it."""

    def __init__(
        self, path: str, manifest: RunManifest, executor: Executor, observer: Observer
    ) -> None:
        self.path, self.manifest, self.listener = path, manifest, observer
        self.executor = executor
        self.done = {record.name: record for record in manifest.stages}

    def observer(self, event: Event) -> None:
        """Put checkpoints into the manifest as they are reached; pass everything on."""
        if isinstance(event, Checkpointed):
            record = CheckpointRecord(stage=event.training, round=event.round, digest=event.digest)
            passed = {(r.stage, r.round): r for r in (*self.manifest.checkpoints, record)}
            self.update(checkpoints=tuple(passed.values()))
        self.listener(event)

    def update(self, **changes: Any) -> None:
        """Change the manifest and write it."""
        self.manifest = self.manifest.model_copy(update=changes)
        runs.write_manifest(self.path, self.manifest)

    def finished(self, record: StageRecord) -> None:
        """Record a finished stage."""
        self.done[record.name] = record
        names = ["ingest", "inspect", *(stage.name for stage in self.manifest.pipeline.stages)]
        stages = tuple(self.done[name] for name in names if name in self.done)
        self.update(stages=stages, metrics=_metrics(stages))

    def go(self, data: Any) -> None:
        """Run every stage that is not done."""
        pipeline = self.manifest.pipeline
        before = _seconds(self.executor)
        source, record = sources.ingest_source(
            pipeline, self.path, list(self.done.values()), self.observer
        )
        if record is not None:
            self.finished(record)
        skipped, again = 0.0, False
        while True:
            context = self._open(source, data)
            record, data_digest = sources.inspect(context, again)
            self.finished(record)
            try:
                self._stages(context, data_digest, before)
                break
            except BadShardError:
                # Each turn leaves out more shards, so there are no more turns than shards.
                worse = record.metrics.get("skipped_shards", 0.0)
                if pipeline.on_bad_shard == "stop" or (again and worse <= skipped):
                    raise
                skipped, again = worse, True
                self.update(checkpoints=())
        self.update(status="finished", finished=now())

    def _stages(self, context: Context, data_digest: str, before: dict[str, float]) -> None:
        """Run the stages over data that was inspected."""
        pipeline = self.manifest.pipeline
        check_validation(pipeline, context.counts)
        check_components(context)
        context.chain = digest_of(context.chain, data_digest)
        for stage in pipeline.stages:
            if not isinstance(stage, Report):
                self._stage(stage, context)
        weights = save_final_model(context, runs.model_url(self.path))
        self._conclude(context, data_digest, weights, before)
        for stage in pipeline.stages:
            if isinstance(stage, Report):
                self._report(stage, context)

    def _open(self, source: Any, data: Any) -> Context:
        pipeline = self.manifest.pipeline
        opened = sources.open_source(pipeline, source, data)
        split = sources.split_of(pipeline)
        return Context(
            executor=self.executor,
            pipeline=pipeline,
            path=self.path,
            observer=self.observer,
            feed=sources.feed_of(pipeline, opened, self._backend()),
            grid=opened.grid,
            visible=opened.visible,
            coords=opened.coords,
            sample=opened.sample,
            chain=stage_digest(pipeline.source, str(pipeline.seed), stage_digest(split)),
            records=list(self.done.values()),
        )

    def _backend(self) -> Backend:
        return "numpy" if environment.device_of(self.manifest.environment) == "cpu" else "cupy"

    def _stage(self, stage: Any, context: Context) -> None:
        before = context.record(stage.name)
        self.observer(StageStarted(stage.name, stage.kind, 0))
        waited = _seconds(self.executor)
        record = lower(stage, context)
        if record is None:
            self.observer(StageFinished(stage.name, stage.kind, 0.0, {}, reused=False))
            return
        if record is not before:
            record = record.model_copy(update={"wait": _wait(waited, _seconds(self.executor))})
            self.finished(record)
        self.observer(
            StageFinished(
                stage.name, stage.kind, record.seconds, record.metrics, reused=record is before
            )
        )

    def _conclude(
        self, context: Context, data: str, weights: str, before: dict[str, float]
    ) -> None:
        """Say what the whole run came to."""
        trainings = [r for r in self.manifest.stages if r.kind in ("solve", "pretrain", "finetune")]
        seconds = sum(r.seconds for r in trainings)
        digests = Digests(
            data=data,
            pipeline=pipeline_digest(self.manifest.pipeline),
            code=environment.code_digest(),
            environment=digest_of(self.manifest.environment.bits),
            parent=self.manifest.parent.get("parent_weights", ""),
            weights=weights,
        )
        peaks = self.executor.everywhere(meter.peak_bytes)
        self.update(
            digests=digests,
            weights_sha256=weights,
            fingerprint=digest_of(list(digests.model_dump().values())),
            examples_per_second=sum(r.examples for r in trainings) / seconds if seconds else 0.0,
            data_wait=_wait(before, _seconds(self.executor)),
            peak_worker_bytes=max(peaks.values()),
        )

    def _report(self, stage: Report, context: Context) -> None:
        from deepstrata.pipelines.summary import write_run_report

        self.observer(StageStarted(stage.name, stage.kind, 0))
        started = time.perf_counter()
        path = stores.join(self.path, "report.html")
        write_run_report(self.path, self.manifest, context, stage, path)
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


def _metrics(stages: Sequence[StageRecord]) -> dict[str, float]:
    """Return all results; those of any stage but the last of its kind carry the stage's name.

    What was left out of the data is counted among them.
    """
    found: dict[str, float] = {}
    evaluated = [record for record in stages if record.kind in ("evaluate", "cross_domain")]
    last = {record.kind: record.name for record in evaluated}
    for record in evaluated:
        prefix = "" if record.name == last[record.kind] else f"{record.name}_"
        found |= {prefix + name: value for name, value in record.metrics.items()}
    inspected = [record.metrics for record in stages if record.kind == "inspect"]
    left_out = [(k, v) for m in inspected for k, v in m.items() if k.startswith("skipped_")]
    return found | dict(left_out)


def _seconds(executor: Executor) -> dict[str, float]:
    """Return what all workers have spent on reading and computing so far."""
    total: dict[str, float] = {}
    for spent in executor.everywhere(meter.seconds).values():
        for what, value in spent.items():
            total[what] = total.get(what, 0.0) + value
    return total


def _wait(before: dict[str, float], after: dict[str, float]) -> float:
    """Return the share of the tasks' time since ``before`` that was spent waiting for data."""
    waited, computed = (
        max(after.get(what, 0.0) - before.get(what, 0.0), 0.0) for what in ("wait", "compute")
    )
    return waited / (waited + computed) if waited + computed else 0.0
