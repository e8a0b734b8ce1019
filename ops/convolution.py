"""Convolution and its gradients, channels last, in one or two spatial dimensions.

LeCun, Bottou, Bengio, Haffner (1998); no kernel is flipped (a cross-correlation, as everywhere in
the field). For float32 NumPy arrays the sums are made by ``compiled_spatial``, straight from the
inputs: there is no matrix of patches. Each output is one chain of fused multiply-adds, taps and
then channels in order (backward: taps in descending order, then maps), and each gradient of a
weight one chain over a sample's positions, then one sum over samples in order. A sample's outputs
thus have the same bits in any batch, and on any processor. Where few maps leave room in a vector,
neighbouring outputs share it and take products with zeros: NaN and infinity spread to neighbours.

Workspace: a padded sample, a padded copy of the weights, tables of offsets. Other arrays take one
matrix product a tap; workspace: two arrays like ``x`` and one like ``y``.

Letters: N samples, C channels, M maps, K taps times channels of a group.
"""

import math
from collections.abc import Iterator

import numpy as np

from deepstrata.ops import compiled_spatial as loops
from deepstrata.ops import sliding, windows
from deepstrata.ops.backend import Scratch, is_fast, namespace, store
from deepstrata.ops.partials import Into, put
from deepstrata.ops.windows import Geometry, Shape, output_shape
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.trees import Array


