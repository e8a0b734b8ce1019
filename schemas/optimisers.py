"""Schedules and optimisers: settings only; the arithmetic is in ``deepstrata.ops.optimisers``.

A schedule is a function of the epoch (a float: 1.5 is half-way through the second epoch), so it
means the same whatever the batch size or the number of shards in a round.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    Tag,
    model_validator,
)

from deepstrata.schemas._base import Declaration

Epochs = Annotated[float, Field(ge=0)]


class Steps(Declaration):
    """``values[i]`` from epoch ``boundaries[i - 1]`` on: a piecewise constant."""

    kind: Literal["steps"] = "steps"
    values: tuple[NonNegativeFloat, ...]
    boundaries: tuple[Epochs, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"expected one more value than boundaries, found {len(self.values)} values "
                f"and {len(self.boundaries)} boundaries"
            )
        if list(self.boundaries) != sorted(self.boundaries):
            raise ValueError(f"expected boundaries in rising order, found {self.boundaries}")
        return self


class Linear(Declaration):
    """From ``start`` to ``end`` along a line over ``epochs``, then ``end``."""

    kind: Literal["linear"] = "linear"
    start: NonNegativeFloat
    end: NonNegativeFloat
    epochs: PositiveFloat


class Exponential(Declaration):
    """``start * decay ** epoch``."""

    kind: Literal["exponential"] = "exponential"
    start: NonNegativeFloat
    decay: PositiveFloat


class Cosine(Declaration):
    """From ``start`` to ``end`` along half a cosine over ``epochs``, then ``end``."""

    kind: Literal["cosine"] = "cosine"
    start: NonNegativeFloat
    end: NonNegativeFloat = 0.0
    epochs: PositiveFloat


Schedule = Annotated[Steps | Linear | Exponential | Cosine, Field(discriminator="kind")]


def _rate_kind(value: Any) -> str:
    return "(schedule)" if isinstance(value, dict | Declaration) else "(number)"


Rate = Annotated[
    Annotated[NonNegativeFloat, Tag("(number)")] | Annotated[Schedule, Tag("(schedule)")],
    Discriminator(_rate_kind),
]


class SGD(Declaration):
    """Stochastic gradient descent with momentum, as torch.optim.SGD defines it.

    ``velocity = momentum * velocity + gradient + weight_decay * weights``;
    ``weights -= learning_rate * velocity`` (with ``nesterov``, of the velocity one step ahead).
    """

    kind: Literal["sgd"] = "sgd"
    learning_rate: Rate = 0.1
    momentum: Rate = 0.0
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 0.0
    """Applied to matrices, not to biases."""


class Adagrad(Declaration):
    """Adagrad (Duchi et al. 2011), as torch.optim.Adagrad defines it."""

    kind: Literal["adagrad"] = "adagrad"
    learning_rate: Rate = 0.01
    epsilon: PositiveFloat = 1e-10
    weight_decay: NonNegativeFloat = 0.0


class Adam(Declaration):
    """Adam (Kingma & Ba 2015), as torch.optim.Adam defines it."""

    kind: Literal["adam"] = "adam"
    learning_rate: Rate = 0.001
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0


Optimiser = Annotated[SGD | Adagrad | Adam, Field(discriminator="kind")]
