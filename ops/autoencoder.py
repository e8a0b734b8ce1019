"""Autoencoders: parameters, codes and reconstructions.

Hinton & Salakhutdinov (2006), "Reducing the dimensionality of data with neural networks", for
unrolled RBMs; Vincent et al. (2010), "Stacked denoising autoencoders", for tied weights.

What they learn is in ``ops.reconstruction``. In a network one is a layer: its encoder.

Letters: N samples, V features, H units of a code, I inputs of a layer.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from array_api_compat import device

from deepstrata.ops import chain, initial, layers, preprocess
from deepstrata.ops.backend import Backend, Scratch, namespace
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.layers import Pass
from deepstrata.ops.partials import Into
from deepstrata.ops.rbm import RBMParams
from deepstrata.ops.samples import sample_shape, shaped
from deepstrata.schemas.autoencoders import Autoencoder, decoder_layers, encoder_layers
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.shapes import Shape, shapes_through
from deepstrata.schemas.trees import Array, Tree


class BiasParams(NamedTuple):
    """The parameters of a decoder's layer whose weights are those of the encoder."""

    bias: Array
    """(I,), of a convolution one a channel."""


class AutoencoderParams(NamedTuple):
    """The parameters of an autoencoder, as of feed-forward layers from the bottom up."""

    encoder: tuple[Tree, ...]
    decoder: tuple[Tree, ...]
    """From the code on; of tied weights ``BiasParams``."""


@lru_cache(maxsize=32)
def logit_decoder(model: Autoencoder, visible: int) -> tuple[Any, ...]:
    """Return the decoder's layers; of cross-entropy the last gives logits, as a softmax does."""
    net = decoder_layers(model, sample_shape(model, visible))
    if model.loss == "squared_error":
        return net
    return (*net[:-1], net[-1].model_copy(update={"activation": "linear"}))


def shapes(model: Autoencoder, visible: int) -> AutoencoderParams:
    """Return the parameters' tree with an ``ArraySpec`` for each array; ``visible`` inputs.

    Raises
    ------
    DeclarationError
        ``input_shape`` has another number of features, or the decoder gives another.
    """
    inputs = shapes_through(encoder_layers(model), sample_shape(model, visible))
    outputs = shapes_through(logit_decoder(model, visible), inputs[-1])
    if math.prod(outputs[-1]) != visible:
        raise DeclarationError(
            f"the decoder gives samples {outputs[-1]}: expected {visible} features, as come in"
        )
    encoder = _specs(encoder_layers(model), inputs)
    decoder = _specs(logit_decoder(model, visible), outputs)
    if model.tied:
        decoder = tuple(BiasParams(own.bias) for own in decoder)
    return AutoencoderParams(encoder, decoder)


def _specs(net: Sequence[Any], inputs: Sequence[Shape]) -> tuple[Tree, ...]:
    return tuple(layers.specs(layer, shape) for layer, shape in zip(net, inputs, strict=False))


def init(
    model: Autoencoder, visible: int, key: Key, backend: Backend = "numpy"
) -> AutoencoderParams:
    """Return fresh parameters."""
    specs, shape = shapes(model, visible), sample_shape(model, visible)
    encoder = _fresh(encoder_layers(model), shape, fold(key, "encoder"), backend)
    if not model.tied:
        code = shapes_through(encoder_layers(model), shape)[-1]
        decoder = _fresh(logit_decoder(model, visible), code, fold(key, "decoder"), backend)
        return AutoencoderParams(encoder, decoder)
    first = encoder[0].weights
    xp = namespace(first)
    zeros = (xp.zeros(b.bias.shape, dtype=first.dtype, device=device(first)) for b in specs.decoder)
    return AutoencoderParams(encoder, tuple(BiasParams(b) for b in zeros))


def _fresh(net: Sequence[Any], shape: Shape, key: Key, backend: Backend) -> tuple[Tree, ...]:
    inputs = shapes_through(net, shape)
    return tuple(
        initial.fresh(layer, inputs[i], fold(key, "layer", i), backend)
        for i, layer in enumerate(net)
    )


