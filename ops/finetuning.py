"""How fine-tuning begins: with a net of fresh weights, or with what was trained before.

Hinton & Salakhutdinov (2006), "Reducing the dimensionality of data with neural networks".
"""

from functools import singledispatch
from typing import Any

from deepstrata.ops import autoencoder, models, network, pretraining, updown
from deepstrata.ops.autoencoder import AutoencoderParams
from deepstrata.ops.backend import Backend
from deepstrata.ops.initial import fresh
from deepstrata.ops.updown import GenerativeParams
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.layers import Softmax
from deepstrata.schemas.models import GenerativeDBN, Model, Net, is_supervised
from deepstrata.schemas.trees import Tree, flatten

SMALL = 0.01  #: standard deviation of softmax weights put on pretrained layers
NOTHING_TO_LEARN = (
    "fine-tuning learns classes, targets, or to reconstruct: the model must be a DBN or a Network "
    "with a Softmax, a Network(loss=...), an Autoencoder or a GenerativeDBN"
)


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
        The model has nothing to learn as a whole, or the shapes do not fit it.
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
        net = models.init(model, visible, key, backend)
        if pretrained is not None:
            net = autoencoder.unroll(net, pretrained)
    _check_shapes(model, models.shapes(model, visible), net)
    return net


@start_net.register
def _(
    model: Net,
    pretrained: tuple[Tree, ...] | None,
    visible: int,
    key: Key,
    backend: Backend = "numpy",
) -> tuple[Tree, ...]:
    if not is_supervised(model):
        raise DeclarationError(NOTHING_TO_LEARN)
    given = () if pretrained is None else pretrained
    net = list(pretraining.feed_forward(pretraining.stack(given) or given))
    inputs = network.input_shapes(model, visible)
    for i, layer in list(enumerate(network.feed_forward_layers(model)))[len(net) :]:
        scale = SMALL if given and isinstance(layer, Softmax) else None
        net.append(fresh(layer, inputs[i], fold(key, "layer", i), backend, scale))
    wanted = pretraining.feed_forward(models.shapes(model, visible))
    for i, (layer, spec, found) in enumerate(zip(model.layers, wanted, net, strict=True)):
        _check_shapes(layer, spec, found, f"layer {i} ")
    return tuple(net)


@start_net.register
def _(
    model: GenerativeDBN,
    pretrained: GenerativeParams | None,
    visible: int,
    key: Key,
    backend: Backend = "numpy",
) -> GenerativeParams:
    net = updown.init(model, visible, key, backend) if pretrained is None else pretrained
    _check_shapes(model, updown.shapes(model, visible), net)
    return net


def _check_shapes(model: Any, wanted: Tree, found: Tree, where: str = "") -> None:
    """Compare the arrays of two trees of one structure, by their paths."""
    for name, expected in flatten(wanted).items():
        leaf = flatten(found)[name]
        if tuple(expected.shape) != tuple(leaf.shape):
            raise DeclarationError(
                f"{where}({model.kind}): expected {name} {tuple(expected.shape)}, "
                f"found {tuple(leaf.shape)}"
            )
