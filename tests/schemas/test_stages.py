"""Stages: names, functions by name, and settings that contradict each other."""

import functools
import math
import re
from typing import Any

import pytest
from pydantic import ValidationError

from deepstrata.schemas._base import explain
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.convolutional import ConvolutionalPSD, ConvolutionalRBM, placed
from deepstrata.schemas.layers import (
    ContrastNormalisation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    Pooling,
    Rectification,
    Softmax,
)
from deepstrata.schemas.machines import RBM, AssociativeMemory
from deepstrata.schemas.models import DBN, MSDA, GenerativeDBN, Network
from deepstrata.schemas.optimisers import SGD, Adam
from deepstrata.schemas.sparse import PSD, SparseCoding
from deepstrata.schemas.stages import (
    Apply,
    CrossDomain,
    Encode,
    Evaluate,
    FineTune,
    Pretrain,
    Report,
    Scale,
    Solve,
    Split,
    Stage,
    Standardise,
    Transfer,
)
from deepstrata.schemas.training import EarlyStopping

STACK = DBN(layers=(RBM(hidden=4), RBM(hidden=3), Softmax(classes=2)))
STAGES = [
    Apply(function=math.floor, arguments={"a": 1, "b": 0.5, "c": True, "d": "x", "e": None}),
    Split(by="subset", validation=0.1, test=0.2, shuffle=False),
    Scale(minimum=0, maximum=255),
    Scale(),
    Standardise(per="dataset"),
    Pretrain(model=STACK, optimiser=(SGD(), Adam()), activations="store"),
    FineTune(start="pretrain", epochs=0, checkpoint_rounds=5),
    FineTune(model=STACK, optimiser=Adam(), learning_rates={"0": 0, "2": 0.5}),
    FineTune(early_stopping=EarlyStopping(patience=2, min_delta=0.5), keep="best", metric="error"),
    Solve(model=MSDA(depth=5, noise=0.9, targets=100), parts=("train", "test")),
    Transfer(run="runs/a", model=STACK),
    Transfer(run="s3://bucket/a", model=STACK, layers=2, scaling="own"),
    Evaluate(parts=("test",), pca=3, gaps=0.25),
    CrossDomain(domain="genre", costs=(0.1, 1.0), folds=3),
    Encode(path="codes.zarr", layer=0),
    Report(examples=4),
]


def told(kind: type, **fields: object) -> str:
    with pytest.raises(ValidationError) as refused:
        kind(**fields)
    return explain(refused.value, kind.__name__).removeprefix(f"{kind.__name__}: ")


class Tool:
    def method(self, dataset: object) -> object:
        return dataset


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.kind)
def test_stages_round_trip(stage: Stage) -> None:
    again = type(stage).model_validate_json(stage.model_dump_json())
    assert (again, hash(again)) == (stage, hash(stage))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.kind)
def test_a_stage_is_called_by_its_kind(stage: Stage) -> None:
    assert stage.name == stage.kind
    assert type(stage)(**stage.model_dump() | {"name": ""}).name == stage.kind
    assert type(stage)(**stage.model_dump() | {"name": "mine"}).name == "mine"


def test_functions_travel_by_name() -> None:
    stage = Apply(function="math:floor")
    assert stage.function is math.floor
    assert stage.model_dump(mode="json")["function"] == "math:floor"
    assert stage == Apply(function=math.floor)


@pytest.mark.parametrize(
    "function",
    [lambda dataset: dataset, Tool.method, Tool().method, functools.partial(math.pow, 2), 3, None],
)
def test_functions_that_no_worker_can_find_are_refused(function: object) -> None:
    message = "function: expected a function defined with def at the top level of a module"
    assert told(Apply, function=function).startswith(message)


def test_functions_of_functions_are_refused() -> None:
    def inner(dataset: object) -> object:
        return dataset

    assert "at the top level" in told(Apply, function=inner)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("floor", "function: expected a function or 'module:name' (found 'floor')"),
        ("math:", "function: expected a function or 'module:name' (found 'math:')"),
        ("math:flour", "function: cannot import 'math:flour': module 'math' has no attribute"),
        ("no_such:thing", "function: cannot import 'no_such:thing': No module named 'no_such'"),
        (".local:thing", "function: cannot import '.local:thing'"),
        (":thing", "function: cannot import ':thing'"),
        ("os:path", "function: expected a function defined with def at the top level"),
    ],
)
def test_names_of_no_function_are_refused(name: str, message: str) -> None:
    assert told(Apply, function=name).startswith(message)


