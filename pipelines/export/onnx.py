"""A trained model as one ONNX file: preprocessing, layers, softmax; the number of samples is free.

Bai, Lu, Zhang et al.: Open Neural Network Exchange (https://onnx.ai/onnx). The input has the name
and the shape of the features that the model was trained on, in float32; the outputs are ``code``
and, of a model that classifies, ``probability``, of one that fits targets, ``prediction``.
"""

import math
from functools import singledispatch

import numpy as np
import onnx
from onnx import TensorProto, helper

from deepstrata.ops import network, pretraining, psd, tying
from deepstrata.ops.autoencoder import AutoencoderParams
from deepstrata.ops.dense import DenseParams
from deepstrata.ops.psd import PSDParams
from deepstrata.ops.rbm import RBMParams
from deepstrata.ops.samples import sample_shape
from deepstrata.ops.updown import GenerativeParams
from deepstrata.pipelines.environment import package_version
from deepstrata.pipelines.export import spatial
from deepstrata.pipelines.export.layers import as_rows, write
from deepstrata.pipelines.export.nodes import Nodes
from deepstrata.pipelines.model import TrainedEncoder
from deepstrata.schemas.autoencoders import Autoencoder, encoder_layers
from deepstrata.schemas.convolutional import ConvolutionalPSD, ConvolutionalRBM
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.layers import Dense
from deepstrata.schemas.machines import RBM, feed_forward_layer
from deepstrata.schemas.models import (
    MSDA,
    GenerativeDBN,
    Model,
    Net,
    Network,
    fits_targets,
    is_supervised,
)
from deepstrata.schemas.shapes import Shape, shape_after, shapes_through
from deepstrata.schemas.sparse import PSD
from deepstrata.schemas.trees import Tree, nbytes
from deepstrata.storage import stores

__all__ = ["outputs", "save_onnx", "spatial", "to_onnx"]

OPSET, IR_VERSION = 18, 8  #: of ONNX 1.13 (2022), which runtimes of today all read
SAMPLES = "samples"  #: name of the dimension that is free
LARGEST = 2**31 - 2**20  #: bytes of weights, below what one protobuf message may have
CODE, PROBABILITY, PREDICTION = "code", "probability", "prediction"


@singledispatch
def outputs(model: Model, params: Tree, x: str, visible: int, graph: Nodes) -> dict[str, str]:
    """Add a model to a graph and return its outputs: their names outside, and inside of it.

    Parameters
    ----------
    x
        Name of the prepared samples (N, ``visible``).

    Raises
    ------
    DeclarationError
        Nothing is known of the model.
    """
    raise DeclarationError(
        f"a model of the kind {model.kind!r} has no form in ONNX; export it as safetensors"
    )


@outputs.register
def _(model: RBM, params: RBMParams, x: str, visible: int, graph: Nodes) -> dict[str, str]:
    hidden = pretraining.recognition(params)
    return {CODE: write(feed_forward_layer(model), hidden, x, (visible,), graph)}


@outputs.register
def _(
    model: ConvolutionalPSD | ConvolutionalRBM,
    params: PSDParams | RBMParams,
    x: str,
    visible: int,
    graph: Nodes,
) -> dict[str, str]:
    layer = model.model_copy(update={"input_shape": None})
    net = Network(layers=(layer,), input_shape=model.input_shape)
    return outputs(net, (params,), x, visible, graph)


@outputs.register
def _(model: PSD, params: PSDParams, x: str, visible: int, graph: Nodes) -> dict[str, str]:
    return {CODE: write(model, psd.encoder(params), x, (visible,), graph)}


@outputs.register
def _(
    model: Autoencoder, params: AutoencoderParams, x: str, visible: int, graph: Nodes
) -> dict[str, str]:
    code = write(model, params.encoder, x, (visible,), graph)
    return {CODE: as_rows(graph, code, shape_after(model, (visible,)))}


@outputs.register
def _(
    model: MSDA, params: tuple[DenseParams, ...], x: str, visible: int, graph: Nodes
) -> dict[str, str]:
    made = [x]
    for own in params:
        inputs, units = own.weights.shape
        made.append(write(Dense(units=units, activation="tanh"), own, made[-1], (inputs,), graph))
    return {CODE: graph.call("Concat", *made, axis=1)}


