"""Models as tables of functions, chosen by the declaration's type.

A deep belief net's parameters are a tuple with one entry a layer. Straight after pretraining an
RBM's entry is ``RBMParams``; ``feed_forward`` keeps its recognition weights as ``DenseParams``,
and backpropagation works on those (Hinton & Salakhutdinov 2006).

Letters: N samples, V visible units, L layers, K classes.
"""

import math
from functools import singledispatch
from typing import Any

import numpy as np

from deepstrata.ops import dense, layers, marginalised, rbm
from deepstrata.ops.backend import Backend, Scratch, device_array, namespace, to_numpy
from deepstrata.ops.dense import DenseParams, check_labels
from deepstrata.ops.kernels import squared_error
from deepstrata.ops.layers import Pass
from deepstrata.ops.partials import Batch, Into, Partial, present
from deepstrata.ops.random import normal, uniform
from deepstrata.ops.rbm import RBMParams
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.layers import Dense, Softmax
from deepstrata.schemas.models import MSDA, RBM, Layered, Model, Net
from deepstrata.schemas.shapes import Shape, shapes_through
from deepstrata.schemas.trees import Array, ArraySpec, Tree, flatten, tree_map

SMALL = 0.01  #: standard deviation of softmax weights put on pretrained layers


def feed_forward_layers(model: Net) -> tuple[Any, ...]:
    """Return a model's layers as those of a feed-forward net: an RBM is a logistic layer."""
    return tuple(
        Dense(units=layer.hidden) if isinstance(layer, RBM) else layer for layer in model.layers
    )


def sample_shape(model: Net, visible: int) -> Shape:
    """Return the shape in which a model's first layer takes a sample of ``visible`` features.

    Raises
    ------
    DeclarationError
        The model declares another number.
    """
    declared = getattr(model, "input_shape", None) or (visible,)
    if math.prod(declared) != visible:
        raise DeclarationError(
            f"input_shape={declared} is {math.prod(declared)} numbers; samples have {visible}"
        )
    return tuple(declared)


def _inputs(model: Net, visible: int) -> list[Shape]:
    """Return the shape that each layer takes, and last what the model gives."""
    return shapes_through(model.layers, sample_shape(model, visible))


@singledispatch
def shapes(model: Model, visible: int) -> Tree:
    """Return the parameters' tree with an ``ArraySpec`` for each array; ``visible`` inputs."""
    raise NotImplementedError(f"no model is registered for {type(model).__name__}")


@shapes.register
def _(model: RBM, visible: int) -> RBMParams:
    weights = ArraySpec((visible, model.hidden))
    return RBMParams(weights, ArraySpec((visible,)), ArraySpec((model.hidden,)))


shapes.register(MSDA, marginalised.shapes)


@shapes.register
def _(model: Net, visible: int) -> tuple[Tree, ...]:
    inputs = _inputs(model, visible)
    return tuple(
        shapes(layer, math.prod(shape)) if isinstance(layer, RBM) else layers.specs(layer, shape)
        for layer, shape in zip(model.layers, inputs, strict=False)
    )


def _drawn(specs: Any, scale: float, key: Key, backend: Backend) -> Any:
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
def init(model: Model, visible: int, key: Key, backend: Backend = "numpy") -> Tree:
    """Return fresh parameters; every weight has its own address, so tiles agree with the whole."""
    raise NotImplementedError(f"no model is registered for {type(model).__name__}")


@init.register
def _(model: RBM, visible: int, key: Key, backend: Backend = "numpy") -> RBMParams:
    drawn: RBMParams = _drawn(shapes(model, visible), model.weight_scale, key, backend)
    return drawn


@init.register
def _(model: Net, visible: int, key: Key, backend: Backend = "numpy") -> tuple[Tree, ...]:
    return tuple(
        init(layer, math.prod(shape), fold(key, "layer", i), backend)
        if isinstance(layer, RBM)
        else _fresh(layer, shape, fold(key, "layer", i), backend)
        for i, (layer, shape) in enumerate(zip(model.layers, _inputs(model, visible), strict=False))
    )


def _fresh(layer: Any, shape: Shape, key: Key, backend: Backend, scale: float | None = None) -> Any:
    """Draw the parameters of a layer that takes samples of ``shape``."""
    found = layers.specs(layer, shape)
    if not found:
        return found
    scale = layers.initial_scale(layer, found) if scale is None else scale
    drawn = _drawn(found, scale, key, backend)
    return drawn._replace(weights=layers.connect(layer, drawn.weights))


def feed_forward(params: tuple[Tree, ...]) -> tuple[Tree, ...]:
    """Return the feed-forward net of recognition weights; arrays are shared, not copied."""
    return tuple(
        DenseParams(p.weights, p.hidden_bias) if isinstance(p, RBMParams) else p for p in params
    )


