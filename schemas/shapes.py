"""Shapes of samples on their way through layers, from declarations alone.

Letters: P places along one dimension, C channels.
"""

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from deepstrata.schemas.layers import (
    Activation,
    ContrastNormalisation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    LocallyConnected,
    Pooling,
    Rectification,
    Softmax,
    TransposedConvolution,
)

Shape = tuple[int, ...]


@singledispatch
def shape_after(layer: Any, shape: Shape) -> Shape:
    """Return the shape of what a layer makes of a sample.

    Raises
    ------
    ValueError
        The layer cannot take such samples: what it got and what it can take.
    """
    raise NotImplementedError(f"no shape is registered for {type(layer).__name__}")


@shape_after.register
def _(layer: Dense, shape: Shape) -> Shape:
    return (layer.units,)


@shape_after.register
def _(layer: Softmax, shape: Shape) -> Shape:
    return (layer.classes,)


@shape_after.register(Activation)
@shape_after.register(Dropout)
@shape_after.register(Rectification)
def _(layer: Activation | Dropout | Rectification, shape: Shape) -> Shape:
    return shape


@shape_after.register
def _(layer: Flatten, shape: Shape) -> Shape:
    return (math.prod(shape),)


@shape_after.register
def _(layer: ContrastNormalisation, shape: Shape) -> Shape:
    if len(shape) not in (2, 3):
        raise ValueError(f"expected samples (place, channel) or (y, x, channel), got {shape}")
    return shape


def each(value: int | Sequence[int], dims: int) -> Shape:
    """Return one number for each dimension of places."""
    return (value,) * dims if isinstance(value, int) else tuple(value)


def paddings(layer: Convolution) -> tuple[tuple[int, int], ...]:
    """Return the zeros before and after a sample in each dimension of places."""
    if layer.padding == "valid":
        return ((0, 0),) * len(layer.kernel)
    if layer.padding == "same":
        dilations = each(layer.dilation, len(layer.kernel))
        reach = [d * (k - 1) for k, d in zip(layer.kernel, dilations, strict=True)]
        return tuple((r // 2, r - r // 2) for r in reach)
    return ((layer.padding, layer.padding),) * len(layer.kernel)


def _places(layer: Any, window: Shape, shape: Shape) -> tuple[Shape, int]:
    """Return a sample's places and channels, if they are as many dimensions as the window's."""
    if len(shape) != len(window) + 1:
        wanted = "(place, channel)" if len(window) == 1 else "(y, x, channel)"
        hint = ""
        if len(shape) == 1:
            hint = "; say how the features of a sample lie with input_shape=..."
        elif len(shape) == len(window):
            hint = f"; one channel is said with input_shape={(*shape, 1)}"
        raise ValueError(f"expected samples {wanted} for a window {window}, got {shape}{hint}")
    for name in ("stride", "dilation"):
        value = getattr(layer, name, None)
        if isinstance(value, tuple) and len(value) != len(window):
            raise ValueError(f"expected a {name} for each dimension of {window}, found {value}")
    return shape[:-1], shape[-1]


def _windows(places: Shape, reach: Shape, stride: Shape, kind: str) -> Shape:
    """Return how many windows fit in each dimension."""
    for p, r in zip(places, reach, strict=True):
        if p < r:
            raise ValueError(f"expected at least {reach} places for one {kind}, got {places}")
    return tuple((p - r) // s + 1 for p, r, s in zip(places, reach, stride, strict=True))


@shape_after.register
def _(layer: Convolution, shape: Shape) -> Shape:
    maps = maps_after(layer, shape)
    if layer.pooling is None:
        return maps
    try:
        return shape_after(layer.pooling, maps)
    except ValueError as error:
        raise ValueError(f"its pooling: {error}") from None


def maps_after(layer: Convolution, shape: Shape) -> Shape:
    """Return the shape of a convolution's maps before any pooling of its own.

    Raises
    ------
    ValueError
        As ``shape_after`` does.
    """
    dims = len(layer.kernel)
    places, channels = _places(layer, layer.kernel, shape)
    if channels % layer.groups:
        raise ValueError(f"expected channels that {layer.groups} groups divide, got {channels}")
    for number, row in enumerate(layer.table or ()):
        for channel in row:
            if channel >= channels:
                raise ValueError(
                    f"the connection table's row {number} names channel {channel}; "
                    f"there are channels 0 to {channels - 1}"
                )
    padded = tuple(p + sum(ends) for p, ends in zip(places, paddings(layer), strict=True))
    dilations = each(layer.dilation, dims)
    reach = tuple(d * (k - 1) + 1 for k, d in zip(layer.kernel, dilations, strict=True))
    return (*_windows(padded, reach, each(layer.stride, dims), "kernel"), layer.maps)


@shape_after.register
def _(layer: TransposedConvolution, shape: Shape) -> Shape:
    places, _ = _places(layer, layer.kernel, shape)
    strides = each(layer.stride, len(places))
    spread = [
        (p - 1) * s + k - 2 * layer.padding
        for p, s, k in zip(places, strides, layer.kernel, strict=True)
    ]
    if min(spread) < 1:
        raise ValueError(f"padding={layer.padding} cuts off all that comes of {places} places")
    return (*spread, layer.maps)


@shape_after.register
def _(layer: LocallyConnected, shape: Shape) -> Shape:
    places, _ = _places(layer, layer.kernel, shape)
    strides = each(layer.stride, len(places))
    return (*_windows(places, layer.kernel, strides, "kernel"), layer.maps)


@shape_after.register
def _(layer: Pooling, shape: Shape) -> Shape:
    places, channels = _places(layer, layer.size, shape)
    strides = layer.size if layer.stride is None else each(layer.stride, len(places))
    return (*_windows(places, layer.size, strides, "window"), channels)


def shapes_through(layers: Sequence[Any], shape: Shape) -> list[Shape]:
    """Return the shapes of a sample before the first layer and after each.

    Raises
    ------
    ValueError
        A layer cannot take what it gets; the message names the layer.
    """
    found = [shape]
    for number, layer in enumerate(layers):
        try:
            found.append(shape_after(layer, found[-1]))
        except ValueError as error:
            name = f" {layer.name!r}" if getattr(layer, "name", "") else ""
            raise ValueError(f"layer {number}{name} ({layer.kind}): {error}") from None
    return found
