"""Pipelines: checked as a whole when they are declared, changed by path."""

import math
import re
from typing import Any

import pytest
from pydantic import ValidationError

from deepstrata.schemas._base import explain
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.datasets import ZarrSource
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.layers import Dense, Softmax
from deepstrata.schemas.machines import RBM, AssociativeMemory
from deepstrata.schemas.models import DBN, GenerativeDBN, Network
from deepstrata.schemas.optimisers import SGD, Adam, Linear, ReduceOnPlateau
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.stages import (
    Apply,
    Encode,
    Evaluate,
    FineTune,
    Pretrain,
    Report,
    Scale,
    Split,
    Stage,
    Standardise,
)
from deepstrata.schemas.strategies import LocalSteps, Synchronous
from deepstrata.schemas.training import EarlyStopping

SOURCE = ZarrSource(path="air.zarr", features="air", labels="kind")
STACK = DBN(layers=(RBM(hidden=4), RBM(hidden=3), Softmax(classes=2)))
GENERATIVE = GenerativeDBN(
    layers=(RBM(hidden=4), RBM(hidden=3)), memory=AssociativeMemory(hidden=5, classes=2)
)
PIPELINE = Pipeline(
    name="p",
    source=SOURCE,
    stages=(
        Apply(function=math.floor, arguments={"digits": 3}),
        Split(test=0.2),
        Pretrain(model=STACK, strategy=LocalSteps(steps=4)),
        FineTune(optimiser=SGD(learning_rate=Linear(start=0.1, end=0.01, epochs=5))),
        Evaluate(),
        Encode(),
    ),
)


def told(*stages: Stage, source: Any = SOURCE, name: str = "p") -> str:
    with pytest.raises(ValidationError) as refused:
        Pipeline(name=name, source=source, stages=stages)
    return explain(refused.value, "pipeline")


@pytest.mark.parametrize("name", ["", "two words", "-p", ".p", "p\n", "a/b", "ä"])
def test_a_pipeline_is_called_what_a_directory_can_be(name: str) -> None:
    assert told(name=name) == (
        "pipeline: name: expected letters, digits, '_', '.' and '-', the first no punctuation "
        f"(found {name!r})"
    )


@pytest.mark.parametrize("name", ["two words", "-p", "..", "p\n", "a/b", "v1.2"])
def test_a_stage_is_called_what_a_directory_and_a_path_can_be(name: str) -> None:
    assert told(Split(name=name)) == (
        f"pipeline: stage name {name!r}: expected letters, digits, '_' and '-', the first no "
        "punctuation"
    )


@pytest.mark.parametrize("name", ["ingest", "inspect", "source", "seed", "name", "stages"])
def test_names_that_mean_something_else_are_reserved(name: str) -> None:
    assert told(Split(name=name)) == (
        f"pipeline: the stage name {name!r} is reserved; choose another"
    )


def test_names_do_not_clash() -> None:
    assert told(Split(), Evaluate(name="split")) == (
        "pipeline: two stages are called 'split'; give one another name"
    )
    assert told(Scale(), Scale()).endswith("two stages are called 'scale'; give one another name")


@pytest.mark.parametrize(
    ("stages", "late", "before"),
    [
        ((Split(), Apply(function=math.floor)), "'apply' (apply)", "'split' (split)"),
        ((Scale(), Split()), "'split' (split)", "'scale' (scale)"),
        ((Standardise(name="z"), Split()), "'split' (split)", "'z' (standardise)"),
        ((Pretrain(model=STACK), Scale()), "'scale' (scale)", "'pretrain' (pretrain)"),
        (
            (Pretrain(model=STACK), Evaluate(), Report(), Split()),
            "'split' (split)",
            "'pretrain' (pretrain)",
        ),
    ],
)
def test_stages_stand_where_they_can_work(
    stages: tuple[Stage, ...], late: str, before: str
) -> None:
    assert told(*stages) == (
        f"pipeline: stage {late} stands after {before}; move it up: "
        "the order is apply, split, scale or standardise, transfer, then training"
    )


def test_stages_of_one_rank_are_mixed() -> None:
    stages = (Scale(), Standardise(), Pretrain(model=STACK), Evaluate(), FineTune(), Report())
    stages += (Evaluate(name="again"),)
    assert Pipeline(name="p", source=SOURCE, stages=stages).stages == stages
    assert Pipeline(name="p", source=SOURCE, stages=()).stages == ()