def start_net(
    model: Net,
    pretrained: tuple[Tree, ...] | None,
    visible: int,
    key: Key,
    backend: Backend = "numpy",
) -> tuple[Tree, ...]:
    """Return the net with which fine-tuning begins.

    Parameters
    ----------
    pretrained
        None for fresh weights; a net that was trained before, which goes on as it is; or the
        RBMs of the bottom layers (what else it holds is drawn anew, a softmax close to zero).

    Raises
    ------
    DeclarationError
        The model has no softmax to learn classes with, or the shapes do not fit it.
    """
    if not isinstance(model, Layered) or model.classes is None:
        raise DeclarationError(
            "fine-tuning learns classes: the model must be a DBN or a Network with a Softmax"
        )
    given = () if pretrained is None else pretrained
    if any(isinstance(p, RBMParams) for p in given):
        given = tuple(p for p in given if isinstance(p, RBMParams))
    net, inputs = list(feed_forward(given)), _inputs(model, visible)
    for i, layer in list(enumerate(feed_forward_layers(model)))[len(net) :]:
        scale = SMALL if given and isinstance(layer, Softmax) else None
        net.append(_fresh(layer, inputs[i], fold(key, "layer", i), backend, scale))
    _check_shapes(model, net, visible)
    return tuple(net)


def _check_shapes(model: Net, net: list[Tree], visible: int) -> None:
    wanted = feed_forward(shapes(model, visible))
    for i, (layer, spec, found) in enumerate(zip(model.layers, wanted, net, strict=True)):
        for name, (expected, leaf) in _pairs(spec, found).items():
            if tuple(expected.shape) != tuple(leaf.shape):
                raise DeclarationError(
                    f"layer {i} ({layer.kind}): expected {name} {tuple(expected.shape)}, "
                    f"found {tuple(leaf.shape)}"
                )


def _pairs(a: Tree, b: Tree) -> dict[str, tuple[Any, Any]]:
    """Return the leaves of two trees of one structure, by their paths."""
    return {name: (leaf, flatten(b)[name]) for name, leaf in flatten(a).items()}


@singledispatch
def carry(model: Model, visible: int, key: Key, backend: Backend = "numpy") -> Tree:
    """Return what a model takes from step to step besides parameters: ``()`` for most.

    A persistent RBM has chains (C, V), which start from noise.
    """
    return ()


@carry.register
def _(model: RBM, visible: int, key: Key, backend: Backend = "numpy") -> Tree:
    if not model.persistent:
        return ()
    rows = np.arange(model.chains, dtype=np.int64)
    like = device_array(np.empty(0, np.float32), backend)
    if model.visible_units == "gaussian":
        return normal(fold(key, "chains"), rows, visible, like=like)
    noise = uniform(fold(key, "chains"), rows, visible, like=like)
    return namespace(noise).astype(noise < 0.5, noise.dtype)


@singledispatch
def gradient(
    model: Model,
    params: Tree,
    batch: Batch,
    key: Key,
    carry: Tree = (),
    out: Into | None = None,
    scratch: Scratch | None = None,
) -> tuple[Partial, Tree]:
    """Return the gradient to descend, summed over the batch, and the new carry.

    Parameters
    ----------
    key
        The round's key; the rows of the batch address the numbers below it.
    out
        Where to write it; its tree becomes ``Partial.total``. Allocated when None.
    scratch
        Buffers to use again from call to call.

    Raises
    ------
    DataError
        Labels are missing or out of range.
    """
    raise NotImplementedError(f"no model is registered for {type(model).__name__}")


gradient.register(RBM, rbm.contrastive_divergence)


@gradient.register
def _(
    model: Net,
    params: Tree,
    batch: Batch,
    key: Key,
    carry: Tree = (),
    out: Into | None = None,
    scratch: Scratch | None = None,
) -> tuple[Partial, Tree]:
    scratch = Scratch() if scratch is None else scratch
    labels = check_labels(batch.labels, batch.rows, _classes(model))
    x, net = _shaped(model, present(batch)), feed_forward_layers(model)
    passes = [
        Pass(batch.rows, fold(key, "layer", i), scratch.within(str(i))) for i in range(len(net))
    ]
    saved = []
    for layer, own, at in zip(net, params, passes, strict=True):
        x, kept = layers.forward(layer, own, x, at)
        saved.append(kept)
    loss = dense.cross_entropy(x, labels)
    delta, grads, lowest = loss.delta, list[Tree](), _lowest(params)
    for i in reversed(range(len(net))):
        into = out and out._replace(tree=out.tree[i])
        if i >= lowest:
            delta, found = layers.backward(
                net[i], params[i], saved[i], delta, passes[i], into, below=i > lowest
            )
        grads.append(found if i >= lowest else ())
    stats = {"loss": loss.total, "errors": loss.errors}
    return Partial(tuple(reversed(grads)), batch.x.shape[0], stats), carry


def _lowest(params: Tree) -> int:
    """Return the number of the lowest layer that has parameters."""
    return next(i for i, own in enumerate(params) if own)


def _shaped(model: Net, x: Array) -> Array:
    """Return vectors (N, V) in the shape that a model's first layer takes."""
    return namespace(x).reshape(x, (x.shape[0], *sample_shape(model, x.shape[1])))


def _classes(model: Model) -> int:
    if not isinstance(model, Layered) or model.classes is None:
        raise DeclarationError(
            f"classes need a DBN or a Network whose last layer is a Softmax, not {model!r}"
        )
    return model.classes


