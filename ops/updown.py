"""Generative deep belief nets: up-down learning, classes by free energy, samples of a class.

Hinton, Osindero, Teh (2006), "A fast learning algorithm for deep belief nets". After greedy
pretraining the weights that recognise and those that generate part ways. The wake phase samples
states upwards from the data, and generative weights learn to predict each layer from the one
above; the memory on top runs a few Gibbs sweeps from there; the sleep phase samples downwards
from what it has come to, and recognition weights learn to predict each layer from the one below.

Letters: N samples, V visible units, F features that the memory sees, K classes.
"""

from typing import Any, NamedTuple

from deepstrata.ops import dense, memory, rbm
from deepstrata.ops.backend import Backend, Scratch, namespace, negative, product, store
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.kernels import sigmoid_sample, squared_error
from deepstrata.ops.labelled import check_labels
from deepstrata.ops.measures import classification
from deepstrata.ops.partials import Batch, Into, Partial, present
from deepstrata.ops.rbm import RBMParams
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.models import GenerativeDBN
from deepstrata.schemas.trees import Array, ArraySpec, Tree


class GenerativeParams(NamedTuple):
    """The parameters of a generative deep belief net; layers from the bottom up."""

    recognition: tuple[DenseParams, ...]
    """Upwards: (inputs, units) and (units,)."""
    generative: tuple[DenseParams, ...]
    """Downwards: (units, inputs) and (inputs,)."""
    memory: RBMParams
    """Of F + K visible units."""


def shapes(model: GenerativeDBN, visible: int) -> GenerativeParams:
    """Return the parameters' tree with an ``ArraySpec`` for each array; ``visible`` inputs."""
    sizes = (visible, *(layer.hidden for layer in model.layers))
    below = map(rbm.shapes, model.layers, sizes)
    return untie((*below, memory.shapes(model.memory, sizes[-1])))


def init(
    model: GenerativeDBN, visible: int, key: Key, backend: Backend = "numpy"
) -> GenerativeParams:
    """Return fresh parameters, the same upwards and downwards."""
    sizes = (visible, *(layer.hidden for layer in model.layers))
    keys = [fold(key, "layer", i) for i in range(len(sizes))]
    below = [
        rbm.init(layer, inputs, own, backend)
        for layer, inputs, own in zip(model.layers, sizes, keys, strict=False)
    ]
    return untie((*below, memory.init(model.memory, sizes[-1], keys[-1], backend)))


def untie(layers: tuple[RBMParams, ...]) -> GenerativeParams:
    """Return the net that greedily trained RBMs make, the memory last; specs make specs."""
    *below, top = layers
    return GenerativeParams(
        tuple(DenseParams(p.weights, p.hidden_bias) for p in below),
        tuple(DenseParams(_transposed(p.weights), p.visible_bias) for p in below),
        top,
    )


def _transposed(weights: Array) -> Array:
    """Return a transposed copy, or the description of one."""
    if isinstance(weights, ArraySpec):
        return ArraySpec(weights.shape[::-1], weights.dtype)
    turned = namespace(weights).empty(weights.T.shape, dtype=weights.dtype)
    return store(weights.T, turned)


def recognise(params: GenerativeParams, x: Array, layers: int | None = None) -> Array:
    """Return the probabilities of ``layers`` layers up, all by default: (N, V) -> (N, units)."""
    for layer in params.recognition[:layers]:
        x = dense.forward("logistic", layer, x)
    return x


def encode(
    model: GenerativeDBN, params: GenerativeParams, x: Array, layer: int | None = None
) -> Array:
    """Return the probabilities of a layer, by default of the one that the memory sees.

    Raises
    ------
    DeclarationError
        There is no such layer.
    """
    layer = len(model.layers) - 1 if layer is None else layer
    if not 0 <= layer < len(model.layers):
        raise DeclarationError(
            f"the model has layers 0 to {len(model.layers) - 1}; found layer {layer}"
        )
    return recognise(params, x, layer + 1)


def code_width(model: GenerativeDBN, visible: int, layer: int | None = None) -> int:
    """Return the length of the codes that ``encode`` gives."""
    return model.layers[-1 if layer is None else layer].hidden


