"""Where a convolution's products lie in memory: tables for the compiled loops.

A convolution and the gradient by its input are alike: each output is a sum over taps of
an input, which is the padded ``x`` for one and the padded ``dy`` for the other, times weights.
Along each axis the outputs fall into *phases* that use the same taps: one for the convolution,
``stride`` of them for the gradient. Offsets count float32 numbers from a sample's first.

Letters: C channels that are read, M units that are written.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from deepstrata.ops import compiled_spatial as loops
from deepstrata.ops.windows import Geometry
from deepstrata.schemas.trees import Array

Shape = tuple[int, ...]
CACHED = 64  #: layouts whose tables are kept


class Axis(NamedTuple):
    """One phase along one axis."""

    places: list[int]
    """First outputs of this phase's vectors."""
    starts: list[int]
    """Where the window of each begins in the padded input."""
    taps: Array
    """(bases, outputs of a vector): the tap through which each reads there, -1 for none."""
    bases: list[int]
    """What is read, from the window's start; ascending."""


class Phase(NamedTuple):
    """The tables of the outputs that use the same taps."""

    starts: Array
    places: Array
    bases: Array
    inner: int
    """Products that follow each other in memory, from each of ``bases``."""
    taps: Array
    """(reads, outputs of a vector): numbers of the taps in C order of the kernel, -1 for none."""


class Layout(NamedTuple):
    """How one kind of pass walks over one shape of sample."""

    shape: Shape
    """(H, W C) of a sample that is read; H is 1 where there is one dimension."""
    room: int
    """Numbers in a padded sample, 0 if nothing is padded."""
    start: int
    """Where the sample begins in its padding."""
    pitch: int
    """Numbers in a row of the padded sample."""
    phases: tuple[Phase, ...]


class Along(NamedTuple):
    """What a geometry says of one axis."""

    kernel: int
    stride: int
    padding: tuple[int, int]
    dilation: int


def axes(geometry: Geometry, spatial: Shape) -> tuple[tuple[Along, int], tuple[Along, int]]:
    """Return two axes and their sizes; the first is a single value where there is one dimension."""
    kernel, stride, padding, dilation, _ = geometry
    found = [
        (Along(kernel[i], stride[i], padding[i], dilation[i]), size)
        for i, size in enumerate(spatial)
    ]
    return found[-2] if len(found) == 2 else (Along(1, 1, (0, 0), 1), 1), found[-1]


def count(along: Along, size: int) -> int:
    """Return how many windows fit."""
    return (size + sum(along.padding) - (along.kernel - 1) * along.dilation - 1) // along.stride + 1


def _column(taps: list[int]) -> Array:
    return np.array(taps, np.int64).reshape(-1, 1)


def forward_axis(along: Along, size: int) -> tuple[tuple[int, int], list[Axis]]:
    """Return the padding of ``x`` along an axis, and its only phase."""
    places = list(range(count(along, size)))
    taps = list(range(along.kernel))
    starts = [place * along.stride for place in places]
    bases = [tap * along.dilation for tap in taps]
    return along.padding, [Axis(places, starts, _column(taps), bases)]


