"""Models: what is learned. Sizes of the data are not declared; they come from the data."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from deepstrata.schemas._base import Declaration


class _Machine(Declaration):
    hidden: PositiveInt
    gibbs_steps: PositiveInt = 1
    """The k of CD-k."""
    sparsity_target: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Wanted mean activation of a hidden unit."""
    sparsity_cost: NonNegativeFloat = 0.0
    """Weight of the pull of the hidden biases towards ``sparsity_target``."""
    weight_scale: PositiveFloat = 0.01
    """Standard deviation of the initial weights."""

    @model_validator(mode="after")
    def _sparse_towards(self) -> Self:
        if self.sparsity_cost and self.sparsity_target is None:
            raise ValueError(
                f"sparsity_cost={self.sparsity_cost} has no effect without a sparsity_target; "
                "give one, such as 0.05, or leave the cost out"
            )
        return self


class RBM(_Machine):
    """A restricted Boltzmann machine with binary hidden units, trained by contrastive divergence.

    Hinton (2002); Gaussian visible units have unit variance, so standardise the data.
    """

    kind: Literal["rbm"] = "rbm"
    visible_units: Literal["bernoulli", "gaussian"] = "bernoulli"
    persistent: bool = False
    """Keep the negative chains from step to step (Tieleman 2008)."""
    chains: PositiveInt = 100
    """Persistent chains of each shard of a round; unused otherwise."""


class AssociativeMemory(_Machine):
    """An RBM on top of a ``GenerativeDBN``: it sees features and a label, a group of softmax units.

    Hinton, Osindero, Teh (2006).
    """

    kind: Literal["associative_memory"] = "associative_memory"
    classes: PositiveInt


class Dense(Declaration):
    """A fully connected layer."""

    kind: Literal["dense"] = "dense"
    units: PositiveInt
    activation: Literal["logistic", "tanh", "relu", "linear"] = "logistic"


class Softmax(Declaration):
    """A fully connected layer with a softmax over classes, trained by cross-entropy."""

    kind: Literal["softmax"] = "softmax"
    classes: PositiveInt


Layer = Annotated[RBM | Dense | Softmax, Field(discriminator="kind")]


class DBN(Declaration):
    """A deep belief net: a stack of RBMs, and a ``Softmax`` on top if it is to classify.

    Pretraining trains the RBMs one by one; fine-tuning takes their recognition weights for a
    feed-forward net (Hinton & Salakhutdinov 2006).
    """

    kind: Literal["dbn"] = "dbn"
    layers: Annotated[tuple[Layer, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Softmax) and i < len(self.layers) - 1:
                raise ValueError(f"layer {i} is a Softmax; only the last layer can be one")
            _check_visible_units(i, layer)
        return self


class GenerativeDBN(Declaration):
    """A deep belief net that models samples and labels together: RBMs below a memory.

    Pretraining trains the RBMs and the memory one by one; fine-tuning is up-down, contrastive
    wake-sleep with separate weights for recognition and generation (Hinton, Osindero, Teh 2006).
    It classifies by the memory's free energy of each label, and generates samples of a class.
    """

    kind: Literal["generative_dbn"] = "generative_dbn"
    layers: Annotated[tuple[RBM, ...], Field(min_length=1)]
    """Below the memory, from the bottom up."""
    memory: AssociativeMemory

    @model_validator(mode="after")
    def _reads_probabilities(self) -> Self:
        for i, layer in enumerate(self.layers):
            _check_visible_units(i, layer)
        return self


def _check_visible_units(i: int, layer: Layer) -> None:
    if i and isinstance(layer, RBM) and layer.visible_units != "bernoulli":
        raise ValueError(
            f"layer {i} is an RBM with {layer.visible_units} visible units; it reads "
            "probabilities of the layer below, so it takes bernoulli ones"
        )


Machine = RBM | AssociativeMemory  #: what pretraining trains, one by one
Model = Annotated[RBM | DBN | GenerativeDBN, Field(discriminator="kind")]
Learner = RBM | AssociativeMemory | DBN | GenerativeDBN  #: what one training trains
