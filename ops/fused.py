"""Convolution, bias, activation and pooling of a few samples at a time, where only the last stays.

Scherer, Schulz, Behnke (2010). The maps at full resolution are never stored for the whole batch:
``TILE`` bytes of them at a time, or one sample's. That saves memory and not time: smaller tiles,
pooled while they lie in the cache, were slower, since each prepares its weights anew. The bits are
those of the steps one after the other over all samples.

Letters: N samples, C channels, M maps.
"""

import math
from collections.abc import Callable

from deepstrata.ops import pooling, windows
from deepstrata.ops.backend import Scratch, namespace
from deepstrata.ops.convolution import convolve
from deepstrata.ops.dense import ACTIVATIONS
from deepstrata.ops.pooling import Pool
from deepstrata.ops.windows import Geometry
from deepstrata.schemas.trees import Array

TILE = 1 << 22  #: bytes of maps at full resolution, at a time

#: What reads maps, and writes them pooled to its last argument.
POOLINGS: dict[str, Callable[[Pool, Array, Array], object]] = {
    "average": pooling.average,
    "maximum": pooling.maximum,
}


def convolve_and_pool(
    geometry: Geometry,
    pool: Pool,
    x: Array,
    weights: Array,
    bias: Array,
    activation: str = "relu",
    pooled: str = "maximum",
    out: Array | None = None,
    scratch: Scratch | None = None,
) -> Array:
    """Return the pooled outputs of a convolutional layer, for inference.

    Parameters
    ----------
    x
        (N, *spatial, C).
    weights, bias
        (*kernel, C / groups, M) and (M,).
    activation, pooled
        Of ``dense.ACTIVATIONS`` and of ``POOLINGS``.
    out
        (N, *output of the pool, M), overwritten and returned where given.
    scratch
        Where to make the workspace.

    Raises
    ------
    DeclarationError
        No window fits, or the weights do not.
    """
    scratch = scratch or Scratch()
    maps = (*windows.output_shape(geometry, x.shape[1:-1]), weights.shape[-1])
    shape = (x.shape[0], *windows.output_shape(pool.geometry, maps[:-1]), maps[-1])
    y = namespace(x).empty(shape, dtype=x.dtype, device=x.device) if out is None else out
    step = max(1, TILE // (math.prod(maps) * namespace(x).finfo(x.dtype).bits // 8))
    activate = ACTIVATIONS[activation][0]
    for start in range(0, x.shape[0], step):
        stop = min(start + step, x.shape[0])
        part = x[start:stop, ...]
        room = scratch.empty("maps", (part.shape[0], *maps), x)
        made = convolve(geometry, part, weights, room, scratch)
        flat = namespace(x).reshape(made, (math.prod(made.shape[:-1]), maps[-1]))
        made = namespace(x).reshape(activate(flat, bias), made.shape)
        POOLINGS[pooled](pool, made, y[start:stop, ...])
    return y
