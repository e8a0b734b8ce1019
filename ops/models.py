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

from deepstrata.ops import dense, memory, rbm, updown
from deepstrata.ops.backend import Backend, Scratch, device_array, namespace
from deepstrata.ops.dense import DenseParams, check_labels
from deepstrata.ops.kernels import squared_error
from deepstrata.ops.partials import Batch, Into, Partial, present
from deepstrata.ops.random import normal, uniform
from deepstrata.ops.rbm import RBMParams
from deepstrata.ops.updown import GenerativeParams
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.models import (
    DBN,
    RBM,
    AssociativeMemory,
    Dense,
    GenerativeDBN,
    Learner,
    Machine,
    Model,
    Softmax,
)
from deepstrata.schemas.trees import Array, ArraySpec, Tree, tree_map

Layer = Machine | Dense | Softmax
SMALL = 0.01  #: standard deviation of softmax weights put on pretrained layers


def width(layer: Layer) -> int:
    """Return the number of a layer's outputs."""
    if isinstance(layer, Machine):
        return layer.hidden
    return layer.classes if isinstance(layer, Softmax) else layer.units


def activation(layer: Layer) -> str:
    """Return the name of a layer's activation in a feed-forward net; a softmax gives logits."""
    if isinstance(layer, Machine):
        return "logistic"
    return "linear" if isinstance(layer, Softmax) else layer.activation


def _layers(model: DBN | GenerativeDBN, visible: int) -> list[tuple[int, Layer, int]]:
    """Return (number, layer, inputs) of each layer, a memory last."""
    top = (model.memory,) if isinstance(model, GenerativeDBN) else ()
    layers = (*model.layers, *top)
    sizes = [visible, *map(width, layers)]
    return [(i, layer, sizes[i]) for i, layer in enumerate(layers)]


@singledispatch
def shapes(model: Model | Layer, visible: int) -> Tree:
    """Return the parameters' tree with an ``ArraySpec`` for each array; ``visible`` inputs."""
    raise NotImplementedError(f"no model is registered for {type(model).__name__}")


@shapes.register(RBM)
@shapes.register(AssociativeMemory)
def _(model: Machine, visible: int) -> RBMParams:
    visible += model.classes if isinstance(model, AssociativeMemory) else 0
    weights = ArraySpec((visible, model.hidden))
    return RBMParams(weights, ArraySpec((visible,)), ArraySpec((model.hidden,)))


@shapes.register(Dense)
@shapes.register(Softmax)
def _(model: Dense | Softmax, visible: int) -> DenseParams:
    units = width(model)
    return DenseParams(ArraySpec((visible, units)), ArraySpec((units,)))


@shapes.register(DBN)
@shapes.register(GenerativeDBN)
def _(model: DBN | GenerativeDBN, visible: int) -> Tree:
    layers = _layers(model, visible)
    return assemble(model, tuple(shapes(layer, inputs) for _, layer, inputs in layers))


def _drawn(specs: Any, scale: float, key: Key, backend: Backend) -> Any:
    """Fill specs: weights from a normal distribution, addressed by input and output; biases 0."""
    inputs, outputs = specs.weights.shape
    rows = np.arange(inputs, dtype=np.int64)
    like = device_array(np.empty(0, np.float32), backend)
    weights = normal(fold(key, "weights"), rows, outputs, like=like)
    weights *= scale
    xp = namespace(weights)
    zeros = tree_map(lambda spec: xp.zeros(spec.shape, dtype=xp.float32), specs[1:])
    return type(specs)(weights, *zeros)


@singledispatch
def init(model: Model | Layer, visible: int, key: Key, backend: Backend = "numpy") -> Tree:
    """Return fresh parameters; every weight has its own address, so tiles agree with the whole."""
    raise NotImplementedError(f"no model is registered for {type(model).__name__}")


@init.register(RBM)
@init.register(AssociativeMemory)
def _(model: Machine, visible: int, key: Key, backend: Backend = "numpy") -> RBMParams:
    drawn: RBMParams = _drawn(shapes(model, visible), model.weight_scale, key, backend)
    return drawn


@init.register(Dense)
@init.register(Softmax)
def _(model: Dense | Softmax, visible: int, key: Key, backend: Backend = "numpy") -> DenseParams:
    return _glorot(shapes(model, visible), key, backend)


@init.register(DBN)
@init.register(GenerativeDBN)
def _(model: DBN | GenerativeDBN, visible: int, key: Key, backend: Backend = "numpy") -> Tree:
    drawn = tuple(
        init(layer, inputs, fold(key, "layer", i), backend)
        for i, layer, inputs in _layers(model, visible)
    )
    return assemble(model, drawn)


@singledispatch
def assemble(model: Model, layers: tuple[Tree, ...]) -> Tree:
    """Return a model's parameters from those of the layers that were trained one by one."""
    return layers


@assemble.register
def _(model: GenerativeDBN, layers: tuple[RBMParams, ...]) -> GenerativeParams:
    return updown.untie(layers)


def _glorot(specs: DenseParams, key: Key, backend: Backend) -> DenseParams:
    """Draw weights of variance 2 / (inputs + outputs) (Glorot & Bengio 2010)."""
    scale = math.sqrt(2.0 / sum(specs.weights.shape))
    drawn: DenseParams = _drawn(specs, scale, key, backend)
    return drawn


def feed_forward(model: DBN, params: tuple[Tree, ...]) -> tuple[DenseParams, ...]:
    """Return the feed-forward net of recognition weights; arrays are shared, not copied."""
    return tuple(
        DenseParams(p.weights, p.hidden_bias) if isinstance(p, RBMParams) else p for p in params
    )


