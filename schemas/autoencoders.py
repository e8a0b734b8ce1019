"""Autoencoders, and the feed-forward layers that they consist of."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from deepstrata.schemas._base import Declaration
from deepstrata.schemas.layers import (
    Dense,
    Function,
    PlainLayer,
)
from deepstrata.schemas.machines import (
    RBM,
    activation_of,
    check_stack,
    feed_forward_layer,
)
from deepstrata.schemas.mirrors import has_mirror, mirror_of
from deepstrata.schemas.noise import GaussianNoise, Noise
from deepstrata.schemas.shapes import Shape, shape_after, shapes_through


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
        check_stack(self.encoder)
        if any(getattr(own, "weights_of", "") for own in (*self.encoder, *(self.decoder or ()))):
            raise ValueError(
                "weights_of ties layers of a Network or a DBN; an autoencoder's decoder is tied to "
                "its encoder with tied=True"
            )
        if self.decoder is None:
            self._check_mirror()
        elif self.tied or not self.decoder:
            raise ValueError("a decoder of its own has layers and weights: leave it out if tied")
        output = self.output if self.decoder is None else activation_of(self.decoder[-1])
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
    found = model.output if model.decoder is None else activation_of(model.decoder[-1])
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
