"""Convolution, bias, activation and pooling of a few samples at a time, where only the last stays.

Scherer, Schulz, Behnke (2010). The maps at full resolution are never stored for the whole batch:
``TILE`` bytes of them at a time, or one sample's. ``forward`` keeps what is pooled and, of maxima,
where they were: the slope of a maximum is that of the pooled value itself. ``backward`` makes the
maps of other poolings again, tile by tile.

Outputs and derivatives by the input have the bits of the steps one after the other over all
samples, where windows do not overlap. Gradients of parameters are sums over tiles, in order: they
depend on ``TILE``, and on nothing else about the machine.

Workspace: two tiles of maps and that of ``convolution``.

Letters: N samples, C channels, M maps.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from deepstrata.ops import dense, pooling, windows
from deepstrata.ops.backend import Scratch, namespace
from deepstrata.ops.convolution import (
    convolve,
    convolve_input_gradient,
    convolve_weight_gradient,
)
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.partials import Into, put
from deepstrata.ops.pooling import Pool
from deepstrata.ops.windows import Geometry
from deepstrata.schemas.trees import Array

TILE = 1 << 21  #: bytes of maps at full resolution, at a time


class Fused(NamedTuple):
    """A convolution whose maps are pooled at once."""

    geometry: Geometry
    activation: str
    """Of ``dense.ACTIVATIONS``."""
    pool: Pool
    function: str
    """Of ``POOLINGS``."""


class Saved(NamedTuple):
    """What ``backward`` needs of some samples."""

    x: Array
    """(N, *spatial, C)"""
    y: Array
    """(N, *output of the pool, M)"""
    where: Array | None
    """As ``pooling.Maximum`` has it; None for other poolings."""


def _maximum(pool: Pool, maps: Array, into: Saved) -> None:
    pooling.maximum(pool, maps, into.y, into.where)


def _average(pool: Pool, maps: Array, into: Saved) -> None:
    pooling.average(pool, maps, into.y)


def _norm(pool: Pool, maps: Array, into: Saved) -> None:
    pooling.norm(pool, maps, 0.0, into.y)


#: What reads the maps of a tile, and writes them pooled.
POOLINGS: dict[str, Callable[[Pool, Array, Saved], None]] = {
    "max": _maximum,
    "average": _average,
    "l2": _norm,
}


def _shape(fused: Fused, x: Array, params: DenseParams) -> tuple[int, ...]:
    """Return the shape (N, *spatial, M) of the maps."""
    return (
        x.shape[0],
        *windows.output_shape(fused.geometry, x.shape[1:-1]),
        params.weights.shape[-1],
    )


def _tiles(shape: tuple[int, ...], like: Array) -> Iterator[slice]:
    """Yield runs of samples whose maps fill a tile; one that is empty where there are none."""
    each = math.prod(shape[1:]) * namespace(like).finfo(like.dtype).bits // 8
    step = max(1, TILE // each)
    for start in range(0, max(shape[0], 1), step):
        yield slice(start, min(start + step, shape[0]))


def _maps(fused: Fused, params: DenseParams, x: Array, scratch: Scratch) -> Array:
    """Return the maps of a tile at full resolution, in a buffer."""
    room = scratch.empty("maps", _shape(fused, x, params), x)
    made = convolve(fused.geometry, x, params.weights, room, scratch)
    return dense.activate(fused.activation, made, params.bias)


def _part(saved: Saved, tile: slice) -> Saved:
    x, y, where = (None if whole is None else whole[tile, ...] for whole in saved)
    return Saved(x, y, where)


def forward(
    fused: Fused, params: DenseParams, x: Array, scratch: Scratch | None = None
) -> tuple[Array, Saved]:
    """Return the pooled outputs of a convolutional layer, and what ``backward`` needs.

    Parameters
    ----------
    params
        (*kernel, C / groups, M) and (M,).
    x
        (N, *spatial, C).
    scratch
        Where to make the workspace.

    Returns
    -------
    y
        (N, *output of the pool, M)
    saved
        ``y`` itself among it.

    Raises
    ------
    DeclarationError
        No window fits, or the weights do not.
    """
    scratch, xp = scratch or Scratch(), namespace(x)
    maps = _shape(fused, x, params)
    shape = (maps[0], *windows.output_shape(fused.pool.geometry, maps[1:-1]), maps[-1])
    y, where = xp.empty(shape, dtype=x.dtype, device=x.device), None
    if fused.function == "max":
        kind = pooling.tap_type(xp, fused.pool)
        where = xp.empty(shape, dtype=kind, device=x.device)
    saved = Saved(x, y, where)
    for tile in _tiles(maps, x):
        part = _part(saved, tile)
        POOLINGS[fused.function](fused.pool, _maps(fused, params, part.x, scratch), part)
    return y, saved


def backward(
    fused: Fused,
    params: DenseParams,
    saved: Saved,
    delta: Array,
    out: Into | None = None,
    below: bool = True,
    scratch: Scratch | None = None,
) -> tuple[Array | None, DenseParams]:
    """Return derivatives by the input, and the gradient summed over samples.

    Parameters
    ----------
    saved
        From ``forward``.
    delta
        (N, *output of the pool, M) derivatives by the outputs; overwritten.
    out
        Where to write the gradient.
    below
        Whether anybody wants the derivatives by the input; None is returned otherwise.
    scratch
        Where to make the workspace.
    """
    x, scratch, xp = saved.x, scratch or Scratch(), namespace(saved.x)
    dx = xp.empty(x.shape, dtype=x.dtype, device=x.device) if below else None
    if fused.function == "max":
        delta = dense.chain(fused.activation, delta, saved.y)
    found, into = DenseParams((), ()), out
    for tile in _tiles(_shape(fused, x, params), x):
        part = _part(saved, tile)
        deltas = _DOWN[fused.function](fused, params, part, delta[tile, ...], scratch)
        found = _gradient(fused, part.x, deltas, into, scratch)
        into = Into(found, keep=1.0, scale=1.0 if out is None else out.scale)
        if dx is not None:
            where = (fused.geometry, deltas, params.weights, part.x.shape, dx[tile, ...])
            convolve_input_gradient(*where, scratch)
    return dx, found


def _gradient(
    fused: Fused, x: Array, deltas: Array, into: Into | None, scratch: Scratch
) -> DenseParams:
    """Return the gradient of a tile, or add it to that of the tiles before."""
    bias = dense.bias_gradient(deltas)
    if into is None:
        return DenseParams(
            convolve_weight_gradient(fused.geometry, x, deltas, scratch=scratch), bias
        )
    weights = into._replace(tree=into.tree.weights)
    return DenseParams(
        convolve_weight_gradient(fused.geometry, x, deltas, weights, scratch),
        put(bias, into.tree.bias, into),
    )


def _from_maxima(
    fused: Fused, params: DenseParams, part: Saved, delta: Array, scratch: Scratch
) -> Array:
    """Return derivatives by the weighted inputs of a tile; ``delta`` has gone through the slope."""
    shape = _shape(fused, part.x, params)
    assert part.where is not None
    room = scratch.empty("deltas", shape, delta)
    return pooling.maximum_gradient(fused.pool, delta, part.where, shape, room)


def _from_means(
    fused: Fused, params: DenseParams, part: Saved, delta: Array, scratch: Scratch
) -> Array:
    maps = _maps(fused, params, part.x, scratch)
    room = scratch.empty("deltas", maps.shape, delta)
    deltas = pooling.average_gradient(fused.pool, delta, maps.shape, room)
    return dense.chain(fused.activation, deltas, maps)


def _from_norms(
    fused: Fused, params: DenseParams, part: Saved, delta: Array, scratch: Scratch
) -> Array:
    maps = _maps(fused, params, part.x, scratch)
    room = scratch.empty("deltas", maps.shape, delta)
    deltas = pooling.norm_gradient(fused.pool, maps, part.y, delta, room)
    return dense.chain(fused.activation, deltas, maps)


#: What leads from derivatives by a tile's outputs to those by its weighted inputs, in a buffer.
_DOWN: dict[str, Callable[[Fused, DenseParams, Saved, Array, Scratch], Array]] = {
    "max": _from_maxima,
    "average": _from_means,
    "l2": _from_norms,
}
