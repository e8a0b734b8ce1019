"""Layers: the shapes that they take and give, and what is refused when a network is declared."""

import pytest
from pydantic import ValidationError

from deepstrata.schemas.layers import (
    Activation,
    ContrastNormalisation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    LocallyConnected,
    Pooling,
    Rectification,
    Softmax,
    TransposedConvolution,
)
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import Network
from deepstrata.schemas.shapes import shape_after

IMAGE, SOUND = (9, 8, 6), (20, 4)
LENET = Network(
    input_shape=(32, 32, 1),
    layers=(
        Convolution(name="c1", maps=6, kernel=(5, 5)),
        Pooling(size=(2, 2), function="average"),
        Convolution(name="c3", maps=3, kernel=(5, 5), table=((0, 1, 2), (1, 2, 3), (5,))),
        Pooling(size=(2, 2)),
        Dense(units=84, activation="scaled_tanh"),
        Softmax(classes=10),
    ),
)


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (Dense(units=5), IMAGE, (5,)),
        (Softmax(classes=3), (7,), (3,)),
        (Flatten(), IMAGE, (432,)),
        (Dropout(rate=0.2), IMAGE, IMAGE),
        (Activation(function="relu"), SOUND, SOUND),
        (Rectification(), IMAGE, IMAGE),
        (ContrastNormalisation(size=5), IMAGE, IMAGE),
        (Convolution(maps=7, kernel=(3, 2)), IMAGE, (7, 7, 7)),
        (Convolution(maps=7, kernel=(3, 2), stride=2), IMAGE, (4, 4, 7)),
        (Convolution(maps=7, kernel=(3, 2), stride=(1, 3)), IMAGE, (7, 3, 7)),
        (Convolution(maps=7, kernel=(3, 2), padding="same"), IMAGE, (9, 8, 7)),
        (Convolution(maps=7, kernel=(3, 3), padding="same", dilation=2), IMAGE, (9, 8, 7)),
        (Convolution(maps=7, kernel=(3, 2), padding=1), IMAGE, (9, 9, 7)),
        (Convolution(maps=4, kernel=(5,), groups=2), SOUND, (16, 4)),
        (Convolution(maps=7, kernel=(3, 2), pooling=Pooling(size=(2, 3))), IMAGE, (3, 2, 7)),
        (TransposedConvolution(maps=2, kernel=(3, 4), stride=2), IMAGE, (19, 18, 2)),
        (TransposedConvolution(maps=2, kernel=(4,), stride=2, padding=1), SOUND, (40, 2)),
        (LocallyConnected(maps=2, kernel=(3, 3), stride=3), IMAGE, (3, 2, 2)),
        (Pooling(size=(2, 3)), IMAGE, (4, 2, 6)),
        (Pooling(size=(3, 3), stride=2), IMAGE, (4, 3, 6)),
        (RBM(hidden=3), IMAGE, (3,)),
    ],
)
def test_shapes(layer, shape, expected) -> None:
    assert shape_after(layer, shape) == expected


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (
            Convolution(maps=1, kernel=(3, 3)),
            (28, 28),
            r"got \(28, 28\); .*input_shape=\(28, 28, 1\)",
        ),
        (Convolution(maps=1, kernel=(3, 3)), (784,), "say how the features of a sample lie"),
        (Convolution(maps=1, kernel=(3,)), IMAGE, r"expected samples \(place, channel\)"),
        (Convolution(maps=1, kernel=(10, 3)), IMAGE, r"at least \(10, 3\) places .* got \(9, 8\)"),
        (Convolution(maps=1, kernel=(3, 3), stride=(2,)), IMAGE, "a stride for each dimension"),
        (
            Convolution(maps=8, kernel=(3, 3), groups=4),
            IMAGE,
            "that 4 groups divide, got 6",
        ),
        (
            Convolution(maps=2, kernel=(3, 3), table=((0,), (1, 6))),
            IMAGE,
            "row 1 names channel 6; there are channels 0 to 5",
        ),
        (
            Convolution(maps=1, kernel=(3, 3), pooling=Pooling(size=(2, 7))),
            IMAGE,
            r"its pooling: expected at least \(2, 7\) places for one window, got \(7, 6\)",
        ),
        (
            Convolution(maps=1, kernel=(3, 3), pooling=Pooling(size=(2,))),
            IMAGE,
            r"its pooling: expected samples \(place, channel\)",
        ),
        (TransposedConvolution(maps=1, kernel=(2, 2), padding=9), IMAGE, "padding=9 cuts off all"),
        (LocallyConnected(maps=1, kernel=(3, 9)), IMAGE, r"at least \(3, 9\) places"),
        (Pooling(size=(2, 9)), IMAGE, "for one window, got"),
        (ContrastNormalisation(), (784,), "expected samples"),
    ],
)
def test_what_a_layer_cannot_take_is_said(layer, shape, message) -> None:
    with pytest.raises(ValueError, match=message):
        shape_after(layer, shape)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"maps": 3, "groups": 2}, "maps that 2 groups divide evenly, found maps=3"),
        ({"maps": 2, "table": ((0,),)}, "a row for each of the 2 maps, found 1 rows"),
        ({"maps": 2, "groups": 2, "table": ((0,), (1,))}, "a connection table or groups"),
        ({"maps": 2, "kernel": (3, 3, 3)}, "kernel"),
        ({"maps": 2, "pooling": Pooling(size=(2, 2), name="p")}, "has no name, found 'p'"),
        ({"maps": 2, "stride": 0}, "stride"),
        ({"maps": 2, "activation": "sine"}, "activation"),
    ],
)
def test_a_convolution_that_contradicts_itself_is_refused(fields, message) -> None:
    with pytest.raises(ValidationError, match=message):
        Convolution(**({"kernel": (3, 3)} | fields))


def test_a_network_is_checked_when_it_is_declared() -> None:
    assert Network.model_validate_json(LENET.model_dump_json()) == LENET
    with pytest.raises(ValidationError, match=r"layer 2 'c3' \(convolution\): expected at least"):
        Network(layers=LENET.layers, input_shape=(12, 12, 1))
    with pytest.raises(ValidationError, match=r"layer 0 'c1' \(convolution\): .*input_shape"):
        Network(layers=LENET.layers)
    twice = (Dense(units=2, name="a"), Dense(units=2, name="a"))
    with pytest.raises(ValidationError, match="two layers are called 'a'"):
        Network(layers=twice)


def test_an_even_window_has_no_centre() -> None:
    with pytest.raises(ValidationError, match="expected an odd size, found 4"):
        ContrastNormalisation(size=4)
