"""Models: what can be stacked on what."""

import pytest
from pydantic import TypeAdapter, ValidationError

from deepstrata.schemas._base import Declaration
from deepstrata.schemas.layers import Dense, Softmax
from deepstrata.schemas.models import DBN, RBM, Model, Network
from deepstrata.schemas.sparse import PSD, SparseCoding
from deepstrata.schemas.stages import classifies

MODELS = [
    RBM(hidden=5),
    RBM(hidden=5, visible_units="gaussian", gibbs_steps=3, persistent=True, chains=7),
    RBM(hidden=5, sparsity_target=0.1, sparsity_cost=0.01, weight_scale=0.1),
    SparseCoding(atoms=7, penalty=0.1, steps=3, inference="line_search"),
    PSD(atoms=7, prediction_weight=2.0),
    Network(layers=(PSD(atoms=7), RBM(hidden=5, visible_units="gaussian"), Softmax(classes=2))),
    DBN(layers=(RBM(hidden=5),)),
    DBN(layers=(RBM(hidden=5, visible_units="gaussian"), RBM(hidden=3), Softmax(classes=2))),
    DBN(layers=(Dense(units=4, activation="relu"), Dense(units=3), Softmax(classes=2))),
]


@pytest.mark.parametrize("model", MODELS)
def test_models_round_trip(model: Model) -> None:
    adapter: TypeAdapter[Model] = TypeAdapter(Model)
    again = adapter.validate_json(adapter.dump_json(model))
    assert (again, hash(again)) == (model, hash(model))


@pytest.mark.parametrize("layer", [RBM(hidden=2), Dense(units=2), Softmax(classes=2)])
def test_layers_round_trip(layer: Declaration) -> None:
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


@pytest.mark.parametrize("kind", [SparseCoding, PSD])
@pytest.mark.parametrize("fields", [{"atoms": 0}, {"penalty": 0.0}, {"steps": 0}])
def test_a_sparse_model_out_of_range_is_refused(
    kind: type[Declaration], fields: dict[str, object]
) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        kind(**{"atoms": 2} | fields)


def test_codes_of_a_psd_are_no_probabilities() -> None:
    with pytest.raises(ValidationError, match="layer 1 is an RBM with bernoulli visible units"):
        Network(layers=(PSD(atoms=2), RBM(hidden=2)))


def test_a_cost_of_sparsity_needs_a_target() -> None:
    with pytest.raises(ValidationError, match=r"sparsity_cost=0\.1 has no effect without"):
        RBM(hidden=2, sparsity_cost=0.1)


def test_only_the_last_layer_is_a_softmax() -> None:
    with pytest.raises(ValidationError, match="layer 1 is a Softmax; only the last"):
        DBN(layers=(RBM(hidden=2), Softmax(classes=2), Dense(units=2)))


@pytest.mark.parametrize("below", [RBM(hidden=2), Dense(units=2, activation="tanh")])
def test_an_rbm_above_another_layer_reads_probabilities(below: Declaration) -> None:
    with pytest.raises(ValidationError, match="layer 1 is an RBM with gaussian visible units"):
        DBN(layers=(below, RBM(hidden=2, visible_units="gaussian")))


def test_a_net_has_layers() -> None:
    with pytest.raises(ValidationError, match="layers"):
        DBN(layers=())


def test_what_classifies() -> None:
    assert [classifies(model) for model in MODELS] == [*[False] * 5, True, False, True, True]
