"""How parameters begin: every number has its own address, so tiles agree with the whole."""

import math
from functools import singledispatch
from typing import Any

import numpy as np

from deepstrata.ops import layers
from deepstrata.ops.backend import Backend, device_array, namespace
from deepstrata.ops.dense import BiasParams
from deepstrata.ops.random import normal
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.shapes import Shape
from deepstrata.schemas.trees import tree_map


def drawn(specs: Any, scale: float, key: Key, backend: Backend) -> Any:
    """Fill specs: weights from a normal distribution, addressed by input and output; biases 0."""
    *inputs, outputs = specs.weights.shape
    rows = np.arange(math.prod(inputs), dtype=np.int64)
    like = device_array(np.empty(0, np.float32), backend)
    weights = normal(fold(key, "weights"), rows, outputs, like=like)
    weights *= scale
    xp = namespace(weights)
    weights = xp.reshape(weights, specs.weights.shape)
    zeros = tree_map(lambda spec: xp.zeros(spec.shape, dtype=xp.float32), specs[1:])
    return type(specs)(weights, *zeros)


@singledispatch
def fresh(layer: Any, shape: Shape, key: Key, backend: Backend, scale: float | None = None) -> Any:
    """Draw the parameters of a layer that takes samples of ``shape``.

    Parameters
    ----------
    scale
        Standard deviation of the weights, in place of what the layer declares.
    """
    found = layers.specs(layer, shape)
    if not found:
        return found
    if isinstance(found, BiasParams):
        return tree_map(lambda spec: device_array(np.zeros(spec.shape, np.float32), backend), found)
    scale = layers.initial_scale(layer, found) if scale is None else scale
    made = drawn(found, scale, key, backend)
    return made._replace(weights=layers.connect(layer, made.weights))
