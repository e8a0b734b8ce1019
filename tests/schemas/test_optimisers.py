"""Optimisers and schedules: one rate, a number or a schedule, never below zero."""

import pytest
from pydantic import TypeAdapter, ValidationError

from deepstrata.schemas._base import explain
from deepstrata.schemas.optimisers import (
    SGD,
    Adagrad,
    Adam,
    Cosine,
    Exponential,
    Linear,
    Optimiser,
    Rate,
    ReduceOnPlateau,
    Schedule,
    Steps,
    WarmUp,
    watches,
)

SCHEDULES = [
    Steps(values=(0.5,), boundaries=()),
    Steps(values=(0.5, 0.9, 0.0), boundaries=(2, 2.5)),
    Linear(start=0.1, end=0.001, epochs=3),
    Exponential(start=1, decay=0.5),
    Cosine(start=1, epochs=0.5),
    ReduceOnPlateau(start=0.1, factor=0.5, patience=3, min_delta=0.01, minimum=0.001),
    WarmUp(epochs=2, then=0.1),
    WarmUp(epochs=2, start=0.01, then=ReduceOnPlateau(start=0.1)),
]


def told(kind: type, **fields: object) -> str:
    with pytest.raises(ValidationError) as refused:
        kind(**fields)
    return explain(refused.value, kind.__name__)


@pytest.mark.parametrize("rate", [0.0, 0.1, *SCHEDULES])
@pytest.mark.parametrize("kind", [SGD, Adagrad, Adam])
def test_optimisers_round_trip(kind: type[Optimiser], rate: Rate) -> None:
    adapter: TypeAdapter[Optimiser] = TypeAdapter(Optimiser)
    optimiser = kind(learning_rate=rate)
    again = adapter.validate_json(adapter.dump_json(optimiser))
    assert (again, hash(again)) == (optimiser, hash(optimiser))
    assert type(again.learning_rate) is type(rate)


def test_a_whole_number_is_a_rate() -> None:
    assert SGD(learning_rate=1) == SGD(learning_rate=1.0)
    assert SGD.model_validate_json('{"learning_rate": 1}') == SGD(learning_rate=1.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_momentum_takes_a_schedule(schedule: Schedule) -> None:
    assert SGD(momentum=schedule).momentum is schedule


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (-1, "learning_rate: should be greater than or equal to 0 (found -1)"),
        ("fast", "learning_rate: should be a valid number, unable to parse string as a number"),
        ({"kind": "linear", "start": 1, "end": 0}, "learning_rate.epochs: expected a value"),
        ({"kind": "line"}, "learning_rate: expected one of the kinds 'steps', 'linear', 'expo"),
        (SGD(), "learning_rate: expected one of the kinds 'steps', 'linear', 'expo"),
        (None, "learning_rate: should be a valid number (found None)"),
    ],
)
def test_a_bad_rate_has_one_line(rate: object, message: str) -> None:
    assert told(SGD, learning_rate=rate).startswith(f"SGD: {message}")
    assert "\n" not in told(SGD, learning_rate=rate)


def test_steps_have_one_more_value_than_boundaries() -> None:
    assert told(Steps, values=(1, 2), boundaries=(1, 2)) == (
        "Steps: expected one more value than boundaries, found 2 values and 2 boundaries"
    )


def test_steps_go_forward() -> None:
    assert told(Steps, values=(1, 2, 3), boundaries=(2, 1)) == (
        "Steps: expected boundaries in rising order, found (2.0, 1.0)"
    )


def test_a_plateau_does_not_begin_below_its_minimum() -> None:
    assert told(ReduceOnPlateau, start=0.1, minimum=0.2) == (
        "ReduceOnPlateau: expected a minimum of at most start, found 0.2 and 0.1"
    )


def test_a_gradient_is_clipped_one_way() -> None:
    assert told(Adam, clip_norm=1, clip_value=0.5) == (
        "Adam: expected clip_norm or clip_value, found both (1.0 and 0.5); leave one out"
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warm_up_comes_before_any_schedule_but_another(schedule: Schedule) -> None:
    if isinstance(schedule, WarmUp):
        assert "then: expected one of the kinds" in told(WarmUp, epochs=1, then=schedule)
    else:
        assert WarmUp(epochs=1, then=schedule).then == schedule


def test_plateaus_are_watched_for_wherever_they_are() -> None:
    plateau = ReduceOnPlateau(start=0.1)
    for rate in (plateau, WarmUp(epochs=1, then=plateau)):
        assert watches(Adam(learning_rate=rate))
        assert watches(SGD(momentum=rate))
    assert not watches(SGD(learning_rate=WarmUp(epochs=1, then=0.1), momentum=0.5))


@pytest.mark.parametrize(
    ("kind", "fields", "field"),
    [
        (Steps, {"values": (-1.0,), "boundaries": ()}, "values.0"),
        (Steps, {"values": (1, 2), "boundaries": (-1,)}, "boundaries.0"),
        (Linear, {"start": -1, "end": 0, "epochs": 1}, "start"),
        (Linear, {"start": 1, "end": -0.1, "epochs": 1}, "end"),
        (Linear, {"start": 1, "end": 0, "epochs": 0}, "epochs"),
        (Exponential, {"start": -1, "decay": 0.5}, "start"),
        (Exponential, {"start": 1, "decay": 0}, "decay"),
        (Cosine, {"start": 1, "end": -1, "epochs": 1}, "end"),
        (Cosine, {"start": 1, "epochs": 0}, "epochs"),
        (SGD, {"weight_decay": -1}, "weight_decay"),
        (Adagrad, {"epsilon": 0}, "epsilon"),
        (Adam, {"beta1": 1}, "beta1"),
        (Adam, {"beta2": -0.1}, "beta2"),
        (Adam, {"clip_norm": 0}, "clip_norm"),
        (SGD, {"clip_value": -1}, "clip_value"),
        (WarmUp, {"epochs": 0, "then": 1}, "epochs"),
        (ReduceOnPlateau, {"start": 0}, "start"),
        (ReduceOnPlateau, {"start": 1, "factor": 1}, "factor"),
        (ReduceOnPlateau, {"start": 1, "patience": -1}, "patience"),
    ],
)
def test_settings_out_of_range_are_refused(
    kind: type, fields: dict[str, object], field: str
) -> None:
    assert told(kind, **fields).startswith(f"{kind.__name__}: {field}: should be greater") or (
        told(kind, **fields).startswith(f"{kind.__name__}: {field}: should be less")
    )
