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


class Dense(_Weighted):
    """A fully connected layer; it takes samples of any shape as vectors."""

    kind: Literal["dense"] = "dense"
    units: PositiveInt
    activation: Function = "logistic"


class Softmax(_Weighted):
    """A fully connected layer with a softmax over classes, trained by cross-entropy."""

    kind: Literal["softmax"] = "softmax"
    classes: PositiveInt


class _Convolving(_Weighted):
    maps: PositiveInt
    """Feature maps (channels) that come out."""
    kernel: Sizes
    """Places that a window covers: (width,) or (height, width)."""
    stride: PositiveInt | Sizes = 1
    """Places between two windows: one number, or one for each dimension."""
    activation: Function = "relu"


class Convolution(_Convolving):
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
        return self


class TransposedConvolution(_Convolving):
    """What a convolution of the same settings does to gradients: it spreads every place."""

    kind: Literal["transposed_convolution"] = "transposed_convolution"
    padding: NonNegativeInt = 0
    """Places cut off on each side of what comes out."""


class LocallyConnected(_Convolving):
    """A convolution whose weights are not shared: every place has its own (Le et al. 2012)."""

    kind: Literal["locally_connected"] = "locally_connected"


class Pooling(_Layer):
    """Subsampling: one number for each window and channel; a rest at the edge is left out."""

    kind: Literal["pooling"] = "pooling"
    size: Sizes
    """Places of a window."""
    stride: PositiveInt | Sizes | None = None
    """Places between two windows; as many as a window has by default."""
    function: Literal["max", "average", "l2"] = "max"
    """``l2`` is the root of the sum of squares."""


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
