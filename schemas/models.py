"""Models: what is learned. Sizes of the data are not declared; they come from the data."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from deepstrata.schemas._base import Declaration
from deepstrata.schemas.layers import Dense, PlainLayer, Softmax
from deepstrata.schemas.shapes import Shape, shape_after, shapes_through


class RBM(Declaration):
    """A restricted Boltzmann machine with binary hidden units, trained by contrastive divergence.

    Hinton (2002); Gaussian visible units have unit variance, so standardise the data.
    """

    kind: Literal["rbm"] = "rbm"
    hidden: PositiveInt
    visible_units: Literal["bernoulli", "gaussian"] = "bernoulli"
    gibbs_steps: PositiveInt = 1
    """The k of CD-k."""
    persistent: bool = False
    """Keep the negative chains from step to step (Tieleman 2008)."""
    chains: PositiveInt = 100
    """Persistent chains of each shard of a round; unused otherwise."""
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


@shape_after.register
def _(layer: RBM, shape: Shape) -> Shape:
    return (layer.hidden,)


class MSDA(Declaration):
    """A stack of marginalised denoising autoencoders, each solved in closed form, without labels.

    Every layer reconstructs its input linearly from all its corruptions at once, and passes it on
    through tanh. The code is the input and the outputs of all layers, one after the other.
    Chen, Xu, Weinberger, Sha (2012), "Marginalized denoising autoencoders for domain adaptation".
    """

    kind: Literal["msda"] = "msda"
    depth: PositiveInt = 3
    """Number of layers."""
    noise: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability with which a feature is set to zero."""
    ridge: PositiveFloat = 1e-5
    """Added to the diagonal of the expected scatter matrix, a sum over samples."""
    targets: PositiveInt | None = None
    """Reconstruct the most frequent features, so many, each from random subsets of as many: memory
    grows with their square in place of that of all features. By default all from all."""


class Layered(Declaration):
    """Layers one above the other; the last may be a ``Softmax``, if the model is to classify."""

    layers: tuple[Any, ...]

    @property
    def classes(self) -> int | None:
        """Classes of the softmax on top; None without one."""
        top = self.layers[-1]
        return top.classes if isinstance(top, Softmax) else None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Softmax) and i < len(self.layers) - 1:
                raise ValueError(f"layer {i} is a Softmax; only the last layer can be one")
            if i and isinstance(layer, RBM) and layer.visible_units != "bernoulli":
                raise ValueError(
                    f"layer {i} is an RBM with {layer.visible_units} visible units; it reads "
                    "probabilities of the layer below, so it takes bernoulli ones"
                )
        return self


class DBN(Layered):
    """A deep belief net: a stack of RBMs, and a ``Softmax`` on top if it is to classify.

    Pretraining trains the RBMs one by one; fine-tuning takes their recognition weights for a
    feed-forward net (Hinton & Salakhutdinov 2006).
    """

    kind: Literal["dbn"] = "dbn"
    layers: Annotated[
        tuple[Annotated[RBM | Dense | Softmax, Field(discriminator="kind")], ...],
        Field(min_length=1),
    ]


class Network(Layered):
    """A feed-forward network, trained by backpropagation.

    Layers at the bottom that learn without labels may be pretrained one by one.
    """

    kind: Literal["network"] = "network"
    layers: Annotated[
        tuple[Annotated[RBM | PlainLayer | Softmax, Field(discriminator="kind")], ...],
        Field(min_length=1),
    ]
    input_shape: tuple[PositiveInt, ...] | None = None
    """Shape of a sample, channels last: (place, channel) or (y, x, channel); a vector by default.
    Its product is the number of features."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = [layer.name for layer in self.layers if not isinstance(layer, RBM) and layer.name]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two layers are called {twice!r}; give one another name")
        # Of a vector no layer but those that know places asks how long it is.
        shapes_through(self.layers, self.input_shape or (1,))
        return self


Net = DBN | Network
Model = Annotated[RBM | MSDA | DBN | Network, Field(discriminator="kind")]
