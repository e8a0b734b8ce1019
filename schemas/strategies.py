"""Strategies: how the samples of an epoch are spent in rounds, and rounds spread over shards.

A round takes samples from ``shards`` places at once, whatever the number of workers: with more
places more workers can help, with fewer the round is closer to serial training. Each place mixes
the samples of ``buffer`` shards: more of them shuffle better, and take more memory.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from deepstrata.schemas._base import Declaration
from deepstrata.schemas.optimisers import SGD


class Synchronous(Declaration):
    """One gradient step per round: the gradient of ``shards * batch`` samples is summed."""

    kind: Literal["synchronous"] = "synchronous"
    batch: PositiveInt = 256
    """Samples that each place of a round gives to one step, at most."""
    shards: PositiveInt = 4
    """Places of a round: shards that are read side by side."""
    buffer: PositiveInt = 1
    """Shards that each place mixes."""


class Delayed(Declaration):
    """One gradient step per round, of the parameters as they were ``rounds`` rounds before.

    So ``rounds + 1`` rounds are at work at one time and a slow worker holds up none but its own;
    unlike in Downpour (Dean et al. 2012) the delay is the same in every run. 0 is ``Synchronous``.
    """

    kind: Literal["delayed"] = "delayed"
    rounds: NonNegativeInt = 1
    """Rounds between the state that a gradient is computed from and the one it changes."""
    batch: PositiveInt = 256
    """Samples that each place of a round gives to one step, at most."""
    shards: PositiveInt = 4
    """Places of a round: shards that are read side by side."""
    buffer: PositiveInt = 1
    """Shards that each place mixes."""


class LocalSteps(Declaration):
    """Each place of a round takes ``steps`` steps of its own; then the changes are averaged.

    Local SGD (Stich 2019); with an outer Nesterov optimiser DiLoCo (Douillard et al. 2023).
    With ``shards=1`` and the default ``outer`` it is serial minibatch training.
    """

    kind: Literal["local_steps"] = "local_steps"
    batch: PositiveInt = 100
    """Samples of one local step, at most."""
    steps: PositiveInt = 16
    """Local steps of a round, at most."""
    shards: PositiveInt = 2
    """Places of a round: shards read side by side, each with an inner optimiser of its own."""
    buffer: PositiveInt = 1
    """Shards that each place mixes."""
    outer: SGD = SGD(learning_rate=1.0)
    """Applied to the averaged change; a rate of 1 without momentum takes it as it is."""


Strategy = Annotated[Synchronous | LocalSteps | Delayed, Field(discriminator="kind")]
