"""Nets of layers as a whole: what they give, what they learn from, what they are measured by.

A net that ends in a softmax learns classes, one that declares a loss its targets; parameters are a
tuple with one entry a layer. Rumelhart, Hinton, Williams (1986).

Letters: N samples, V visible units, H units of a layer, K classes or outputs.
"""

import math
from typing import Any

import numpy as np

from deepstrata.ops import (
    chain,
    dense,
    losses,
    measures,
    preprocess,
    pretraining,
)
from deepstrata.ops.backend import Scratch, namespace
from deepstrata.ops.kernels import squared_error
from deepstrata.ops.labelled import check_labels
from deepstrata.ops.losses import check_targets
from deepstrata.ops.partials import Batch, Into, Partial, present, weight_of
from deepstrata.ops.samples import sample_shape, shaped
from deepstrata.schemas.convolutional import placed
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import Softmax
from deepstrata.schemas.machines import feed_forward_layer
from deepstrata.schemas.models import Model, Net, classifies, fits_targets
from deepstrata.schemas.shapes import Shape, shapes_through
from deepstrata.schemas.trees import Array, Tree

NOTHING_LEARNED = (
    "a net learns classes if its last layer is a Softmax, and targets if it is a "
    "Network(loss=...) without one; neither is true of {model!r}"
)


def feed_forward_layers(model: Net) -> tuple[Any, ...]:
    """Return a model's layers as those of a feed-forward net: an RBM is a dense layer."""
    return tuple(map(feed_forward_layer, model.layers))


def logit_layers(model: Net) -> tuple[Any, ...]:
    """Return the layers that training passes through; of a cross-entropy the last gives logits."""
    net = feed_forward_layers(model)
    if _loss_name(model) != "cross_entropy":
        return net
    return (*net[:-1], net[-1].model_copy(update={"activation": "linear"}))


def input_shapes(model: Net, visible: int) -> list[Shape]:
    """Return the shape that each layer takes, and last what the model gives."""
    return shapes_through(model.layers, sample_shape(model, visible))


def output_width(model: Net, visible: int) -> int:
    """Return how many numbers the last layer gives for a sample of ``visible`` features."""
    return math.prod(input_shapes(model, visible)[-1])


def gradient(
    model: Net,
    params: Tree,
    batch: Batch,
    key: Key,
    carry: Tree = (),
    out: Into | None = None,
    scratch: Scratch | None = None,
) -> tuple[Partial, Tree]:
    """Return the gradient to descend by backpropagation, summed over the batch, and the carry.

    Parameters, errors: as for ``models.gradient``.

    Returns
    -------
    Partial
        Weighted by the batch's weights, ``n`` being their sum; ``stats`` are those of the loss.
    Tree
        The carry as it was.
    """
    scratch = Scratch() if scratch is None else scratch
    wanted = _wanted(model, batch)
    x, net = shaped(model, present(batch)), logit_layers(model)
    at = chain.passes(len(net), batch.rows, key, scratch)
    y, saved = chain.forward(net, params, x, at)
    loss = losses.LOSSES[_loss_name(model)](preprocess.flatten(y), wanted, batch.weights)
    delta = namespace(y).reshape(loss.delta, y.shape)
    _, grads = chain.backward(net, params, saved, delta, at, out)
    return Partial(grads, weight_of(batch), loss.stats), carry


def _wanted(model: Net, batch: Batch) -> Array:
    """Return the labels or the targets of a batch, checked."""
    if fits_targets(model):
        return check_targets(batch.targets, output_width(model, batch.x.shape[1]))
    return check_labels(batch.labels, batch.rows, classes(model))


def _loss_name(model: Net) -> str:
    return getattr(model, "loss", None) or "categorical"


def classes(model: Model) -> int:
    """Return how many classes a model tells apart.

    Raises
    ------
    DeclarationError
        It learns none.
    """
    if not classifies(model):
        raise DeclarationError(NOTHING_LEARNED.format(model=model))
    return int(model.classes or 0)


def encode(model: Net, params: Tree, x: Array, layer: int | None = None) -> Array:
    """Return what a layer gives, (N, V) -> (N, H); see ``models.encode``."""
    layer = _code_layer(model) if layer is None else layer
    if not -1 <= layer < len(params):
        raise DeclarationError(f"the model has layers 0 to {len(params) - 1}; found layer {layer}")
    y = _outputs(feed_forward_layers(model), model, params, x, layer)
    return dense.softmax(y) if isinstance(model.layers[layer], Softmax) and layer >= 0 else y


def _outputs(net: tuple[Any, ...], model: Net, params: Tree, x: Array, layer: int) -> Array:
    """Return what a layer gives, as vectors; of a softmax its logits, of layer -1 the input."""
    net = net[: layer + 1]
    nothing_drawn = chain.passes(len(net), np.arange(0), None, Scratch())
    y, _ = chain.forward(
        net, pretraining.feed_forward(params)[: len(net)], shaped(model, x), nothing_drawn
    )
    return preprocess.flatten(y)


def _code_layer(model: Net) -> int:
    """Return the number of the layer whose output is the code: the last one of the body."""
    return model.body - 1


def code_width(model: Net, visible: int, layer: int | None = None) -> int:
    """Return the length of the codes that ``encode`` gives for samples of ``visible`` features."""
    layer = _code_layer(model) if layer is None else layer
    return math.prod(input_shapes(model, visible)[layer + 1])


def predict(model: Net, params: Tree, x: Array) -> Array:
    """Return class probabilities, or what targets are expected to be: (N, V) -> (N, K).

    Raises
    ------
    DeclarationError
        The model learns neither.
    """
    if not fits_targets(model):
        classes(model)
    return encode(model, params, x, len(params) - 1)


def evaluate(model: Net, params: Tree, batch: Batch) -> dict[str, Any]:
    """Return measures summed over the samples; see ``models.evaluate``."""
    if pretraining.stack(params):
        return _evaluate_stack(model, params, batch)
    wanted = _wanted(model, batch)
    y = _outputs(logit_layers(model), model, params, present(batch), len(params) - 1)
    return measures.MEASURES[_loss_name(model)](y, wanted, batch.weights)


def _evaluate_stack(model: Net, params: Tree, batch: Batch) -> dict[str, Any]:
    x, bottom = present(batch), pretraining.invertible(params).start
    y = reconstruct(model, params, x)
    if bottom:
        x = _outputs(feed_forward_layers(model), model, params, x, bottom - 1)
    else:
        y = present(batch._replace(x=y, scaling=None))
    return {"squared_error": float(squared_error(x, y)), "n": x.shape[0]}


def reconstruct(model: Net, params: Tree, x: Array) -> Array:
    """Return what the pretrained layers, passed up and down by means, make: (N, V) -> (N, V).

    See ``models.reconstruct``.
    """
    shapes, learners = input_shapes(model, x.shape[1]), pretraining.invertible(params)
    y = _outputs(feed_forward_layers(model), model, params, x, learners.stop - 1)
    for i in reversed(learners):
        layer = placed(model.layers[i], shapes[i])
        y = pretraining.decode(layer, params[i], y, math.prod(shapes[i]))
    return y
