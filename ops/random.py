"""Random numbers by address: the same on any worker and in any split of rows or of units.

A number's address is (key, global row, unit, draw). Philox4x32-10 (Salmon, Moraes, Dror, Shaw
2011, "Parallel random numbers: as easy as 1, 2, 3") maps a counter of four 32-bit words and a
key of two to four random words. The key is the seed. Units come in tiles of 64: 16 counters
``(tile * 16 + lane, row low, row high, draw)`` with four words each, where word ``w`` of lane
``j`` belongs to unit ``tile * 64 + w * 16 + j``, so that neighbours in memory are neighbours in
vector registers. Splits of units must therefore start at multiples of 64.

The functions below are array API operations and serve any array library; float32 NumPy arrays
take the compiled kernels, which give the same bits.
"""

import numpy as np

from deepstrata.ops import compiled
from deepstrata.ops import constants as c
from deepstrata.ops.backend import Namespace, is_numpy, namespace
from deepstrata.schemas.keys import Key
from deepstrata.schemas.trees import Array

TILE = 64
LOW = 0xFFFFFFFF


def philox(counter: tuple[Array, Array, Array, Array], seed: int) -> tuple[Array, ...]:
    """Return the four random words of each counter.

    Parameters
    ----------
    counter
        Four uint64 arrays of one broadcast shape, with values below 2**32.
    seed
        The key: 64 bits.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & LOW, seed >> 32
    for _ in range(10):
        p0, p1 = c0 * c.PHILOX_M0, c2 * c.PHILOX_M1
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & LOW, (p0 >> 32) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + c.PHILOX_W0) & LOW, (k1 + c.PHILOX_W1) & LOW
    return c0, c1, c2, c3


def words(xp: Namespace, key: Key, rows: Array, units: int, draw: int, first_unit: int) -> Array:
    """Return (N, units) random words as uint64 below 2**32."""
    tiles = range(first_unit // TILE, -(-(first_unit + units) // TILE))
    lanes = xp.arange(tiles.start * 16, tiles.stop * 16, dtype=xp.uint64)
    row = xp.reshape(xp.astype(xp.asarray(rows), xp.uint64), (-1, 1, 1))
    lane = xp.reshape(lanes, (1, -1, 16))
    blank = xp.zeros((row.shape[0], lane.shape[1], 16), dtype=xp.uint64)
    counter = (blank + lane, blank + (row & LOW), blank + (row >> 32), blank + draw)
    tile_words = xp.stack(philox(counter, key.seed), axis=2)
    return xp.reshape(tile_words, (row.shape[0], len(tiles) * TILE))[:, :units]


def checked(rows: Array, draw: int, first_unit: int) -> tuple[Array, int]:
    """Check an address; return the rows as compiled kernels take them, and the first tile.

    Raises
    ------
    ValueError
        ``first_unit`` is not a multiple of 64, or ``draw`` is not below 2**32.
    """
    if first_unit % TILE:
        raise ValueError(f"first_unit must be a multiple of {TILE}, found {first_unit}")
    if not 0 <= draw <= LOW:
        raise ValueError(f"draw must be in [0, 2**32), found {draw}")
    return rows if not is_numpy(rows) else np.ascontiguousarray(rows, np.int64), first_unit // TILE


def uniform(
    key: Key, rows: Array, units: int, draw: int = 0, first_unit: int = 0, like: Array | None = None
) -> Array:
    """Return numbers in [0, 1): multiples of 2**-24.

    Parameters
    ----------
    rows
        (N,) int64, the global rows of the samples, in any order.
    units
        Columns wanted, from ``first_unit`` on, which is a multiple of 64.
    draw
        Tells apart the numbers that one row and unit needs under one key; below 2**32.
    like
        An array whose library is used; NumPy by default.

    Returns
    -------
    (N, units) float32
    """
    rows, tile = checked(rows, draw, first_unit)
    if like is None or is_numpy(like):
        out = np.empty((len(rows), units), np.float32)
        compiled.uniform(out, rows, np.uint64(key.seed), draw, tile)
        return out
    return uniform_oracle(namespace(like), key, rows, units, draw, first_unit)


def uniform_oracle(
    xp: Namespace, key: Key, rows: Array, units: int, draw: int, first_unit: int
) -> Array:
    """``uniform`` in array API operations."""
    top = words(xp, key, rows, units, draw, first_unit) >> 8
    return xp.astype(top, xp.float32) * 2.0**-24


def normal(
    key: Key, rows: Array, units: int, draw: int = 0, first_unit: int = 0, like: Array | None = None
) -> Array:
    """Return standard normal numbers, one for each random word; parameters as in ``uniform``.

    Returns
    -------
    (N, units) float32, within 6.4
    """
    rows, tile = checked(rows, draw, first_unit)
    if like is None or is_numpy(like):
        out = np.empty((len(rows), units), np.float32)
        compiled.normal(out, rows, np.uint64(key.seed), draw, tile)
        return out
    return normal_oracle(namespace(like), key, rows, units, draw, first_unit)


def normal_oracle(
    xp: Namespace, key: Key, rows: Array, units: int, draw: int, first_unit: int
) -> Array:
    """``normal`` in array API operations (Acklam 2003), all of them correctly rounded."""
    word = words(xp, key, rows, units, draw, first_unit)
    p = (xp.astype(word, xp.float64) + 0.5) * 2.0**-32
    q = p - 0.5
    centre = _ratio(q * q, c.NORMAL_A, c.NORMAL_B, q)
    r = xp.sqrt(-2.0 * _log(xp, xp.where(q < 0.0, p, 1.0 - p)))
    tail = _ratio(r, c.NORMAL_C, c.NORMAL_D)
    tail = xp.where(q < 0.0, tail, -tail)
    return xp.astype(xp.where(xp.abs(q) <= c.CENTRE, centre, tail), xp.float32)


def _ratio(
    r: Array, top: tuple[float, ...], bottom: tuple[float, ...], factor: Array | float = 1.0
) -> Array:
    above = r * 0.0
    for coefficient in top:
        above = above * r + coefficient
    below = r * 0.0
    for coefficient in bottom:
        below = below * r + coefficient
    return above * factor / below


def _log(xp: Namespace, x: Array) -> Array:
    """Natural logarithm of x in [2**-34, 1], to 1e-12: the series of artanh."""
    exponent = xp.zeros_like(x)
    for shift in (16, 8, 4, 2, 1):
        small = x < 2.0**-shift
        x = xp.where(small, x * 2.0**shift, x)
        exponent = xp.where(small, exponent + shift, exponent)
    small = x < c.SQRT_HALF
    x = xp.where(small, x * 2.0, x)
    exponent = xp.where(small, exponent + 1.0, exponent)
    t = (x - 1.0) / (x + 1.0)
    square = t * t
    series = xp.zeros_like(x)
    for k in range(19, 0, -2):
        series = series * square + 1.0 / k
    return 2.0 * t * series - exponent * c.LN2


def bernoulli(key: Key, p: Array, rows: Array, draw: int = 0, first_unit: int = 0) -> Array:
    """Return 1 with probability ``p``, else 0.

    Parameters
    ----------
    p
        (N, units) probabilities.

    Returns
    -------
    (N, units) of the type of ``p``
    """
    u = uniform(key, rows, p.shape[1], draw, first_unit, like=p)
    return namespace(p).astype(u < p, p.dtype)
