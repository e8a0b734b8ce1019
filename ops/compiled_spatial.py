"""Loops over windows for float32 C-contiguous NumPy arrays, compiled by numba: one thread, no GIL.

Convolution and its gradients are sums of products that one piece of code makes, ``_products``:
eight sums, each a vector of ``width`` units, stay in registers while it walks along the inputs.
Every sum is one chain of fused multiply-adds in a stated order, so its bits depend neither on the
other samples nor on the processor. numba has no vectors, so that code is written in LLVM's terms.

The loops of ``compiled`` and these are apart: no function here calls one of there, since
numba's cache on disk does not notice when a function of another file changes.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils as untyped
from numba.core import types
from numba.extending import intrinsic

from deepstrata.ops.compiled import ZERO, Floats, compiled

BLOCK = 8  #: sums side by side: what hides the latency of the multiply-adds
NARROW, WIDE = 16, 32  #: units in a vector
FLOAT, INT, LANE = ir.FloatType(), ir.IntType(64), ir.IntType(32)
cgutils: Any = untyped


def _at(builder: Any, pointer: Any, index: Any, kind: Any = FLOAT) -> Any:
    """Return the address of an element, as one of ``kind``."""
    return builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())


def _splat(builder: Any, value: Any, width: int) -> Any:
    """Return a vector with ``value`` in each lane."""
    empty = ir.Constant(ir.VectorType(value.type, width), ir.Undefined)
    first = builder.insert_element(empty, value, LANE(0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(LANE, width), None))


def _function(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Declare a function of LLVM's own."""
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, name)


def _add_up(builder: Any, width: int, sums: Any, first: Any, walk: Any) -> None:
    """Emit the two loops: ``sums[p] += x[first[p] + bases[i] + j * step] * v[i, j]``."""
    bases, rows, inner, step, v, stride = walk
    vector = ir.VectorType(FLOAT, width)
    fma = _function(builder, f"llvm.fma.v{width}f32", vector, vector, vector, vector)
    with cgutils.for_range(builder, rows) as outer:
        base = builder.load(_at(builder, bases, outer.index, INT))
        row = builder.mul(outer.index, inner)
        with cgutils.for_range(builder, inner) as loop:
            at = builder.mul(builder.add(row, loop.index), stride)
            units = builder.load(_at(builder, v, at, vector), align=4)
            here = builder.add(base, builder.mul(loop.index, step))
            for pointer, total in zip(first, sums, strict=True):
                value = _splat(builder, builder.load(_at(builder, pointer, here)), width)
                builder.store(builder.call(fma, [value, units, builder.load(total)]), total)


def _write(builder: Any, width: int, value: Any, pointer: Any, count: Any, add: bool) -> None:
    """Emit the storing of a vector's first ``count`` lanes, or its addition to what is there."""
    vector, mask = ir.VectorType(FLOAT, width), ir.VectorType(ir.IntType(1), width)
    if add:
        builder.store(builder.fadd(builder.load(pointer, align=4), value), pointer, align=4)
        return
    lanes = ir.Constant(ir.VectorType(LANE, width), [LANE(lane) for lane in range(width)])
    wanted = builder.icmp_unsigned("<", lanes, _splat(builder, builder.trunc(count, LANE), width))
    name = f"llvm.masked.store.v{width}f32.p0"
    store = _function(builder, name, ir.VoidType(), vector, vector.as_pointer(), LANE, mask)
    builder.call(store, [value, pointer, LANE(4), wanted])


