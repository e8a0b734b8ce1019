"""The table of what layers do, chosen by the declaration's type: specs, forward, backward.

``forward`` returns what a layer makes of its input, and what ``backward`` will need. Both may use
buffers of the pass; ``backward`` overwrites the derivatives that it is given.

Letters: N samples, I inputs.
"""

import math
from functools import singledispatch
from typing import Any, NamedTuple

from deepstrata.ops.backend import Scratch
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.partials import Into
from deepstrata.schemas.keys import Key
from deepstrata.schemas.shapes import Shape
from deepstrata.schemas.trees import Array, Tree


class Pass(NamedTuple):
    """What a layer knows of a pass besides its arrays."""

    rows: Array
    """(N,) int64 global rows of the samples."""
    key: Key | None
    """Address of what is drawn; None where nothing is: the layer is used, not trained."""
    scratch: Scratch


@singledispatch
def specs(layer: Any, shape: Shape) -> Tree:
    """Return the parameters' tree with an ``ArraySpec`` for each; ``()`` where there are none.

    Parameters
    ----------
    shape
        Of a sample that the layer takes.
    """
    return ()


@singledispatch
def fans(layer: Any, spec: DenseParams) -> tuple[int, int]:
    """Return how many numbers make one output, and in how many outputs one number takes part."""
    *window, inputs, outputs = spec.weights.shape
    return math.prod(window) * inputs, math.prod(window) * outputs


def initial_scale(layer: Any, spec: DenseParams) -> float:
    """Return the standard deviation that a layer's weights begin with."""
    if not isinstance(layer.initial_weights, str):
        return float(layer.initial_weights)
    inputs, outputs = fans(layer, spec)
    variances = {"glorot": 2.0 / (inputs + outputs), "he": 2.0 / inputs, "lecun": 1.0 / inputs}
    return math.sqrt(variances[layer.initial_weights])


@singledispatch
def connect(layer: Any, weights: Array) -> Array:
    """Overwrite weights, or their gradient, with zeros where there is no connection."""
    return weights


@singledispatch
def forward(layer: Any, params: Tree, x: Array, at: Pass) -> tuple[Array, Any]:
    """Return a layer's output, (N, ...) -> (N, ...), and what ``backward`` needs."""
    raise NotImplementedError(f"no layer is registered for {type(layer).__name__}")


@singledispatch
def backward(
    layer: Any,
    params: Tree,
    saved: Any,
    delta: Array,
    at: Pass,
    out: Into | None = None,
    below: bool = True,
) -> tuple[Array | None, Tree]:
    """Return derivatives by a layer's input, and its gradient summed over samples.

    Parameters
    ----------
    saved
        From ``forward``.
    delta
        (N, ...) derivatives by the layer's output; overwritten.
    out
        Where to write the gradient.
    below
        Whether anybody wants the derivatives by the input; None is returned otherwise.
    """
    raise NotImplementedError(f"no layer is registered for {type(layer).__name__}")


@singledispatch
def through(layer: Any, params: Tree, saved: Any, delta: Array, at: Pass) -> Array:
    """Return derivatives by a layer's input alone: what a frozen layer passes on.

    Parameters are those of ``backward``.
    """
    return backward(layer, params, saved, delta, at)[0]
