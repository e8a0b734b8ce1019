"""Layers of a network: what each does to a sample, and how its weights begin.

Samples of layers that know places are channels last: (place, channel) or (y, x, channel).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from deepstrata.schemas._base import Declaration

Function = Literal["logistic", "tanh", "scaled_tanh", "relu", "softplus", "linear"]
Initialiser = Literal["glorot", "he", "lecun"] | PositiveFloat
Sizes = Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=2)]
"""One number for each dimension of places."""
Padding = Literal["valid", "same"] | NonNegativeInt


class _Layer(Declaration):
    name: str = ""
    """What errors, frozen layers and transfer call it; its number by default."""


class _Weighted(_Layer):
    initial_weights: Initialiser = "glorot"
    """Variance 2 / (inputs + outputs) (Glorot & Bengio 2010), 2 / inputs (``he``: He et al. 2015),
    1 / inputs (``lecun``: LeCun et al. 1998), or a standard deviation."""


class _Tieable(_Weighted):
    weights_of: str = ""
    """Name or number of a layer below whose weights this one uses: it learns only a bias of its
    own, and the weights learn from both uses. By default a layer has weights of its own."""

    @model_validator(mode="after")
    def _draws_nothing(self) -> Self:
        if self.weights_of and self.initial_weights != "glorot":
            raise ValueError(
                f"initial_weights={self.initial_weights!r} has no effect on a layer that uses the "
                f"weights of {self.weights_of!r}; leave it out"
            )
        return self


class Dense(_Tieable):
    """A fully connected layer; it takes samples of any shape as vectors."""

    kind: Literal["dense"] = "dense"
    units: PositiveInt
    activation: Function = "logistic"
    transposed: bool = False
    """Use the weights of ``weights_of`` transposed, as the decoder of an autoencoder does."""

    @model_validator(mode="after")
    def _turns_something(self) -> Self:
        if self.transposed and not self.weights_of:
            raise ValueError("transposed=True takes the weights of another layer: name weights_of")
        return self


class Softmax(_Weighted):
    """A fully connected layer with a softmax over classes, trained by cross-entropy."""

    kind: Literal["softmax"] = "softmax"
    classes: PositiveInt


class _Convolving(_Layer):
    maps: PositiveInt
    """Feature maps (channels) that come out."""
    kernel: Sizes
    """Places that a window covers: (width,) or (height, width)."""
    stride: PositiveInt | Sizes = 1
    """Places between two windows: one number, or one for each dimension."""
    activation: Function = "relu"


class Pooling(_Layer):
    """Subsampling: one number for each window and channel; a rest at the edge is left out."""

    kind: Literal["pooling"] = "pooling"
    size: Sizes
    """Places of a window."""
    stride: PositiveInt | Sizes | None = None
    """Places between two windows; as many as a window has by default."""
    function: Literal["max", "average", "l2"] = "max"
    """``l2`` is the root of the sum of squares."""


class Convolution(_Convolving, _Tieable):
    """A convolution (a cross-correlation, as in LeCun et al. 1998) in one or two dimensions."""

    kind: Literal["convolution"] = "convolution"
    padding: Padding = "valid"
    """Zeros around a sample: none; as many as keep the number of places at a stride of 1; or how
    many on each side."""
    dilation: PositiveInt | Sizes = 1
    """Places from one weight of a kernel to the next."""
    groups: PositiveInt = 1
    """Map k of ``maps`` reads only its own part of the channels."""
    table: tuple[tuple[NonNegativeInt, ...], ...] | None = None
    """For each map the input channels that it reads, as layer C3 of LeNet-5; all by default."""
    pooling: Pooling | None = None
    """Subsampling of the maps within the layer, a few samples at a time: maps at full resolution
    are never stored (Scherer et al. 2010). What a ``Pooling`` of its own would make of them."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.maps % self.groups:
            raise ValueError(
                f"expected maps that {self.groups} groups divide evenly, found maps={self.maps}"
            )
        if self.table is not None:
            if self.groups != 1:
                raise ValueError("give a connection table or groups, not both")
            if len(self.table) != self.maps:
                raise ValueError(
                    f"expected a connection table with a row for each of the {self.maps} maps, "
                    f"found {len(self.table)} rows"
                )
        if self.pooling is not None and self.pooling.name:
            raise ValueError(
                f"its pooling is a part of it and has no name, found {self.pooling.name!r}; name "
                "the convolution"
            )
        return self


class TransposedConvolution(_Convolving, _Tieable):
    """What a convolution of the same settings does to gradients: it spreads every place."""

    kind: Literal["transposed_convolution"] = "transposed_convolution"
    padding: NonNegativeInt = 0
    """Places cut off on each side of what comes out."""


class LocallyConnected(_Convolving, _Weighted):
    """A convolution whose weights are not shared: every place has its own (Le et al. 2012)."""

    kind: Literal["locally_connected"] = "locally_connected"


class ContrastNormalisation(_Layer):
    """Local contrast normalisation, subtractive and divisive (Jarrett et al. 2009)."""

    kind: Literal["contrast_normalisation"] = "contrast_normalisation"
    size: PositiveInt = 9
    """Width of the Gaussian window in places: an odd number."""
    sigma: PositiveFloat = 1.591
    """Standard deviation of the window in places."""

    @model_validator(mode="after")
    def _has_a_centre(self) -> Self:
        if self.size % 2 == 0:
            raise ValueError(f"expected an odd size, found {self.size}")
        return self


class Rectification(_Layer):
    """Absolute values (Jarrett, Kavukcuoglu, Ranzato, LeCun 2009)."""

    kind: Literal["rectification"] = "rectification"


class Flatten(_Layer):
    """Any shape as a vector."""

    kind: Literal["flatten"] = "flatten"


class Dropout(_Layer):
    """Set values to zero while training, and scale up the rest (Srivastava et al. 2014)."""

    kind: Literal["dropout"] = "dropout"
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the values that are set to zero."""


class Activation(_Layer):
    """An activation by itself."""

    kind: Literal["activation"] = "activation"
    function: Function


PlainLayer = Annotated[
    Dense
    | Convolution
    | TransposedConvolution
    | LocallyConnected
    | Pooling
    | ContrastNormalisation
    | Rectification
    | Flatten
    | Dropout
    | Activation,
    Field(discriminator="kind"),
]
"""What any network may hold at any place."""
