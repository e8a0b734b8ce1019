"""Gradients as a whole: how long one is, how it is clipped, and what of it is no number.

Clipping by norm (Pascanu et al. 2013) scales a gradient, so it costs one more look at it and no
write. Squares are summed in float64, each block of 1,024 by halves and the blocks exactly, so that
every library and device gives the same bits.
"""

import math

import numpy as np
from array_api_compat import device

from deepstrata.ops import compiled
from deepstrata.ops.backend import is_fast, namespace, to_numpy
from deepstrata.ops.constants import BLOCK
from deepstrata.schemas.optimisers import Optimiser
from deepstrata.schemas.trees import Array, Tree, flatten, leaves, tree_map

EPSILON = 1e-6  #: torch adds it to the norm that a gradient is divided by


def clipped(optimiser: Optimiser, total: Tree, n: float) -> tuple[Tree, float]:
    """Return a gradient and a factor: their product is the mean gradient, clipped as declared.

    Parameters
    ----------
    total, n
        The gradient summed over samples, and their number or the sum of their weights; not 0.
    """
    if optimiser.clip_value is not None:
        most = optimiser.clip_value * n
        return tree_map(lambda leaf: namespace(leaf).clip(leaf, -most, most), total), 1.0 / n
    if optimiser.clip_norm is not None:
        length = norm(total) / n
        return total, min(1.0, optimiser.clip_norm / (length + EPSILON)) / n
    return total, 1.0 / n


def norm(tree: Tree) -> float:
    """Return the Euclidean norm over all leaves; NaN or infinity where one of them holds it."""
    return math.sqrt(math.fsum(s for leaf in leaves(tree) for s in square_sums(leaf).tolist()))


def square_sums(x: Array) -> Array:
    """Return the sum of the squares of each block of an array's elements, as float64 in NumPy."""
    if not is_fast(x):
        return to_numpy(square_sums_oracle(x))
    sums = np.empty(-(-x.size // BLOCK))
    compiled.square_sums(x.reshape(-1), sums)
    return sums


def square_sums_oracle(x: Array) -> Array:
    """``square_sums`` in array API operations: blocks of squares, folded by halves."""
    xp = namespace(x)
    flat = xp.astype(xp.reshape(x, (-1,)), xp.float64)
    padding = xp.zeros((-flat.shape[0] % BLOCK,), dtype=xp.float64, device=device(x))
    blocks = xp.reshape(xp.concat([flat * flat, padding]), (-1, BLOCK))
    while blocks.shape[1] > 1:
        half = blocks.shape[1] // 2
        blocks = blocks[:, :half] + blocks[:, half:]
    return xp.reshape(blocks, (-1,))


def not_finite(tree: Tree) -> list[str]:
    """Return the paths of the leaves that hold infinity or NaN, in the order of the tree."""
    return [
        path
        for path, leaf in flatten(tree).items()
        if not bool(namespace(leaf).all(namespace(leaf).isfinite(leaf)))
    ]
