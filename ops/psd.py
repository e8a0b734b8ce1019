"""Predictive sparse decomposition: sparse codes, and an encoder that learns to predict them.

Kavukcuoglu, Ranzato, LeCun (2008), "Fast inference in sparse coding algorithms with applications
to object recognition". Each step predicts ``p = gain * tanh(x K + bias)``, infers the codes z by
FISTA from there, and descends
``|x - z W|**2 + penalty * |z|_1 + prediction_weight * |z - p|**2`` with the codes held fixed. All
but the two linear maps is the same where they are convolutions: ``ops.convolutional_psd``.

Letters: N samples, V features, A atoms (rows of W, numbers of a code).
"""

import math
from functools import singledispatch
from typing import Any, NamedTuple

from deepstrata.ops import initial, layers, preprocess, sparse_coding
from deepstrata.ops.backend import Backend, Scratch, add_product, namespace, product, store
from deepstrata.ops.dense import ACTIVATIONS
from deepstrata.ops.kernels import squared_error
from deepstrata.ops.layers import Pass
from deepstrata.ops.partials import Batch, Into, Partial, present, put
from deepstrata.ops.samples import shaped
from deepstrata.ops.sparse_coding import Synthesis
from deepstrata.schemas.convolutional import ConvolutionalPSD
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.shapes import Shape
from deepstrata.schemas.sparse import PSD
from deepstrata.schemas.trees import Array, ArraySpec, Tree

Predictive = PSD | ConvolutionalPSD


class EncoderParams(NamedTuple):
    """What predicts a code; all that a network keeps of a trained PSD."""

    weights: Array
    """(V, A)"""
    bias: Array
    """(A,)"""
    gain: Array
    """(A,)"""


class PSDParams(NamedTuple):
    """The parameters of a PSD."""

    weights: Array
    """(V, A), bias and gain: of the encoder."""
    bias: Array
    """(A,)"""
    gain: Array
    """(A,)"""
    dictionary: Array
    """(A, V)"""


def shapes(model: PSD, visible: int) -> PSDParams:
    """Return what the parameters look like; see ``models.shapes``."""
    encoder: EncoderParams = layers.specs(model, (visible,))
    return PSDParams(*encoder, dictionary=ArraySpec((model.atoms, visible)))


def init(model: PSD, visible: int, key: Key, backend: Backend = "numpy") -> PSDParams:
    """Return fresh parameters; see ``models.init``.

    The encoder begins as the dictionary's transpose: a code predicts what it correlates with.
    """
    dictionary = sparse_coding.draw_atoms(model.atoms, visible, key, backend)
    xp = namespace(dictionary)
    zeros = xp.zeros((model.atoms,), dtype=xp.float32)
    weights = store(dictionary.T, xp.empty((visible, model.atoms), dtype=xp.float32))
    return PSDParams(weights, zeros, zeros + 1.0, dictionary)


def encoder(params: PSDParams) -> EncoderParams:
    """Return what predicts codes; arrays are shared."""
    return EncoderParams(params.weights, params.bias, params.gain)


class Codes(NamedTuple):
    """What a PSD makes of samples."""

    saved: Any
    """What ``layers.backward`` needs of the prediction."""
    predicted: Array
    """(N, ...)"""
    inferred: Array
    """(N, ...)"""


def bounded(params: EncoderParams | PSDParams, x: Array, out: Array | None = None) -> Array:
    """Return ``tanh(x K + bias)``: (N, V) -> (N, A), into ``out`` where given."""
    return ACTIVATIONS["tanh"][0](product(x, params.weights, out), params.bias)


def encode(
    model: PSD, params: EncoderParams | PSDParams, x: Array, layer: int | None = None
) -> Array:
    """Return predicted codes; see ``models.encode``."""
    if layer not in (None, 0):
        raise DeclarationError(f"a {model.kind} model has one layer, 0; found layer {layer}")
    code = bounded(params, x)
    code *= params.gain
    return code


@singledispatch
def synthesis(model: Any, params: PSDParams, shape: Shape) -> Synthesis:
    """Return the map from codes to samples of ``shape``."""
    raise NotImplementedError(f"no synthesis is registered for {type(model).__name__}")


@synthesis.register
def _(model: PSD, params: PSDParams, shape: Shape) -> Synthesis:
    return sparse_coding.dense(params.dictionary)


@singledispatch
def dictionary_gradient(model: Any, z: Array, delta: Array, out: Into | None) -> Array:
    """Return derivatives by the dictionary with the codes held fixed, summed over samples.

    Parameters
    ----------
    z, delta
        (N, ...) codes, and derivatives by the reconstructions, in the samples' shape.
    out
        Its tree is like the dictionary.
    """
    raise NotImplementedError(f"no dictionary is registered for {type(model).__name__}")


@dictionary_gradient.register
def _(model: PSD, z: Array, delta: Array, out: Into | None) -> Array:
    return sparse_coding.dictionary_gradient(z, delta, out and out.tree, out)


def codes(
    model: Predictive,
    params: PSDParams,
    x: Array,
    mask: Array | None = None,
    scratch: Scratch | None = None,
) -> Codes:
    """Return predicted and inferred codes of samples, which have the shape that the model takes."""
    scratch = scratch or Scratch()
    nothing_drawn = Pass(namespace(x).zeros((0,)), None, scratch.within("encoder"))
    predicted, saved = layers.forward(model, encoder(params), x, nothing_drawn)
    inferred = sparse_coding.infer(
        synthesis(model, params, x.shape[1:]),
        x,
        predicted,
        model.penalty,
        model.steps,
        model.prediction_weight,
        mask,
        scratch,
    )
    return Codes(saved, predicted, inferred)


