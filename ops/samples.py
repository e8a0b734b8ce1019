"""Samples as vectors, and in the shape in which a model takes them.

Letters: N samples, V features.
"""

import math
from typing import Any

from deepstrata.ops.backend import namespace
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.shapes import Shape
from deepstrata.schemas.trees import Array


def sample_shape(model: Any, visible: int) -> Shape:
    """Return the shape in which a model takes a sample of ``visible`` features.

    Raises
    ------
    DeclarationError
        The model declares another number.
    """
    declared = getattr(model, "input_shape", None) or (visible,)
    if math.prod(declared) != visible:
        raise DeclarationError(
            f"input_shape={declared} is {math.prod(declared)} numbers; samples have {visible}"
        )
    return tuple(declared)


def shaped(model: Any, x: Array) -> Array:
    """Return vectors (N, V) in the shape in which a model takes them."""
    return namespace(x).reshape(x, (x.shape[0], *sample_shape(model, x.shape[1])))
