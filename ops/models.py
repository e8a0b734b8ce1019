"""Models as tables of functions, chosen by the declaration's type.

A deep belief net's parameters are a tuple with one entry a layer. Straight after pretraining an
RBM's entry is ``RBMParams``; ``pretraining.feed_forward`` keeps its recognition weights as
``DenseParams``, and backpropagation works on those (Hinton & Salakhutdinov 2006).

Letters: N samples, V visible units, L layers, K classes.
"""

import math
from functools import singledispatch
from typing import Any

import numpy as np

from deepstrata.ops import (
    autoencoder,
    convolutional_psd,
    convolutional_rbm,
    layers,
    marginalised,
    memory,
    network,
    pretraining,
    psd,
    rbm,
    reconstruction,
    sparse_coding,
    updown,
)
from deepstrata.ops.backend import Backend, Scratch, device_array, namespace
from deepstrata.ops.initial import fresh
from deepstrata.ops.kernels import squared_error
from deepstrata.ops.partials import Batch, Into, Partial, present
from deepstrata.ops.psd import PSDParams
from deepstrata.ops.random import normal, uniform
from deepstrata.ops.rbm import RBMParams
from deepstrata.ops.sparse_coding import SparseCodingParams
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.convolutional import ConvolutionalPSD, ConvolutionalRBM, placed
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.machines import RBM, AssociativeMemory
from deepstrata.schemas.models import MSDA, GenerativeDBN, Learner, Model, Net, Trainable
from deepstrata.schemas.shapes import shape_after
from deepstrata.schemas.sparse import PSD, SparseCoding
from deepstrata.schemas.trees import Array, Tree
from deepstrata.schemas.tying import check_ties


@singledispatch
def shapes(model: Trainable, visible: int) -> Tree:
    """Return the parameters' tree with an ``ArraySpec`` for each array; ``visible`` inputs.

    Raises
    ------
    DeclarationError
        The model takes other samples, or weights that layers share do not fit them.
    """
    raise NotImplementedError(f"no model is registered for {type(model).__name__}")


@shapes.register
def _(model: Net, visible: int) -> tuple[Tree, ...]:
    inputs = network.input_shapes(model, visible)
    try:
        check_ties(model.layers, inputs[0])
    except ValueError as error:
        raise DeclarationError(str(error)) from None
    return tuple(
        shapes(placed(layer, shape), math.prod(shape))
        if isinstance(layer, Learner)
        else layers.specs(layer, shape)
        for layer, shape in zip(model.layers, inputs, strict=False)
    )


shapes.register(RBM, rbm.shapes)
shapes.register(AssociativeMemory, memory.shapes)
shapes.register(Autoencoder, autoencoder.shapes)
shapes.register(MSDA, marginalised.shapes)
shapes.register(SparseCoding, sparse_coding.shapes)
shapes.register(PSD, psd.shapes)
shapes.register(ConvolutionalPSD, convolutional_psd.shapes)
shapes.register(ConvolutionalRBM, convolutional_rbm.shapes)
shapes.register(GenerativeDBN, updown.shapes)


@singledispatch
def init(model: Trainable, visible: int, key: Key, backend: Backend = "numpy") -> Tree:
    """Return fresh parameters; every weight has its own address, so tiles agree with the whole."""
    raise NotImplementedError(f"no model is registered for {type(model).__name__}")


@init.register
def _(model: Net, visible: int, key: Key, backend: Backend = "numpy") -> tuple[Tree, ...]:
    return tuple(
        init(placed(layer, shape), math.prod(shape), fold(key, "layer", i), backend)
        if isinstance(layer, Learner)
        else fresh(layer, shape, fold(key, "layer", i), backend)
        for i, (layer, shape) in enumerate(
            zip(model.layers, network.input_shapes(model, visible), strict=False)
        )
    )


init.register(RBM, rbm.init)
init.register(AssociativeMemory, memory.init)
init.register(Autoencoder, autoencoder.init)
init.register(SparseCoding, sparse_coding.init)
init.register(PSD, psd.init)
init.register(ConvolutionalPSD, convolutional_psd.init)
init.register(ConvolutionalRBM, convolutional_rbm.init)
init.register(GenerativeDBN, updown.init)


@singledispatch
def carry(model: Trainable, visible: int, key: Key, backend: Backend = "numpy") -> Tree:
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
    model: Trainable,
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
gradient.register(AssociativeMemory, memory.contrastive_divergence)
gradient.register(Autoencoder, reconstruction.gradient)
gradient.register(SparseCoding, sparse_coding.gradient)
gradient.register(PSD, psd.gradient)
gradient.register(ConvolutionalPSD, psd.gradient)
gradient.register(ConvolutionalRBM, convolutional_rbm.contrastive_divergence)
gradient.register(GenerativeDBN, updown.up_down)
gradient.register(Net, network.gradient)