def _typed_products(
    typing: Any,
    width: Any,
    add: Any,
    x: Any,
    starts: Any,
    block: Any,
    bases: Any,
    inner: Any,
    step: Any,
    v: Any,
    stride: Any,
    out: Any,
    places: Any,
    count: Any,
) -> Any:
    """Make the sums of ``block``: for each of its BLOCK places p and each lane u < ``count``.

    ``out[places[p] + u] = sum over i, j of x[starts[p] + bases[i] + j step] v[i, j, u]``, or
    ``+=`` where ``add`` is 1, which needs all lanes. ``v`` is (len(bases), inner, ...) with rows
    that are ``stride`` apart. All arrays are flat; ``width`` and ``add`` are literals.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def array(place: int) -> Any:
            return context.make_array(signature.args[place])(context, builder, values[place])

        lanes, adds = width.literal_value, bool(add.literal_value)
        vector = ir.VectorType(FLOAT, lanes)
        source, target = array(2).data, array(10).data
        numbers = [INT(p) for p in range(BLOCK)]
        at = [builder.add(builder.mul(values[4], INT(BLOCK)), number) for number in numbers]
        first, to = (
            [builder.load(_at(builder, array(place).data, p, INT)) for p in at] for place in (3, 11)
        )
        pointers = [_at(builder, source, start) for start in first]
        zero = ir.Constant(vector, None)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(BLOCK)]
        rows = cgutils.unpack_tuple(builder, array(5).shape)[0]
        walk = (array(5).data, rows, values[6], values[7], array(8).data, values[9])
        _add_up(builder, lanes, sums, pointers, walk)
        for total, place in zip(sums, to, strict=True):
            pointer = _at(builder, target, place, vector)
            _write(builder, lanes, builder.load(total), pointer, values[12], adds)
        return context.get_dummy_value()

    n = types.int64
    return types.void(width, add, x, starts, n, bases, n, n, v, n, out, places, n), emit


_products: Any = intrinsic(prefer_literal=True)(_typed_products)


@compiled
def _embedded(x: Floats, n: int, room: Floats, start: int, pitch: int) -> Floats:
    """Return sample ``n`` of ``x`` (N, H, W C), flat; within its padding where ``room`` has any."""
    rows, size = x.shape[1], x.shape[2]
    if room.size == 0:
        return x[n].reshape(rows * size)
    for i in range(rows):
        at = start + i * pitch
        room[at : at + size] = x[n, i]
    return room


@compiled
def correlate(
    width: int,
    x: Floats,
    room: Floats,
    start: int,
    pitch: int,
    starts: Any,
    places: Any,
    bases: Any,
    inner: int,
    panels: Floats,
    channels: int,
    units: int,
    y: Floats,
) -> None:
    """Write sums over windows of ``x`` (N, H, W C) to ``y`` (N, size of a sample).

    ``panels`` (groups, panels of a group, K * width) are weights of ``units`` units a group, which
    sees ``channels`` channels. See ``_embedded`` for room, start and pitch, ``_products`` for the
    tables.
    """
    for n in range(x.shape[0]):
        sample = _embedded(x, n, room, start, pitch)
        for g in range(panels.shape[0]):
            part = sample[g * channels :]
            for p in range(panels.shape[1]):
                v, out = panels[g, p], y[n][g * units + p * width :]
                count = min(width, units - p * width)
                for block in range(starts.size // BLOCK):
                    if width == WIDE:
                        _products(
                            WIDE,
                            0,
                            part,
                            starts,
                            block,
                            bases,
                            inner,
                            1,
                            v,
                            WIDE,
                            out,
                            places,
                            count,
                        )
                    else:
                        _products(
                            NARROW,
                            0,
                            part,
                            starts,
                            block,
                            bases,
                            inner,
                            1,
                            v,
                            NARROW,
                            out,
                            places,
                            count,
                        )


@compiled
def correlate_weights(
    width: int,
    x: Floats,
    room: Floats,
    start: int,
    pitch: int,
    starts: Any,
    places: Any,
    bases: Any,
    inner: int,
    step: int,
    dy: Floats,
    last: Floats,
    channels: int,
    units: int,
    total: Floats,
) -> None:
    """Add to ``total`` (groups, panels, taps * width) the products of ``x`` and ``dy`` (flat).

    One sample's sum is made first, then added: samples in order. The lanes beyond a group's units
    hold what nobody reads. ``last`` is the last sample of ``dy`` (Q, M) with ``width`` more zeros,
    since its last vectors reach beyond it.
    """
    maps, size = total.shape[0] * units, last.size - width
    for n in range(x.shape[0]):
        sample = _embedded(x, n, room, start, pitch)
        deltas = last if n == x.shape[0] - 1 else dy[n * size :]
        for g in range(total.shape[0]):
            part = sample[g * channels :]
            for p in range(total.shape[1]):
                v, out = deltas[g * units + p * width :], total[g, p]
                for block in range(starts.size // BLOCK):
                    if width == WIDE:
                        _products(
                            WIDE,
                            1,
                            part,
                            starts,
                            block,
                            bases,
                            inner,
                            step,
                            v,
                            maps,
                            out,
                            places,
                            WIDE,
                        )
                    else:
                        _products(
                            NARROW,
                            1,
                            part,
                            starts,
                            block,
                            bases,
                            inner,
                            step,
                            v,
                            maps,
                            out,
                            places,
                            NARROW,
                        )


@compiled
def window_sums(x: Floats, kernel: Any, stride: Any, squared: bool, y: Floats) -> None:
    """``y`` (N, H', W', C) = sums over windows of ``x`` (N, H, W, C), or of its squares."""
    for n in range(y.shape[0]):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                to = y[n, i, j]
                for u in range(to.size):
                    to[u] = ZERO
                for a in range(kernel[0]):
                    for b in range(kernel[1]):
                        row = x[n, i * stride[0] + a, j * stride[1] + b]
                        if squared:
                            for u in range(to.size):
                                to[u] += row[u] * row[u]
                        else:
                            for u in range(to.size):
                                to[u] += row[u]


@compiled
def spread(dy: Floats, kernel: Any, stride: Any, dx: Floats) -> None:
    """Add each of ``dy`` (N, H', W', C) to all of its window in ``dx`` (N, H, W, C)."""
    for n in range(dy.shape[0]):
        for i in range(dy.shape[1]):
            for j in range(dy.shape[2]):
                delta = dy[n, i, j]
                for a in range(kernel[0]):
                    for b in range(kernel[1]):
                        to = dx[n, i * stride[0] + a, j * stride[1] + b]
                        for u in range(delta.size):
                            to[u] += delta[u]


@compiled
def maxima(x: Floats, kernel: Any, stride: Any, y: Floats, where: Any) -> None:
    """``y`` (N, H', W', C) = maxima over windows, ``where`` = the first tap that holds each."""
    for n in range(y.shape[0]):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                best, tap = y[n, i, j], where[n, i, j]
                row = x[n, i * stride[0], j * stride[1]]
                for u in range(best.size):
                    best[u] = row[u]
                    tap[u] = 0
                for t in range(1, kernel[0] * kernel[1]):
                    row = x[n, i * stride[0] + t // kernel[1], j * stride[1] + t % kernel[1]]
                    for u in range(best.size):
                        value, held, at = row[u], best[u], tap[u]
                        wins = value > held or value != value
                        best[u] = value if wins else held
                        tap[u] = t if wins else at


@compiled
def spread_maxima(dy: Floats, where: Any, kernel: Any, stride: Any, dx: Floats) -> None:
    """Add each of ``dy`` (N, H', W', C) to the tap of its window that held the maximum."""
    units, pitch = dx.shape[3], dx.shape[2] * dx.shape[3]
    offsets = np.empty(kernel[0] * kernel[1], np.int64)
    for tap in range(offsets.size):
        offsets[tap] = tap // kernel[1] * pitch + tap % kernel[1] * units
    deltas, taps, sums = dy.reshape(dy.size), where.reshape(where.size), dx.reshape(dx.size)
    at = 0
    for n, i, j in np.ndindex(dy.shape[:3]):
        first = ((n * dx.shape[1] + i * stride[0]) * dx.shape[2] + j * stride[1]) * units
        for u in range(units):
            sums[first + offsets[taps[at + u]] + u] += deltas[at + u]
        at += units
