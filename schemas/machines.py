"""Boltzmann machines, by themselves and as layers that others stand upon."""

import math
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from deepstrata.schemas._base import Declaration
from deepstrata.schemas.contrastive import Contrastive
from deepstrata.schemas.convolutional import (
    ConvolutionalPSD,
    ConvolutionalRBM,
    as_convolution,
)
from deepstrata.schemas.layers import (
    ContrastNormalisation,
    Dense,
    Dropout,
    Flatten,
    Pooling,
    Rectification,
)
from deepstrata.schemas.shapes import Shape, shape_after
from deepstrata.schemas.sparse import PSD
from deepstrata.schemas.tying import weights_shape


class _Hidden(Declaration):
    hidden: PositiveInt


class _Machine(Contrastive, _Hidden):
    pass


class RBM(_Machine):
    """A restricted Boltzmann machine, trained by contrastive divergence.

    Hinton (2002); Gaussian units have unit variance: where they are visible, standardise the data.
    """

    kind: Literal["rbm"] = "rbm"
    visible_units: Literal["bernoulli", "gaussian"] = "bernoulli"
    hidden_units: Literal["bernoulli", "gaussian"] = "bernoulli"
    """Gaussian ones give a code of real numbers (Hinton & Salakhutdinov 2006)."""
    persistent: bool = False
    """Keep the negative chains from step to step (Tieleman 2008)."""
    chains: PositiveInt = 100
    """Persistent chains of each shard of a round; unused otherwise."""

    @model_validator(mode="after")
    def _has_a_distribution(self) -> Self:
        if self.hidden_units == "gaussian":
            if self.visible_units == "gaussian":
                raise ValueError(
                    "units that are gaussian on both sides have no distribution once weights are "
                    "large; make the visible or the hidden ones bernoulli"
                )
            if self.sparsity_target is not None:
                raise ValueError("a sparsity_target is a probability: it takes bernoulli units")
        return self


class AssociativeMemory(_Machine):
    """An RBM on top of a ``GenerativeDBN``: it sees features and a label, a group of softmax units.

    Hinton, Osindero, Teh (2006).
    """

    kind: Literal["associative_memory"] = "associative_memory"
    hidden_units: ClassVar[Literal["bernoulli"]] = "bernoulli"
    classes: PositiveInt


Machine = RBM | AssociativeMemory


@shape_after.register
def _(layer: Machine, shape: Shape) -> Shape:
    return (layer.hidden,)


@weights_shape.register
def _(layer: RBM, shape: Shape) -> Shape:
    return (math.prod(shape), layer.hidden)


def _gives(layer: Any, read: str | None) -> str | None:
    """Return the visible units that suit what a layer gives; ``read`` suit what it reads.

    Of the data itself, which is not declared, that is not known: None.
    """
    if isinstance(layer, PSD | ConvolutionalPSD | ContrastNormalisation):
        return "gaussian"
    return read if isinstance(layer, Pooling | Rectification | Flatten | Dropout) else "bernoulli"


def check_stack(layers: tuple[Any, ...]) -> None:
    """Refuse an RBM or a memory that cannot read what the layer below it gives."""
    wanted: str | None = None
    for i, (below, layer) in enumerate(pairwise(layers), start=1):
        wanted = _gives(below, wanted)
        if not isinstance(layer, Machine | ConvolutionalRBM):
            continue
        units = getattr(layer, "visible_units", wanted)
        if wanted not in (None, units):
            read = "numbers of either sign" if wanted == "gaussian" else "probabilities"
            raise ValueError(
                f"layer {i} is an RBM with {units} visible units; it reads "
                f"{read} of the layer below, so it takes {wanted} ones"
            )
        if getattr(below, "hidden_units", "bernoulli") != "bernoulli":
            raise ValueError(
                f"layer {i} ({layer.kind}) stands above an RBM with gaussian hidden units, whose "
                "code is no probability; only the topmost layer can have them"
            )


def activation_of(layer: Any) -> str:
    return str(getattr(layer, "activation", layer.kind))


def feed_forward_layer(layer: Any) -> Any:
    """Return a layer as that of a feed-forward net: an RBM becomes a dense or convolutional one."""
    if isinstance(layer, ConvolutionalRBM):
        return as_convolution(layer, "logistic")
    if not isinstance(layer, RBM):
        return layer
    linear = layer.hidden_units == "gaussian"
    return Dense(units=layer.hidden, activation="linear" if linear else "logistic")
