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

from deepstrata.ops import autoencoder, chain, dense, layers, marginalised, rbm, reconstruction
from deepstrata.ops.autoencoder import AutoencoderParams
from deepstrata.ops.backend import Backend, Scratch, device_array, namespace, to_numpy
from deepstrata.ops.dense import DenseParams, check_labels
from deepstrata.ops.initial import drawn, fresh
from deepstrata.ops.kernels import squared_error
from deepstrata.ops.partials import Batch, Into, Partial, present
from deepstrata.ops.random import normal, uniform
from deepstrata.ops.rbm import RBMParams
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.layers import Softmax
from deepstrata.schemas.models import (
    MSDA,
    RBM,
    Autoencoder,
    Layered,
    Model,
    Net,
    feed_forward_layer,
)
from deepstrata.schemas.shapes import Shape, shapes_through
from deepstrata.schemas.trees import Array, ArraySpec, Tree, flatten

Learner = RBM | Autoencoder  #: layers that learn without labels, ...
PRETRAINED = (RBMParams, AutoencoderParams)  #: ... and what they hold until they are part of a net
SMALL = 0.01  #: standard deviation of softmax weights put on pretrained layers
NOTHING_TO_LEARN = (
    "fine-tuning learns classes, or to reconstruct: the model must be a DBN or a Network with a "
    "Softmax, or an Autoencoder"
)


def feed_forward_layers(model: Net) -> tuple[Any, ...]:
    """Return a model's layers as those of a feed-forward net: an RBM is a dense layer."""
    return tuple(map(feed_forward_layer, model.layers))


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
        shapes(layer, math.prod(shape))
        if isinstance(layer, Learner)
        else layers.specs(layer, shape)
        for layer, shape in zip(model.layers, inputs, strict=False)
    )


shapes.register(Autoencoder, autoencoder.shapes)


@singledispatch
def init(model: Model, visible: int, key: Key, backend: Backend = "numpy") -> Tree:
    """Return fresh parameters; every weight has its own address, so tiles agree with the whole."""
    raise NotImplementedError(f"no model is registered for {type(model).__name__}")


@init.register
def _(model: RBM, visible: int, key: Key, backend: Backend = "numpy") -> RBMParams:
    found: RBMParams = drawn(shapes(model, visible), model.weight_scale, key, backend)
    return found


@init.register
def _(model: Net, visible: int, key: Key, backend: Backend = "numpy") -> tuple[Tree, ...]:
    return tuple(
        init(layer, math.prod(shape), fold(key, "layer", i), backend)
        if isinstance(layer, Learner)
        else fresh(layer, shape, fold(key, "layer", i), backend)
        for i, (layer, shape) in enumerate(zip(model.layers, _inputs(model, visible), strict=False))
    )


init.register(Autoencoder, autoencoder.init)


def feed_forward(params: tuple[Tree, ...]) -> tuple[Tree, ...]:
    """Return the feed-forward net of recognition weights; arrays are shared, not copied."""
    return tuple(map(_recognition, params))


def _recognition(own: Tree) -> Tree:
    if isinstance(own, AutoencoderParams):
        return own.encoder
    return DenseParams(own.weights, own.hidden_bias) if isinstance(own, RBMParams) else own


@singledispatch
def start_net(
    model: Model, pretrained: Tree | None, visible: int, key: Key, backend: Backend = "numpy"
) -> Tree:
    """Return the net with which fine-tuning begins.

    Parameters
    ----------
    pretrained
        None for fresh weights; a net that was trained before, which goes on as it is; or the
        bottom layers as they were pretrained (what else it holds is drawn anew, a softmax close to
        zero). RBMs are unrolled to an autoencoder that holds them.

    Raises
    ------
    DeclarationError
        The model has no softmax to learn classes with, or the shapes do not fit it.
    """
    raise DeclarationError(NOTHING_TO_LEARN)


@start_net.register
def _(
    model: Autoencoder,
    pretrained: Tree | None,
    visible: int,
    key: Key,
    backend: Backend = "numpy",
) -> AutoencoderParams:
    if isinstance(pretrained, AutoencoderParams):
        net = pretrained
    else:
        net = init(model, visible, key, backend)
        if pretrained is not None:
            net = autoencoder.unroll(net, pretrained)
    _check_shapes(model, shapes(model, visible), net)
    return net


@start_net.register
def _(
    model: Net,
    pretrained: tuple[Tree, ...] | None,
    visible: int,
    key: Key,
    backend: Backend = "numpy",
) -> tuple[Tree, ...]:
    if model.classes is None:
        raise DeclarationError(NOTHING_TO_LEARN)
    given = () if pretrained is None else pretrained
    if any(isinstance(p, PRETRAINED) for p in given):
        given = tuple(p for p in given if isinstance(p, PRETRAINED))
    net, inputs = list(feed_forward(given)), _inputs(model, visible)
    for i, layer in list(enumerate(feed_forward_layers(model)))[len(net) :]:
        scale = SMALL if given and isinstance(layer, Softmax) else None
        net.append(fresh(layer, inputs[i], fold(key, "layer", i), backend, scale))
    wanted = feed_forward(shapes(model, visible))
    for i, (layer, spec, found) in enumerate(zip(model.layers, wanted, net, strict=True)):
        _check_shapes(layer, spec, found, f"layer {i} ")
    return tuple(net)


