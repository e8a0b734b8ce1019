"""Layers taken over from a trained model, if they compute what those of the new one are to.

Yosinski, Clune, Bengio, Lipson (2014), How transferable are features in deep neural networks?
"""

from functools import singledispatch
from typing import Any

from deepstrata.ops import models, network, pretraining
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.machines import feed_forward_layer
from deepstrata.schemas.models import GenerativeDBN, Learner, Model, Net, Network
from deepstrata.schemas.trees import Tree, flatten
from deepstrata.schemas.tying import numbered

#: Fields that do not change what a trained layer computes; the last three are of a PSD.
ASIDE = {"name", "initial_weights", "rate", "penalty", "steps", "prediction_weight"}

Bottom = tuple[tuple[Any, ...], tuple[Tree, ...]]


@singledispatch
def bottom(model: Model, params: Tree) -> Bottom:
    """Return a model's layers and their parameters as those of a feed-forward net.

    Raises
    ------
    DeclarationError
        The model has none that another one could take.
    """
    raise DeclarationError(f"a {model.kind} has no layers for another model to take")


@bottom.register
def _(model: Learner, params: Tree) -> Bottom:
    shape = getattr(model, "input_shape", None)
    layer = model if shape is None else model.model_copy(update={"input_shape": None})
    return bottom(Network(layers=(layer,), input_shape=shape), (params,))


@bottom.register
def _(model: Net, params: Tree) -> Bottom:
    return numbered(network.feed_forward_layers(model)), pretraining.feed_forward(params)


@bottom.register
def _(model: GenerativeDBN, params: Tree) -> Bottom:
    return tuple(map(feed_forward_layer, model.layers)), params.recognition


def take(model: Net, count: int, visible: int, parent: Model, params: Tree) -> tuple[Tree, ...]:
    """Return the parameters of a model's bottom layers from those of a trained model.

    Parameters
    ----------
    count
        How many layers.
    visible
        Features of the samples that the new model takes.

    Raises
    ------
    DeclarationError
        A layer is missing, computes something else, or has other shapes: the layer, what was
        expected and what was found.
    """
    theirs, given = bottom(parent, params)
    if count > len(theirs):
        raise DeclarationError(
            f"expected {count} layers to take, found {len(theirs)}; declare layers={len(theirs)} "
            "or fewer"
        )
    ours = numbered(network.feed_forward_layers(model))
    wanted = pretraining.feed_forward(models.shapes(model, visible))
    for i in range(count):
        name = getattr(model.layers[i], "name", "")
        where = f"layer {i}{f' {name!r}' if name else ''} ({model.layers[i].kind})"
        _check_declaration(where, ours[i], theirs[i])
        _check_shapes(where, wanted[i], given[i])
    return given[:count]


def _check_declaration(where: str, ours: Any, theirs: Any) -> None:
    expected, found = (layer.model_dump(exclude=ASIDE) for layer in (ours, theirs))
    for field in dict.fromkeys(("kind", *expected)):
        value = expected[field]
        if found.get(field) != value:
            raise DeclarationError(
                f"{where}: expected {field}={value!r}, found {found.get(field)!r}; take fewer "
                "layers, or declare this one as it was trained"
            )


def _check_shapes(where: str, wanted: Tree, given: Tree) -> None:
    found = flatten(given)
    for name, spec in flatten(wanted).items():
        if tuple(spec.shape) != tuple(found[name].shape):
            raise DeclarationError(
                f"{where}: expected {name} {tuple(spec.shape)}, found {tuple(found[name].shape)}"
            )