def unroll(fresh: AutoencoderParams, stack: Sequence[RBMParams]) -> AutoencoderParams:
    """Return the autoencoder whose bottom layers are RBMs, and whose decoder ends with them.

    Parameters
    ----------
    fresh
        What the layers above the RBMs begin with.
    stack
        The RBMs from the bottom up; their arrays are not shared, as the decoder's are transposed.
    """
    xp = namespace(stack[0].weights)
    encoder = [DenseParams(p.weights, p.hidden_bias) for p in stack]
    decoder = [
        BiasParams(p.visible_bias)
        if isinstance(fresh.decoder[0], BiasParams)
        else DenseParams(xp.asarray(p.weights.T, copy=True, order="C"), p.visible_bias)
        for p in reversed(stack)
    ]
    above = len(fresh.encoder) - len(stack)
    return AutoencoderParams(
        (*encoder, *fresh.encoder[len(stack) :]), (*fresh.decoder[:above], *decoder)
    )


def encode(
    model: Autoencoder, params: AutoencoderParams, x: Array, layer: int | None = None
) -> Array:
    """Return what the encoder, or its layer ``layer``, gives: (N, V) -> (N, H).

    Raises
    ------
    DeclarationError
        There is no such layer.
    """
    net = encoder_layers(model)
    if layer is not None and not 0 <= layer < len(net):
        raise DeclarationError(f"the encoder has layers 0 to {len(net) - 1}; found layer {layer}")
    stop = len(net) if layer is None else layer + 1
    return _through(net[:stop], params.encoder, shaped(model, x))


def code_width(model: Autoencoder, visible: int, layer: int | None = None) -> int:
    """Return the length of the codes that ``encode`` gives for samples of ``visible`` features."""
    inputs = shapes_through(encoder_layers(model), sample_shape(model, visible))
    return math.prod(inputs[-1 if layer is None else layer + 1])


def decode(model: Autoencoder, params: AutoencoderParams, code: Array, visible: int) -> Array:
    """Return what the decoder makes of codes: (N, H) -> (N, V)."""
    shape = shapes_through(encoder_layers(model), sample_shape(model, visible))[-1]
    code = namespace(code).reshape(code, (code.shape[0], *shape))
    net = decoder_layers(model, sample_shape(model, visible))
    return _through(net, decoder_params(params), code)


def reconstruct(model: Autoencoder, params: AutoencoderParams, x: Array) -> Array:
    """Return the reconstruction of samples, without noise: (N, V) -> (N, V)."""
    return decode(model, params, encode(model, params, x), x.shape[1])


def decoder_params(params: AutoencoderParams) -> tuple[Tree, ...]:
    """Return the decoder's layers, with the encoder's weights where those are tied.

    The matrices of dense layers are transposed; a transposed convolution's weights lie as those of
    the convolution.
    """
    if not isinstance(params.decoder[0], BiasParams):
        return params.decoder
    pairs = zip(reversed(params.encoder), params.decoder, strict=True)
    return tuple(
        DenseParams(below.weights.T if below.weights.ndim == 2 else below.weights, own.bias)
        for below, own in pairs
    )


def _through(net: Sequence[Any], params: Sequence[Tree], x: Array) -> Array:
    nothing_drawn = namespace(x).zeros((0,))
    at = chain.passes(len(net), nothing_drawn, None, Scratch())
    return preprocess.flatten(chain.forward(net, params[: len(net)], x, at)[0])


@layers.specs.register
def _(layer: Autoencoder, shape: Shape) -> tuple[Tree, ...]:
    net = encoder_layers(layer)
    return _specs(net, shapes_through(net, layer.input_shape or shape))


@initial.fresh.register
def _(
    layer: Autoencoder, shape: Shape, key: Key, backend: Backend, scale: float | None = None
) -> tuple[Tree, ...]:
    return _fresh(encoder_layers(layer), layer.input_shape or shape, key, backend)


@layers.forward.register
def _(layer: Autoencoder, params: Tree, x: Array, at: Pass) -> tuple[Array, Any]:
    net = encoder_layers(layer)
    shape = layer.input_shape or x.shape[1:]
    below = chain.passes(len(net), *at)
    y, saved = chain.forward(net, params, namespace(x).reshape(x, (x.shape[0], *shape)), below)
    return y, (saved, below, x.shape)


@layers.backward.register
def _(
    layer: Autoencoder,
    params: Tree,
    saved: Any,
    delta: Array,
    at: Pass,
    out: Into | None = None,
    below: bool = True,
) -> tuple[Array | None, Tree]:
    kept, passes, shape = saved
    net = encoder_layers(layer)
    delta, found = chain.backward(net, params, kept, delta, passes, out, below)
    return None if delta is None else namespace(delta).reshape(delta, shape), found
