"""Fused loops for float32 C-contiguous NumPy arrays, compiled by numba: one thread, no GIL.

Each has an oracle of array API operations in ``random``, ``kernels`` or ``optimisers``, and gives
the oracle's bits: only operations that IEEE 754 rounds correctly are used, in the oracle's order,
and the compiler may not contract them (no ``fastmath``). All loops live in one file, since
numba's cache on disk does not notice when a function of another file changes.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

from deepstrata.ops import constants as c

F = TypeVar("F", bound=Callable[..., Any])
Floats = Any  #: a float32 C-contiguous numpy.ndarray

CHUNK = 1024  # units whose random words are made at once: 4 KiB, and they stay in the L1 cache
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
M0, M1 = np.uint64(c.PHILOX_M0), np.uint64(c.PHILOX_M1)
W0, W1 = np.uint64(c.PHILOX_W0), np.uint64(c.PHILOX_W1)
ZERO, ONE, MIDDLE = np.float32(0), np.float32(1), np.float32(0.5)
LIMIT, LOG2E, ROUNDER = np.float32(c.LIMIT), np.float32(c.LOG2E), np.float32(c.ROUNDER)
LN2_HIGH, LN2_LOW = np.float32(c.LN2_HIGH), np.float32(c.LN2_LOW)
E0, E1, E2, E3, E4, E5 = (np.float32(value) for value in c.EXP)
EXPONENT_OF_ONE = np.int32(127 << 23)
STEP24 = np.float32(2.0**-24)


def compiled(function: F) -> F:
    """Compile ``function`` at its first call, or load it from numba's cache."""
    try:
        return cast(F, njit(nogil=True, cache=True, error_model="numpy")(function))
    except RuntimeError:  # neither the installation nor the home can be written: no place to cache
        return cast(F, njit(nogil=True, error_model="numpy")(function))