def test_arguments_are_plain_values_and_keep_their_types() -> None:
    arguments = {"one": 1, "half": 0.5, "true": True, "text": "1", "nothing": None}
    again = Apply.model_validate_json(
        Apply(function=math.pow, arguments=arguments).model_dump_json()
    )
    assert {k: (v, type(v)) for k, v in again.arguments.items()} == {
        k: (v, type(v)) for k, v in arguments.items()
    }
    assert told(Apply, function=math.pow, arguments={"a": [1]}) == (
        "arguments.a: expected text, a number, a boolean or None (found [1])"
    )


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (0.9, 0.2)])
def test_a_split_leaves_something_to_train_on(validation: float, test: float) -> None:
    assert told(Split, validation=validation, test=test) == (
        "validation and test leave nothing to train on: expected less than 1 together, "
        f"found {validation} and {test}"
    )


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_fractions_are_fractions(fraction: float) -> None:
    assert told(Split, test=fraction).startswith("test: should be")


def test_a_scale_goes_up() -> None:
    assert told(Scale, minimum=1, maximum=1) == (
        "expected a minimum below the maximum, found 1.0 and 1.0"
    )
    assert Scale(minimum=1).maximum is None


def test_layers_at_the_bottom_are_pretrained() -> None:
    assert Pretrain(model=RBM(hidden=4)).pretrained == (RBM(hidden=4),)
    assert Pretrain(model=STACK).pretrained == (RBM(hidden=4), RBM(hidden=3))
    mixed = DBN(layers=(RBM(hidden=4), Dense(units=3), RBM(hidden=2)))
    assert Pretrain(model=mixed).pretrained == (RBM(hidden=4),)
    for sparse in (PSD(atoms=3), SparseCoding(atoms=3)):
        assert Pretrain(model=sparse).pretrained == (sparse,)


def test_autoencoders_are_pretrained_whole_or_by_their_rbms() -> None:
    one = Autoencoder(encoder=(Dense(units=4), Dense(units=2)))
    assert Pretrain(model=one).pretrained == (one,)
    net = Network(layers=(one, PSD(atoms=3), one, RBM(hidden=3), Softmax(classes=2)))
    assert Pretrain(model=net).pretrained == net.layers[:4]
    deep = Autoencoder(encoder=(RBM(hidden=4), RBM(hidden=2), Dense(units=2)))
    assert Pretrain(model=deep).pretrained == (RBM(hidden=4), RBM(hidden=2))
    memory = AssociativeMemory(hidden=6, classes=2)
    generative = GenerativeDBN(layers=(RBM(hidden=4),), memory=memory)
    assert Pretrain(model=generative).pretrained == (RBM(hidden=4), memory)


def test_layers_without_weights_lie_between_those_that_are_pretrained() -> None:
    first, second = ConvolutionalPSD(maps=4, kernel=(3, 3)), ConvolutionalRBM(maps=3, kernel=(2, 2))
    second = second.model_copy(update={"visible_units": "gaussian"})
    between = (Rectification(), Pooling(size=(2, 2)))
    top = (Flatten(), RBM(hidden=2), Dropout(), Softmax(classes=2))
    bottom = ContrastNormalisation(size=3)
    net = Network(layers=(bottom, first, *between, second, *top), input_shape=(8, 8, 1))
    stage = Pretrain(model=net)
    assert stage.stack == net.layers[:7]
    assert stage.pretrained == (
        placed(first, (8, 8, 1)),
        placed(second, (3, 3, 4)),
        RBM(hidden=2),
    )
    assert stage.between == (
        Network(layers=(bottom,), input_shape=(8, 8, 1)),
        Network(layers=between, input_shape=(6, 6, 4)),
        Network(layers=(Flatten(),), input_shape=(2, 2, 3)),
    )
    flat = Pretrain(model=Network(layers=(RBM(hidden=4), Dropout(), RBM(hidden=3), Dense(units=2))))
    assert flat.pretrained == (RBM(hidden=4), RBM(hidden=3))
    assert flat.between == (None, Network(layers=(Dropout(),)))
    assert told(Pretrain, model=Network(layers=(Dropout(), Dense(units=2)))).startswith("expected")


