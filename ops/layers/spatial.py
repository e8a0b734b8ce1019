"""Layers that know places: convolutions, subsampling and local contrast normalisation.

Samples are channels last, (N, place, C) or (N, y, x, C).
"""

import math
from typing import Any

from deepstrata.ops import convolution, dense, fused, locally_connected, normalisation, pooling
from deepstrata.ops.backend import namespace
from deepstrata.ops.dense import BiasParams, DenseParams
from deepstrata.ops.fused import Fused
from deepstrata.ops.layers.table import Pass, backward, connect, fans, forward, specs
from deepstrata.ops.partials import Into, put
from deepstrata.ops.pooling import Pool
from deepstrata.ops.windows import Geometry
from deepstrata.schemas.layers import (
    ContrastNormalisation,
    Convolution,
    LocallyConnected,
    Pooling,
    TransposedConvolution,
)
from deepstrata.schemas.shapes import Shape, each, paddings, shape_after
from deepstrata.schemas.trees import Array, ArraySpec, Tree
from deepstrata.schemas.tying import weights_shape

Convolving = Convolution | TransposedConvolution | LocallyConnected


def geometry(layer: Convolving) -> Geometry:
    """Return where a layer's windows lie."""
    dims, unpadded = len(layer.kernel), ((0, 0),) * len(layer.kernel)
    dilation, groups, padding = (1,) * dims, 1, unpadded
    if isinstance(layer, Convolution):
        dilation, groups = each(layer.dilation, dims), layer.groups
        padding = paddings(layer)
    elif isinstance(layer, TransposedConvolution):
        padding = ((layer.padding, layer.padding),) * dims
    return Geometry(layer.kernel, each(layer.stride, dims), padding, dilation, groups)


@specs.register(Convolution)
@specs.register(TransposedConvolution)
def _(layer: Convolution | TransposedConvolution, shape: Shape) -> DenseParams | BiasParams:
    bias = ArraySpec((layer.maps,))
    if layer.weights_of:
        return BiasParams(bias)
    return DenseParams(ArraySpec(weights_shape(layer, shape) or ()), bias)


@specs.register
def _(layer: LocallyConnected, shape: Shape) -> DenseParams:
    places = shape_after(layer, shape)[:-1]
    window = math.prod(layer.kernel) * shape[-1]
    return DenseParams(ArraySpec((*places, window, layer.maps)), ArraySpec((*places, layer.maps)))


@fans.register
def _(layer: Convolution, spec: DenseParams) -> tuple[int, int]:
    window = math.prod(layer.kernel)
    if layer.table is not None:
        read = sum(map(len, layer.table))
        return math.ceil(window * read / layer.maps), math.ceil(
            window * read / spec.weights.shape[-2]
        )
    return window * spec.weights.shape[-2], window * layer.maps // layer.groups


@fans.register
def _(layer: TransposedConvolution, spec: DenseParams) -> tuple[int, int]:
    window = math.prod(layer.kernel)
    return window * spec.weights.shape[-1], window * layer.maps


@fans.register
def _(layer: LocallyConnected, spec: DenseParams) -> tuple[int, int]:
    return spec.weights.shape[-2], math.prod(layer.kernel) * layer.maps


@connect.register
def _(layer: Convolution, weights: Array) -> Array:
    if layer.table is None:
        return weights
    xp = namespace(weights)
    channels = range(weights.shape[-2])
    there = [[float(c in row) for row in layer.table] for c in channels]
    weights *= xp.asarray(there, dtype=weights.dtype)
    return weights


def _fused(layer: Convolution, pooling: Pooling) -> Fused:
    return Fused(geometry(layer), layer.activation, _pool(pooling), pooling.function)


@forward.register
def _(layer: Convolution, params: DenseParams, x: Array, at: Pass) -> tuple[Array, Any]:
    if layer.pooling is not None:
        return fused.forward(_fused(layer, layer.pooling), params, x, at.scratch)
    y = convolution.convolve(geometry(layer), x, params.weights, scratch=at.scratch)
    y = dense.activate(layer.activation, y, params.bias)
    return y, (x, y)


