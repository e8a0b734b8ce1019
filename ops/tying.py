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


def _turned(layer: Any, weights: Array) -> Array:
    """Return weights as a layer uses them, or their gradient as the owner has it."""
    return weights.T if getattr(layer, "transposed", False) else weights


class Uses:
    """Gradients by weights that were borrowed, until a pass down comes to their owners."""

    def __init__(self, net: Sequence[Any]) -> None:
        self._net = net
        self._found: dict[int, list[Array]] = {}

    def split(self, number: int, gradient: DenseParams, into: Into | None, kept: bool) -> Tree:
        """Take the part of a tied layer's gradient that is its owner's, and return its own.

        Parameters
        ----------
        into
            Where to write the layer's own; its tree is ``()`` where nobody wants it.
        kept
            Whether anybody wants the owner's.
        """
        owner = owner_of(self._net, number)
        if kept and owner is not None:
            borrowed = _turned(self._net[number], gradient.weights)
            self._found.setdefault(owner, []).append(borrowed)
        if into is None:
            return BiasParams(gradient.bias)
        return BiasParams(put(gradient.bias, into.tree.bias, into)) if into.tree else ()

    def add(self, number: int, gradient: Tree, into: Into | None) -> None:
        """Add what borrowers found to the gradient of an owner, in place."""
        for borrowed in self._found.pop(number, ()):
            use = layers.connect(self._net[number], borrowed)
            gradient.weights[...] += use if into is None else into.scale * use
