"""What of a model is trained layer by layer, without labels, and what lies between these layers."""

from collections.abc import Iterator
from functools import singledispatch
from itertools import takewhile
from typing import Any

from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.convolutional import placed
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import (
    MSDA,
    GenerativeDBN,
    Learner,
    Model,
    Net,
    Network,
    Weightless,
    has_weights,
)
from deepstrata.schemas.shapes import Shape, shapes_through


@singledispatch
def stack_of(model: Model) -> tuple[Any, ...]:
    """Return the layers at the bottom of a model up to the last that needs no labels.

    Of an autoencoder the RBMs that its encoder begins with, or itself if that has none. Of a
    generative net its RBMs and its memory. Of an MSDA none: a ``Solve`` finds its weights.
    """
    return (model,)


@stack_of.register
def _(model: MSDA) -> tuple[Any, ...]:
    return ()


@stack_of.register
def _(model: Autoencoder) -> tuple[Any, ...]:
    return tuple(_bottom(model.encoder, RBM)) or (model,)


@stack_of.register
def _(model: GenerativeDBN) -> tuple[Any, ...]:
    return (*model.layers, model.memory)


@stack_of.register
def _(model: Net) -> tuple[Any, ...]:
    found = tuple(_bottom(model.layers, Learner | Weightless))
    return found[: max(_learners(found), default=-1) + 1]


def _bottom(layers: tuple[Any, ...], kinds: Any) -> Iterator[Any]:
    return takewhile(lambda layer: isinstance(layer, kinds), layers)


def _learners(layers: tuple[Any, ...]) -> list[int]:
    return [i for i, layer in enumerate(layers) if has_weights(layer)]


def learners_of(model: Model) -> tuple[Any, ...]:
    """Return the layers of a stack that learn, each as a model by itself, from the bottom up."""
    stack = stack_of(model)
    if not isinstance(model, Net):
        return stack
    shapes = _shapes(model)
    return tuple(placed(stack[i], shapes[i]) for i in _learners(stack))


def below_learners(model: Model) -> tuple[Network | None, ...]:
    """Return what lies right below each of these learners and has no weights.

    A network, whose ``input_shape`` is None where it takes vectors; None where nothing lies there.
    """
    stack = stack_of(model)
    if not isinstance(model, Net):
        return (None,) * len(stack)
    stops, shapes = _learners(stack), _shapes(model)
    starts = [0, *(stop + 1 for stop in stops[:-1])]
    return tuple(
        _network(stack[start:stop], shapes[start])
        for start, stop in zip(starts, stops, strict=bool(stops))
    )


def _shapes(model: Net) -> list[Shape]:
    """Return the shapes of a sample below each layer of a stack; of vectors with some length."""
    return shapes_through(stack_of(model), getattr(model, "input_shape", None) or (1,))


def _network(layers: tuple[Any, ...], shape: Shape) -> Network | None:
    return Network(layers=layers, input_shape=shape if len(shape) > 1 else None) if layers else None