@write.register
def _(layer: Autoencoder, params: Tree, x: str, shape: Shape, graph: Nodes) -> str:
    """As a layer it is its encoder."""
    net = encoder_layers(layer)
    shapes = shapes_through(net, layer.input_shape or shape)
    if shapes[0] != shape:
        x = graph.call("Reshape", x, graph.integers((-1, *shapes[0])))
    for inner, own, taken in zip(net, params, shapes, strict=False):
        x = write(inner, own, x, taken, graph)
    return x


@outputs.register
def _(model: Net, params: Tree, x: str, visible: int, graph: Nodes) -> dict[str, str]:
    layers = network.feed_forward_layers(model)
    shapes = shapes_through(layers, sample_shape(model, visible))
    if shapes[0] != (visible,):
        x = graph.call("Reshape", x, graph.integers((-1, *shapes[0])))
    made = [x]
    own_weights = tying.filled(layers, pretraining.feed_forward(params))
    for layer, own, shape in zip(layers, own_weights, shapes, strict=False):
        made.append(write(layer, own, made[-1], shape, graph))
    found = {CODE: as_rows(graph, made[model.body], shapes[model.body])}
    if is_supervised(model):
        name = PREDICTION if fits_targets(model) else PROBABILITY
        found[name] = as_rows(graph, made[-1], shapes[-1])
    return found


@outputs.register
def _(
    model: GenerativeDBN, params: GenerativeParams, x: str, visible: int, graph: Nodes
) -> dict[str, str]:
    for layer, own in zip(model.layers, params.recognition, strict=True):
        x = write(feed_forward_layer(layer), own, x, own.weights.shape[:1], graph)
    return {CODE: x, PROBABILITY: _probability(params.memory, x, model.classes, graph)}


def _probability(memory: RBMParams, x: str, classes: int, graph: Nodes) -> str:
    """Return the softmax of minus the free energy of each class, as ``ops.memory`` has it."""
    features, labels = np.split(memory.weights, [-classes])
    into = graph.call("Gemm", x, graph.constant(features), graph.constant(memory.hidden_bias))
    into = graph.call("Unsqueeze", into, graph.integers([1]))  # (N, 1, H), and (K, H) beside it
    units = graph.call("Softplus", graph.call("Add", into, graph.constant(labels)))
    energies = graph.call("ReduceSum", units, graph.integers([2]), keepdims=0)
    bias = graph.constant(memory.visible_bias[-classes:])
    return graph.call("Softmax", graph.call("Add", energies, bias), axis=1)


def to_onnx(encoder: TrainedEncoder) -> onnx.ModelProto:
    """Return a model with its preprocessing, checked.

    Raises
    ------
    DeclarationError
        A layer has no form in ONNX, or there are more weights than one file can hold.
    """
    info, graph = encoder.info, Nodes()
    if nbytes(encoder.params) > LARGEST:
        raise DeclarationError(
            f"{nbytes(encoder.params) / 2**30:.1f} GiB of weights: an ONNX file holds 2 at most; "
            "export the model as safetensors"
        )
    x = as_rows(graph, info.features, info.feature_shape)
    for shift, divisor in encoder.affine:
        x = graph.call("Sub", x, graph.constant(shift))
        x = graph.call("Div", x, graph.constant(divisor))
    if info.missing == "absent":
        x = graph.call("Where", graph.call("IsNaN", x), graph.number(0.0), x)
    found = outputs(info.model, encoder.params, x, info.visible, graph)
    for name, inside in found.items():
        graph.nodes.append(helper.make_node("Identity", [inside], [name], name))
    widths = {
        CODE: encoder.code_width,
        PROBABILITY: getattr(info.model, "classes", None),
        PREDICTION: math.prod(info.target_shape),
    }
    made = helper.make_model(
        helper.make_graph(
            graph.needed(list(found)),
            info.pipeline or info.model.kind,
            [_tensor(info.features, info.feature_shape)],
            [_tensor(name, (int(widths[name] or 0),)) for name in found],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="deepstrata",
        producer_version=package_version("deepstrata"),
    )
    helper.set_model_props(made, {"model.json": info.to_json()})
    onnx.checker.check_model(made, full_check=True)
    return made


def _tensor(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [SAMPLES, *shape])


def save_onnx(path: str, encoder: TrainedEncoder) -> None:
    """Write a model to a file, whole or not at all; see ``to_onnx``."""
    stores.write_bytes(path, to_onnx(encoder).SerializeToString())
