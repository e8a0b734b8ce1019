"""Convolutional models that learn filters without labels; in a network each is a layer.

Filters are the same at every place of a sample, (place, channel) or (y, x, channel), and a code has
a number for each place and map. Where such a model stands by itself, ``input_shape`` says how the
features of a sample lie; in a network its place does.
"""

from typing import Any, Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from deepstrata.schemas._base import Declaration
from deepstrata.schemas.contrastive import Contrastive
from deepstrata.schemas.layers import Convolution, Function, Padding, Sizes
from deepstrata.schemas.shapes import Shape, shape_after


class _Filters(Declaration):
    name: str = ""
    """What errors, frozen layers and transfer call it as a layer; its number by default."""
    maps: PositiveInt
    """Filters, and maps of a code."""
    kernel: Sizes
    """Places that a filter covers: (width,) or (height, width)."""
    stride: PositiveInt | Sizes = 1
    """Places between two windows: one number, or one for each dimension."""
    padding: Padding = "valid"
    """Zeros around a sample, as for a ``Convolution``. Without any, places at the edge are
    explained by fewer numbers of the code than those within."""
    input_shape: tuple[PositiveInt, ...] | None = None
    """Shape of a sample, channels last, where the model stands by itself."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.input_shape is not None:
            shape_after(self, self.input_shape)
        return self


class ConvolutionalPSD(_Filters):
    """Convolutional predictive sparse decomposition: sparse codes, filters, and a predictor.

    ``|x - sum_k D_k * z_k|**2 + penalty * |z|_1 + prediction_weight * |z - p|**2``, filters D_k of
    length 1 over all places and channels, where ``p = gain * tanh(K * x + bias)`` is what the
    model encodes with once it is trained. Kavukcuoglu, Sermanet, Boureau, Gregor, Mathieu, LeCun
    (2010), "Learning convolutional feature hierarchies for visual recognition".
    """

    kind: Literal["convolutional_psd"] = "convolutional_psd"
    penalty: PositiveFloat = 1.0
    """Weight of the codes' absolute values beside the squared error, in units of the data: more
    of it leaves more zeros."""
    prediction_weight: PositiveFloat = 1.0
    """Pull of codes and predictions towards each other."""
    steps: PositiveInt = 10
    """Steps of FISTA from the prediction, while training; each costs two convolutions."""


class ConvolutionalRBM(Contrastive, _Filters):
    """A restricted Boltzmann machine whose hidden units share their weights across places.

    One hidden bias a map, one visible bias a channel. Lee, Grosse, Ranganath, Ng (2009),
    "Convolutional deep belief networks", without their probabilistic max-pooling (as Norouzi,
    Ranjbar, Mori 2009): a ``Pooling`` layer may follow. Gaussian units have unit variance:
    standardise the data.
    """

    kind: Literal["convolutional_rbm"] = "convolutional_rbm"
    visible_units: Literal["bernoulli", "gaussian"] = "bernoulli"


Convolutional = ConvolutionalPSD | ConvolutionalRBM


def as_convolution(layer: Convolutional, activation: Function) -> Convolution:
    """Return the convolution that a model's recognition begins with."""
    fields = {name: getattr(layer, name) for name in ("name", "maps", "kernel", "stride")}
    return Convolution(**fields, padding=layer.padding, activation=activation)


@shape_after.register
def _(layer: Convolutional, shape: Shape) -> Shape:
    return shape_after(as_convolution(layer, "linear"), layer.input_shape or shape)


def placed(layer: Any, shape: Shape) -> Any:
    """Return a layer as the model that is trained by itself on samples of ``shape``.

    Of vectors every layer knows how they lie; so do layers that say it themselves.
    """
    if len(shape) < 2 or getattr(layer, "input_shape", ()) is not None:
        return layer
    return layer.model_copy(update={"input_shape": shape})
