"""Schedules and optimisers: settings only; the arithmetic is in ``deepstrata.ops.optimisers``.

A schedule is a function of the epoch (a float: 1.5 is half-way through the second epoch), so it
means the same whatever the batch size or the number of shards in a round.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
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


class ReduceOnPlateau(Declaration):
    """``start``, times ``factor`` whenever validation brings no gain: torch's ReduceLROnPlateau.

    What is looked at is the stage's ``metric``, at the end of every epoch. ``patience`` epochs in a
    row without a gain are borne, one more reduces the rate, and the count begins anew.
    """

    kind: Literal["reduce_on_plateau"] = "reduce_on_plateau"
    start: PositiveFloat
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: NonNegativeInt = 10
    min_delta: NonNegativeFloat = 0.0
    """What the metric has to fall by to count as a gain."""
    minimum: NonNegativeFloat = 0.0
    """The rate does not fall below this."""
    reductions: NonNegativeInt = 0
    """Reductions made already; a training counts on from here."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum > self.start:
            raise ValueError(
                f"expected a minimum of at most start, found {self.minimum} and {self.start}"
            )
        return self


def _rate_kind(value: Any) -> str:
    return "(schedule)" if isinstance(value, dict | Declaration) else "(number)"


_Steady = Steps | Linear | Exponential | Cosine | ReduceOnPlateau


class WarmUp(Declaration):
    """From ``start`` to where ``then`` begins, along a line over ``epochs``; then ``then``.

    Its epochs are counted from the end of the warm-up: torch's SequentialLR.
    """

    kind: Literal["warm_up"] = "warm_up"
    epochs: PositiveFloat
    then: Annotated[
        Annotated[NonNegativeFloat, Tag("(number)")]
        | Annotated[Annotated[_Steady, Field(discriminator="kind")], Tag("(schedule)")],
        Discriminator(_rate_kind),
    ]
    start: NonNegativeFloat = 0.0


Schedule = Annotated[_Steady | WarmUp, Field(discriminator="kind")]
Rate = Annotated[
    Annotated[NonNegativeFloat, Tag("(number)")] | Annotated[Schedule, Tag("(schedule)")],
    Discriminator(_rate_kind),
]


class _Optimiser(Declaration):
    clip_norm: PositiveFloat | None = None
    """Longest mean gradient, by the Euclidean norm over all parameters; a longer one is shortened
    before weight decay, as by ``torch.nn.utils.clip_grad_norm_`` (Pascanu et al. 2013)."""
    clip_value: PositiveFloat | None = None
    """Largest component of the mean gradient, in magnitude; likewise."""

    @model_validator(mode="after")
    def _clips_one_way(self) -> Self:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError(
                f"expected clip_norm or clip_value, found both ({self.clip_norm} and "
                f"{self.clip_value}); leave one out"
            )
        return self


class SGD(_Optimiser):
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


class Adagrad(_Optimiser):
    """Adagrad (Duchi et al. 2011), as torch.optim.Adagrad defines it."""

    kind: Literal["adagrad"] = "adagrad"
    learning_rate: Rate = 0.01
    epsilon: PositiveFloat = 1e-10
    weight_decay: NonNegativeFloat = 0.0


class Adam(_Optimiser):
    """Adam (Kingma & Ba 2015), as torch.optim.Adam defines it."""

    kind: Literal["adam"] = "adam"
    learning_rate: Rate = 0.001
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0


Optimiser = Annotated[SGD | Adagrad | Adam, Field(discriminator="kind")]


def watches(optimiser: Optimiser) -> bool:
    """Tell whether a rate follows what comes of training, and not the epoch alone."""
    rates = [optimiser.learning_rate, getattr(optimiser, "momentum", 0.0)]
    rates = [rate.then if isinstance(rate, WarmUp) else rate for rate in rates]
    return any(isinstance(rate, ReduceOnPlateau) for rate in rates)
