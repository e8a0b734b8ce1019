"""Models: what can be stacked on what."""

import pytest
from pydantic import TypeAdapter, ValidationError

from deepstrata.schemas.models import (
    DBN,
    RBM,
    AssociativeMemory,
    Dense,
    GenerativeDBN,
    Layer,
    Model,
    Softmax,
)
from deepstrata.schemas.stages import classes_of, classifies

MEMORY = AssociativeMemory(hidden=6, classes=4)
MODELS = [
    RBM(hidden=5),
    RBM(hidden=5, visible_units="gaussian", gibbs_steps=3, persistent=True, chains=7),
    RBM(hidden=5, sparsity_target=0.1, sparsity_cost=0.01, weight_scale=0.1),
    DBN(layers=(RBM(hidden=5),)),
    DBN(layers=(RBM(hidden=5, visible_units="gaussian"), RBM(hidden=3), Softmax(classes=2))),
    DBN(layers=(Dense(units=4, activation="relu"), Dense(units=3), Softmax(classes=2))),
    GenerativeDBN(layers=(RBM(hidden=5, visible_units="gaussian"),), memory=MEMORY),
]


@pytest.mark.parametrize("model", MODELS)
def test_models_round_trip(model: Model) -> None:
    adapter: TypeAdapter[Model] = TypeAdapter(Model)
    again = adapter.validate_json(adapter.dump_json(model))
    assert (again, hash(again)) == (model, hash(model))


@pytest.mark.parametrize("layer", [RBM(hidden=2), Dense(units=2), Softmax(classes=2)])
def test_layers_round_trip(layer: Layer) -> None:
    assert type(layer).model_validate_json(layer.model_dump_json()) == layer


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden": 0},
        {"hidden": 2.5},
        {"hidden": 2, "gibbs_steps": 0},
        {"hidden": 2, "chains": 0},
        {"hidden": 2, "weight_scale": 0},
        {"hidden": 2, "sparsity_target": 0},
        {"hidden": 2, "sparsity_target": 1},
        {"hidden": 2, "sparsity_target": 0.1, "sparsity_cost": -1},
        {"hidden": 2, "visible_units": "Bernoulli"},
    ],
)
def test_an_rbm_out_of_range_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=list(fields)[-1]):
        RBM(**fields)


def test_a_cost_of_sparsity_needs_a_target() -> None:
    with pytest.raises(ValidationError, match=r"sparsity_cost=0\.1 has no effect without"):
        RBM(hidden=2, sparsity_cost=0.1)


def test_only_the_last_layer_is_a_softmax() -> None:
    with pytest.raises(ValidationError, match="layer 1 is a Softmax; only the last"):
        DBN(layers=(RBM(hidden=2), Softmax(classes=2), Dense(units=2)))


@pytest.mark.parametrize("below", [RBM(hidden=2), Dense(units=2, activation="tanh")])
def test_an_rbm_above_another_layer_reads_probabilities(below: Layer) -> None:
    gaussian = RBM(hidden=2, visible_units="gaussian")
    with pytest.raises(ValidationError, match="layer 1 is an RBM with gaussian visible units"):
        DBN(layers=(below, gaussian))
    with pytest.raises(ValidationError, match="layer 1 is an RBM with gaussian visible units"):
        GenerativeDBN(layers=(RBM(hidden=2), gaussian), memory=MEMORY)


def test_a_net_has_layers() -> None:
    with pytest.raises(ValidationError, match="layers"):
        DBN(layers=())
    with pytest.raises(ValidationError, match="layers"):
        GenerativeDBN(layers=(), memory=MEMORY)


def test_what_classifies() -> None:
    assert [classes_of(model) for model in MODELS] == [None, None, None, None, 2, 2, 4]
    assert [classifies(model) for model in MODELS] == [False] * 4 + [True] * 3