@singledispatch
def encode(model: Trainable, params: Tree, x: Array, layer: int | None = None) -> Array:
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
encode.register(SparseCoding, sparse_coding.encode)
encode.register(PSD, psd.encode)
encode.register(ConvolutionalPSD, convolutional_psd.encode)
encode.register(ConvolutionalRBM, convolutional_rbm.hidden_mean)
encode.register(GenerativeDBN, updown.encode)
encode.register(Net, network.encode)


@singledispatch
def code_width(model: Trainable, visible: int, layer: int | None = None) -> int:
    """Return the length of the codes that ``encode`` gives for samples of ``visible`` features."""
    return math.prod(shape_after(model, (visible,)))


code_width.register(Autoencoder, autoencoder.code_width)
code_width.register(MSDA, marginalised.code_width)
code_width.register(GenerativeDBN, updown.code_width)
code_width.register(Net, network.code_width)


def widest(model: Trainable, visible: int) -> int:
    """Return the most numbers that a model's input, or a layer, has of a sample."""
    if isinstance(model, Net):
        return max(map(math.prod, network.input_shapes(model, visible)))
    return max(visible, code_width(model, visible))


@singledispatch
def predict(model: Model, params: Tree, x: Array) -> Array:
    """Return class probabilities, or what targets are expected to be: (N, V) -> (N, K).

    Raises
    ------
    DeclarationError
        The model learns neither classes nor targets.
    """
    raise DeclarationError(network.NOTHING_LEARNED.format(model=model))


predict.register(Net, network.predict)
predict.register(GenerativeDBN, updown.predict)


@singledispatch
def evaluate(model: Trainable, params: Tree, batch: Batch) -> dict[str, Any]:
    """Return measures summed over the samples, and their number ``n``.

    An RBM: ``squared_error`` of reconstructions, ``free_energy``. An autoencoder:
    ``squared_error`` and ``loss`` of reconstructions. Sparse models: ``squared_error``,
    ``nonzero_share`` and ``energy`` of inferred codes, a PSD ``prediction_distance`` and
    ``predicted_squared_error`` too. A net as pretrained: ``squared_error`` of the pass up and
    down. A net that classifies: ``loss`` (cross-entropy), ``errors`` and ``confusion`` (K, K),
    true classes down, predicted across; one that generates too: ``squared_error`` besides.

    Raises
    ------
    DataError
        Labels are missing or out of range.
    """
    raise NotImplementedError(f"no model is registered for {type(model).__name__}")


@evaluate.register(RBM)
@evaluate.register(ConvolutionalRBM)
def _(model: RBM | ConvolutionalRBM, params: RBMParams, batch: Batch) -> dict[str, Any]:
    x = present(batch)
    energies = rbm.free_energy(model, params, x, batch.mask)
    xp = namespace(energies)
    return {
        "squared_error": float(_error(batch, x, reconstruct(model, params, x))),
        "free_energy": float(xp.sum(xp.astype(energies, xp.float64))),
        "n": x.shape[0],
    }


evaluate.register(AssociativeMemory, memory.evaluate)
evaluate.register(Autoencoder, reconstruction.evaluate)
evaluate.register(SparseCoding, sparse_coding.evaluate)
evaluate.register(PSD, psd.evaluate)
evaluate.register(ConvolutionalPSD, convolutional_psd.evaluate)
evaluate.register(GenerativeDBN, updown.evaluate)
evaluate.register(Net, network.evaluate)


def _error(batch: Batch, x: Array, y: Array) -> Array | float:
    """Return the squared error over the values that are present."""
    return squared_error(x, present(batch._replace(x=y)))


@singledispatch
def reconstruct(model: Model, params: Tree, x: Array) -> Array:
    """Return what a model makes of samples when it has only their codes: (N, V) -> (N, V).

    Of a net, the lowest layers that were pretrained are passed up and down, by means, up to the
    first that has no way back, such as ``Pooling``. Where others lie below them, it is what those
    give that is made again.
    """
    return pretraining.decode(model, params, encode(model, params, x), x.shape[1])


reconstruct.register(Net, network.reconstruct)


@singledispatch
def fill(model: Model, params: Tree, batch: Batch) -> Array:
    """Return what a model makes of samples with values absent, which it sees as 0: (N, V)."""
    return reconstruct(model, params, present(batch))


@fill.register
def _(model: SparseCoding, params: SparseCodingParams, batch: Batch) -> Array:
    x = present(batch)
    code = sparse_coding.codes(model, params, x, batch.mask)
    return sparse_coding.decode(model, params, code, x.shape[1])


@singledispatch
def project_in_place(model: Trainable, params: Tree) -> None:
    """Bring parameters that were stepped or averaged back to where the model wants them.

    Most models leave them where they are. Done after every step, local or shared.
    """


@project_in_place.register
def _(model: SparseCoding, params: SparseCodingParams) -> None:
    sparse_coding.hold_in_ball(params.dictionary)


@project_in_place.register
def _(model: PSD, params: PSDParams) -> None:
    sparse_coding.hold_on_sphere(params.dictionary)


@project_in_place.register
def _(model: ConvolutionalPSD, params: PSDParams) -> None:
    convolutional_psd.hold_on_sphere(params.dictionary)