PLATEAU = SGD(learning_rate=ReduceOnPlateau(start=0.1))
DECIDING = [
    FineTune(model=STACK, keep="best"),
    FineTune(model=STACK, early_stopping=EarlyStopping()),
    FineTune(model=STACK, optimiser=PLATEAU),
    Pretrain(model=STACK, optimiser=(SGD(), PLATEAU)),
    Pretrain(model=STACK, strategy=LocalSteps(outer=PLATEAU)),
]


@pytest.mark.parametrize("stage", DECIDING)
def test_what_epochs_decide_needs_validation_samples(stage: Pretrain | FineTune) -> None:
    why = f"pipeline: stage {stage.name!r}: early_stopping, keep='best' and ReduceOnPlateau need "
    none = why + "a validation part, found none; add Split(validation=0.1), or Split(by=...)"
    assert told(stage).startswith(none)
    assert told(Split(test=0.5), stage).startswith(none)
    blind = stage.model_copy(update={"monitor": 0})
    assert told(Split(validation=0.1), blind).startswith(why + "validation samples to look at")
    for split in (Split(validation=0.1), Split(by="part")):
        assert Pipeline(name="p", source=SOURCE, stages=(split, stage)).stages[-1] == stage


@pytest.mark.parametrize("kind", [Split, Report])
def test_some_stages_stand_once(kind: type[Stage]) -> None:
    assert told(kind(name="a"), kind(name="b")) == (
        f"pipeline: expected one {kind.__name__} stage at most, found a, b"
    )


@pytest.mark.parametrize("kind", [FineTune, Evaluate, Encode])
def test_a_start_is_a_training_stage_above(kind: type[FineTune | Evaluate | Encode]) -> None:
    pretrain, late = Pretrain(model=STACK), FineTune(name="late")
    for start in ("nothing", "late", "split", "x"):
        stages = (Split(), pretrain, kind(name="x", start=start), late)
        assert told(*stages) == (
            f"pipeline: stage 'x': start={start!r} is not a training stage above it; "
            "there are: pretrain"
        )
    assert told(kind(name="x", start="y")).endswith("there are: none")
    assert told(kind(name="x")) == "pipeline: stage 'x': no training stage above it"


def test_the_nearest_training_is_the_start() -> None:
    first, second = Pretrain(model=STACK), FineTune(name="a")
    stages = (first, second, Evaluate(), Evaluate(name="b", start="pretrain"))
    pipeline = Pipeline(name="p", source=SOURCE, stages=stages)
    assert [pipeline.start_of(stage) for stage in stages[1:]] == [first, second, first]
    assert {pipeline.model_of(stage) for stage in stages} == {STACK}
    fresh = FineTune(model=STACK)
    alone = Pipeline(name="p", source=SOURCE, stages=(fresh,))
    assert (alone.start_of(fresh), alone.model_of(fresh)) == (None, STACK)


@pytest.mark.parametrize("model", [RBM(hidden=4), DBN(layers=(RBM(hidden=4),))])
def test_fine_tuning_needs_a_softmax(model: RBM | DBN) -> None:
    message = (
        "pipeline: stage 'finetune': the model has no Softmax on top and no loss, so there is "
        "nothing to fine-tune it for; make it a DBN or a Network whose last layer is a "
        "Softmax(classes=...), a Network(loss=...), an Autoencoder or a GenerativeDBN"
    )
    assert told(Pretrain(model=model), FineTune()) == message
    assert told(FineTune(model=model)) == message


def test_an_autoencoder_is_fine_tuned_without_labels() -> None:
    deep = Autoencoder(encoder=(RBM(hidden=4), RBM(hidden=2)))
    source = ZarrSource(path="x", features="f")
    for stages in ((Pretrain(model=deep), FineTune()), (FineTune(model=deep),)):
        whole = Pipeline(name="p", source=source, stages=(*stages, Encode(layer=1)))
        assert whole.model_of(whole.stages[-1]) == deep
    with pytest.raises(ValidationError, match="it encodes with has the layers 0 to 1"):
        Pipeline(name="p", source=source, stages=(Pretrain(model=deep), Encode(layer=2)))


