"""Predictive sparse decomposition: sparse codes, and an encoder that learns to predict them.

Kavukcuoglu, Ranzato, LeCun (2008), "Fast inference in sparse coding algorithms with applications
to object recognition". Each step predicts ``p = gain * tanh(x K + bias)``, infers the codes z by
FISTA from there, and descends
``|x - z W|**2 + penalty * |z|_1 + prediction_weight * |z - p|**2`` with the codes held fixed.

Letters: N samples, V features, A atoms (rows of W, numbers of a code).
"""

import math
from typing import Any, NamedTuple

from deepstrata.ops import initial, layers, preprocess, sparse_coding
from deepstrata.ops.backend import Backend, Scratch, add_product, namespace, product, store
from deepstrata.ops.dense import ACTIVATIONS
from deepstrata.ops.kernels import squared_error
from deepstrata.ops.layers import Pass
from deepstrata.ops.partials import Batch, Into, Partial, present, put
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.shapes import Shape
from deepstrata.schemas.sparse import PSD
from deepstrata.schemas.trees import Array, ArraySpec, Tree


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
    """What a PSD makes of samples; each (N, A)."""

    bounded: Array
    """``tanh(x K + bias)``"""
    predicted: Array
    inferred: Array


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


def codes(
    model: PSD,
    params: PSDParams,
    x: Array,
    mask: Array | None = None,
    scratch: Scratch | None = None,
) -> Codes:
    """Return predicted and inferred codes of samples (N, V)."""
    scratch = scratch or Scratch()
    shape = (x.shape[0], params.bias.shape[0])
    h = bounded(params, x, scratch.empty("bounded", shape, params.weights))
    p = scratch.empty("predicted", shape, params.weights)
    p[...] = h * params.gain
    z = sparse_coding.infer(
        sparse_coding.dense(params.dictionary),
        x,
        p,
        model.penalty,
        model.steps,
        model.prediction_weight,
        mask,
        scratch,
    )
    return Codes(h, p, z)


def gradient(
    model: PSD,
    params: PSDParams,
    batch: Batch,
    key: Key,
    carry: Tree = (),
    out: Into | None = None,
    scratch: Scratch | None = None,
) -> tuple[Partial, Tree]:
    """Return the gradient with the inferred codes held fixed; see ``models.gradient``."""
    scratch, x = scratch or Scratch(), present(batch)
    found = codes(model, params, x, batch.mask, scratch)
    stats, delta = _measure(model, params, batch, x, found, scratch)
    pull = found.predicted
    pull -= found.inferred
    pull *= 2.0 * model.prediction_weight
    encoder = _encoder_gradient(params, x, found.bounded, pull, out)
    into = out and out.tree.dictionary
    dictionary = sparse_coding.dictionary_gradient(found.inferred, delta, into, out)
    return Partial(PSDParams(*encoder, dictionary), x.shape[0], stats), carry


def _measure(
    model: PSD, params: PSDParams, batch: Batch, x: Array, found: Codes, scratch: Scratch
) -> tuple[dict[str, Any], Array]:
    """Return sums over the samples, and derivatives by the reconstructions."""
    synthesis = sparse_coding.dense(params.dictionary)
    z = found.inferred
    explained = sparse_coding.explain(synthesis, batch, x, z, model.penalty, scratch)
    distance = squared_error(found.predicted, z)
    energy = explained.stats["energy"] + model.prediction_weight * distance
    more = {"prediction_distance": distance, "energy": energy}
    return explained.stats | more, explained.delta


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


def evaluate(model: PSD, params: PSDParams, batch: Batch) -> dict[str, float]:
    """Return sums over the samples; see ``models.evaluate``.

    Those of the inferred codes, ``prediction_distance``, and ``predicted_squared_error``: of what
    the dictionary makes of the predictions.
    """
    x, scratch = present(batch), Scratch()
    found = codes(model, params, x, batch.mask, scratch)
    stats, _ = _measure(model, params, batch, x, found, scratch)
    synthesis = sparse_coding.dense(params.dictionary)
    guess = sparse_coding.explain(synthesis, batch, x, found.predicted, model.penalty, scratch)
    stats["predicted_squared_error"] = guess.stats["squared_error"]
    return {name: float(value) for name, value in stats.items()} | {"n": x.shape[0]}


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