def _check_shapes(model: Any, wanted: Tree, found: Tree, where: str = "") -> None:
    """Compare the arrays of two trees of one structure, by their paths."""
    for name, expected in flatten(wanted).items():
        leaf = flatten(found)[name]
        if tuple(expected.shape) != tuple(leaf.shape):
            raise DeclarationError(
                f"{where}({model.kind}): expected {name} {tuple(expected.shape)}, "
                f"found {tuple(leaf.shape)}"
            )


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
        Where to write it; its tree becomes ``Partial.total``. Allocated when None. Layers at
        whose place it has ``()`` are frozen: no gradient is computed for them.
    scratch
        Buffers to use again from call to call.

    Raises
    ------
    DataError
        Labels are missing or out of range.
    """
    raise NotImplementedError(f"no model is registered for {type(model).__name__}")


gradient.register(RBM, rbm.contrastive_divergence)
gradient.register(Autoencoder, reconstruction.gradient)


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
    at = chain.passes(len(net), batch.rows, key, scratch)
    logits, saved = chain.forward(net, params, x, at)
    loss = dense.cross_entropy(logits, labels)
    _, grads = chain.backward(net, params, saved, loss.delta, at, out)
    stats = {"loss": loss.total, "errors": loss.errors}
    return Partial(grads, batch.x.shape[0], stats), carry


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
    return rbm.hidden_mean(params, x, units=model.hidden_units)


encode.register(Autoencoder, autoencoder.encode)


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
    net = feed_forward_layers(model)[: layer + 1]
    nothing_drawn = chain.passes(len(net), np.arange(0), None, Scratch())
    y, _ = chain.forward(net, feed_forward(params)[: len(net)], _shaped(model, x), nothing_drawn)
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
    if isinstance(model, Autoencoder):
        return autoencoder.code_width(model, visible, layer)
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

    An RBM: ``squared_error`` of reconstructions, ``free_energy``. An autoencoder:
    ``squared_error`` and ``loss`` of reconstructions. A net as pretrained: ``squared_error`` of
    the pass up and down. A net that classifies: ``loss`` (cross-entropy), ``errors`` and
    ``confusion`` (K, K), true classes down, predicted across.

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
        "squared_error": float(_error(batch, x, reconstruct(model, params, x))),
        "free_energy": float(xp.sum(xp.astype(energies, xp.float64))),
        "n": x.shape[0],
    }


evaluate.register(Autoencoder, reconstruction.evaluate)


@evaluate.register
def _(model: Net, params: Tree, batch: Batch) -> dict[str, Any]:
    if any(isinstance(p, PRETRAINED) for p in params):
        x = present(batch)
        error = _error(batch, x, reconstruct(model, params, x))
        return {"squared_error": float(error), "n": x.shape[0]}
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


def _error(batch: Batch, x: Array, y: Array) -> Array | float:
    """Return the squared error over the values that are present."""
    return squared_error(x, present(batch._replace(x=y)))


@singledispatch
def reconstruct(model: Model, params: Tree, x: Array) -> Array:
    """Return what a model makes of samples when it has only their codes: (N, V) -> (N, V).

    Of a net, the layers that were pretrained are passed up and down, by means.
    """
    raise NotImplementedError(f"no model is registered for {type(model).__name__}")


reconstruct.register(RBM, rbm.reconstruct)
reconstruct.register(Autoencoder, autoencoder.reconstruct)


@reconstruct.register
def _(model: Net, params: Tree, x: Array) -> Array:
    pairs = zip(model.layers, params, strict=False)
    stack = [
        (layer, own)
        for layer, own in pairs
        if isinstance(layer, Learner) and isinstance(own, PRETRAINED)
    ]
    widths = []
    for layer, own in stack:
        widths.append(x.shape[1])
        x = encode(layer, own, x)
    for (layer, own), width in zip(reversed(stack), reversed(widths), strict=True):
        x = decode(layer, own, x, width)
    return x


@singledispatch
def decode(model: Model, params: Tree, code: Array, visible: int) -> Array:
    """Return what a layer that learned by itself makes of codes: (N, H) -> (N, visible)."""
    raise NotImplementedError(f"no decoder is registered for {type(model).__name__}")


@decode.register
def _(model: RBM, params: RBMParams, code: Array, visible: int) -> Array:
    return rbm.visible_mean(model, params, code)


decode.register(Autoencoder, autoencoder.decode)