def test_a_memory_needs_labels() -> None:
    source = ZarrSource(path="x", features="f")
    assert told(Pretrain(model=GENERATIVE), source=source).startswith(
        "pipeline: stage 'pretrain' needs labels, and the source names none"
    )


def test_gibbs_steps_are_for_a_memory() -> None:
    tuned = FineTune(gibbs_steps=3)
    assert told(Pretrain(model=STACK), tuned) == (
        "pipeline: stage 'finetune': gibbs_steps=3 has no effect on a model without a memory, "
        "which learns by backpropagation; leave it out, or make the model a GenerativeDBN"
    )
    stages = (Pretrain(model=GENERATIVE), tuned)
    assert Pipeline(name="p", source=SOURCE, stages=stages).stages == stages


def test_fine_tuning_needs_labels() -> None:
    source = ZarrSource(path="x", features="f")
    assert told(Pretrain(model=STACK), FineTune(), source=source) == (
        "pipeline: stage 'finetune' needs labels, and the source names none: set its labels=... "
        "to the variable with the class numbers"
    )


@pytest.mark.parametrize(
    ("stages", "last"),
    [
        ((Pretrain(model=RBM(hidden=4)),), 0),
        ((Pretrain(model=STACK),), 1),
        ((Pretrain(model=STACK), FineTune()), 2),
        ((FineTune(model=STACK),), 2),
        ((Pretrain(model=GENERATIVE),), 1),
        ((Pretrain(model=GENERATIVE), FineTune()), 1),
    ],
)
def test_codes_come_from_a_layer_that_is_there(stages: tuple[Stage, ...], last: int) -> None:
    Pipeline(name="p", source=SOURCE, stages=(*stages, Encode(layer=last)))
    assert told(*stages, Encode(layer=last + 1)) == (
        f"pipeline: stage 'encode': layer={last + 1} is not there; the model it encodes with has "
        f"the layers 0 to {last}"
    )


def test_what_is_written_does_not_clash() -> None:
    pretrain = Pretrain(model=STACK)
    assert told(pretrain, Encode(), Encode(name="deep")) == (
        "pipeline: stages 'encode' and 'deep' both write to codes.zarr in the run directory; "
        "give one another path"
    )
    assert told(pretrain, Encode(path="x"), Encode(name="deep", path="x")).startswith(
        "pipeline: stages 'encode' and 'deep' both write to x"
    )
    assert told(pretrain, Encode(path="air.zarr")) == (
        "pipeline: stage 'encode' would write over what the source reads, air.zarr; "
        "give it another path"
    )
    stages = (pretrain, Encode(), Encode(name="deep", path="x"))
    assert Pipeline(name="p", source=SOURCE, stages=stages).stages == stages


def at(pipeline: Pipeline, path: str) -> Any:
    """Return what is at a path that ``replace`` takes."""
    first, *rest = path.split(".")
    stages = {stage.name: stage for stage in pipeline.stages}
    value: Any = stages[first] if first in stages else getattr(pipeline, first)
    for step in rest:
        if isinstance(value, tuple):
            value = value[int(step)]
        else:
            value = value[step] if isinstance(value, dict) else getattr(value, step)
    return value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 5),
        ("name", "other"),
        ("source", ZarrSource(path="x", features="f", labels="l")),
        ("source.path", "other.zarr"),
        ("source.rows_per_shard", 7),
        ("split.test", 0.5),
        ("apply.function", math.ceil),
        ("apply.arguments.digits", None),
        ("apply.arguments", {"new": 1}),
        ("pretrain.epochs", 1),
        ("pretrain.strategy", Synchronous()),
        ("pretrain.strategy.shards", 9),
        ("pretrain.strategy.outer.momentum", 0.5),
        ("pretrain.model.layers.1.hidden", 9),
        ("pretrain.model.layers.1", Dense(units=2)),
        ("pretrain.optimiser", (SGD(), Adam())),
        ("pretrain.optimiser.learning_rate", 0.5),
        ("finetune.optimiser.learning_rate.end", 0),
        ("finetune.start", "pretrain"),
        ("evaluate.parts", ("train",)),
        ("evaluate.parts.1", "train"),
        ("stages", (Split(),)),
        ("stages.1.test", 0.5),
    ],
)
def test_replace_reaches_everything(path: str, value: object) -> None:
    changed = PIPELINE.replace(**{path: value})
    assert at(changed, path) == value
    assert at(PIPELINE, path) != value
    assert type(changed) is Pipeline


