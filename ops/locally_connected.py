"""Locally connected layers: a convolution whose filters are not shared between positions.

Le et al. (2012), section 3; each position has one dense product of its own. The products of a few
rows of positions at a time are made in one batch, so the patches need a workspace of about
``WORKSPACE`` bytes, whatever the number of samples, or what one row of positions needs.

Letters: N samples, C channels, M maps, P positions, K taps times channels.
"""

import math
from collections.abc import Iterator

from deepstrata.ops import windows
from deepstrata.ops.backend import namespace, store
from deepstrata.ops.partials import Into, put
from deepstrata.ops.windows import Geometry, Shape
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.trees import Array

WORKSPACE = 1 << 24  #: bytes of patches at a time


def weights_shape(geometry: Geometry, spatial: Shape, channels: int, maps: int) -> Shape:
    """Return (*output, K, M)."""
    taps = math.prod(geometry.kernel) * channels
    return (*windows.output_shape(geometry, spatial), taps, maps)


def _check(geometry: Geometry, shape: Shape, weights: Shape) -> None:
    """Refuse weights that do not fit inputs of ``shape``."""
    expected = weights_shape(geometry, tuple(shape[1:-1]), shape[-1], weights[-1])
    if geometry.groups != 1 or tuple(weights) != expected:
        raise DeclarationError(
            f"weights {tuple(weights)} in {geometry.groups} groups, of a locally connected layer "
            f"on {tuple(shape[1:])}: expected (*positions, taps * channels, maps) = {expected} "
            "and one group"
        )


def _rows(
    geometry: Geometry, shape: Shape, size: int
) -> Iterator[tuple[slice, list[tuple[slice, ...]]]]:
    """Yield rows of positions, as a slice of the first axis, and the windows of each tap.

    Parameters
    ----------
    shape
        (N, *spatial, C) of the inputs.
    size
        Bytes of a number.
    """
    output = windows.output_shape(geometry, tuple(shape[1:-1]))
    row = shape[0] * math.prod(output[1:]) * math.prod(geometry.kernel) * shape[-1] * size
    step = max(1, WORKSPACE // max(1, row))
    seen = [window for _, window in windows.taps(geometry, output)]
    stride = geometry.stride[0]
    for start in range(0, output[0], step):
        stop = min(start + step, output[0])
        moved = []
        for first, *others in seen:
            begin = first.start + start * stride
            moved.append((slice(begin, begin + (stop - start - 1) * stride + 1, stride), *others))
        yield slice(start, stop), moved


def _patches(padded: Array, seen: list[tuple[slice, ...]]) -> Array:
    """Return what some positions see, (P, N, K)."""
    xp = namespace(padded)
    parts = [padded[(slice(None), *window, slice(None))] for window in seen]
    joined = xp.concat(parts, axis=-1)
    positions = math.prod(joined.shape[1:-1])
    flat = xp.reshape(joined, (joined.shape[0], positions, joined.shape[-1]))
    return xp.permute_dims(flat, (1, 0, 2))


def _positions(y: Array, rows: slice) -> Array:
    """Return some rows of (N, *output, M) as (P, N, M)."""
    xp = namespace(y)
    part = y[:, rows, ...]
    flat = xp.reshape(part, (part.shape[0], math.prod(part.shape[1:-1]), part.shape[-1]))
    return xp.permute_dims(flat, (1, 0, 2))


def _filters(weights: Array, rows: slice) -> Array:
    """Return some rows of (*output, K, M) as (P, K, M)."""
    part = weights[rows, ...]
    return namespace(part).reshape(part, (math.prod(part.shape[:-2]), *part.shape[-2:]))


def connect(geometry: Geometry, x: Array, weights: Array, out: Array | None = None) -> Array:
    """Return the weighted inputs of each position, without bias.

    Parameters
    ----------
    x
        (N, *spatial, C).
    weights
        (*output, K, M), K in the order of taps, then channels.
    out
        (N, *output, M), overwritten and returned where given.

    Raises
    ------
    DeclarationError
        No window fits, or the weights do not.
    """
    _check(geometry, x.shape, weights.shape)
    xp, padded = namespace(x), windows.padded(geometry, x)
    shape = (x.shape[0], *weights.shape[:-2], weights.shape[-1])
    y = xp.empty(shape, dtype=x.dtype, device=x.device) if out is None else out
    for rows, seen in _rows(geometry, x.shape, xp.finfo(x.dtype).bits // 8):
        made = xp.permute_dims(_patches(padded, seen) @ _filters(weights, rows), (1, 0, 2))
        y[:, rows, ...] = xp.reshape(made, y[:, rows, ...].shape)
    return y


def connect_input_gradient(
    geometry: Geometry, dy: Array, weights: Array, shape: Shape, out: Array | None = None
) -> Array:
    """Return derivatives by the inputs.

    Parameters
    ----------
    dy
        (N, *output, M) derivatives by the weighted inputs.
    weights
        (*output, K, M).
    shape
        (N, *spatial, C) of the inputs.
    out
        Of that shape, overwritten and returned where given.

    Raises
    ------
    DeclarationError
        No window fits, or the weights do not.
    """
    _check(geometry, shape, weights.shape)
    xp, channels = namespace(dy), shape[-1]
    size = windows.padded_shape(geometry, shape)
    dx = xp.zeros(size, dtype=dy.dtype, device=dy.device)
    for rows, seen in _rows(geometry, shape, xp.finfo(dy.dtype).bits // 8):
        filters = xp.permute_dims(_filters(weights, rows), (0, 2, 1))
        shares = xp.permute_dims(_positions(dy, rows) @ filters, (1, 0, 2))
        shares = xp.reshape(shares, (shape[0], *dy[:, rows, ...].shape[1:-1], shares.shape[-1]))
        for tap, window in enumerate(seen):
            part = shares[..., tap * channels : (tap + 1) * channels]
            dx[(slice(None), *window, slice(None))] += part
    return store(dx[(slice(None), *windows.inner(geometry, shape[1:-1]), slice(None))], out)


def connect_weight_gradient(
    geometry: Geometry, x: Array, dy: Array, out: Into | None = None
) -> Array:
    """Return derivatives by the weights, summed over samples: (*output, K, M).

    Parameters
    ----------
    x, dy
        (N, *spatial, C) inputs and (N, *output, M) derivatives by the weighted inputs.
    out
        Its tree is an array like the weights.

    Raises
    ------
    DeclarationError
        No window fits, or ``dy`` does not.
    """
    xp, padded = namespace(x), windows.padded(geometry, x)
    shape = weights_shape(geometry, tuple(x.shape[1:-1]), x.shape[-1], dy.shape[-1])
    _check(geometry, x.shape, (*dy.shape[1:-1], *shape[-2:]))
    total = xp.empty(shape, dtype=x.dtype, device=x.device) if out is None else out.tree
    for rows, seen in _rows(geometry, x.shape, xp.finfo(x.dtype).bits // 8):
        patches = xp.permute_dims(_patches(padded, seen), (0, 2, 1))
        made = xp.reshape(patches @ _positions(dy, rows), total[rows, ...].shape)
        total[rows, ...] = made if out is None else put(made, total[rows, ...], out)
    return total
