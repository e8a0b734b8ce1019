"""What stages have in common: a name, and of those that train, epochs and what ends them."""

from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Tag,
    model_validator,
)

from deepstrata.schemas._base import Declaration
from deepstrata.schemas.optimisers import Optimiser
from deepstrata.schemas.strategies import LocalSteps, Strategy


class NamedStage(Declaration):
    """A step of a pipeline."""

    name: str = ""
    """Unique within the pipeline; the kind by default."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name"):
            return data | {"name": cls.model_fields["kind"].default}
        return data


class EarlyStopping(Declaration):
    """Stop at the end of an epoch when ``patience`` of them in a row have brought no gain."""

    patience: PositiveInt = 5
    min_delta: NonNegativeFloat = 0.0
    """What the stage's ``metric`` has to fall by to count as a gain."""


class TrainingStage(NamedStage):
    """A step that trains for some epochs, round by round."""

    epochs: NonNegativeInt = 10
    strategy: Strategy = LocalSteps()
    checkpoint_rounds: PositiveInt | None = None
    """Rounds between checkpoints; about an epoch by default. Never changes a result."""
    monitor: NonNegativeInt = 1000
    """Training and validation samples looked at after every epoch for the learning curves."""
    early_stopping: EarlyStopping | None = None
    """Ends the training (each layer's own) before ``epochs`` are over; by default nothing does."""
    keep: Literal["last", "best"] = "last"
    """The epoch whose parameters are kept: the last, or that of the lowest ``metric``."""


def _how_many(value: Any) -> str:
    return "(each)" if isinstance(value, list | tuple) else "(one)"


Optimisers = Annotated[
    Annotated[Optimiser, Tag("(one)")] | Annotated[tuple[Optimiser, ...], Tag("(each)")],
    Discriminator(_how_many),
]
"""One for all layers of a stage, or one each."""