@compiled
def _fill(words: Any, tile: int, tiles: int, row: int, draw: int, seed: Any) -> None:
    """Write the random words of ``tiles`` tiles of 64 units; 16 counters run side by side."""
    c1_start = np.uint64(row) & LOW
    c2_start = np.uint64(row) >> HALF
    for t in range(tiles):
        first = np.uint64((tile + t) * 16)
        at = t * 64
        for lane in range(16):
            c0, c1, c2, c3 = first + np.uint64(lane), c1_start, c2_start, np.uint64(draw)
            k0, k1 = np.uint64(seed) & LOW, np.uint64(seed) >> HALF
            for _ in range(10):
                p0 = M0 * c0
                p1 = M1 * c2
                c0, c1 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW
                c2, c3 = (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
                k0 = (k0 + W0) & LOW
                k1 = (k1 + W1) & LOW
            words[at + lane] = np.uint32(c0)
            words[at + 16 + lane] = np.uint32(c1)
            words[at + 32 + lane] = np.uint32(c2)
            words[at + 48 + lane] = np.uint32(c3)


@compiled
def _unit_interval(word: Any) -> Any:
    return np.float32(np.int32(word >> np.uint32(8))) * STEP24


@compiled
def uniform(out: Floats, rows: Any, seed: Any, draw: int, tile: int) -> None:
    """Write numbers in [0, 1) to ``out`` (N, units); ``tile`` is the first unit / 64."""
    units = out.shape[1]
    words = np.empty(CHUNK, np.uint32)
    for i in range(out.shape[0]):
        for start in range(0, units, CHUNK):
            width = min(CHUNK, units - start)
            _fill(words, tile + start // 64, (width + 63) // 64, rows[i], draw, seed)
            for j in range(width):
                out[i, start + j] = _unit_interval(words[j])


@compiled
def _log(x: float) -> float:
    """Natural logarithm of x in [2**-34, 1], to 1e-12: the series of artanh."""
    exponent = 0.0
    for shift in (16, 8, 4, 2, 1):
        if x < 2.0**-shift:
            x *= 2.0**shift
            exponent += shift
    if x < c.SQRT_HALF:
        x *= 2.0
        exponent += 1.0
    t = (x - 1.0) / (x + 1.0)
    square = t * t
    series = 0.0
    for k in range(19, 0, -2):
        series = series * square + 1.0 / k
    return 2.0 * t * series - exponent * c.LN2


@compiled
def _normal(word: Any) -> Any:
    """Inverse of the normal distribution function at (word + 1/2) / 2**32 (Acklam 2003)."""
    p = (np.float64(word) + 0.5) * 2.0**-32
    q = p - 0.5
    if abs(q) <= c.CENTRE:
        r = q * q
        top, bottom = 0.0, 0.0
        for a in c.NORMAL_A:
            top = top * r + a
        for b in c.NORMAL_B:
            bottom = bottom * r + b
        return np.float32(top * q / bottom)
    r = np.sqrt(-2.0 * _log(min(p, 1.0 - p)))
    top, bottom = 0.0, 0.0
    for a in c.NORMAL_C:
        top = top * r + a
    for b in c.NORMAL_D:
        bottom = bottom * r + b
    value = top / bottom
    return np.float32(value if q < 0.0 else -value)


@compiled
def normal(out: Floats, rows: Any, seed: Any, draw: int, tile: int) -> None:
    """Write standard normal numbers to ``out`` (N, units)."""
    units = out.shape[1]
    words = np.empty(CHUNK, np.uint32)
    for i in range(out.shape[0]):
        for start in range(0, units, CHUNK):
            width = min(CHUNK, units - start)
            _fill(words, tile + start // 64, (width + 63) // 64, rows[i], draw, seed)
            for j in range(width):
                out[i, start + j] = _normal(words[j])


@compiled
def _sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)); the exponential is Cephes' (Moshier 1992), x is held within 87.

    NaN stays NaN: no comparison below is true of it.
    """
    y = -x
    y = LIMIT if y > LIMIT else y
    y = -LIMIT if y < -LIMIT else y
    z = np.float32(y * LOG2E + ROUNDER)  # its lowest bits are the integer n
    n = z - ROUNDER
    r = (y - n * LN2_HIGH) - n * LN2_LOW
    p = E0 * r + E1
    p = p * r + E2
    p = p * r + E3
    p = p * r + E4
    p = p * r + E5
    p = (p * (r * r) + r) + ONE
    power = np.int32(np.int32(z.view(np.int32) << np.int32(23)) + EXPONENT_OF_ONE).view(np.float32)
    return ONE / (ONE + p * power)


@compiled
def sigmoid(x: Floats, bias: Floats) -> None:
    """``x = sigmoid(x + bias)``; with a second array to write to, it would not be vectorised."""
    for i in range(x.shape[0]):
        row = x[i]
        for j in range(row.size):
            row[j] = _sigmoid(row[j] + bias[j])


@compiled
def sigmoid_sample(
    x: Floats, bias: Floats, rows: Any, seed: Any, draw: int, tile: int, out: Floats
) -> None:
    """``x = sigmoid(x + bias)`` and ``out`` = 1 with that probability, else 0."""
    units = x.shape[1]
    words = np.empty(CHUNK, np.uint32)
    for i in range(x.shape[0]):
        for start in range(0, units, CHUNK):
            width = min(CHUNK, units - start)
            _fill(words, tile + start // 64, (width + 63) // 64, rows[i], draw, seed)
            x_part, b_part = x[i, start : start + width], bias[start : start + width]
            out_part = out[i, start : start + width]
            for j in range(width):
                p = _sigmoid(x_part[j] + b_part[j])
                x_part[j] = p
                out_part[j] = np.float32(_unit_interval(words[j]) < p)


@compiled
def affine(x: Any, high: Floats, low: Floats, divisor: Floats, out: Floats) -> None:
    """``out = ((x - high) - low) / divisor`` for small integers ``x`` (N, V)."""
    for i in range(x.shape[0]):
        row, to = x[i], out[i]
        for j in range(row.size):
            to[j] = ((np.float32(row[j]) - high[j]) - low[j]) / divisor[j]


@compiled
def logistic_chain(delta: Floats, h: Floats) -> None:
    """``delta = delta * h * (1 - h)`` on flat arrays."""
    for i in range(delta.size):
        delta[i] *= h[i] * (ONE - h[i])


@compiled
def relu(x: Floats, bias: Floats) -> None:
    """``x = max(x + bias, 0)``; NaN stays NaN."""
    for i in range(x.shape[0]):
        row = x[i]
        for j in range(row.size):
            value = row[j] + bias[j]
            row[j] = ZERO if value < ZERO else value


@compiled
def relu_chain(delta: Floats, h: Floats) -> None:
    """``delta = delta where h > 0, else 0`` on flat arrays."""
    for i in range(delta.size):
        delta[i] = delta[i] if h[i] > ZERO else ZERO


@compiled
def shrink(u: Floats, offset: Floats, z: Floats, threshold: Any, momentum: Any) -> None:
    """``s = soft(u + offset); u = s + momentum * (s - z); z = s`` on flat arrays; NaN stays NaN."""
    for i in range(u.size):
        value = u[i] + offset[i]
        cut = threshold if value > threshold else value
        cut = -threshold if cut < -threshold else cut
        soft = value - cut
        u[i] = soft + momentum * (soft - z[i])
        z[i] = soft


@compiled
def squared_error(x: Floats, y: Floats) -> float:
    """Sum of (x - y)**2 over flat arrays in float64, in 16 interleaved sums."""
    sums = np.zeros(16)
    whole = x.size - x.size % 16
    for start in range(0, whole, 16):
        for lane in range(16):
            d = np.float64(x[start + lane] - y[start + lane])
            sums[lane] += d * d
    for i in range(whole, x.size):
        d = np.float64(x[i] - y[i])
        sums[i - whole] += d * d
    total = 0.0
    for lane in range(16):
        total += sums[lane]
    return total


@compiled
def squared_loss(y: Floats, targets: Floats, weights: Floats, delta: Floats) -> float:
    """Half the weighted squared error (N, K) where targets are not NaN; ``delta`` its slopes."""
    total = 0.0
    for i in range(y.shape[0]):
        own, weight = 0.0, weights[i]
        for k in range(y.shape[1]):
            target = targets[i, k]
            d = y[i, k] - target if target == target else ZERO
            own += np.float64(d) * np.float64(d)
            delta[i, k] = d * weight
        total += own * np.float64(weight)
    return 0.5 * total


@compiled
def logistic_loss(
    logits: Floats, targets: Floats, weights: Floats, delta: Floats
) -> tuple[float, float]:
    """Weighted cross-entropy (N, K) where targets are not NaN, and weighted samples with an error.

    ``delta`` is its slopes. ``log(1 + exp(-abs(z)))`` is minus the logarithm of a number in
    [1/2, 1]; one logarithm is taken of the product of many.
    """
    loss, errors = 0.0, 0.0
    for i in range(logits.shape[0]):
        own, product, wrong, weight = 0.0, 1.0, False, weights[i]
        for k in range(logits.shape[1]):
            z, target = logits[i, k], targets[i, k]
            if target != target:
                delta[i, k] = ZERO
                continue
            delta[i, k] = (_sigmoid(z) - target) * weight
            wrong |= (z > ZERO) != (target > MIDDLE)
            own += max(np.float64(z), 0.0) - np.float64(z) * np.float64(target)
            product *= np.float64(_sigmoid(abs(z)))
            if product < 2.0**-32:
                own -= _log(product)
                product = 1.0
        own -= _log(product)
        loss += own * np.float64(weight)
        errors += np.float64(weight) if wrong else 0.0
    return loss, errors


@compiled
def square_sums(x: Floats, out: Any) -> None:
    """Sums of the squares of each block of flat ``x``, folded by halves, in float64 ``out``."""
    block = np.empty(c.BLOCK)
    for i in range(out.size):
        part = x[i * c.BLOCK : (i + 1) * c.BLOCK]
        block[part.size :] = 0.0
        for j in range(part.size):
            block[j] = np.float64(part[j]) * np.float64(part[j])
        half = c.BLOCK // 2
        while half:
            for j in range(half):
                block[j] += block[j + half]
            half //= 2
        out[i] = block[0]


@compiled
def descend(w: Floats, total: Floats, scale: Any, rate: Any, decay: Any) -> None:
    """One step of plain gradient descent on flat arrays; ``scale`` is 1 / n."""
    for i in range(w.size):
        w[i] -= rate * (total[i] * scale + decay * w[i])


@compiled
def momentum(
    w: Floats, v: Floats, total: Floats, scale: Any, rate: Any, mu: Any, decay: Any
) -> None:
    """One step with momentum ``mu`` on flat arrays; ``v`` is the velocity."""
    for i in range(w.size):
        step = mu * v[i] + (total[i] * scale + decay * w[i])
        v[i] = step
        w[i] -= rate * step


@compiled
def follow(w: Floats, v: Floats, rate: Any, decay: Any) -> None:
    """The step with momentum of a velocity that holds the gradient, on flat arrays."""
    if decay == ZERO:
        for i in range(w.size):
            w[i] -= rate * v[i]
        return
    for i in range(w.size):
        step = v[i] + decay * w[i]
        v[i] = step
        w[i] -= rate * step


@compiled
def nesterov(
    w: Floats, v: Floats, total: Floats, scale: Any, rate: Any, mu: Any, decay: Any
) -> None:
    """One step with Nesterov's momentum on flat arrays."""
    for i in range(w.size):
        gradient = total[i] * scale + decay * w[i]
        step = mu * v[i] + gradient
        v[i] = step
        w[i] -= rate * (gradient + mu * step)


@compiled
def adagrad(
    w: Floats, squares: Floats, total: Floats, scale: Any, rate: Any, epsilon: Any, decay: Any
) -> None:
    """One step of Adagrad on flat arrays."""
    for i in range(w.size):
        gradient = total[i] * scale + decay * w[i]
        sum_ = squares[i] + gradient * gradient
        squares[i] = sum_
        w[i] -= rate * (gradient / (np.sqrt(sum_) + epsilon))


@compiled
def adam(
    w: Floats,
    mean: Floats,
    squares: Floats,
    total: Floats,
    scale: Any,
    rate: Any,
    new: Any,
    keep_squares: Any,
    new_squares: Any,
    epsilon: Any,
    decay: Any,
) -> None:
    """One step of Adam on flat arrays; the bias corrections are in ``rate`` and ``epsilon``."""
    for i in range(w.size):
        gradient = total[i] * scale + decay * w[i]
        m = mean[i] + (gradient - mean[i]) * new
        q = squares[i] * keep_squares + (gradient * gradient) * new_squares
        mean[i] = m
        squares[i] = q
        w[i] -= rate * (m / (np.sqrt(q) + epsilon))
