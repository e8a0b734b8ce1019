"""Convolutional predictive sparse decomposition: sparse codes with a number at every place.

Kavukcuoglu, Sermanet, Boureau, Gregor, Mathieu, LeCun (2010), "Learning convolutional feature
hierarchies for visual recognition". The energy and all that descends it are those of ``ops.psd``;
here are the two linear maps. With the cross-correlation ``*`` of ``ops.convolution``, a sample is
correlated with the filters K, ``p = gain * tanh(K * x + bias)``, and made of the filters D by the
adjoint of the same: D_k is put down at each place, as often as z_k says there.

Letters: N samples, P places, C channels, M maps; filters are (*kernel, C, M).
"""

import math
from functools import reduce
from typing import Any

from deepstrata.ops import convolution, initial, layers, psd, sparse_coding
from deepstrata.ops.backend import Backend, Scratch, namespace, store
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.layers import Pass
from deepstrata.ops.layers.spatial import geometry
from deepstrata.ops.partials import Batch, Into, add_stats, put, take
from deepstrata.ops.preprocess import flatten
from deepstrata.ops.psd import EncoderParams, PSDParams
from deepstrata.ops.samples import sample_shape, shaped
from deepstrata.ops.sparse_coding import TINY, Synthesis
from deepstrata.schemas.convolutional import ConvolutionalPSD, as_convolution
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import Convolution
from deepstrata.schemas.shapes import Shape, each, shape_after
from deepstrata.schemas.trees import Array, ArraySpec, Tree

BLOCK = 100  #: samples whose codes are inferred at once where they are measured


def _convolution(model: ConvolutionalPSD) -> Convolution:
    """Return the encoder but for its gain."""
    return as_convolution(model, "tanh")


def shapes(model: ConvolutionalPSD, visible: int) -> PSDParams:
    """Return what the parameters look like; see ``models.shapes``."""
    encoder: EncoderParams = layers.specs(model, sample_shape(model, visible))
    return PSDParams(*encoder, dictionary=encoder.weights)


def init(model: ConvolutionalPSD, visible: int, key: Key, backend: Backend = "numpy") -> PSDParams:
    """Return fresh parameters; see ``models.init``.

    The encoder begins with the dictionary's filters, divided by the number of windows that see a
    place: a code predicts its share of what it correlates with.
    """
    shape = sample_shape(model, visible)
    filters = layers.specs(model, shape).weights.shape
    atoms = sparse_coding.draw_atoms(model.maps, math.prod(filters[:-1]), key, backend)
    xp = namespace(atoms)
    dictionary = xp.reshape(store(atoms.T, xp.empty(atoms.T.shape, dtype=xp.float32)), filters)
    zeros = xp.zeros((model.maps,), dtype=xp.float32)
    return PSDParams(dictionary / _windows_at_a_place(model, shape), zeros, zeros + 1.0, dictionary)


def _windows_at_a_place(model: ConvolutionalPSD, shape: Shape) -> int:
    """Return the most windows that see one place of samples of ``shape``."""
    strides = each(model.stride, len(model.kernel))
    most = zip(model.kernel, strides, shape_after(model, shape), strict=False)
    return math.prod(min(-(-width // stride), windows) for width, stride, windows in most)


def encode(
    model: ConvolutionalPSD,
    params: EncoderParams | PSDParams,
    x: Array,
    layer: int | None = None,
) -> Array:
    """Return predicted codes, (N, V) -> (N, P * M); see ``models.encode``."""
    if layer not in (None, 0):
        raise DeclarationError(f"a {model.kind} model has one layer, 0; found layer {layer}")
    own = params if isinstance(params, EncoderParams) else psd.encoder(params)
    at = Pass(namespace(x).zeros((0,)), None, Scratch())
    return flatten(layers.forward(model, own, shaped(model, x), at)[0])


def decode(model: ConvolutionalPSD, params: PSDParams, code: Array, visible: int) -> Array:
    """Return the samples that codes stand for: (N, P * M) -> (N, V)."""
    shape = sample_shape(model, visible)
    code = namespace(code).reshape(code, (code.shape[0], *shape_after(model, shape)))
    return flatten(psd.synthesis(model, params, shape).decode(code, None))


def evaluate(model: ConvolutionalPSD, params: PSDParams, batch: Batch) -> dict[str, float]:
    """Return what ``psd.evaluate`` does, block by block: inference takes many codes' memory."""
    starts = range(0, max(batch.x.shape[0], 1), BLOCK)
    parts = [psd.evaluate(model, params, take(batch, i, i + BLOCK)) for i in starts]
    return reduce(add_stats, parts)


@psd.synthesis.register
def _(model: ConvolutionalPSD, params: PSDParams, shape: Shape) -> Synthesis:
    where, filters, scratch = geometry(_convolution(model)), params.dictionary, Scratch()

    def decode(z: Array, out: Array | None) -> Array:
        size = (z.shape[0], *shape)
        return convolution.convolve_input_gradient(where, z, filters, size, out, scratch)

    def correlate(x: Array, out: Array | None) -> Array:
        return convolution.convolve(where, x, filters, out, scratch)

    return Synthesis(decode, correlate)


@psd.dictionary_gradient.register
def _(model: ConvolutionalPSD, z: Array, delta: Array, out: Into | None) -> Array:
    return convolution.convolve_weight_gradient(geometry(_convolution(model)), delta, z, out)


def hold_on_sphere(filters: Array) -> None:
    """Give every filter (*kernel, C, M) the length 1, in place; one of zeros stays."""
    xp, axes = namespace(filters), tuple(range(filters.ndim - 1))
    lengths = xp.sqrt(xp.sum(filters * filters, axis=axes))
    filters /= xp.clip(lengths, TINY, None)


@layers.specs.register
def _(layer: ConvolutionalPSD, shape: Shape) -> EncoderParams:
    shape_after(layer, shape)
    found: DenseParams = layers.specs(_convolution(layer), shape)
    return EncoderParams(*found, gain=ArraySpec((layer.maps,)))


@initial.fresh.register
def _(
    layer: ConvolutionalPSD, shape: Shape, key: Key, backend: Backend, scale: float | None = None
) -> EncoderParams:
    """Filters of length 1: what is trained from the start has no other windows to share with."""
    own = init(layer.model_copy(update={"input_shape": shape}), math.prod(shape), key, backend)
    return psd.encoder(own)._replace(weights=own.dictionary)


@layers.forward.register
def _(layer: ConvolutionalPSD, params: EncoderParams, x: Array, at: Pass) -> tuple[Array, Any]:
    h, saved = layers.forward(_convolution(layer), params, x, at)
    y = at.scratch.empty("gained", h.shape, params.weights)
    y[...] = h * params.gain
    return y, (h, saved)


@layers.backward.register
def _(
    layer: ConvolutionalPSD,
    params: EncoderParams,
    saved: Any,
    delta: Array,
    at: Pass,
    out: Into | None = None,
    below: bool = True,
) -> tuple[Array | None, Tree]:
    h, kept = saved
    gain = namespace(h).sum(delta * h, axis=tuple(range(h.ndim - 1)))
    delta *= params.gain
    own: DenseParams
    down, own = layers.backward(_convolution(layer), params, kept, delta, at, out, below)
    gain = gain if out is None else put(gain, out.tree.gain, out)
    return down, EncoderParams(*own, gain=gain)
