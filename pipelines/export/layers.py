"""What each layer is in ONNX, chosen by the declaration's type.

Letters: N samples, I inputs.
"""

from collections.abc import Callable
from functools import singledispatch
from typing import Any

from deepstrata.ops import dense
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.psd import EncoderParams
from deepstrata.pipelines.export.nodes import Nodes
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.layers import Activation, Dense, Dropout, Flatten, Rectification, Softmax
from deepstrata.schemas.shapes import Shape
from deepstrata.schemas.sparse import PSD
from deepstrata.schemas.trees import Tree


def _scaled_tanh(graph: Nodes, x: str) -> str:
    inner = graph.call("Tanh", graph.call("Mul", x, graph.number(dense.B)))
    return graph.call("Mul", inner, graph.number(dense.A))


#: The activations of ``ops.dense``.
ACTIVATIONS: dict[str, Callable[[Nodes, str], str]] = {
    "logistic": lambda graph, x: graph.call("Sigmoid", x),
    "tanh": lambda graph, x: graph.call("Tanh", x),
    "scaled_tanh": _scaled_tanh,
    "relu": lambda graph, x: graph.call("Relu", x),
    "softplus": lambda graph, x: graph.call("Softplus", x),
    "linear": lambda graph, x: x,
}


@singledispatch
def write(layer: Any, params: Tree, x: str, shape: Shape, graph: Nodes) -> str:
    """Add a layer to a graph and return the name of what it gives, as when a model is used.

    Parameters
    ----------
    x
        Name of the input (N, ...).
    shape
        Of a sample that the layer takes.

    Raises
    ------
    DeclarationError
        Nothing is known of the layer.
    """
    raise DeclarationError(
        f"a layer of the kind {layer.kind!r} has no form in ONNX; export the model as safetensors"
    )


def as_rows(graph: Nodes, x: str, shape: Shape) -> str:
    """Return (N, ...) as (N, I)."""
    return x if len(shape) == 1 else graph.call("Flatten", x, axis=1)


def affine(graph: Nodes, params: DenseParams | EncoderParams, x: str, shape: Shape) -> str:
    """Return the weighted inputs of a fully connected layer."""
    rows = as_rows(graph, x, shape)
    return graph.call("Gemm", rows, graph.constant(params.weights), graph.constant(params.bias))


@write.register
def _(layer: Dense, params: Tree, x: str, shape: Shape, graph: Nodes) -> str:
    return ACTIVATIONS[layer.activation](graph, affine(graph, params, x, shape))


@write.register
def _(layer: Softmax, params: Tree, x: str, shape: Shape, graph: Nodes) -> str:
    return graph.call("Softmax", affine(graph, params, x, shape), axis=1)


@write.register
def _(layer: PSD, params: EncoderParams, x: str, shape: Shape, graph: Nodes) -> str:
    bounded = graph.call("Tanh", affine(graph, params, x, shape))
    return graph.call("Mul", bounded, graph.constant(params.gain))


@write.register
def _(layer: Rectification, params: Tree, x: str, shape: Shape, graph: Nodes) -> str:
    return graph.call("Abs", x)


@write.register
def _(layer: Flatten, params: Tree, x: str, shape: Shape, graph: Nodes) -> str:
    return as_rows(graph, x, shape)


@write.register
def _(layer: Dropout, params: Tree, x: str, shape: Shape, graph: Nodes) -> str:
    """Nothing is dropped where a model is used."""
    return x


@write.register
def _(layer: Activation, params: Tree, x: str, shape: Shape, graph: Nodes) -> str:
    return ACTIVATIONS[layer.function](graph, x)
