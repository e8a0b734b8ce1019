"""Layers one above the other: a pass up through all of them, and one down.

Letters: N samples.
"""

from collections.abc import Sequence
from typing import Any

from deepstrata.ops import layers, tying
from deepstrata.ops.backend import Scratch
from deepstrata.ops.layers import Pass
from deepstrata.ops.partials import Into
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.trees import Array, Tree
from deepstrata.schemas.tying import owner_of


def passes(count: int, rows: Array, key: Key | None, scratch: Scratch) -> list[Pass]:
    """Return what each of ``count`` layers knows of a pass: keys and buffers of its own."""
    return [
        Pass(rows, None if key is None else fold(key, "layer", i), scratch.within(str(i)))
        for i in range(count)
    ]


def forward(
    net: Sequence[Any], params: Sequence[Tree], x: Array, at: Sequence[Pass]
) -> tuple[Array, list[Any]]:
    """Return what the last layer gives, (N, ...) -> (N, ...), and what ``backward`` needs."""
    saved = []
    for layer, own, here in zip(net, tying.filled(net, params), at, strict=True):
        x, kept = layers.forward(layer, own, x, here)
        saved.append(kept)
    return x, saved


def backward(
    net: Sequence[Any],
    params: Sequence[Tree],
    saved: Sequence[Any],
    delta: Array | None,
    at: Sequence[Pass],
    out: Into | None = None,
    below: bool = False,
) -> tuple[Array | None, tuple[Tree, ...]]:
    """Return derivatives by the input, and the layers' gradients summed over samples.

    Parameters
    ----------
    delta
        (N, ...) derivatives by what the last layer gives; overwritten.
    out
        Where to write the gradients; ``()`` in place of a frozen layer's.
    below
        Whether anybody wants the derivatives by the input; None is returned otherwise.
    """
    wanted, whole = params if out is None else out.tree, tying.filled(net, params)
    lowest = 0 if below else next((i for i, own in enumerate(wanted) if own), len(net))
    grads: list[Tree] = [()] * len(net)
    uses: dict[int, list[Array]] = {}
    for i in reversed(range(lowest, len(net))):
        known, goes_on = (whole[i], saved[i], delta, at[i]), below or i > lowest
        into, owner = out and out._replace(tree=wanted[i]), owner_of(net, i)
        is_lent = owner is not None and bool(wanted[owner])
        if params[i] and not wanted[i] and not is_lent:
            delta = layers.through(net[i], *known)
        elif owner is not None:
            delta, found = layers.backward(net[i], *known, below=goes_on)
            grads[i] = tying.own_part(found, into)
            if is_lent:
                uses.setdefault(owner, []).append(tying.as_owned(net[i], found.weights))
        else:
            delta, grads[i] = layers.backward(net[i], *known, into, below=goes_on)
            tying.add_uses(net[i], grads[i], uses.pop(i, ()), into)
    return delta if below else None, tuple(grads)