@pytest.mark.parametrize(
    "model",
    [
        ConvolutionalPSD(maps=2, kernel=(2, 2)),
        ConvolutionalRBM(maps=2, kernel=(2, 2)),
        Autoencoder(encoder=(Convolution(maps=2, kernel=(2, 2)),)),
    ],
    ids=lambda model: model.kind,
)
def test_a_convolution_by_itself_has_to_know_how_samples_lie(model: Any) -> None:
    for stage in (Pretrain, FineTune):
        assert "say how the features of a sample lie with input_shape=" in told(stage, model=model)
    alone = placed(model, (4, 4, 1))
    assert Pretrain(model=alone).pretrained == (alone,)


def test_pretraining_needs_an_rbm() -> None:
    assert told(Pretrain, model=DBN(layers=(Dense(units=2), RBM(hidden=2)))).startswith(
        "expected a model whose first layer with weights is an RBM, an Autoencoder or a PSD"
    )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_optimiser_or_one_each(count: int) -> None:
    assert told(Pretrain, model=STACK, optimiser=(SGD(),) * count) == (
        f"expected one optimiser, or one for each of the 2 layers; found {count}"
    )


@pytest.mark.parametrize(
    ("optimiser", "message"),
    [
        ({"kind": "sgd", "momentum": -1}, "optimiser.momentum: should be greater"),
        ([{"kind": "sgd", "momentum": -1}], "optimiser.0 (sgd).momentum: should be greater"),
        (0.1, "optimiser: expected a declaration, or a mapping of its fields (found 0.1)"),
    ],
)
def test_a_bad_optimiser_has_one_line(optimiser: object, message: str) -> None:
    found = told(Pretrain, model=STACK, optimiser=optimiser)
    assert found.startswith(message)
    assert "\n" not in found


def test_fresh_weights_or_trained_ones() -> None:
    assert told(FineTune, model=STACK, start="pretrain") == (
        "give a model (fresh weights) or a start (trained ones), not both"
    )


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (FineTune, {"epochs": -1}),
        (FineTune, {"checkpoint_rounds": 0}),
        (FineTune, {"monitor": -1}),
        (FineTune, {"metric": "squared_error"}),
        (FineTune, {"keep": "first"}),
        (EarlyStopping, {"patience": 0}),
        (EarlyStopping, {"min_delta": -1}),
        (Standardise, {"epsilon": 0}),
        (Standardise, {"per": "sample"}),
        (Evaluate, {"parts": ()}),
        (Evaluate, {"parts": ("training",)}),
        (Evaluate, {"gaps": 0}),
        (Evaluate, {"gaps": 1}),
        (Encode, {"layer": -1}),
        (Report, {"examples": 0}),
    ],
)
def test_settings_out_of_range_are_refused(kind: type, fields: dict[str, object]) -> None:
    (field,) = fields
    assert told(kind, **fields).startswith(field)


NAMED = Network(layers=(Dense(units=4, name="low"), Dropout(), Softmax(classes=2, name="top")))


def test_learning_rates_are_factors_by_name_or_number() -> None:
    assert FineTune().factors(NAMED) == ()
    assert FineTune(learning_rates={"low": 0, "2": 0.5}).factors(NAMED) == (0, 1, 0.5)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"high": 0}, "no layer 'high'; there are: low, 1, top"),
        ({"3": 0}, "no layer '3'; there are: low, 1, top"),
        ({"low": 0, "0": 1}, "layer 0 is named twice, by number and by name"),
        ({"0": 0, "2": 0}, "every layer with weights has a factor of 0"),
    ],
)
def test_learning_rates_of_no_layer_are_refused(rates: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        FineTune(learning_rates=rates).factors(NAMED)


def test_learning_rates_are_for_models_of_layers() -> None:
    with pytest.raises(ValueError, match="expected a model of layers, found kind 'rbm'"):
        FineTune(learning_rates={"0": 0}).factors(RBM(hidden=2))


@pytest.mark.parametrize(
    ("layers", "taken"), [(None, 2), (1, 1), (3, 3), ("low", 1), ("1", 2), ("top", 3)]
)
def test_layers_are_taken_from_the_bottom(layers: int | str | None, taken: int) -> None:
    stage = Transfer(run="a", model=NAMED, layers=layers)
    assert stage.taken == taken
    assert stage.trunk.layers == NAMED.layers[:taken]


def test_layers_that_are_not_there_cannot_be_taken() -> None:
    assert (
        told(Transfer, run="a", model=NAMED, layers=4) == "expected 1 to 3 layers to take, found 4"
    )
    assert told(Transfer, run="a", model=NAMED, layers="c") == (
        "no layer 'c'; there are: low, 1, top"
    )
    only = Network(layers=(Softmax(classes=2),))
    assert told(Transfer, run="a", model=only) == "expected 1 to 1 layers to take, found 0"