def _downward(model: GenerativeDBN, i: int) -> str:
    """Return the activation by which layer ``i`` generates what is below it."""
    return "logistic" if model.layers[i].visible_units == "bernoulli" else "linear"


def decode(model: GenerativeDBN, params: GenerativeParams, code: Array, visible: int) -> Array:
    """Return the means of a pass down from what the memory sees: (N, F) -> (N, ``visible``)."""
    for i in reversed(range(len(model.layers))):
        code = dense.forward(_downward(model, i), params.generative[i], code)
    return code


def class_logits(model: GenerativeDBN, params: GenerativeParams, x: Array) -> Array:
    """Return the memory's ``log p(label | features)`` but for a constant: (N, V) -> (N, K)."""
    return memory.class_logits(model.memory, params.memory, recognise(params, x))


def predict(model: GenerativeDBN, params: GenerativeParams, x: Array) -> Array:
    """Return class probabilities: (N, V) -> (N, K)."""
    return dense.softmax(class_logits(model, params, x))


def evaluate(model: GenerativeDBN, params: GenerativeParams, batch: Batch) -> dict[str, Any]:
    """Return ``squared_error`` of samples passed up and down, and measures of the classes.

    Raises
    ------
    DataError
        Labels are missing or out of range.
    """
    labels = check_labels(batch.labels, batch.rows, model.memory.classes)
    x = present(batch)
    features = recognise(params, x)
    made = decode(model, params, features, x.shape[1])
    again = present(batch._replace(x=made, scaling=None))
    logits = memory.class_logits(model.memory, params.memory, features)
    found = classification(logits, labels)
    return {"squared_error": float(squared_error(x, again))} | found


def up_down(
    model: GenerativeDBN,
    params: GenerativeParams,
    batch: Batch,
    key: Key,
    carry: Tree = (),
    out: Into | None = None,
    scratch: Scratch | None = None,
) -> tuple[Partial, Tree]:
    """Return up-down's learning rules with the sign of a gradient, summed over the batch.

    Where a mask says that a value is absent, recognition sees 0 and generation learns nothing.

    Parameters
    ----------
    key
        The round's key; the batch's rows address the numbers below it.
    out
        Where to write it; its tree becomes ``Partial.total``.
    scratch
        Buffers to use again from call to call.

    Returns
    -------
    Partial
        ``stats``: ``squared_error`` of the samples as generated from the states above them.
    Tree
        The carry, as it came.

    Raises
    ------
    DataError
        Labels are missing or out of range.
    """
    scratch = Scratch() if scratch is None else scratch
    labels = check_labels(batch.labels, batch.rows, model.memory.classes)
    awake = _wake(params, batch, fold(key, "wake"), scratch)
    features, top = _associate(
        model, params.memory, awake[-1], labels, batch.rows, fold(key, "memory"), scratch, out
    )
    asleep = _sleep(model, params, features, batch.rows, fold(key, "sleep"), scratch)
    recognition, generative, error = [], [], 0.0
    for i, (up, down) in enumerate(zip(params.recognition, params.generative, strict=True)):
        delta = _miss("logistic", up, asleep[i], asleep[i + 1], scratch, f"up {i}")
        into = out and out._replace(tree=out.tree.recognition[i])
        recognition.append(dense.gradient(asleep[i], delta, into))
        delta = _miss(_downward(model, i), down, awake[i + 1], awake[i], scratch, f"down {i}")
        if i == 0:
            error = _hide_absent(batch, delta)
        into = out and out._replace(tree=out.tree.generative[i])
        generative.append(dense.gradient(awake[i + 1], delta, into))
    total = GenerativeParams(tuple(recognition), tuple(generative), top)
    return Partial(total, batch.x.shape[0], {"squared_error": error}), carry


def _wake(params: GenerativeParams, batch: Batch, key: Key, scratch: Scratch) -> list[Array]:
    """Return the samples, and the states of each layer sampled upwards from them."""
    states = [present(batch)]
    for i, layer in enumerate(params.recognition):
        states.append(_sample(layer, states[-1], batch.rows, key, i, scratch, f"awake {i}"))
    return states


def _sample(
    layer: DenseParams, x: Array, rows: Array, key: Key, draw: int, scratch: Scratch, name: str
) -> Array:
    """Return states of a layer sampled given those beside it, in a buffer of that name."""
    shape = (x.shape[0], layer.bias.shape[0])
    into = product(x, layer.weights, scratch.empty("mean", shape, x))
    out = scratch.empty(name, shape, x)
    return sigmoid_sample(into, layer.bias, key, rows, draw, mean=into, out=out)[1]


