"""Tied weights: layers that use those of a layer below them, and have only a bias of their own."""

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from deepstrata.schemas.layers import Convolution, Dense, TransposedConvolution
from deepstrata.schemas.shapes import Shape, shapes_through


def number_of(layers: Sequence[Any], name: str) -> int:
    """Return the number of the layer that has a name, or that has it for a number.

    Raises
    ------
    ValueError
        There is none; the message lists those there are.
    """
    names = [getattr(own, "name", "") or str(i) for i, own in enumerate(layers)]
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise ValueError(f"no layer {name!r}; there are: {', '.join(names)}")


def owner_of(layers: Sequence[Any], number: int) -> int | None:
    """Return the number of the layer whose weights a layer uses; None where it has its own."""
    name = getattr(layers[number], "weights_of", "")
    return number_of(layers, name) if name else None


def numbered(layers: Sequence[Any]) -> tuple[Any, ...]:
    """Return layers that call the owners of their weights by number."""
    owners = [owner_of(layers, i) for i in range(len(layers))]
    return tuple(
        layer if owner is None else layer.model_copy(update={"weights_of": str(owner)})
        for layer, owner in zip(layers, owners, strict=True)
    )


@singledispatch
def weights_shape(layer: Any, shape: Shape) -> Shape | None:
    """Return the shape of the weights that other layers can use; None where there are none.

    Parameters
    ----------
    shape
        Of a sample that the layer takes. A size of 0 is not known, nor is what follows from it.
    """
    return None


@weights_shape.register
def _(layer: Dense, shape: Shape) -> Shape:
    return (math.prod(shape), layer.units)


@weights_shape.register
def _(layer: Convolution, shape: Shape) -> Shape:
    return (*layer.kernel, shape[-1] // layer.groups, layer.maps)


@weights_shape.register
def _(layer: TransposedConvolution, shape: Shape) -> Shape:
    return (*layer.kernel, layer.maps, shape[-1])


def known_shapes(layers: Sequence[Any], shape: Shape | None) -> list[Shape]:
    """Return the shapes that layers take; 0 stands for a size that ``shape`` alone would tell.

    Raises
    ------
    ValueError
        A layer cannot take what it gets.
    """
    if shape is not None:
        return shapes_through(layers, shape)
    probes = (shapes_through(layers, (length,)) for length in (1, 2))
    return [one if one == two else (0,) for one, two in zip(*probes, strict=True)]


def check_ties(layers: Sequence[Any], shape: Shape | None) -> None:
    """Refuse layers that cannot use the weights that they ask for.

    Parameters
    ----------
    shape
        Of a sample; None where that is not yet known.

    Raises
    ------
    ValueError
        The layer, the owner that it names, and what is wrong.
    """
    tied = [i for i, layer in enumerate(layers) if getattr(layer, "weights_of", "")]
    shapes = known_shapes(layers, shape) if tied else []
    for i in tied:
        layer = layers[i]
        try:
            owner = _owner(layers, i)
            _check_fit(layer, shapes[i], layers[owner], shapes[owner])
        except ValueError as error:
            name = f" {layer.name!r}" if layer.name else ""
            raise ValueError(
                f"layer {i}{name} ({layer.kind}): weights_of={layer.weights_of!r}: {error}"
            ) from None


def _owner(layers: Sequence[Any], number: int) -> int:
    """Return the owner of a layer's weights, if it is one that lies below and owns them."""
    owner = number_of(layers, layers[number].weights_of)
    if owner == number:
        raise ValueError("a layer cannot be tied to itself; name one below it")
    if owner > number:
        raise ValueError(
            f"expected a layer below, found layer {owner} above; declare the weights at the lower "
            "layer, and tie the upper one to it"
        )
    beyond = getattr(layers[owner], "weights_of", "")
    if beyond:
        raise ValueError(f"that layer uses the weights of {beyond!r} itself; name that one")
    return owner


def _check_fit(layer: Any, shape: Shape, owner: Any, below: Shape) -> None:
    """Refuse weights of another shape or another connection table."""
    found = weights_shape(owner, below)
    expected = weights_shape(layer, shape)
    assert expected is not None
    if found is None:
        raise ValueError(f"a layer of the kind {owner.kind!r} has no weights for another to use")
    is_turned = getattr(layer, "transposed", False)
    if is_turned:
        found = found[::-1]
    if not _alike(expected, found):
        turned = " once transposed" if is_turned else ""
        raise ValueError(f"expected weights {_said(expected)}, found {_said(found)}{turned}")
    if isinstance(layer, Convolution) and layer.table != getattr(owner, "table", None):
        raise ValueError("expected the connection table of the owner; declare the same one")


def _alike(one: Shape, two: Shape) -> bool:
    """Tell whether two shapes agree as far as they are known."""
    pairs = zip(one, two, strict=False)
    return len(one) == len(two) and all(a == b or 0 in (a, b) for a, b in pairs)


def _said(shape: Shape) -> str:
    return f"({', '.join(str(size or '?') for size in shape)})"
