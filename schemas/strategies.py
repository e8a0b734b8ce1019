"""Strategies: how the samples of an epoch are spent in rounds, and rounds spread over shards.

A round takes ``shards`` shards at once, whatever the number of workers: with more shards a round
more workers can help, with fewer the round is closer to serial training.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from deepstrata.schemas._base import Declaration
from deepstrata.schemas.optimisers import SGD


class Synchronous(Declaration):
    """One gradient step per round: the gradient of ``shards * batch`` samples is summed."""

    kind: Literal["synchronous"] = "synchronous"
    batch: PositiveInt = 256
    """Samples that each shard of a round gives to one step, at most."""
    shards: PositiveInt = 4
    """Shards that a round reads side by side."""


class LocalSteps(Declaration):
    """Each shard of a round takes ``steps`` steps of its own; then the changes are averaged.

    Local SGD (Stich 2019); with an outer Nesterov optimiser DiLoCo (Douillard et al. 2023).
    With ``shards=1`` and the default ``outer`` it is serial minibatch training.
    """

    kind: Literal["local_steps"] = "local_steps"
    batch: PositiveInt = 100
    """Samples of one local step, at most."""
    steps: PositiveInt = 16
    """Local steps of a round, at most."""
    shards: PositiveInt = 2
    """Shards that a round reads side by side; each has its own inner optimiser state."""
    outer: SGD = SGD(learning_rate=1.0)
    """Applied to the averaged change; a rate of 1 without momentum takes it as it is."""


Strategy = Annotated[Synchronous | LocalSteps, Field(discriminator="kind")]
