"""Layers that use the weights of others: what fits, and what is refused when it is declared."""

import pytest
from pydantic import ValidationError

from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.layers import (
    Convolution,
    Dense,
    Flatten,
    Pooling,
    Softmax,
    TransposedConvolution,
)
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import DBN, Network
from deepstrata.schemas.tying import numbered, owner_of

TOP = Softmax(classes=3)
IMAGE = (9, 8, 4)
GOOD = {
    "square": Network(layers=(Dense(units=5), Dense(units=5), Dense(units=5, weights_of="1"), TOP)),
    "by name": Network(
        layers=(
            Dense(units=5, name="low"),
            Dense(units=4, name="high"),
            Dense(units=5, weights_of="high", transposed=True),
            TOP,
        )
    ),
    "of the input": Network(
        layers=(Dense(units=5), Flatten(), Dense(units=7, weights_of="0", transposed=True)),
        input_shape=(7,),
    ),
    "of an input of unknown length": Network(
        layers=(Flatten(), Dense(units=5), Dense(units=7, weights_of="1", transposed=True))
    ),
    "machine": DBN(layers=(RBM(hidden=5), Dense(units=7, weights_of="0", transposed=True), TOP)),
    "convolutions": Network(
        layers=(
            Convolution(maps=4, kernel=(3, 3), padding="same", name="c"),
            Convolution(maps=4, kernel=(3, 3), weights_of="c", pooling=Pooling(size=(2, 2))),
        ),
        input_shape=IMAGE,
    ),
    "transposed convolution": Network(
        layers=(
            Convolution(maps=5, kernel=(3, 2), stride=2),
            TransposedConvolution(maps=4, kernel=(3, 2), stride=2, weights_of="0"),
        ),
        input_shape=IMAGE,
    ),
}


@pytest.mark.parametrize("net", GOOD.values(), ids=GOOD)
def test_what_fits_comes_back_from_json(net) -> None:
    assert type(net).model_validate_json(net.model_dump_json()) == net
    assert any(owner_of(net.layers, i) is not None for i in range(len(net.layers)))


def test_names_become_numbers() -> None:
    layers = GOOD["by name"].layers
    assert [owner_of(layers, i) for i in range(4)] == [None, None, 1, None]
    assert numbered(layers)[2].weights_of == "1"
    assert numbered(layers)[:2] == layers[:2]


TABLE = ((0, 1), (2,), (3,), (0,))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Dense(units=5), Dense(units=5, weights_of="x")), r"no layer 'x'; there are: 0, 1"),
        ((Dense(units=5, name="a", weights_of="a"),), "a layer cannot be tied to itself"),
        ((Dense(units=5, weights_of="1"), Dense(units=5)), "expected a layer below, found layer 1"),
        (
            (
                Dense(units=5),
                Dense(units=5),
                Dense(units=5, weights_of="1", name="b"),
                Dense(units=5, weights_of="b"),
            ),
            "layer 3 .dense.: weights_of='b': that layer uses the weights of '1' itself",
        ),
        (
            (Dense(units=5), Dense(units=4), Dense(units=6, weights_of="1", transposed=True)),
            r"layer 2 \(dense\): .*expected weights \(4, 6\), found \(4, 5\) once transposed",
        ),
        (
            (Dense(units=5), Dense(units=4), Dense(units=4, weights_of="0")),
            r"expected weights \(4, 4\), found \(288, 5\)",
        ),
        ((Flatten(), Dense(units=4, weights_of="0")), "a layer of the kind 'flatten' has no"),
        (
            (
                Convolution(maps=4, kernel=(3, 3), padding="same"),
                Convolution(maps=4, kernel=(3, 2), weights_of="0"),
            ),
            r"expected weights \(3, 2, 4, 4\), found \(3, 3, 4, 4\)",
        ),
        (
            (
                Convolution(maps=4, kernel=(3, 3), table=TABLE),
                Convolution(maps=4, kernel=(3, 3), weights_of="0"),
            ),
            "expected the connection table of the owner",
        ),
    ],
)
def test_what_does_not_fit_is_named(layers, message) -> None:
    with pytest.raises(ValidationError, match=message):
        Network(layers=layers, input_shape=IMAGE)


def test_what_a_length_that_is_not_known_leaves_open() -> None:
    with pytest.raises(ValidationError, match=r"expected weights \(4, 4\), found \(\?, 5\)"):
        Network(layers=(Dense(units=5), Dense(units=4), Dense(units=4, weights_of="0")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"transposed": True}, "takes the weights of another layer: name weights_of"),
        ({"weights_of": "0", "initial_weights": 0.1}, "initial_weights=0.1 has no effect"),
    ],
)
def test_a_setting_without_effect_is_refused(fields, message) -> None:
    with pytest.raises(ValidationError, match=message):
        Dense(units=3, **fields)


def test_an_autoencoder_is_tied_as_a_whole() -> None:
    decoder = (Dense(units=3, weights_of="0", transposed=True),)
    with pytest.raises(ValidationError, match="tied to its encoder with tied=True"):
        Autoencoder(encoder=(Dense(units=2),), decoder=decoder)