def start_net(
    model: DBN,
    pretrained: tuple[Tree, ...] | None,
    visible: int,
    key: Key,
    backend: Backend = "numpy",
) -> tuple[DenseParams, ...]:
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
    if not isinstance(model, DBN) or not isinstance(model.layers[-1], Softmax):
        raise DeclarationError("fine-tuning learns classes: the model must be a DBN with a Softmax")
    given = () if pretrained is None else pretrained
    if any(isinstance(p, RBMParams) for p in given):
        given = tuple(p for p in given if isinstance(p, RBMParams))
    net = list(feed_forward(model, given))
    for i, layer, inputs in _layers(model, visible)[len(net) :]:
        units, layer_key = width(layer), fold(key, "layer", i)
        specs = DenseParams(ArraySpec((inputs, units)), ArraySpec((units,)))
        if given and isinstance(layer, Softmax):
            net.append(_drawn(specs, SMALL, layer_key, backend))
        else:
            net.append(_glorot(specs, layer_key, backend))
    _check_shapes(model, net, visible)
    return tuple(net)


def _check_shapes(model: DBN, net: list[DenseParams], visible: int) -> None:
    for i, layer, inputs in _layers(model, visible):
        wanted, found = (inputs, width(layer)), tuple(net[i].weights.shape)
        if wanted != found:
            raise DeclarationError(
                f"layer {i} ({layer.kind}): expected weights {wanted}, found {found}"
            )


@singledispatch
def carry(model: Learner, visible: int, key: Key, backend: Backend = "numpy") -> Tree:
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
    model: Learner,
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
gradient.register(AssociativeMemory, memory.contrastive_divergence)
gradient.register(GenerativeDBN, updown.up_down)


@gradient.register
def _(
    model: DBN,
    params: Tree,
    batch: Batch,
    key: Key,
    carry: Tree = (),
    out: Into | None = None,
    scratch: Scratch | None = None,
) -> tuple[Partial, Tree]:
    scratch = Scratch() if scratch is None else scratch
    labels = check_labels(batch.labels, batch.rows, _classes(model))
    outputs = [present(batch)]
    for i, layer in enumerate(model.layers):
        into = scratch.empty(f"h{i}", (batch.x.shape[0], width(layer)), params[i].weights)
        outputs.append(dense.forward(activation(layer), params[i], outputs[-1], into))
    loss = dense.cross_entropy(outputs.pop(), labels)
    delta, grads = loss.delta, []
    for i in reversed(range(len(model.layers))):
        grads.append(dense.gradient(outputs[i], delta, out and out._replace(tree=out.tree[i])))
        if i:
            into = scratch.empty(f"delta{i}", outputs[i].shape, delta)
            below = activation(model.layers[i - 1])
            delta = dense.backward(below, params[i], outputs[i], delta, into)
    stats = {"loss": loss.total, "errors": loss.errors}
    return Partial(tuple(reversed(grads)), batch.x.shape[0], stats), carry


def _classes(model: Model) -> int:
    top = model.layers[-1] if isinstance(model, DBN) else model
    if not isinstance(top, Softmax):
        raise DeclarationError(f"classes need a DBN whose last layer is a Softmax, not {top!r}")
    return top.classes


@singledispatch
def encode(model: Learner, params: Tree, x: Array, layer: int | None = None) -> Array:
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


@encode.register
def _(model: DBN, params: Tree, x: Array, layer: int | None = None) -> Array:
    count = len(model.layers)
    if layer is None:
        layer = count - 2 if isinstance(model.layers[-1], Softmax) else count - 1
    if not -1 <= layer < len(params):
        raise DeclarationError(f"the model has layers 0 to {len(params) - 1}; found layer {layer}")
    net = feed_forward(model, params)
    for i in range(layer + 1):
        x = dense.forward(activation(model.layers[i]), net[i], x)
    return dense.softmax(x) if layer >= 0 and isinstance(model.layers[layer], Softmax) else x


encode.register(GenerativeDBN, updown.encode)


def code_width(model: Model, visible: int, layer: int | None = None) -> int:
    """Return the length of the codes that ``encode`` gives for samples of ``visible`` features."""
    if isinstance(model, RBM):
        return model.hidden
    if layer is None:
        layer = len(model.layers) - (2 if isinstance(model.layers[-1], Softmax) else 1)
    return width(model.layers[layer]) if layer >= 0 else visible


@singledispatch
def predict(model: Model, params: Tree, x: Array) -> Array:
    """Return class probabilities: (N, V) -> (N, K).

    Raises
    ------
    DeclarationError
        The model learns no classes.
    """
    _classes(model)
    return encode(model, params, x, len(model.layers) - 1)  # type: ignore[union-attr]


predict.register(GenerativeDBN, updown.predict)


@singledispatch
def evaluate(model: Learner, params: Tree, batch: Batch) -> dict[str, Any]:
    """Return measures summed over the samples, and their number ``n``.

    An RBM: ``squared_error`` of reconstructions, ``free_energy``. A DBN as pretrained:
    ``squared_error`` of the mean-field pass up and down. A model that classifies: ``loss``
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
def _(model: DBN, params: Tree, batch: Batch) -> dict[str, Any]:
    if any(isinstance(p, RBMParams) for p in params):
        return _evaluate_stack(model, params, batch)
    labels = check_labels(batch.labels, batch.rows, _classes(model))
    logits = dense.forward(
        "linear", params[-1], encode(model, params, present(batch), len(params) - 2)
    )
    return dense.classification(logits, labels)


evaluate.register(AssociativeMemory, memory.evaluate)
evaluate.register(GenerativeDBN, updown.evaluate)


def _evaluate_stack(model: DBN, params: Tree, batch: Batch) -> dict[str, Any]:
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
