"""Mirror images: the layers that lead back from a code to what was encoded."""

import math
from typing import Any

from deepstrata.schemas.layers import (
    Convolution,
    Dense,
    Function,
    TransposedConvolution,
)
from deepstrata.schemas.shapes import Shape, each, paddings


def has_mirror(layer: Any) -> bool:
    """Tell whether there is a layer that leads back."""
    if not isinstance(layer, Convolution):
        return isinstance(layer, Dense)
    plain = layer.groups == 1 and layer.table is None and layer.pooling is None
    zeros = {number for ends in paddings(layer) for number in ends}
    return plain and max(each(layer.dilation, 1)) == 1 and len(zeros) == 1


def mirror_of(layer: Dense | Convolution, shape: Shape, activation: Function) -> Any:
    """Return the layer that leads back from what ``layer`` makes of samples of ``shape``.

    A convolution becomes a transposed one whose weights are laid out as its own.
    """
    if isinstance(layer, Dense):
        return Dense(
            units=math.prod(shape), activation=activation, initial_weights=layer.initial_weights
        )
    return TransposedConvolution(
        maps=shape[-1],
        kernel=layer.kernel,
        stride=layer.stride,
        padding=paddings(layer)[0][0],
        activation=activation,
        initial_weights=layer.initial_weights,
    )