def _check(geometry: Geometry, channels: int, weights: Shape) -> None:
    """Refuse weights that do not fit the geometry and the input's channels."""
    groups = geometry.groups
    expected = (*geometry.kernel, channels // groups)
    if channels % groups or weights[-1] % groups or tuple(weights[:-1]) != expected:
        raise DeclarationError(
            f"weights {tuple(weights)} on {channels} channels in {groups} groups: expected "
            f"(*kernel, channels / groups, maps) = ({', '.join(map(str, expected))}, maps), and "
            "channels and maps that the groups divide"
        )


def _panels(weights: Array, width: int, scratch: Scratch) -> Array:
    """Return weights (groups, K, units) as (groups, panels, K * width), zeros in empty lanes."""
    groups, rows, units = weights.shape
    number = -(-units // width)
    panels = scratch.empty("panels", (groups, number, rows, width), weights)
    for p in range(number):
        part = weights[:, :, p * width : (p + 1) * width]
        panels[:, p, :, : part.shape[2]] = part
        panels[:, p, :, part.shape[2] :] = 0.0
    return panels.reshape(groups, number, rows * width)


def _room(layout: sliding.Layout, x: Array, scratch: Scratch) -> Array:
    """Return zeros for a padded sample."""
    room = scratch.empty("sample", (layout.room,), x)
    room[...] = 0.0
    return room


def _correlate(
    layout: sliding.Layout, x: Array, weights: Array, out: Array, scratch: Scratch
) -> None:
    """Write every output of a layout; ``weights`` is (taps, groups, channels, units)."""
    _, groups, channels, units = weights.shape
    room = _room(layout, x, scratch)
    x = x.reshape(x.shape[0], *layout.shape)
    out = out.reshape(out.shape[0], math.prod(out.shape[1:]))
    weights = np.concatenate([weights, np.zeros_like(weights[:1])])
    for phase in layout.phases:
        reads, together = phase.taps.shape
        chosen = weights[phase.taps].transpose(2, 0, 3, 1, 4)
        wide, lanes = together * units, sliding.width(together * units)
        panels = _panels(chosen.reshape(groups, reads * channels, wide), lanes, scratch)
        tables = (phase.starts, phase.places, phase.bases, phase.inner)
        loops.correlate(
            lanes, x, room, layout.start, layout.pitch, *tables, panels, channels, wide, out
        )


def _grouped(geometry: Geometry, weights: Array) -> Array:
    """Return weights as (taps, channels of a group, groups, maps of a group)."""
    *kernel, channels, maps = weights.shape
    groups = geometry.groups
    return weights.reshape(math.prod(kernel), channels, groups, maps // groups)


def _parts(geometry: Geometry, channels: int, maps: int) -> Iterator[tuple[slice, slice]]:
    """Yield the channels and maps of each group."""
    c, m = channels // geometry.groups, maps // geometry.groups
    for g in range(geometry.groups):
        yield slice(g * c, (g + 1) * c), slice(g * m, (g + 1) * m)


def convolve(
    geometry: Geometry,
    x: Array,
    weights: Array,
    out: Array | None = None,
    scratch: Scratch | None = None,
) -> Array:
    """Return the convolution of ``x``, without bias.

    Parameters
    ----------
    x
        (N, *spatial, C).
    weights
        (*kernel, C / groups, M).
    out
        (N, *output, M), overwritten and returned where given.
    scratch
        Where to make the workspace.

    Raises
    ------
    DeclarationError
        No window fits, or the weights do not.
    """
    spatial, channels, maps = x.shape[1:-1], x.shape[-1], weights.shape[-1]
    shape = (x.shape[0], *output_shape(geometry, spatial), maps)
    _check(geometry, channels, weights.shape)
    if is_fast(x, weights) and (out is None or is_fast(out)):
        out = np.empty(shape, np.float32) if out is None else out
        layout = sliding.layout(geometry, spatial, channels, maps, False)
        grouped = _grouped(geometry, weights).swapaxes(1, 2)
        _correlate(layout, x, grouped, out, scratch or Scratch())
        return out
    padded = windows.padded(geometry, x)
    y = namespace(x).zeros(shape, dtype=x.dtype, device=x.device)
    for tap, window in windows.taps(geometry, shape[1:-1]):
        for c, m in _parts(geometry, channels, maps):
            y[..., m] += padded[(slice(None), *window, c)] @ weights[(*tap, slice(None), m)]
    return store(y, out)


def convolve_input_gradient(
    geometry: Geometry,
    dy: Array,
    weights: Array,
    shape: Shape,
    out: Array | None = None,
    scratch: Scratch | None = None,
) -> Array:
    """Return derivatives by the input; as a forward pass this is the transposed convolution.

    Parameters
    ----------
    dy
        (N, *output, M) derivatives by the outputs.
    weights
        (*kernel, C / groups, M).
    shape
        (N, *spatial, C) of the input.
    out
        Of that shape, overwritten and returned where given.
    scratch
        Where to make the workspace.

    Raises
    ------
    DeclarationError
        No window fits, or the weights or ``dy`` do not.
    """
    shape = tuple(shape)
    spatial, channels = shape[1:-1], shape[-1]
    _check(geometry, channels, weights.shape)
    _check_outputs(geometry, shape, dy.shape, weights.shape[-1])
    if is_fast(dy, weights) and (out is None or is_fast(out)):
        out = np.empty(shape, np.float32) if out is None else out
        layout = sliding.layout(geometry, spatial, channels, weights.shape[-1], True)
        grouped = _grouped(geometry, weights).transpose(0, 2, 3, 1)
        _correlate(layout, dy, grouped, out, scratch or Scratch())
        return out
    xp = namespace(dy)
    size = windows.padded_shape(geometry, shape)
    dx = xp.zeros(size, dtype=dy.dtype, device=dy.device)
    for tap, window in windows.taps(geometry, dy.shape[1:-1]):
        for c, m in _parts(geometry, channels, weights.shape[-1]):
            dx[(slice(None), *window, c)] += dy[..., m] @ weights[(*tap, slice(None), m)].T
    return store(dx[(slice(None), *windows.inner(geometry, spatial), slice(None))], out)


def _check_outputs(geometry: Geometry, shape: Shape, found: Shape, maps: int) -> None:
    """Refuse derivatives that are not shaped like the outputs."""
    expected = (shape[0], *output_shape(geometry, shape[1:-1]), maps)
    if tuple(found) != expected:
        raise DeclarationError(
            f"derivatives {tuple(found)} by the outputs of a convolution of {shape}: expected "
            f"{expected}"
        )


def convolve_weight_gradient(
    geometry: Geometry,
    x: Array,
    dy: Array,
    out: Into | None = None,
    scratch: Scratch | None = None,
) -> Array:
    """Return derivatives by the weights, summed over samples.

    Parameters
    ----------
    x, dy
        (N, *spatial, C) inputs and (N, *output, M) derivatives by the outputs.
    out
        Its tree is an array like the weights.
    scratch
        Where to make the workspace.

    Returns
    -------
    (*kernel, C / groups, M)

    Raises
    ------
    DeclarationError
        No window fits, or ``dy`` does not.
    """
    channels, maps = x.shape[-1], dy.shape[-1]
    shape = (*geometry.kernel, channels // geometry.groups, maps)
    _check(geometry, channels, shape)
    _check_outputs(geometry, x.shape, dy.shape, maps)
    if is_fast(x, dy):
        total = _weight_sums(geometry, x, dy, scratch or Scratch()).reshape(shape)
        return total.copy() if out is None else put(total, out.tree, out)
    xp = namespace(x)
    padded = windows.padded(geometry, x)
    total = xp.zeros(shape, dtype=x.dtype, device=x.device)
    rows = math.prod(dy.shape[:-1])
    for tap, window in windows.taps(geometry, dy.shape[1:-1]):
        for c, m in _parts(geometry, channels, maps):
            seen = xp.reshape(padded[(slice(None), *window, c)], (rows, shape[-2]))
            deltas = xp.reshape(dy[..., m], (rows, maps // geometry.groups))
            total[(*tap, slice(None), m)] = seen.T @ deltas
    return total if out is None else put(total, out.tree, out)


def _weight_sums(geometry: Geometry, x: Array, dy: Array, scratch: Scratch) -> Array:
    """Return the gradient (K, M), in a buffer."""
    samples, channels, maps, groups = x.shape[0], x.shape[-1], dy.shape[-1], geometry.groups
    layout = sliding.layout(geometry, x.shape[1:-1], channels, maps, False)
    tables = sliding.products(geometry, x.shape[1:-1], channels)
    rows, units = math.prod(geometry.kernel) * channels // groups, maps // groups
    width = sliding.width(units)
    total = scratch.empty("total", (groups, -(-units // width), tables.starts.size * width), x)
    total[...] = 0.0
    if samples:
        last = scratch.empty("last", (dy[0].size + width,), x)
        last[:-width], last[-width:] = dy[-1].reshape(-1), 0.0
        loops.correlate_weights(
            width,
            x.reshape(samples, *layout.shape),
            *(_room(layout, x, scratch), layout.start, layout.pitch),
            *(tables.starts, tables.places * width, tables.bases, tables.inner, tables.step),
            *(dy.reshape(-1), last, channels // groups, units, total),
        )
    sums = total.reshape(groups, -1, tables.starts.size, width)[:, :, :rows]
    return sums.transpose(2, 0, 1, 3).reshape(rows, groups, -1)[:, :, :units].reshape(rows, maps)
