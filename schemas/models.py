"""Models: what is learned. Sizes of the data are not declared; they come from the data."""

import math
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self, TypeGuard

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from deepstrata.schemas._base import Declaration
from deepstrata.schemas.contrastive import Contrastive
from deepstrata.schemas.convolutional import (
    ConvolutionalPSD,
    ConvolutionalRBM,
    as_convolution,
)
from deepstrata.schemas.layers import (
    Activation,
    ContrastNormalisation,
    Dense,
    Dropout,
    Flatten,
    Function,
    PlainLayer,
    Pooling,
    Rectification,
    Softmax,
)
from deepstrata.schemas.mirrors import has_mirror, mirror_of
from deepstrata.schemas.noise import GaussianNoise, Noise
from deepstrata.schemas.shapes import Shape, shape_after, shapes_through
from deepstrata.schemas.sparse import PSD, SparseCoding
from deepstrata.schemas.tying import check_ties, number_of, weights_shape


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


def _check_stack(layers: tuple[Any, ...]) -> None:
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


class Autoencoder(Declaration):
    """A code from which the input can be made again, trained by backpropagation without labels.

    Denoising (Vincent et al. 2010), contractive (Rifai et al. 2011) or sparse by its settings. By
    itself it is a model; in a ``Network`` it is a layer, its encoder, that can be pretrained. With
    RBMs in its encoder it is the deep autoencoder of Hinton & Salakhutdinov (2006): ``Pretrain``
    trains the RBMs, ``FineTune`` unrolls them, the decoder beginning as their transposes.
    """

    kind: Literal["autoencoder"] = "autoencoder"
    name: str = ""
    """What errors call it as a layer; its number by default."""
    encoder: Annotated[
        tuple[Annotated[RBM | PlainLayer, Field(discriminator="kind")], ...], Field(min_length=1)
    ]
    decoder: tuple[PlainLayer, ...] | None = None
    """From the code to the input; by default the mirror image of an encoder of dense layers, or of
    convolutions, which become transposed ones."""
    output: Function = "logistic"
    """Activation with which the mirror image ends."""
    tied: bool = False
    """The decoder's weights are the encoder's, transposed; its biases are its own."""
    loss: Literal["squared_error", "cross_entropy"] = "squared_error"
    """Half the squared error, or the cross-entropy of values in [0, 1]; summed over values."""
    noise: Noise | None = None
    """What is done to the input while training; the target stays clean."""
    corrupted_weight: NonNegativeFloat = 1.0
    """How much values count in the loss that the noise has changed: the emphasis alpha."""
    intact_weight: NonNegativeFloat = 1.0
    """How much the other values count: beta."""
    sparsity_cost: NonNegativeFloat = 0.0
    """Weight of the sum of the code's absolute values."""
    contraction_cost: NonNegativeFloat = 0.0
    """Weight of the squared Frobenius norm of the code's Jacobian: of one dense layer."""
    input_shape: tuple[PositiveInt, ...] | None = None
    """Shape of a sample, channels last, where the model stands by itself; a vector by default."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _check_stack(self.encoder)
        if any(getattr(own, "weights_of", "") for own in (*self.encoder, *(self.decoder or ()))):
            raise ValueError(
                "weights_of ties layers of a Network or a DBN; an autoencoder's decoder is tied to "
                "its encoder with tied=True"
            )
        if self.decoder is None:
            self._check_mirror()
        elif self.tied or not self.decoder:
            raise ValueError("a decoder of its own has layers and weights: leave it out if tied")
        output = self.output if self.decoder is None else _activation(self.decoder[-1])
        if self.loss == "cross_entropy" and output != "logistic":
            raise ValueError(
                f"cross_entropy takes a decoder that ends with logistic units, found {output!r}"
            )
        if self.input_shape is not None:
            shape_after(self, self.input_shape)
        return self

    def _check_mirror(self) -> None:
        net = encoder_layers(self)
        for i, layer in enumerate(net):
            if not has_mirror(layer) or type(layer) is not type(net[0]):
                raise ValueError(
                    f"encoder layer {i} ({layer.kind}) has no mirror image; give a decoder=(...). "
                    "Encoders of dense layers alone have one, and those of convolutions without "
                    "dilation, groups, tables and pooling, padded alike on all sides"
                )
        if getattr(self.encoder[0], "visible_units", "") == "gaussian" and self.output != "linear":
            raise ValueError(
                f"an RBM with gaussian visible units takes output='linear', found {self.output!r}"
            )

    @model_validator(mode="after")
    def _costs_something(self) -> Self:
        emphasis = (self.corrupted_weight, self.intact_weight)
        if emphasis != (1, 1) and (self.noise is None or isinstance(self.noise, GaussianNoise)):
            raise ValueError(
                "corrupted_weight and intact_weight tell values apart by masking or "
                "salt-and-pepper noise; declare one, or leave both weights at 1"
            )
        if not any(emphasis):
            raise ValueError("corrupted_weight and intact_weight are both 0: nothing is learned")
        one = self.encoder[0] if len(self.encoder) == 1 else None
        smooth = isinstance(one, Dense) and one.activation in ("logistic", "tanh")
        if self.contraction_cost and not smooth:
            raise ValueError(
                "contraction_cost takes an encoder of one dense layer, logistic or tanh; "
                "stack several such autoencoders in a Network"
            )
        return self


def _activation(layer: Any) -> str:
    return str(getattr(layer, "activation", layer.kind))


def feed_forward_layer(layer: Any) -> Any:
    """Return a layer as that of a feed-forward net: an RBM becomes a dense or convolutional one."""
    if isinstance(layer, ConvolutionalRBM):
        return as_convolution(layer, "logistic")
    if not isinstance(layer, RBM):
        return layer
    linear = layer.hidden_units == "gaussian"
    return Dense(units=layer.hidden, activation="linear" if linear else "logistic")


def encoder_layers(model: Autoencoder) -> tuple[Any, ...]:
    """Return the layers from the input to the code, as those of a feed-forward net."""
    return tuple(map(feed_forward_layer, model.encoder))


def decoder_layers(model: Autoencoder, shape: Shape) -> tuple[Any, ...]:
    """Return the layers from the code to samples of ``shape``."""
    if model.decoder is not None:
        return model.decoder
    net = encoder_layers(model)
    activations = [model.output, *(layer.activation for layer in net[:-1])]
    inputs = shapes_through(net, shape)[:-1]
    return tuple(reversed([mirror_of(*own) for own in zip(net, inputs, activations, strict=True)]))


def visible_function(model: RBM | Autoencoder) -> Literal["logistic", "linear"] | None:
    """Return the function that gives the visible units, each of which has a bias of its own."""
    if isinstance(model, RBM):
        return "logistic" if model.visible_units == "bernoulli" else "linear"
    last = model.encoder[0] if model.decoder is None else model.decoder[-1]
    found = model.output if model.decoder is None else _activation(model.decoder[-1])
    return found if isinstance(last, RBM | Dense) and found in ("logistic", "linear") else None  # type: ignore[return-value]


@shape_after.register
def _(layer: Autoencoder, shape: Shape) -> Shape:
    shape = layer.input_shape or shape
    code = shapes_through(layer.encoder, shape)[-1]
    if len(shape) > 1:  # the length of a vector may not be known yet
        made = shapes_through(decoder_layers(layer, shape), code)[-1]
        if math.prod(made) != math.prod(shape):
            raise ValueError(
                f"the decoder gives samples {made}, {shape} go in; choose kernels and strides that "
                "leave no rest at the edge, or another decoder"
            )
    return code


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
        _check_stack(self.layers)
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
        found = _activation(feed_forward_layer(self.layers[-1]))
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
        _check_stack((*self.layers, self.memory))
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