def _in_shape(model: Predictive, batch: Batch) -> Batch:
    """Return the samples of a batch, and its mask, in the shape that the model takes."""
    mask = None if batch.mask is None else shaped(model, batch.mask)
    return Batch(batch.rows, shaped(model, present(batch)), mask=mask)


def gradient(
    model: Predictive,
    params: PSDParams,
    batch: Batch,
    key: Key,
    carry: Tree = (),
    out: Into | None = None,
    scratch: Scratch | None = None,
) -> tuple[Partial, Tree]:
    """Return the gradient with the inferred codes held fixed; see ``models.gradient``."""
    scratch, batch = scratch or Scratch(), _in_shape(model, batch)
    found = codes(model, params, batch.x, batch.mask, scratch)
    stats, delta = _measure(model, params, batch, found, scratch)
    pull = found.predicted
    pull -= found.inferred
    pull *= 2.0 * model.prediction_weight
    at = Pass(batch.rows, None, scratch.within("encoder"))
    into = out and out._replace(tree=out.tree.dictionary)
    dictionary = dictionary_gradient(model, found.inferred, delta, into)
    into = out and out._replace(tree=encoder(out.tree))
    own: EncoderParams
    _, own = layers.backward(model, encoder(params), found.saved, pull, at, into, below=False)
    return Partial(PSDParams(*own, dictionary=dictionary), batch.x.shape[0], stats), carry


def _measure(
    model: Predictive, params: PSDParams, batch: Batch, found: Codes, scratch: Scratch
) -> tuple[dict[str, Any], Array]:
    """Return sums over the samples, and derivatives by the reconstructions."""
    x, z = batch.x, found.inferred
    made = synthesis(model, params, x.shape[1:])
    explained = sparse_coding.explain(made, batch, x, z, model.penalty, scratch)
    distance = squared_error(found.predicted, z)
    energy = explained.stats["energy"] + model.prediction_weight * distance
    more = {"prediction_distance": distance, "energy": energy}
    return explained.stats | more, explained.delta


def evaluate(model: Predictive, params: PSDParams, batch: Batch) -> dict[str, float]:
    """Return sums over the samples; see ``models.evaluate``.

    Those of the inferred codes, ``prediction_distance``, and ``predicted_squared_error``: of what
    the dictionary makes of the predictions.
    """
    scratch, batch = Scratch(), _in_shape(model, batch)
    x, found = batch.x, codes(model, params, batch.x, batch.mask, scratch)
    stats, _ = _measure(model, params, batch, found, scratch)
    made = synthesis(model, params, x.shape[1:])
    guess = sparse_coding.explain(made, batch, x, found.predicted, model.penalty, scratch)
    stats["predicted_squared_error"] = guess.stats["squared_error"]
    return {name: float(value) for name, value in stats.items()} | {"n": x.shape[0]}


def _encoder_gradient(
    params: EncoderParams | PSDParams, x: Array, h: Array, delta: Array, out: Into | None
) -> EncoderParams:
    """Return the encoder's gradient; ``delta``, derivatives by the code, is carried to ``x K``.

    Parameters
    ----------
    x, h
        (N, V) inputs and (N, A) ``bounded`` outputs.
    delta
        (N, A); overwritten.
    """
    xp = namespace(x)
    gain = xp.sum(delta * h, axis=0)
    delta *= params.gain
    delta = ACTIVATIONS["tanh"][1](delta, h)
    bias = xp.sum(delta, axis=0)
    if out is None:
        return EncoderParams(product(x.T, delta), bias, gain)
    tree = out.tree
    weights = add_product(x, delta, tree.weights, out.scale, out.keep)
    return EncoderParams(weights, put(bias, tree.bias, out), put(gain, tree.gain, out))


@layers.specs.register
def _(layer: PSD, shape: Shape) -> EncoderParams:
    inputs, units = math.prod(shape), layer.atoms
    return EncoderParams(ArraySpec((inputs, units)), ArraySpec((units,)), ArraySpec((units,)))


@initial.fresh.register
def _(
    layer: PSD, shape: Shape, key: Key, backend: Backend, scale: float | None = None
) -> EncoderParams:
    return encoder(init(layer, math.prod(shape), key, backend))


@layers.forward.register
def _(layer: PSD, params: EncoderParams, x: Array, at: Pass) -> tuple[Array, Any]:
    rows = preprocess.flatten(x)
    shape = (rows.shape[0], params.bias.shape[0])
    h = bounded(params, rows, at.scratch.empty("bounded", shape, params.weights))
    y = at.scratch.empty("y", shape, params.weights)
    y[...] = h * params.gain
    return y, (x, h)


@layers.backward.register
def _(
    layer: PSD,
    params: EncoderParams,
    saved: Any,
    delta: Array,
    at: Pass,
    out: Into | None = None,
    below: bool = True,
) -> tuple[Array | None, Tree]:
    x, h = saved
    found = _encoder_gradient(params, preprocess.flatten(x), h, delta, out)
    return (_down(params, x, delta, at) if below else None), found


@layers.through.register
def _(layer: PSD, params: EncoderParams, saved: Any, delta: Array, at: Pass) -> Array:
    x, h = saved
    delta *= params.gain
    return _down(params, x, ACTIVATIONS["tanh"][1](delta, h), at)


def _down(params: EncoderParams, x: Array, delta: Array, at: Pass) -> Array:
    """Return derivatives by the input ``x`` from those by ``x K``."""
    into = product(
        delta, params.weights.T, at.scratch.empty("dx", preprocess.flatten(x).shape, delta)
    )
    return namespace(into).reshape(into, x.shape)
