"""What pretrained layers are to a net: recognition weights, a way back, filters to look at.

A layer that learned by itself may hold more than a net goes on with: an RBM its visible biases,
an autoencoder its decoder, a PSD its dictionary. Each is a row of the tables here.

Letters: N samples, V inputs, H units.
"""

from functools import singledispatch
from itertools import takewhile
from typing import Any

from deepstrata.ops import (
    autoencoder,
    convolutional_psd,
    convolutional_rbm,
    psd,
    rbm,
    sparse_coding,
    updown,
)
from deepstrata.ops.autoencoder import AutoencoderParams
from deepstrata.ops.backend import namespace
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.psd import EncoderParams, PSDParams
from deepstrata.ops.rbm import RBMParams
from deepstrata.ops.sparse_coding import SparseCodingParams
from deepstrata.ops.updown import GenerativeParams
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.convolutional import ConvolutionalPSD, ConvolutionalRBM
from deepstrata.schemas.layers import Convolution
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import GenerativeDBN, Model, Net, has_weights
from deepstrata.schemas.sparse import PSD, SparseCoding
from deepstrata.schemas.trees import Array, Tree


@singledispatch
def recognition(params: Tree) -> Tree:
    """Return what a feed-forward net keeps of a layer's parameters; arrays are shared."""
    return params


@recognition.register
def _(params: RBMParams) -> DenseParams:
    return DenseParams(params.weights, params.hidden_bias)


@recognition.register
def _(params: AutoencoderParams) -> tuple[Tree, ...]:
    return params.encoder


recognition.register(PSDParams, psd.encoder)


def feed_forward(params: tuple[Tree, ...]) -> tuple[Tree, ...]:
    """Return the feed-forward net of recognition weights; arrays are shared, not copied."""
    return tuple(map(recognition, params))


def _is_pretrained(params: Tree) -> bool:
    return recognition(params) is not params


def stack(params: tuple[Tree, ...]) -> tuple[Tree, ...]:
    """Return the layers of a net up to the last that is as it learned by itself.

    Layers without weights may lie between and below those that learned.
    """
    bottom = list(takewhile(lambda own: not own or _is_pretrained(own), params))
    while bottom and not bottom[-1]:
        bottom.pop()
    return tuple(bottom)


def invertible(params: tuple[Tree, ...]) -> range:
    """Return the numbers of a stack's lowest layers that make their input again from their code."""
    own = stack(params)
    start = sum(1 for _ in takewhile(lambda layer: not layer, own))
    return range(start, start + sum(1 for _ in takewhile(bool, own[start:])))


@singledispatch
def assemble(model: Model, layers: tuple[Tree, ...]) -> Tree:
    """Return a model's parameters from those of the layers that were trained one by one."""
    return layers


@assemble.register
def _(model: Net, layers: tuple[Tree, ...]) -> tuple[Tree, ...]:
    learned = iter(layers)
    return tuple(next(learned) if has_weights(layer) else () for layer in model.layers)


@assemble.register
def _(model: GenerativeDBN, layers: tuple[RBMParams, ...]) -> GenerativeParams:
    return updown.untie(layers)


@singledispatch
def decode(model: Any, params: Tree, code: Array, visible: int) -> Array:
    """Return what a layer that learned by itself makes of codes: (N, H) -> (N, visible)."""
    raise NotImplementedError(f"no decoder is registered for {type(model).__name__}")


@decode.register
def _(model: RBM, params: RBMParams, code: Array, visible: int) -> Array:
    return rbm.visible_mean(model, params, code)


decode.register(Autoencoder, autoencoder.decode)
decode.register(SparseCoding, sparse_coding.decode)
decode.register(PSD, sparse_coding.decode)
decode.register(ConvolutionalPSD, convolutional_psd.decode)
decode.register(ConvolutionalRBM, convolutional_rbm.visible_mean)
decode.register(GenerativeDBN, updown.decode)


@singledispatch
def filters(params: Tree) -> list[Array]:
    """Return what the units of each layer look for, (H, V), from the bottom up.

    The list ends below the first layer whose weights are no matrix.
    """
    return []


@filters.register(tuple)
def _(params: tuple[Tree, ...]) -> list[Array]:
    found: list[Array] = []
    for own in params:
        above = filters(own)
        if not above:
            break
        found += above
    return found


@filters.register(DenseParams)
@filters.register(RBMParams)
@filters.register(EncoderParams)
def _(params: DenseParams | RBMParams | EncoderParams) -> list[Array]:
    return [params.weights.T] if params.weights.ndim == 2 else []


@filters.register(PSDParams)
@filters.register(SparseCodingParams)
def _(params: PSDParams | SparseCodingParams) -> list[Array]:
    return [params.dictionary] if params.dictionary.ndim == 2 else []


@filters.register
def _(params: AutoencoderParams) -> list[Array]:
    return filters(params.encoder)


@filters.register
def _(params: GenerativeParams) -> list[Array]:
    features = params.recognition[-1].bias.shape[0]
    return [*filters(params.recognition), params.memory.weights[:features].T]


@singledispatch
def kernels(layer: Any, params: Tree) -> Array | None:
    """Return what the maps of a convolutional layer look for, (M, C, *kernel); None of others."""
    return None


@kernels.register(Convolution)
@kernels.register(ConvolutionalRBM)
def _(layer: Convolution | ConvolutionalRBM, params: DenseParams | RBMParams) -> Array:
    return _maps_first(params.weights)


@kernels.register
def _(layer: ConvolutionalPSD, params: PSDParams | EncoderParams) -> Array:
    """Of a fine-tuned one, the filters of its encoder are left."""
    return _maps_first(getattr(params, "dictionary", params.weights))


@kernels.register
def _(layer: Autoencoder, params: Tree) -> Array | None:
    encoder: Any = getattr(params, "encoder", params)
    return kernels(layer.encoder[0], encoder[0])


def _maps_first(weights: Array) -> Array:
    return namespace(weights).moveaxis(namespace(weights).moveaxis(weights, -1, 0), -1, 1)