@backward.register
def _(
    layer: Convolution,
    params: DenseParams,
    saved: Any,
    delta: Array,
    at: Pass,
    out: Into | None = None,
    below: bool = True,
) -> tuple[Array | None, Tree]:
    if layer.pooling is not None:
        how = _fused(layer, layer.pooling)
        dx, found = fused.backward(how, params, saved, delta, out, below, at.scratch)
        return dx, found._replace(weights=connect(layer, found.weights))
    (x, y), where = saved, geometry(layer)
    delta = dense.chain(layer.activation, delta, y)
    into = out and out._replace(tree=out.tree.weights)
    weights = convolution.convolve_weight_gradient(where, x, delta, into, at.scratch)
    found = DenseParams(connect(layer, weights), _bias_gradient(delta, out))
    if not below:
        return None, found
    return convolution.convolve_input_gradient(
        where, delta, params.weights, x.shape, scratch=at.scratch
    ), found


def _bias_gradient(delta: Array, out: Into | None) -> Array:
    """Return the sum over samples and places, or write it."""
    bias = dense.bias_gradient(delta)
    return bias if out is None else put(bias, out.tree.bias, out)


@forward.register
def _(layer: TransposedConvolution, params: DenseParams, x: Array, at: Pass) -> tuple[Array, Any]:
    shape = (x.shape[0], *shape_after(layer, tuple(x.shape[1:])))
    y = convolution.convolve_input_gradient(
        geometry(layer), x, params.weights, shape, scratch=at.scratch
    )
    y = dense.activate(layer.activation, y, params.bias)
    return y, (x, y)


@backward.register
def _(
    layer: TransposedConvolution,
    params: DenseParams,
    saved: Any,
    delta: Array,
    at: Pass,
    out: Into | None = None,
    below: bool = True,
) -> tuple[Array | None, Tree]:
    (x, y), where = saved, geometry(layer)
    delta = dense.chain(layer.activation, delta, y)
    into = out and out._replace(tree=out.tree.weights)
    weights = convolution.convolve_weight_gradient(where, delta, x, into, at.scratch)
    found = DenseParams(weights, _bias_gradient(delta, out))
    if not below:
        return None, found
    return convolution.convolve(where, delta, params.weights, scratch=at.scratch), found


@forward.register
def _(layer: LocallyConnected, params: DenseParams, x: Array, at: Pass) -> tuple[Array, Any]:
    y = locally_connected.connect(geometry(layer), x, params.weights)
    y = dense.activate(layer.activation, y, params.bias)
    return y, (x, y)


@backward.register
def _(
    layer: LocallyConnected,
    params: DenseParams,
    saved: Any,
    delta: Array,
    at: Pass,
    out: Into | None = None,
    below: bool = True,
) -> tuple[Array | None, Tree]:
    (x, y), where = saved, geometry(layer)
    delta = dense.chain(layer.activation, delta, y)
    into = out and out._replace(tree=out.tree.weights)
    weights = locally_connected.connect_weight_gradient(where, x, delta, into)
    bias = namespace(delta).sum(delta, axis=0)
    found = DenseParams(weights, bias if out is None else put(bias, out.tree.bias, out))
    if not below:
        return None, found
    slopes = locally_connected.connect_input_gradient(where, delta, params.weights, x.shape)
    return slopes, found


def _pool(layer: Pooling) -> Pool:
    stride = layer.size if layer.stride is None else each(layer.stride, len(layer.size))
    return Pool(layer.size, stride)


@forward.register
def _(layer: Pooling, params: Tree, x: Array, at: Pass) -> tuple[Array, Any]:
    if layer.function == "max":
        found = pooling.maximum(_pool(layer), x)
        return found.y, (found.where, x.shape)
    if layer.function == "average":
        return pooling.average(_pool(layer), x), x.shape
    y = pooling.norm(_pool(layer), x, 0.0)
    return y, (x, y)


@backward.register
def _(
    layer: Pooling,
    params: Tree,
    saved: Any,
    delta: Array,
    at: Pass,
    out: Into | None = None,
    below: bool = True,
) -> tuple[Array | None, Tree]:
    if not below:
        return None, ()
    if layer.function == "max":
        return pooling.maximum_gradient(_pool(layer), delta, *saved), ()
    if layer.function == "average":
        return pooling.average_gradient(_pool(layer), delta, saved), ()
    x, y = saved
    return pooling.norm_gradient(_pool(layer), x, y, delta), ()


@forward.register
def _(layer: ContrastNormalisation, params: Tree, x: Array, at: Pass) -> tuple[Array, Any]:
    found = normalisation.contrast(x, layer.size, layer.sigma)
    return found.y, found


@backward.register
def _(
    layer: ContrastNormalisation,
    params: Tree,
    saved: Any,
    delta: Array,
    at: Pass,
    out: Into | None = None,
    below: bool = True,
) -> tuple[Array | None, Tree]:
    return normalisation.contrast_gradient(saved, delta, layer.size, layer.sigma), ()
