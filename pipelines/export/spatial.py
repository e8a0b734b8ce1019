"""Layers that know places, in ONNX. Convolutions and pooling have operators; the rest is composed.

Letters: N samples, P positions, C channels, M maps, K taps times channels.
"""

import math
from itertools import product

import numpy as np

from deepstrata.ops.normalisation import window_matrix
from deepstrata.ops.psd import EncoderParams
from deepstrata.pipelines.export.layers import ACTIVATIONS, write
from deepstrata.pipelines.export.nodes import Nodes
from deepstrata.schemas.convolutional import ConvolutionalPSD, as_convolution
from deepstrata.schemas.layers import (
    ContrastNormalisation,
    Convolution,
    LocallyConnected,
    Pooling,
    TransposedConvolution,
)
from deepstrata.schemas.shapes import Shape, each, maps_after, paddings, shape_after
from deepstrata.schemas.trees import Array, Tree

POOLS = {"max": "MaxPool", "average": "AveragePool", "l2": "LpPool"}


@write.register
def _(layer: Convolution, params: Tree, x: str, shape: Shape, graph: Nodes) -> str:
    dims = len(layer.kernel)
    before, after = zip(*paddings(layer), strict=True)
    y = graph.call(
        "Conv",
        graph.channels_first(x, dims),
        graph.constant(np.moveaxis(params.weights, (-1, -2), (0, 1))),  # (M, C / groups, *kernel)
        graph.constant(params.bias),
        kernel_shape=layer.kernel,
        strides=each(layer.stride, dims),
        dilations=each(layer.dilation, dims),
        group=layer.groups,
        pads=[*before, *after],
    )
    maps = graph.channels_last(ACTIVATIONS[layer.activation](graph, y), dims)
    if layer.pooling is None:
        return maps
    return write(layer.pooling, (), maps, maps_after(layer, shape), graph)


@write.register
def _(layer: ConvolutionalPSD, params: EncoderParams, x: str, shape: Shape, graph: Nodes) -> str:
    bounded = write(as_convolution(layer, "tanh"), params, x, shape, graph)
    return graph.call("Mul", bounded, graph.constant(params.gain))


@write.register
def _(layer: TransposedConvolution, params: Tree, x: str, shape: Shape, graph: Nodes) -> str:
    dims = len(layer.kernel)
    y = graph.call(
        "ConvTranspose",
        graph.channels_first(x, dims),
        graph.constant(np.moveaxis(params.weights, (-1, -2), (0, 1))),  # (C, M, *kernel)
        graph.constant(params.bias),
        kernel_shape=layer.kernel,
        strides=each(layer.stride, dims),
        pads=(layer.padding,) * (2 * dims),
    )
    return graph.channels_last(ACTIVATIONS[layer.activation](graph, y), dims)


@write.register
def _(layer: Pooling, params: Tree, x: str, shape: Shape, graph: Nodes) -> str:
    dims = len(layer.size)
    y = graph.call(
        POOLS[layer.function],
        graph.channels_first(x, dims),
        kernel_shape=layer.size,
        strides=layer.size if layer.stride is None else each(layer.stride, dims),
    )
    return graph.channels_last(y, dims)


@write.register
def _(layer: LocallyConnected, params: Tree, x: str, shape: Shape, graph: Nodes) -> str:
    """Every position's window is gathered, (P, N, K), and has a product of its own."""
    *places, channels = shape
    *positions, taps, maps = params.weights.shape
    seen = _windows(layer, tuple(places))
    flat = graph.call("Reshape", x, graph.integers((-1, math.prod(places), channels)))
    gathered = graph.call("Gather", flat, graph.integers(seen.reshape(-1)), axis=1)
    patches = graph.call("Reshape", gathered, graph.integers((-1, len(seen), taps)))
    patches = graph.call("Transpose", patches, perm=[1, 0, 2])
    weights = graph.constant(params.weights.reshape(len(seen), taps, maps))
    y = graph.call("Transpose", graph.call("MatMul", patches, weights), perm=[1, 0, 2])
    y = graph.call("Reshape", y, graph.integers((-1, *positions, maps)))
    y = graph.call("Add", y, graph.constant(params.bias))
    return ACTIVATIONS[layer.activation](graph, y)


def _windows(layer: LocallyConnected, places: Shape) -> Array:
    """Return the numbers of the places that each position sees, (P, taps), in C order."""
    strides = each(layer.stride, len(places))
    positions = shape_after(layer, (*places, 1))[:-1]
    numbers = np.arange(math.prod(places)).reshape(places)
    starts = np.ix_(*(np.arange(n) * s for n, s in zip(positions, strides, strict=True)))
    taps = product(*(range(k) for k in layer.kernel))
    seen = [
        numbers[tuple(at + t for at, t in zip(starts, tap, strict=True))].reshape(-1)
        for tap in taps
    ]
    return np.stack(seen, axis=1)


@write.register
def _(layer: ContrastNormalisation, params: Tree, x: str, shape: Shape, graph: Nodes) -> str:
    """``g / max(c, r)``, and 0 where both are: see ``ops.normalisation``."""
    centred = graph.call("Sub", x, _window_sums(layer, x, shape, graph))
    squares = graph.call("Mul", centred, centred)
    roots = graph.call("Sqrt", _window_sums(layer, squares, shape, graph))
    floor = graph.call("ReduceMean", roots, graph.integers(range(1, len(shape) + 1)), keepdims=1)
    divisor = graph.call("Max", roots, floor)
    is_positive = graph.call("Greater", divisor, graph.number(0.0))
    divisor = graph.call("Where", is_positive, divisor, graph.number(1.0))
    return graph.call("Div", centred, divisor)


def _window_sums(layer: ContrastNormalisation, x: str, shape: Shape, graph: Nodes) -> str:
    """Return the weighted sums over windows and all channels, (N, *places, 1)."""
    *places, _ = shape
    matrices = [
        graph.constant(window_matrix(layer.size, layer.sigma, extent).astype(np.float32))
        for extent in places
    ]
    y = graph.call("ReduceMean", x, graph.integers((-1,)), keepdims=0)
    y = graph.call("MatMul", y, graph.call("Transpose", matrices[-1], perm=[1, 0]))
    for matrix in matrices[:-1]:
        y = graph.call("MatMul", matrix, y)
    return graph.call("Unsqueeze", y, graph.integers((-1,)))