def _associate(
    model: GenerativeDBN,
    params: RBMParams,
    features: Array,
    labels: Array,
    rows: Array,
    key: Key,
    scratch: Scratch,
    out: Into | None,
) -> tuple[Array, RBMParams]:
    """Return the features (N, F) that Gibbs sweeps come to, and the memory's gradient."""
    n, (visible, hidden) = features.shape[0], params.weights.shape
    v = scratch.empty("visible", (2 * n, visible), features)
    h = scratch.empty("hidden", (2 * n, hidden), features)
    states = scratch.empty("states", (n, hidden), features)
    v0, v1, h0, h1 = v[:n, :], v[n:, :], h[:n, :], h[n:, :]
    memory.join(features, memory.one_hot(labels, model.memory.classes, features), v0)
    rbm.sample_hidden(model.memory, params, v0, rows, key, 0, h0, states)
    below = fold(key, "visible")
    for step in range(1, model.memory.gibbs_steps + 1):
        memory.sample_visible(model.memory, params, states, rows, below, step, v1, scratch)
        rbm.sample_hidden(model.memory, params, v1, rows, key, step, h1, states)
    negative(v0, v0)
    into = out and out._replace(tree=out.tree.memory)
    return v1[:, : features.shape[1]], rbm.statistics(model.memory, v, h, n, into)


def _sleep(
    model: GenerativeDBN,
    params: GenerativeParams,
    features: Array,
    rows: Array,
    key: Key,
    scratch: Scratch,
) -> list[Array]:
    """Return means of the visible units, and the states they were generated from, upwards."""
    states = [features]
    for i in reversed(range(1, len(model.layers))):
        layer, name = params.generative[i], f"asleep {i}"
        states.append(_sample(layer, states[-1], rows, key, i, scratch, name))
    shape = (features.shape[0], params.generative[0].bias.shape[0])
    into = scratch.empty("asleep", shape, features)
    states.append(dense.forward(_downward(model, 0), params.generative[0], states[-1], into))
    return states[::-1]


def _miss(
    activation: str, layer: DenseParams, x: Array, target: Array, scratch: Scratch, name: str
) -> Array:
    """Return what a layer predicts from ``x`` less what it should, in a buffer of that name."""
    into = scratch.empty(name, (x.shape[0], layer.bias.shape[0]), layer.bias)
    delta = dense.forward(activation, layer, x, into)
    delta -= target
    return delta


def _hide_absent(batch: Batch, delta: Array) -> Array:
    """Set what a mask hides to zero, and return the sum of squares."""
    xp = namespace(delta)
    if batch.mask is not None:
        delta *= xp.astype(batch.mask, delta.dtype)
    return xp.sum(delta * delta, dtype=xp.float64)


def generate(
    model: GenerativeDBN, params: GenerativeParams, labels: Array, rows: Array, key: Key, steps: int
) -> Array:
    """Return samples of classes: the memory dreams with the label held, then one pass down.

    Parameters
    ----------
    labels
        (N,) classes.
    rows
        (N,) int64 addresses of the chains.
    steps
        Gibbs sweeps of the memory, from features drawn by its biases alone.

    Returns
    -------
    (N, V) means of the visible units, given states of the layer above
    """
    top, classes = params.memory, model.memory.classes
    xp, n = namespace(top.weights), len(rows)
    v = xp.empty((n, top.weights.shape[0]), dtype=top.weights.dtype)
    hot = memory.one_hot(labels, classes, v)
    nothing = xp.zeros((n, top.weights.shape[1]), dtype=v.dtype)
    below, scratch = fold(key, "visible"), Scratch()
    memory.sample_visible(model.memory, top, nothing, rows, below, 0, v, scratch)
    for step in range(1, steps + 1):
        v[:, -classes:] = hot
        h = rbm.sample_hidden(model.memory, top, v, rows, key, step)
        memory.sample_visible(model.memory, top, h, rows, below, step, v, scratch)
    return _sleep(model, params, v[:, :-classes], rows, fold(key, "sleep"), scratch)[0]
