"""Tied weights: what a layer that uses another's is given, and where its gradient goes.

Parameters of such a layer are a bias alone. For a pass it borrows the weights of their owner, a
view of them; the owner's gradient is the sum over all uses, its own first, then those of the layers
above it from the top down.
"""

from collections.abc import Sequence
from typing import Any

from deepstrata.ops import layers
from deepstrata.ops.dense import BiasParams, DenseParams
from deepstrata.ops.partials import Into, put
from deepstrata.schemas.trees import Array, Tree
from deepstrata.schemas.tying import owner_of


def filled(net: Sequence[Any], params: Sequence[Tree]) -> tuple[Tree, ...]:
    """Return the parameters with borrowed weights where layers have none of their own."""
    found = list(params)
    for i, layer in enumerate(net):
        owner = owner_of(net, i)
        if owner is not None:
            found[i] = DenseParams(_turned(layer, params[owner].weights), params[i].bias)
    return tuple(found)


def as_owned(layer: Any, weights: Array) -> Array:
    """Return the gradient by weights that a layer borrowed as their owner has them: a view."""
    return _turned(layer, weights)


def own_part(gradient: DenseParams, into: Into | None) -> Tree:
    """Return what of a borrower's gradient is its own; ``()`` where nobody wants it."""
    if into is None:
        return BiasParams(gradient.bias)
    return BiasParams(put(gradient.bias, into.tree.bias, into)) if into.tree else ()


def add_uses(owner: Any, gradient: Tree, uses: Sequence[Array], into: Into | None) -> None:
    """Add to an owner's gradient, in place, those of the uses by others; these are overwritten.

    Parameters
    ----------
    into
        Where ``gradient`` was written, and by which factor.
    """
    for borrowed in uses:
        use = layers.connect(owner, borrowed)
        gradient.weights[...] += use if into is None else into.scale * use


def _turned(layer: Any, weights: Array) -> Array:
    return weights.T if getattr(layer, "transposed", False) else weights