@singledispatch
def encode(model: Model, params: Tree, x: Array, layer: int | None = None) -> Array:
    """Return codes: hidden probabilities, or a layer's outputs.

    Parameters
    ----------
    x
        (N, V).
    layer
        Of a DBN, the layer whose outputs are the codes; the last one below a softmax by default.

    Returns
    -------
    (N, units of the layer)

    Raises
    ------
    DeclarationError
        There is no such layer.
    """
    raise NotImplementedError(f"no model is registered for {type(model).__name__}")


@encode.register
def _(model: RBM, params: RBMParams, x: Array, layer: int | None = None) -> Array:
    if layer not in (None, 0):
        raise DeclarationError(f"an RBM has one layer, 0; found layer {layer}")
    return rbm.hidden_mean(params, x)


encode.register(MSDA, marginalised.encode)


@encode.register
def _(model: Net, params: Tree, x: Array, layer: int | None = None) -> Array:
    layer = _code_layer(model) if layer is None else layer
    if not -1 <= layer < len(params):
        raise DeclarationError(f"the model has layers 0 to {len(params) - 1}; found layer {layer}")
    y = _outputs(model, params, x, layer)
    return dense.softmax(y) if isinstance(model.layers[layer], Softmax) and layer >= 0 else y


def _outputs(model: Net, params: Tree, x: Array, layer: int) -> Array:
    """Return what a layer gives, as vectors; of a softmax its logits, of layer -1 the input."""
    net = feed_forward(params)
    rows = np.arange(0)  # nothing is drawn
    y = _shaped(model, x)
    for i, own in enumerate(feed_forward_layers(model)[: layer + 1]):
        y, _ = layers.forward(own, net[i], y, Pass(rows, None, Scratch()))
    return layers.as_rows(y)


def _code_layer(model: Net) -> int:
    """Return the number of the layer whose output is the code: the last one below a softmax."""
    return len(model.layers) - (1 if model.classes is None else 2)


def code_width(model: Model, visible: int, layer: int | None = None) -> int:
    """Return the length of the codes that ``encode`` gives for samples of ``visible`` features."""
    if isinstance(model, RBM):
        return model.hidden
    if isinstance(model, MSDA):
        return marginalised.code_width(model, visible, layer)
    layer = _code_layer(model) if layer is None else layer
    return math.prod(_inputs(model, visible)[layer + 1])


def predict(model: Model, params: Tree, x: Array) -> Array:
    """Return class probabilities: (N, V) -> (N, K).

    Raises
    ------
    DeclarationError
        The model does not end in a softmax.
    """
    _classes(model)
    return encode(model, params, x, len(params) - 1)


@singledispatch
def evaluate(model: Model, params: Tree, batch: Batch) -> dict[str, Any]:
    """Return measures summed over the samples, and their number ``n``.

    An RBM: ``squared_error`` of reconstructions, ``free_energy``. A DBN as pretrained:
    ``squared_error`` of the mean-field pass up and down. A DBN that classifies: ``loss``
    (cross-entropy), ``errors`` and ``confusion`` (K, K), true classes down, predicted across.

    Raises
    ------
    DataError
        Labels are missing or out of range.
    """
    raise NotImplementedError(f"no model is registered for {type(model).__name__}")


@evaluate.register
def _(model: RBM, params: RBMParams, batch: Batch) -> dict[str, Any]:
    x = present(batch)
    energies = rbm.free_energy(model, params, x, batch.mask)
    xp = namespace(energies)
    return {
        "squared_error": float(_error(batch, x, rbm.reconstruct(model, params, x))),
        "free_energy": float(xp.sum(xp.astype(energies, xp.float64))),
        "n": x.shape[0],
    }


@evaluate.register
def _(model: Net, params: Tree, batch: Batch) -> dict[str, Any]:
    if any(isinstance(p, RBMParams) for p in params):
        return _evaluate_stack(model, params, batch)
    classes = _classes(model)
    labels = to_numpy(check_labels(batch.labels, batch.rows, classes))
    logits = _outputs(model, params, present(batch), len(params) - 1)
    loss = dense.cross_entropy(logits, labels)
    predicted = to_numpy(namespace(logits).argmax(logits, axis=1))
    confusion = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return {
        "loss": float(loss.total),
        "errors": int(loss.errors),
        "confusion": confusion.astype(np.int64).reshape(classes, classes),
        "n": len(labels),
    }


def _evaluate_stack(model: Net, params: Tree, batch: Batch) -> dict[str, Any]:
    x = down = present(batch)
    stack = [(m, p) for m, p in zip(model.layers, params, strict=False) if isinstance(p, RBMParams)]
    for _, p in stack:
        down = rbm.hidden_mean(p, down)
    for m, p in reversed(stack):
        down = rbm.visible_mean(m, p, down)  # type: ignore[arg-type]
    return {"squared_error": float(_error(batch, x, down)), "n": x.shape[0]}


def _error(batch: Batch, x: Array, y: Array) -> Array | float:
    """Return the squared error over the values that are present."""
    return squared_error(x, present(batch._replace(x=y)))