def test_a_stage_gets_another_name() -> None:
    assert PIPELINE.replace(**{"evaluate.name": "measure"}).stages[4].name == "measure"


def test_several_changes_are_checked_together() -> None:
    changes = {"pretrain.optimiser": [SGD(), Adam()], "pretrain.model.layers": STACK.layers}
    assert PIPELINE.replace(**changes, seed=3).seed == 3
    assert PIPELINE.replace() == PIPELINE


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("pretrian.epochs", "pretrian.epochs: no such field; expected STAGE.FIELD with one of "),
        ("pretrain", "pretrain: no such field; expected STAGE.FIELD with one of the stages apply"),
        ("sead", "sead: no such field; .* or one of format_version, name, source, stages, seed"),
        ("", ": no such field; expected STAGE"),
        ("pretrain.", r"pretrain\.: no field ''; there are: name, epochs, strategy"),
        ("pretrain.epoch", r"pretrain\.epoch: no field 'epoch'; there are: name, epochs, "),
        ("source.url", r"source\.url: no field 'url'; there are: features, labels"),
        ("seed.first", r"seed\.first: no field 'first'; found 0, which has none"),
        ("pretrain.epochs.x", r"pretrain\.epochs\.x: no field 'x'; found 10, which has none"),
        ("pretrain.model.layers.3.hidden", r".*: no field '3'; there are: 0, 1, 2$"),
        ("pretrain.model.layers.-1", r".*: no field '-1'; there are: 0, 1, 2$"),
        ("pretrain.model.layers.²", r".*: no field '²'; there are: 0, 1, 2$"),
        (
            "pretrain.model.layers.2.hidden",
            r".*: no field 'hidden'; there are: name, initial_weights, kind, classes$",
        ),
        ("apply.arguments.places", r".*: no field 'places'; there are: digits$"),
        ("split.by.x", r"split\.by\.x: no field 'x'; found None, which has none"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(path: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=f"^{message}"):
        PIPELINE.replace(**{path: 1})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seed", -1, "seed: should be greater than or equal to 0 (found -1)"),
        ("seed", 2**63, "seed: should be less than 9223372036854775808 (found 92233"),
        ("format_version", 2, "format_version 2 is not one this deepstrata reads"),
        ("source.path", 3, "source.path: should be a valid string (found 3)"),
        ("source.kind", "zip", "source: expected one of the kinds 'zarr', 'file', 'dataset'"),
        ("source.kind", "file", "source: no field 'group'; there are: features, "),
        ("split.test", 1, "stages.1 (split).test: should be less than 1 (found 1)"),
        ("split.name", "apply", "two stages are called 'apply'"),
        (
            "pretrain.model.layers.0.hidden",
            "many",
            "stages.2 (pretrain).model.layers.0 (rbm).hidden: should be a valid integer",
        ),
        ("pretrain.strategy.steps", 0, "stages.2 (pretrain).strategy.steps: should be greater"),
        ("pretrain.kind", "train", "stages.2: expected one of the kinds 'apply', 'split'"),
        ("finetune.start", "x", "stage 'finetune': start='x' is not a training stage above"),
        ("evaluate.parts.0", "all", "stages.4 (evaluate).parts.0: should be 'train', "),
        (
            "finetune.optimiser.learning_rate",
            {"kind": "cosine"},
            "stages.3 (finetune).optimiser.learning_rate.start: expected a value, found none",
        ),
        ("apply.function", "x", "stages.0 (apply).function: expected a function or 'module:name'"),
        ("stages", [Softmax(classes=2)], "stages.0: expected one of the kinds 'apply', 'split'"),
    ],
)
def test_a_value_that_does_not_fit_is_named(path: str, value: object, message: str) -> None:
    with pytest.raises(DeclarationError, match=f"^pipeline 'p': {re.escape(message)}"):
        PIPELINE.replace(**{path: value})


