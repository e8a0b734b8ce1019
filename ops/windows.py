"""Windows that slide over space: where they lie, and how many fit.

Arrays are channels last: (N, *spatial, C) with one or two spatial dimensions.
Letters: N samples, C channels.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from deepstrata.ops.backend import namespace
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.trees import Array

Shape = tuple[int, ...]


class Geometry(NamedTuple):
    """How a window slides; of each spatial dimension one number, or one pair."""

    kernel: Shape
    """Taps of the window."""
    stride: Shape
    """Steps between one window and the next."""
    padding: tuple[tuple[int, int], ...]
    """Zeros before the first and after the last value."""
    dilation: Shape
    """Steps between one tap and the next."""
    groups: int = 1
    """Parts of the channels that do not see each other."""


def geometry(
    kernel: Shape,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Geometry:
    """Return a geometry that is alike in all dimensions but for the kernel."""
    dims = len(kernel)
    pads = ((padding, padding),) * dims
    return Geometry(kernel, (stride,) * dims, pads, (dilation,) * dims, groups)


def _least(geometry: Geometry) -> None:
    """Refuse numbers that no window can have."""
    dims = len(geometry.kernel)
    if dims not in (1, 2):
        raise DeclarationError(f"kernel {geometry.kernel}: expected 1 or 2 spatial dimensions")
    for name in ("stride", "padding", "dilation"):
        if len(getattr(geometry, name)) != dims:
            raise DeclarationError(
                f"{name} {getattr(geometry, name)}: expected one for each of the {dims} "
                f"dimensions of kernel {geometry.kernel}"
            )
    for name in ("kernel", "stride", "dilation"):
        if min(getattr(geometry, name)) < 1:
            raise DeclarationError(f"{name} {getattr(geometry, name)}: expected 1 or more")
    if geometry.groups < 1 or min(itertools.chain(*geometry.padding)) < 0:
        raise DeclarationError(
            f"padding {geometry.padding}, groups {geometry.groups}: expected no padding below 0, "
            "and at least one group"
        )


def output_shape(geometry: Geometry, spatial: Shape) -> Shape:
    """Return how many windows fit along each dimension; what is left over is not read.

    Parameters
    ----------
    spatial
        Sizes of the input's spatial dimensions.

    Raises
    ------
    DeclarationError
        No window fits, or the numbers contradict each other.
    """
    _least(geometry)
    if len(spatial) != len(geometry.kernel):
        raise DeclarationError(
            f"an input with spatial shape {spatial}: expected {len(geometry.kernel)} dimensions, "
            f"as the kernel {geometry.kernel} has"
        )
    shape = []
    for axis, size in enumerate(spatial):
        before, after = geometry.padding[axis]
        extent = (geometry.kernel[axis] - 1) * geometry.dilation[axis] + 1
        if size + before + after < extent:
            raise DeclarationError(
                f"spatial dimension {axis} has {size} values and {before} + {after} of padding; "
                f"a kernel of {geometry.kernel[axis]} with dilation {geometry.dilation[axis]} "
                f"needs {extent}: take a smaller kernel or more padding"
            )
        shape.append((size + before + after - extent) // geometry.stride[axis] + 1)
    return tuple(shape)


def taps(geometry: Geometry, spatial: Shape) -> Iterator[tuple[Shape, tuple[slice, ...]]]:
    """Yield each tap in C order, and the slices of the padded input that it sees.

    Parameters
    ----------
    spatial
        Sizes of the spatial dimensions of the output.
    """
    for tap in itertools.product(*map(range, geometry.kernel)):
        starts = [k * d for k, d in zip(tap, geometry.dilation, strict=True)]
        yield (
            tap,
            tuple(
                slice(start, start + (size - 1) * stride + 1, stride)
                for start, size, stride in zip(starts, spatial, geometry.stride, strict=True)
            ),
        )


def inner(geometry: Geometry, spatial: Shape) -> tuple[slice, ...]:
    """Return the slices of the padded input that hold the input, of spatial shape ``spatial``."""
    pairs = zip(geometry.padding, spatial, strict=True)
    return tuple(slice(before, before + size) for (before, _), size in pairs)


def padded_shape(geometry: Geometry, shape: Shape) -> Shape:
    """Return the shape (N, *spatial, C) of an input with its padding."""
    pairs = zip(shape[1:-1], geometry.padding, strict=True)
    return (shape[0], *(size + sum(pads) for size, pads in pairs), shape[-1])


def padded(geometry: Geometry, x: Array) -> Array:
    """Return ``x`` with its padding of zeros; itself where there is none."""
    if not any(map(any, geometry.padding)):
        return x
    xp = namespace(x)
    out = xp.zeros(padded_shape(geometry, x.shape), dtype=x.dtype, device=x.device)
    out[(slice(None), *inner(geometry, x.shape[1:-1]), slice(None))] = x
    return out
