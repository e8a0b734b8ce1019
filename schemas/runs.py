"""What a run says of itself: the manifest in its directory."""

from typing import Literal

from deepstrata.schemas._base import Declaration, Document
from deepstrata.schemas.pipelines import Pipeline


class Environment(Declaration):
    """What computed. Only ``bits`` can change a result; the rest is for people."""

    bits: dict[str, str]
    """numpy, BLAS library, version, kernel and threads, numba, device kind."""
    notes: dict[str, str] = {}
    """Machine, Python, deepstrata, Dask, Zarr and other versions."""


class Digests(Declaration):
    """SHA-256 of each thing that the fingerprint covers."""

    data: str = ""
    pipeline: str = ""
    code: str = ""
    environment: str = ""
    parent: str = ""
    """Of the model that layers were taken from; empty without one."""
    weights: str = ""


class CheckpointRecord(Declaration):
    """That a checkpoint was reached, and what the state was; kept when the files are removed."""

    stage: str
    round: int
    digest: str


class StageRecord(Declaration):
    """A finished stage."""

    name: str
    kind: str
    key: str
    """SHA-256 of declaration, inputs and code version: the same key is not run again."""
    seconds: float
    examples: int = 0
    wait: float = 0.0
    """Share of the task time that was spent reading data."""
    metrics: dict[str, float] = {}
    outputs: dict[str, str] = {}
    """By what they are: paths of what was written (relative to the run directory where they lie in
    it), SHA-256 of parameters."""


class RunManifest(Document):
    """The file ``run.json`` of a run directory."""

    run: str
    pipeline: Pipeline
    status: Literal["running", "finished", "failed", "interrupted"] = "running"
    error: str | None = None
    started: str
    finished: str | None = None
    environment: Environment
    cluster: dict[str, str] = {}
    stages: tuple[StageRecord, ...] = ()
    checkpoints: tuple[CheckpointRecord, ...] = ()
    metrics: dict[str, float] = {}
    digests: Digests = Digests()
    fingerprint: str | None = None
    weights_sha256: str | None = None
    examples_per_second: float = 0.0
    data_wait: float = 0.0
    peak_worker_bytes: int = 0

    @property
    def parent(self) -> dict[str, str]:
        """Path, digest and fingerprint of what layers were taken from; empty without a transfer."""
        found = next((stage.outputs for stage in self.stages if stage.kind == "transfer"), {})
        return {name: value for name, value in found.items() if name.startswith("parent")}