def test_a_pipeline_without_stages_says_so() -> None:
    empty = Pipeline(name="p", source=SOURCE, stages=())
    with pytest.raises(DeclarationError, match=r"one of the stages \(none\), or one of"):
        empty.replace(**{"pretrain.epochs": 1})


def test_a_stage_is_found_by_name() -> None:
    assert PIPELINE.stage("split") == Split(test=0.2)
    with pytest.raises(DeclarationError) as refused:
        PIPELINE.stage("spilt")
    assert str(refused.value) == (
        "pipeline 'p': no stage 'spilt'; it has: apply, split, pretrain, finetune, evaluate, encode"
    )


def test_few_labels_need_a_model_that_learns_classes() -> None:
    model = Autoencoder(encoder=(Dense(units=3),))
    with pytest.raises(ValidationError, match="labelled=5 draws labels, and the model learns"):
        Pipeline(
            name="few",
            source=ZarrSource(path="a.zarr", features="x"),
            stages=(FineTune(model=model, labelled=5),),
        )


def test_gaps_need_a_model_that_makes_samples_again() -> None:
    message = "stage 'evaluate': gaps=0.1 measures how a model fills in values"
    for model in (STACK, GENERATIVE):
        assert message in told(Pretrain(model=model), FineTune(), Evaluate(gaps=0.1))
    Pipeline(name="p", source=SOURCE, stages=(Pretrain(model=RBM(hidden=2)), Evaluate(gaps=0.1)))


@pytest.mark.parametrize("fields", [{"mask": "there"}, {"missing": "absent"}])
def test_persistent_chains_take_no_mask(fields: dict[str, Any]) -> None:
    source = ZarrSource(path="air.zarr", features="air", **fields)
    chains = RBM(hidden=4, persistent=True)
    for model in (chains, DBN(layers=(chains, RBM(hidden=2)))):
        assert "an RBM with persistent=True takes no mask" in told(
            Pretrain(model=model), source=source
        )
    above = DBN(layers=(RBM(hidden=4), chains))
    Pipeline(name="p", source=source, stages=(Pretrain(model=above),))


REGRESSION = Network(layers=(Dense(units=3), Dense(units=2)), loss="squared_error")
AUTOENCODER = Autoencoder(encoder=(Dense(units=3),))


@pytest.mark.parametrize(
    ("named", "stage", "message"),
    [
        (
            {},
            FineTune(model=REGRESSION),
            "stage 'finetune' needs targets for its loss 'squared_error', and the source names "
            "none: set its targets=... to the variable that is to be predicted",
        ),
        (
            {"labels": "kind"},
            FineTune(model=REGRESSION),
            "stage 'finetune' needs targets for its loss 'squared_error'",
        ),
        (
            {"targets": "rain"},
            FineTune(model=STACK),
            "stage 'finetune' needs labels, and the source names none: set its labels=... to the "
            "variable with the class numbers, or, to learn its targets 'rain', declare a "
            "Network(loss=...) that ends in another layer than a Softmax",
        ),
        (
            {"targets": "rain"},
            FineTune(model=REGRESSION, metric="error"),
            "stage 'finetune': metric='error' is a share of samples that are misclassified",
        ),
        (
            {"targets": "rain"},
            FineTune(model=REGRESSION, labelled=5),
            "stage 'finetune': labelled=5 draws labels",
        ),
        (
            {"weights": "area"},
            FineTune(model=AUTOENCODER),
            "stage 'finetune': weights='area' have no effect on a model of the kind 'autoencoder'",
        ),
        (
            {"weights": "area", "labels": "kind"},
            FineTune(model=GENERATIVE),
            "weights='area' have no effect on a model of the kind 'generative_dbn'",
        ),
    ],
)
def test_what_a_network_learns_is_named(
    named: dict[str, str], stage: FineTune, message: str
) -> None:
    source = ZarrSource(path="air.zarr", features="air", **named)
    assert message in told(stage, source=source)


def test_weights_serve_classes_and_targets() -> None:
    for model, named in ((STACK, {"labels": "kind"}), (REGRESSION, {"targets": "rain"})):
        source = ZarrSource(path="air.zarr", features="air", weights="area", **named)
        stages = (FineTune(model=model), Evaluate())
        assert Pipeline(name="p", source=source, stages=stages).source.weights == "area"
