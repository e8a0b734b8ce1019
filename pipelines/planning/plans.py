"""A plan: what a pipeline will do, as values."""

from typing import TYPE_CHECKING, Any, NamedTuple

from deepstrata.pipelines.planning.memory import BASE_BYTES
from deepstrata.pipelines.planning.shuffling import Mix, worth

if TYPE_CHECKING:
    from deepstrata.pipelines.planning.checks import Limits


class Choice(NamedTuple):
    """Another value of a strategy's ``buffer``, and what it would come to."""

    buffer: int
    mix: Mix
    peak: int


class Shuffle(NamedTuple):
    """How well a training is shuffled."""

    local: bool
    """Whether a step is one of ``LocalSteps``, from one place."""
    mix: Mix
    likeness: float | None
    """Intraclass correlation of the labels in a shard, where it is known."""
    choices: tuple[Choice, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds of it."""
        return _mixed(self.mix, self.likeness) | {
            "local": self.local,
            "label_correlation": self.likeness,
            "choices": [
                _mixed(c.mix, self.likeness) | {"buffer": c.buffer, "peak": c.peak}
                for c in self.choices
            ],
        }


def _mixed(mix: Mix, likeness: float | None) -> dict[str, Any]:
    return {
        "buffer": mix.buffer,
        "samples": mix.samples,
        "drawn_from": mix.drawn,
        "shards": mix.shards,
        "share": mix.share,
        "worth": None if likeness is None else worth(mix, max(likeness, 0.0)),
        "worth_sorted": worth(mix, 1.0),
    }


class Step(NamedTuple):
    """What one stage, or one layer of it, will do."""

    stage: str
    shards: int = 0
    rounds: int = 0
    tasks: int = 0
    graph_tasks: int = 0
    """Of the largest graph."""
    passes: int = 0
    """How often the data is read: the epochs of a training."""
    bytes_used: int = 0
    """Of the samples read, over all passes, before compression."""
    bytes_read: int = 0
    """Of the chunks decoded to read them."""
    bytes_disk: int | None = None
    """Of these chunks as they are stored; None where that is not known."""
    bytes_written: int = 0
    peak: int = 0
    """Of one worker that all places fall to, above what every worker takes."""
    places: int = 1
    place_bytes: int = 0
    checkpoint: int = 0
    weights: int = 0
    note: str = ""
    shuffle: Shuffle | None = None
    writes: str | None = None
    """Absolute path or URL of a store that the stage writes outside of the run."""

    @property
    def amplification(self) -> float:
        """Bytes decoded for each byte used."""
        return self.bytes_read / self.bytes_used if self.bytes_used else 1.0

    @property
    def epoch_bytes(self) -> int:
        """Bytes decoded in one pass."""
        return self.bytes_read // max(self.passes, 1)

    def spread(self, workers: int) -> int:
        """Return the peak where the places are spread evenly over some workers."""
        return self.peak - (self.places - -(-self.places // workers)) * self.place_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds of it."""
        found = self._asdict() | {
            "amplification": self.amplification,
            "bytes_per_pass": self.epoch_bytes,
            "shuffle": self.shuffle and self.shuffle.to_dict(),
        }
        found.pop("place_bytes")
        return found


class ColumnFacts(NamedTuple):
    """How a variable lies on disk, and what that costs."""

    name: str
    chunk_rows: int
    unit_bytes: int
    amplification: float
    share: float
    """Part of all bytes decoded in an epoch that is this variable's."""


class Plan(NamedTuple):
    """What a pipeline will do."""

    pipeline: str
    samples: int
    visible: int
    shards: int
    shard_bytes: int
    shard_rows: int
    exact: bool
    steps: tuple[Step, ...]
    source: str | None
    """Absolute path or URL of the data."""
    disk_bytes: int | None
    """Of what is read of it once, as it is stored."""
    single: int
    """Bytes that reading one shard takes in a worker, above what every worker takes."""
    columns: tuple[ColumnFacts, ...]

    @property
    def peak(self) -> int:
        """Upper bound of a worker's memory in bytes."""
        return max((step.peak for step in self.steps), default=0) + BASE_BYTES

    @property
    def tasks(self) -> int:
        """Tasks of the whole run."""
        return sum(step.tasks for step in self.steps)

    @property
    def bytes_read(self) -> int:
        """Bytes decoded by the whole run."""
        return sum(step.bytes_read for step in self.steps)

    @property
    def amplification(self) -> float:
        """Bytes decoded for each byte used, over the whole run."""
        return self.bytes_read / max(sum(step.bytes_used for step in self.steps), 1)

    def to_dict(self, limits: "Limits | None" = None) -> dict[str, Any]:
        """Return the plan as JSON can hold it, with what is wrong with it under some limits."""
        from deepstrata.pipelines.planning.checks import NO_LIMITS, refusals, warnings

        limits = limits or NO_LIMITS
        disk = [step.bytes_disk for step in self.steps if step.bytes_used]
        return self._asdict() | {
            "peak_worker_bytes": self.peak,
            "tasks": self.tasks,
            "bytes_read": self.bytes_read,
            "bytes_disk": None if None in disk else sum(d for d in disk if d is not None),
            "amplification": self.amplification,
            "steps": [step.to_dict() for step in self.steps],
            "columns": [column._asdict() for column in self.columns],
            "warnings": [str(w) for w in warnings(self, limits)],
            "refusals": [str(r) for r in refusals(self, limits)],
        }

    def text(self, limits: "Limits | None" = None) -> str:
        """Return the plan for people, with what is wrong with it under some limits."""
        from deepstrata.pipelines.planning.checks import NO_LIMITS, refusals, warnings
        from deepstrata.pipelines.planning.text import written

        limits = limits or NO_LIMITS
        found = [("warning", w) for w in warnings(self, limits)]
        return written(self, [*found, *(("refused", r) for r in refusals(self, limits))])

    def __str__(self) -> str:
        return self.text()
