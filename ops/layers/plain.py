"""Layers that know no places: fully connected ones, and what is done to each number.

Letters: N samples, I inputs, O outputs.
"""

import math
from typing import Any

from array_api_compat import device

from deepstrata.ops import dense, preprocess, random
from deepstrata.ops.backend import namespace, product
from deepstrata.ops.dense import ACTIVATIONS, BiasParams, DenseParams
from deepstrata.ops.layers.table import Pass, backward, forward, specs, through
from deepstrata.ops.partials import Into
from deepstrata.schemas.layers import Activation, Dense, Dropout, Flatten, Rectification, Softmax
from deepstrata.schemas.shapes import Shape
from deepstrata.schemas.trees import Array, ArraySpec, Tree


@specs.register(Dense)
@specs.register(Softmax)
def _(layer: Dense | Softmax, shape: Shape) -> DenseParams | BiasParams:
    units = layer.classes if isinstance(layer, Softmax) else layer.units
    if isinstance(layer, Dense) and layer.weights_of:
        return BiasParams(ArraySpec((units,)))
    return DenseParams(ArraySpec((math.prod(shape), units)), ArraySpec((units,)))


@forward.register
def _(layer: Dense, params: DenseParams, x: Array, at: Pass) -> tuple[Array, Any]:
    return _dense(layer.activation, params, x, at)


@forward.register
def _(layer: Softmax, params: DenseParams, x: Array, at: Pass) -> tuple[Array, Any]:
    """The output is the logits: the loss goes on from them."""
    return _dense("linear", params, x, at)


def _dense(activation: str, params: DenseParams, x: Array, at: Pass) -> tuple[Array, Any]:
    into = at.scratch.empty("y", (x.shape[0], params.bias.shape[0]), params.weights)
    y = dense.forward(activation, params, preprocess.flatten(x), into)
    return y, (x, y)


@backward.register(Dense)
@backward.register(Softmax)
def _(
    layer: Dense | Softmax,
    params: DenseParams,
    saved: Any,
    delta: Array,
    at: Pass,
    out: Into | None = None,
    below: bool = True,
) -> tuple[Array | None, Tree]:
    x, y = saved
    delta = _weighted(layer, delta, y)
    found = dense.gradient(preprocess.flatten(x), delta, out)
    return (_down(params, x, delta, at) if below else None), found


@through.register(Dense)
@through.register(Softmax)
def _(layer: Dense | Softmax, params: DenseParams, saved: Any, delta: Array, at: Pass) -> Array:
    x, y = saved
    return _down(params, x, _weighted(layer, delta, y), at)


def _weighted(layer: Dense | Softmax, delta: Array, y: Array) -> Array:
    """Turn derivatives by the output ``y`` into those by the weighted inputs."""
    return ACTIVATIONS[layer.activation][1](delta, y) if isinstance(layer, Dense) else delta


def _down(params: DenseParams, x: Array, delta: Array, at: Pass) -> Array:
    """Return derivatives by the input ``x`` from those by the weighted inputs."""
    shape = preprocess.flatten(x).shape
    into = product(delta, params.weights.T, at.scratch.empty("dx", shape, delta))
    return namespace(into).reshape(into, x.shape)


@forward.register
def _(layer: Flatten, params: Tree, x: Array, at: Pass) -> tuple[Array, Any]:
    return preprocess.flatten(x), x.shape


@backward.register
def _(
    layer: Flatten,
    params: Tree,
    saved: Any,
    delta: Array,
    at: Pass,
    out: Into | None = None,
    below: bool = True,
) -> tuple[Array | None, Tree]:
    return namespace(delta).reshape(delta, saved), ()


@forward.register
def _(layer: Activation, params: Tree, x: Array, at: Pass) -> tuple[Array, Any]:
    xp = namespace(x)
    rows = xp.asarray(preprocess.flatten(x), copy=True)
    no_bias = xp.zeros((rows.shape[1],), dtype=rows.dtype, device=device(rows))
    y = ACTIVATIONS[layer.function][0](rows, no_bias)
    return xp.reshape(y, x.shape), y


@backward.register
def _(
    layer: Activation,
    params: Tree,
    saved: Any,
    delta: Array,
    at: Pass,
    out: Into | None = None,
    below: bool = True,
) -> tuple[Array | None, Tree]:
    slope = ACTIVATIONS[layer.function][1](preprocess.flatten(delta), saved)
    return namespace(delta).reshape(slope, delta.shape), ()


@forward.register
def _(layer: Rectification, params: Tree, x: Array, at: Pass) -> tuple[Array, Any]:
    return namespace(x).abs(x), x


@backward.register
def _(
    layer: Rectification,
    params: Tree,
    saved: Any,
    delta: Array,
    at: Pass,
    out: Into | None = None,
    below: bool = True,
) -> tuple[Array | None, Tree]:
    delta *= namespace(saved).sign(saved)
    return delta, ()


@forward.register
def _(layer: Dropout, params: Tree, x: Array, at: Pass) -> tuple[Array, Any]:
    if at.key is None:
        return x, None
    xp, rows = namespace(x), preprocess.flatten(x)
    drawn = random.uniform(at.key, at.rows, rows.shape[1], like=x)
    kept = xp.astype(drawn >= layer.rate, x.dtype) / (1.0 - layer.rate)
    kept = xp.reshape(kept, x.shape)
    return x * kept, kept


@backward.register
def _(
    layer: Dropout,
    params: Tree,
    saved: Any,
    delta: Array,
    at: Pass,
    out: Into | None = None,
    below: bool = True,
) -> tuple[Array | None, Tree]:
    return delta if saved is None else delta * saved, ()
