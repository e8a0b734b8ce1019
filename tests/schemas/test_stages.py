"""Stages: names, functions by name, and settings that contradict each other."""

import functools
import math

import pytest
from pydantic import ValidationError

from deepstrata.schemas._base import explain
from deepstrata.schemas.layers import Dense, Softmax
from deepstrata.schemas.models import DBN, MSDA, RBM
from deepstrata.schemas.optimisers import SGD, Adam
from deepstrata.schemas.stages import (
    Apply,
    CrossDomain,
    EarlyStopping,
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
)

STACK = DBN(layers=(RBM(hidden=4), RBM(hidden=3), Softmax(classes=2)))
STAGES = [
    Apply(function=math.floor, arguments={"a": 1, "b": 0.5, "c": True, "d": "x", "e": None}),
    Split(by="subset", validation=0.1, test=0.2, shuffle=False),
    Scale(minimum=0, maximum=255),
    Scale(),
    Standardise(per="dataset"),
    Pretrain(model=STACK, optimiser=(SGD(), Adam()), activations="store"),
    FineTune(start="pretrain", epochs=0, checkpoint_rounds=5),
    FineTune(model=STACK, optimiser=Adam()),
    FineTune(early_stopping=EarlyStopping(patience=2, min_delta=0.5), keep="best", metric="error"),
    Solve(model=MSDA(depth=5, noise=0.9, targets=100), parts=("train", "test")),
    Evaluate(parts=("test",)),
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


def test_the_rbms_at_the_bottom_are_pretrained() -> None:
    assert Pretrain(model=RBM(hidden=4)).rbms == (RBM(hidden=4),)
    assert Pretrain(model=STACK).rbms == (RBM(hidden=4), RBM(hidden=3))
    mixed = DBN(layers=(RBM(hidden=4), Dense(units=3), RBM(hidden=2)))
    assert Pretrain(model=mixed).rbms == (RBM(hidden=4),)


def test_pretraining_needs_an_rbm() -> None:
    assert told(Pretrain, model=DBN(layers=(Dense(units=2), RBM(hidden=2)))).startswith(
        "expected a model whose first layer is an RBM"
    )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_optimiser_or_one_each(count: int) -> None:
    assert told(Pretrain, model=STACK, optimiser=(SGD(),) * count) == (
        f"expected one optimiser, or one for each of the 2 RBMs; found {count}"
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
        (Encode, {"layer": -1}),
        (Report, {"examples": 0}),
    ],
)
def test_settings_out_of_range_are_refused(kind: type, fields: dict[str, object]) -> None:
    (field,) = fields
    assert told(kind, **fields).startswith(field)