def backward_axis(along: Along, size: int) -> tuple[tuple[int, int], list[Axis]]:
    """Return the padding of ``dy`` along an axis of ``x``, and the phases of ``dx``.

    Input u takes part in output o through tap k where ``u = o stride + k dilation - padding``.
    """
    stride, before = along.stride, along.padding[0]
    reach = (along.kernel - 1) * along.dilation
    low = max(0, -((before - reach) // stride))
    high = max(0, (size - 1 + before) // stride - (count(along, size) - 1))
    phases = []
    for phase in range(min(stride, size)):
        places = list(range(phase, size, stride))
        at = [(k, phase + before - k * along.dilation) for k in reversed(range(along.kernel))]
        hits = [(k, offset // stride + low) for k, offset in at if offset % stride == 0]
        taps, bases = [k for k, _ in hits], [base for _, base in hits]
        phases.append(Axis(places, list(range(len(places))), _column(taps), bases))
    return (low, high), phases


def width(units: int) -> int:
    """Return how many lanes a vector has: the wide one, where it leaves no more of them empty."""
    narrow = -(-units // loops.NARROW)
    return loops.NARROW if narrow % (loops.WIDE // loops.NARROW) else loops.WIDE


def lanes(units: int) -> int:
    """Return the lanes of all vectors that hold so many units."""
    return -(-units // width(units)) * width(units)


def together(axis: Axis, outputs: int) -> Axis:
    """Return an axis whose vectors hold several neighbouring outputs each.

    The last vector may make again what the one before it made.
    """
    if outputs == 1:
        return axis
    last = len(axis.places) - outputs
    chosen = sorted({*range(0, last, outputs), last})
    step = axis.starts[1] - axis.starts[0]
    reached: dict[int, list[int]] = {}
    for output in range(outputs):
        for base, tap in zip(axis.bases, axis.taps[:, 0], strict=True):
            reached.setdefault(base + output * step, [-1] * outputs)[output] = int(tap)
    bases = sorted(reached)
    return Axis(
        [axis.places[i] for i in chosen],
        [axis.starts[i] for i in chosen],
        np.array([reached[base] for base in bases], np.int64),
        bases,
    )


def fullest(axis: Axis, units: int, groups: int) -> Axis:
    """Return the columns with as many outputs in a vector as make the fewest products.

    One output of few units leaves most lanes empty. Several share a vector only if they lie side by
    side in memory, and each then takes products with zeros where only the others read.
    """
    most = min(len(axis.places), loops.WIDE // units)
    if groups > 1 or most < 2 or axis.places[1] - axis.places[0] > 1 or not axis.bases:
        return axis
    found = [together(axis, outputs) for outputs in range(1, most + 1)]
    return min(found, key=lambda a: len(a.places) * len(a.bases) * lanes(units * a.taps.shape[1]))


def blocks(offsets: Array) -> Array:
    """Return flat offsets, the last repeated until they fill the last block."""
    flat = offsets.reshape(-1)
    return np.pad(flat, (0, -flat.size % loops.BLOCK), mode="edge")


def grid(rows: list[int], columns: list[int], pitch: int, step: int) -> Array:
    """Return the offsets (rows, columns) of places in a plane."""
    return np.add.outer(np.array(rows, np.int64) * pitch, np.array(columns, np.int64) * step)


def _phase(
    rows: Axis, columns: Axis, kernel: int, pitch: int, wide: int, units: Shape, groups: int
) -> Phase:
    """Return the tables of two axes' phases; ``kernel`` and ``wide`` are those of the columns."""
    read, written = units
    bases = grid(rows.bases, columns.bases, pitch, read)
    inner = read // groups
    if groups == 1 and len(columns.bases) > 1 and np.all(np.diff(columns.bases) == 1):
        inner, bases = inner * len(columns.bases), bases[:, :1]
    numbers = np.where(columns.taps < 0, -1, rows.taps[:, :, None] * kernel + columns.taps)
    return Phase(
        blocks(grid(rows.starts, columns.starts, pitch, read)),
        blocks(grid(rows.places, columns.places, wide * written, written)),
        np.ascontiguousarray(bases.reshape(-1)),
        inner,
        numbers.reshape(-1, columns.taps.shape[1]),
    )


@lru_cache(maxsize=CACHED)
def layout(geometry: Geometry, spatial: Shape, channels: int, maps: int, backward: bool) -> Layout:
    """Return how to walk over a sample of ``x``, or backward over one of ``dy``.

    Parameters
    ----------
    spatial
        Of ``x``.
    channels, maps
        Of ``x`` and of ``dy``.
    """
    (above, height), (across, extent) = axes(geometry, spatial)
    make = backward_axis if backward else forward_axis
    (top, bottom), row_phases = make(above, height)
    (left, right), column_phases = make(across, extent)
    groups, units = geometry.groups, (maps, channels) if backward else (channels, maps)
    inside = (count(above, height), count(across, extent))
    (rows, columns), wide = (inside, extent) if backward else ((height, extent), inside[1])
    pitch = (left + columns + right) * units[0]
    phases = tuple(
        _phase(r, fullest(c, units[1], groups), across.kernel, pitch, wide, units, groups)
        for r in row_phases
        for c in column_phases
    )
    is_padded = any((top, bottom, left, right))
    return Layout(
        (rows, columns * units[0]),
        (top + rows + bottom) * pitch if is_padded else 0,
        top * pitch + left * units[0],
        pitch,
        phases,
    )


class Products(NamedTuple):
    """The tables of the gradient by the weights, where taps are what is written."""

    starts: Array
    """Where each weight's first input lies, for the channels of the first group."""
    places: Array
    """Where each weight's units lie in a sum, in vectors."""
    bases: Array
    """Where each row of outputs begins to read."""
    inner: int
    """Outputs in a row."""
    step: int
    """From the input of one output to that of the next."""


@lru_cache(maxsize=CACHED)
def products(geometry: Geometry, spatial: Shape, channels: int) -> Products:
    """Return how to walk over a padded sample of ``x`` for the gradient by the weights."""
    (above, height), (across, extent) = axes(geometry, spatial)
    pitch = (extent + sum(across.padding)) * channels
    [rows], [columns] = forward_axis(above, height)[1], forward_axis(across, extent)[1]
    at = grid(rows.bases, columns.bases, pitch, channels)
    starts = blocks(np.add.outer(at, np.arange(channels // geometry.groups)))
    return Products(
        starts,
        np.arange(starts.size),
        np.array(rows.starts, np.int64) * pitch,
        len(columns.places),
        across.stride * channels,
    )
