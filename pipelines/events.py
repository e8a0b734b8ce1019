"""What happens while a pipeline runs, for whoever watches: a terminal, a notebook, a log."""

from collections.abc import Callable
from typing import NamedTuple


class StageStarted(NamedTuple):
    """A stage begins; ``rounds`` is 0 where a stage has nothing to count."""

    stage: str
    kind: str
    rounds: int


class Progress(NamedTuple):
    """``done`` of ``rounds`` rounds (or shards) of a stage are complete."""

    stage: str
    part: str
    """What of the stage is at work: ``layer 2 of 3``; may be empty."""
    done: int
    rounds: int
    examples_per_second: float
    loss_name: str
    loss: float | None
    """Mean over the samples of the latest round."""


class StageFinished(NamedTuple):
    """A stage is complete, or was found complete (``reused``)."""

    stage: str
    kind: str
    seconds: float
    metrics: dict[str, float]
    reused: bool


class Checkpointed(NamedTuple):
    """A training can be taken up from here: ``round`` rounds of ``training`` are done."""

    training: str
    round: int
    digest: str


class Notice(NamedTuple):
    """Something a person should know: the dashboard's address, a resumed round, a warning."""

    text: str


Event = StageStarted | Progress | StageFinished | Checkpointed | Notice
Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Observe nothing."""
