"""Models: what is learned. Sizes of the data are not declared; they come from the data."""

from typing import Annotated, Any, Literal, Self, TypeGuard

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from deepstrata.schemas._base import Declaration
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.convolutional import (
    ConvolutionalPSD,
    ConvolutionalRBM,
)
from deepstrata.schemas.layers import (
    Activation,
    ContrastNormalisation,
    Dense,
    Dropout,
    Flatten,
    PlainLayer,
    Pooling,
    Rectification,
    Softmax,
)
from deepstrata.schemas.machines import (
    RBM,
    AssociativeMemory,
    activation_of,
    check_stack,
    feed_forward_layer,
)
from deepstrata.schemas.shapes import shapes_through
from deepstrata.schemas.sparse import PSD, SparseCoding
from deepstrata.schemas.tying import check_ties, number_of


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


Learner = RBM | Autoencoder | PSD | ConvolutionalPSD | ConvolutionalRBM
"""Layers that learn without labels what a network then goes on with."""


class Layered(Declaration):
    """Layers one above the other; the last may be a ``Softmax``, if the model is to classify."""

    layers: tuple[Any, ...]

    @property
    def classes(self) -> int | None:
        """Classes of the softmax on top; None without one."""
        top = self.layers[-1]
        return top.classes if isinstance(top, Softmax) else None

    @property
    def body(self) -> int:
        """How many layers lie below the one that gives what the whole learns, if one does."""
        return len(self.layers) - (self.classes is not None)

    def bottom(self, count: int) -> Self:
        """Return the lowest layers as a model of their own."""
        return self.model_copy(update={"layers": self.layers[:count]})

    def number_of(self, layer: str) -> int:
        """Return the number of the layer that has a name, or that has it for a number.

        Raises
        ------
        ValueError
            There is none; the message lists those there are.
        """
        return number_of(self.layers, layer)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Softmax) and i < len(self.layers) - 1:
                raise ValueError(f"layer {i} is a Softmax; only the last layer can be one")
        check_stack(self.layers)
        check_ties(self.layers, getattr(self, "input_shape", None))
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

    It learns classes if it ends in a ``Softmax``, targets if it declares a ``loss``. Layers at the
    bottom that learn without labels may be pretrained one by one.
    """

    kind: Literal["network"] = "network"
    layers: Annotated[
        tuple[Annotated[Learner | PlainLayer | Softmax, Field(discriminator="kind")], ...],
        Field(min_length=1),
    ]
    input_shape: tuple[PositiveInt, ...] | None = None
    """Shape of a sample, channels last: (place, channel) or (y, x, channel); a vector by default.
    Its product is the number of features."""
    loss: Literal["squared_error", "cross_entropy"] | None = None
    """By which the last layer learns the source's ``targets``: half the squared error, or the
    cross-entropy of values in [0, 1] and logistic units (such as labels of which a sample may have
    several); summed over values. None where the last layer is a ``Softmax``, or learns nothing."""

    @property
    def body(self) -> int:
        """How many layers lie below the one that gives what the whole learns, if one does."""
        return super().body - (self.loss is not None)

    def bottom(self, count: int) -> Self:
        """Return the lowest layers as a model of their own, which as a whole learns nothing."""
        return super().bottom(count).model_copy(update={"loss": None})

    @model_validator(mode="after")
    def _ends_for_its_loss(self) -> Self:
        if self.loss is None:
            return self
        if self.classes is not None:
            raise ValueError(
                f"loss={self.loss!r} with a Softmax, which learns classes by a cross-entropy of "
                "its own: leave the loss out, or end in another layer"
            )
        found = activation_of(feed_forward_layer(self.layers[-1]))
        if self.loss == "cross_entropy" and found != "logistic":
            raise ValueError(
                f"cross_entropy takes a network that ends with logistic units, found {found!r}"
            )
        return self

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = [getattr(layer, "name", "") for layer in self.layers]
        twice = next((name for name in names if name and names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two layers are called {twice!r}; give one another name")
        for i, layer in enumerate(self.layers):
            if isinstance(layer, ConvolutionalPSD | ConvolutionalRBM) and layer.input_shape:
                raise ValueError(
                    f"layer {i} ({layer.kind}) has an input_shape, which is for a model by itself; "
                    "in a network its place says how samples lie: give the network one"
                )
        # Of a vector no layer but those that know places asks how long it is.
        shapes_through(self.layers, self.input_shape or (1,))
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

    @property
    def classes(self) -> int:
        """Classes that the memory tells apart."""
        return self.memory.classes

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_stack((*self.layers, self.memory))
        return self


Weightless = Pooling | ContrastNormalisation | Rectification | Flatten | Dropout | Activation


def has_weights(layer: Any) -> bool:
    """Tell whether there is anything to learn in a layer."""
    return not isinstance(layer, Weightless)


Net = DBN | Network
Model = Annotated[
    Learner | MSDA | SparseCoding | DBN | GenerativeDBN | Network, Field(discriminator="kind")
]
Trainable = Model | AssociativeMemory  #: what one training trains


def classifies(model: Trainable) -> TypeGuard[Net | GenerativeDBN]:
    """Tell whether a model learns classes: it ends in a softmax, or in a memory of labels."""
    return isinstance(model, Layered | GenerativeDBN) and model.classes is not None


def fits_targets(model: Trainable) -> TypeGuard[Network]:
    """Tell whether a model learns to give the targets of a sample."""
    return isinstance(model, Network) and model.loss is not None


def is_supervised(model: Trainable) -> bool:
    """Tell whether a model learns labels or targets, which it can be measured by."""
    return classifies(model) or fits_targets(model)
