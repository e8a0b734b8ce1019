"""Discriminative pretraining: the nets on the way, and what is refused."""

import pytest
from pydantic import ValidationError

from deepstrata.schemas.datasets import ZarrSource
from deepstrata.schemas.growing import DiscriminativePretrain
from deepstrata.schemas.layers import Convolution, Dense, Dropout, Flatten, Pooling, Softmax
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import DBN, Network
from deepstrata.schemas.optimisers import SGD, Adam, ReduceOnPlateau
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.stages import Encode, Evaluate, FineTune, Split

TOP = Softmax(classes=3)
DEEP = Network(layers=(Dense(units=5), Dense(units=6), Dense(units=7), TOP))
SOURCE = ZarrSource(path="a.zarr", features="x", labels="y")


def test_a_net_grows_by_a_hidden_layer_below_its_softmax() -> None:
    stage = DiscriminativePretrain(model=DEEP)
    assert [net.layers for net in stage.grown] == [(*DEEP.layers[:end], TOP) for end in (1, 2, 3)]
    assert stage.grown[-1] == DEEP


def test_layers_without_weights_come_with_the_one_below() -> None:
    convolution = Convolution(maps=2, kernel=(2, 2))
    layers = (Flatten(), Dense(units=5), Dropout(), Dense(units=6), Dropout(), TOP)
    stage = DiscriminativePretrain(model=Network(layers=layers))
    assert [net.layers for net in stage.grown] == [(*layers[:3], TOP), layers]
    layers = (convolution, Pooling(size=(2, 2)), convolution, Dense(units=4), TOP)
    stage = DiscriminativePretrain(model=Network(layers=layers, input_shape=(9, 9, 1)))
    assert [len(net.layers) for net in stage.grown] == [3, 4, 5]
    assert all(net.input_shape == (9, 9, 1) for net in stage.grown)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": Network(layers=DEEP.layers[:2])}, "whose last layer is a Softmax"),
        ({"model": Network(layers=(Dense(units=5), TOP))}, "at least 2 hidden layers .* found 1"),
        ({"model": Network(layers=(Flatten(), TOP))}, "at least 2 hidden layers .* found 0"),
        ({"optimiser": (SGD(learning_rate=0.1),)}, "one for each of the 3 hidden layers; found 1"),
    ],
)
def test_what_cannot_grow_is_refused(fields, message) -> None:
    with pytest.raises(ValidationError, match=message):
        DiscriminativePretrain(**{"model": DEEP} | fields)


def test_a_stage_comes_back_from_json() -> None:
    rates = (Adam(learning_rate=0.1), SGD(learning_rate=0.1), SGD(learning_rate=0.2, momentum=0.5))
    net = DBN(layers=(RBM(hidden=4), Dense(units=3), TOP))
    for stage in (
        DiscriminativePretrain(model=DEEP, optimiser=rates, labelled=5, name="grow"),
        DiscriminativePretrain(model=net, epochs=3, metric="error"),
    ):
        assert DiscriminativePretrain.model_validate_json(stage.model_dump_json()) == stage


def test_what_stands_above_goes_on_from_the_whole_net() -> None:
    grow, tune = DiscriminativePretrain(model=DEEP), FineTune()
    pipeline = Pipeline(name="p", source=SOURCE, stages=(grow, tune, Evaluate(), Encode(layer=3)))
    assert pipeline.start_of(tune) == grow
    assert pipeline.model_of(tune) == DEEP
    assert pipeline.classes_of(grow) == 3
    assert Pipeline.from_json(pipeline.to_json()) == pipeline


def test_it_needs_labels_and_what_it_decides_by() -> None:
    unlabelled = ZarrSource(path="a.zarr", features="x")
    with pytest.raises(ValidationError, match="'discriminative_pretrain' needs labels"):
        Pipeline(name="p", source=unlabelled, stages=(DiscriminativePretrain(model=DEEP),))
    stage = DiscriminativePretrain(
        model=DEEP, optimiser=SGD(learning_rate=ReduceOnPlateau(start=0.1))
    )
    with pytest.raises(ValidationError, match="need a validation part, found none"):
        Pipeline(name="p", source=SOURCE, stages=(stage,))
    Pipeline(name="p", source=SOURCE, stages=(Split(validation=0.1), stage))
