"""Pipelines as JSON: any one comes back as it was, and its JSON schema says what is allowed."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import deepstrata
from deepstrata.schemas.convolutional import ConvolutionalPSD, ConvolutionalRBM
from deepstrata.schemas.datasets import (
    DatasetSchema,
    DatasetSource,
    FileSource,
    Variable,
    ZarrSource,
)
from deepstrata.schemas.growing import DiscriminativePretrain
from deepstrata.schemas.layers import Dense, Softmax
from deepstrata.schemas.machines import RBM, AssociativeMemory
from deepstrata.schemas.models import DBN, MSDA, GenerativeDBN, Model, Network
from deepstrata.schemas.optimisers import (
    SGD,
    Adagrad,
    Adam,
    Cosine,
    Exponential,
    Linear,
    ReduceOnPlateau,
    Steps,
    WarmUp,
)
from deepstrata.schemas.pipelines import RESERVED, Pipeline
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
    Standardise,
)
from deepstrata.schemas.strategies import LocalSteps, Synchronous
from deepstrata.schemas.training import EarlyStopping

PIPELINE = Pipeline(
    name="p",
    source=ZarrSource(path="air.zarr", features="air", labels="kind"),
    stages=(
        Apply(function=math.floor),
        Split(validation=0.1, test=0.2),
        Pretrain(
            model=DBN(layers=(RBM(hidden=4), Softmax(classes=2))),
            early_stopping=EarlyStopping(patience=3, min_delta=0.1),
            keep="best",
            optimiser=Adam(
                learning_rate=WarmUp(epochs=2, then=ReduceOnPlateau(start=0.1)), clip_norm=1.0
            ),
        ),
        FineTune(
            metric="error", optimiser=SGD(learning_rate=Linear(start=0.1, end=0.01, epochs=5))
        ),
    ),
)


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="comes with nbmake, in the dev group")
    return jsonschema.Draft202012Validator(Pipeline.model_json_schema())


COUNTS = st.integers(1, 2**40)
TEXT = st.text(min_size=1, max_size=8)
POSITIVE = st.floats(1e-12, 1e12)
NOT_NEGATIVE = st.just(0.0) | POSITIVE
MAYBE = st.none()


@st.composite
def steps(draw: st.DrawFn) -> Steps:
    boundaries = sorted(draw(st.lists(NOT_NEGATIVE, max_size=3)))
    count = len(boundaries) + 1
    values = draw(st.lists(NOT_NEGATIVE, min_size=count, max_size=count))
    return Steps(values=tuple(values), boundaries=tuple(boundaries))


RATES = st.one_of(
    NOT_NEGATIVE,
    steps(),
    st.builds(Linear, start=NOT_NEGATIVE, end=NOT_NEGATIVE, epochs=POSITIVE),
    st.builds(Exponential, start=NOT_NEGATIVE, decay=POSITIVE),
    st.builds(Cosine, start=NOT_NEGATIVE, end=NOT_NEGATIVE, epochs=POSITIVE),
    st.builds(WarmUp, start=NOT_NEGATIVE, epochs=POSITIVE, then=NOT_NEGATIVE | steps()),
)
SGDS = st.builds(
    SGD,
    learning_rate=RATES,
    momentum=RATES,
    nesterov=st.booleans(),
    weight_decay=NOT_NEGATIVE,
    clip_norm=MAYBE | POSITIVE,
)
OPTIMISERS = st.one_of(
    SGDS,
    st.builds(Adagrad, learning_rate=RATES, epsilon=POSITIVE),
    st.builds(
        Adam,
        learning_rate=RATES,
        clip_value=MAYBE | POSITIVE,
        beta1=st.floats(0, 1, exclude_max=True),
    ),
)
STRATEGIES = st.one_of(
    st.builds(Synchronous, batch=COUNTS, shards=COUNTS),
    st.builds(LocalSteps, batch=COUNTS, steps=COUNTS, shards=COUNTS, outer=SGDS),
)
TRAINING = {
    "epochs": st.integers(0, 1000),
    "strategy": STRATEGIES,
    "checkpoint_rounds": MAYBE | COUNTS,
    "monitor": st.integers(0, 1000),
}


@st.composite
def growing(draw: st.DrawFn) -> DiscriminativePretrain:
    units = draw(st.lists(COUNTS, min_size=2, max_size=4))
    layers = (*(Dense(units=n) for n in units), Softmax(classes=draw(COUNTS)))
    each = st.tuples(*(OPTIMISERS for _ in units))
    return draw(
        st.builds(
            DiscriminativePretrain,
            model=st.sampled_from([Network(layers=layers), DBN(layers=layers)]),
            optimiser=OPTIMISERS | each,
            **TRAINING,
        )
    )


VARIABLES = st.builds(
    Variable,
    name=TEXT,
    dims=st.just(("a", "b")),
    dtype=st.sampled_from(["float32", "int64", "datetime64[ns]", "object", "bool"]),
    shape=MAYBE | st.tuples(MAYBE | COUNTS, COUNTS),
    chunks=MAYBE | st.tuples(COUNTS, COUNTS),
    minimum=MAYBE | st.floats(allow_nan=False, allow_infinity=False),
)
COLUMNS = {
    "features": TEXT,
    "labels": TEXT,
    "mask": MAYBE | TEXT,
    "missing": st.sampled_from(["refuse", "absent"]),
    "sample_dim": MAYBE | TEXT,
    "rows_per_shard": MAYBE | COUNTS,
    "expected": MAYBE
    | st.builds(
        DatasetSchema,
        sample_dim=TEXT,
        variables=st.lists(VARIABLES, max_size=2).map(tuple),
    ),
}
SOUNDS = st.fixed_dictionaries(
    {"frame": COUNTS | POSITIVE, "floor": st.floats(-200, 0), "shuffle": st.booleans()},
    optional={"rate": COUNTS, "names": st.just("(?P<label>[0-9])")},
)
PICTURES = st.fixed_dictionaries({"size": st.lists(COUNTS, min_size=2, max_size=2)})
SOURCES = st.one_of(
    st.builds(ZarrSource, path=TEXT, group=MAYBE | TEXT, **COLUMNS),
    st.builds(FileSource, format=TEXT, path=MAYBE | TEXT, **COLUMNS),
    st.builds(FileSource, format=st.just("wav"), options=SOUNDS, **COLUMNS),
    st.builds(FileSource, format=st.just("images"), options=PICTURES, **COLUMNS),
    st.builds(DatasetSource, **COLUMNS),
)
ARGUMENTS = st.dictionaries(
    TEXT,
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    max_size=3,
)


def rbms(visible: str = "bernoulli") -> st.SearchStrategy[RBM]:
    return st.builds(
        RBM,
        hidden=COUNTS,
        visible_units=st.just(visible),
        gibbs_steps=COUNTS,
        persistent=st.booleans(),
        chains=COUNTS,
        sparsity_target=st.floats(0.01, 0.99),
        sparsity_cost=NOT_NEGATIVE,
        weight_scale=POSITIVE,
    )


SOLVES = st.builds(
    Solve,
    model=st.builds(
        MSDA, depth=COUNTS, noise=st.floats(0.01, 0.99), ridge=POSITIVE, targets=MAYBE | COUNTS
    ),
)


@st.composite
def stacks(draw: st.DrawFn) -> Model:
    first = draw(rbms("gaussian") | rbms())
    if draw(st.booleans()):
        memory = draw(st.builds(AssociativeMemory, hidden=COUNTS, classes=COUNTS))
        return GenerativeDBN(layers=(first, draw(rbms())), memory=memory)
    denses = st.builds(Dense, units=COUNTS, activation=st.sampled_from(["tanh", "relu"]))
    middle = draw(st.lists(rbms() | denses, max_size=2))
    return DBN(layers=(first, *middle, draw(st.builds(Softmax, classes=COUNTS))))


SPARSE = {"atoms": COUNTS, "penalty": POSITIVE, "steps": COUNTS}
DICTIONARIES = st.builds(
    SparseCoding, inference=st.sampled_from(["fista", "line_search"]), **SPARSE
) | st.builds(PSD, prediction_weight=POSITIVE, **SPARSE)


FILTERS = {"maps": COUNTS, "kernel": st.just((3, 2)), "input_shape": st.just((8, 9, 2))}
DICTIONARIES |= st.builds(
    ConvolutionalPSD, penalty=POSITIVE, padding=st.sampled_from(["same", 1]), **FILTERS
) | st.builds(ConvolutionalRBM, sparsity_target=st.floats(0.01, 0.99), **FILTERS)


@st.composite
def pretrains(draw: st.DrawFn) -> Pretrain:
    stage = draw(st.builds(Pretrain, model=stacks(), optimiser=OPTIMISERS, **TRAINING))
    if draw(st.booleans()):
        each = tuple(draw(OPTIMISERS) for _ in stage.pretrained)
        stage = Pretrain(**dict(stage) | {"optimiser": each})
    return stage


def _has_chains(stage: Any) -> bool:
    """Tell whether a stage trains an RBM that takes no mask."""
    return isinstance(stage, Pretrain) and getattr(stage.pretrained[0], "persistent", False)


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    prepared = draw(st.lists(st.builds(Apply, function=st.just(math.floor), arguments=ARGUMENTS)))
    fractions = st.floats(0, 0.5, exclude_max=True)
    prepared += draw(
        st.lists(
            st.builds(Split, by=MAYBE | TEXT, validation=fractions, test=fractions), max_size=1
        )
    )
    scales = st.builds(Scale, minimum=MAYBE | st.floats(-9, 0), maximum=MAYBE | st.floats(1, 9))
    prepared += draw(st.lists(scales | st.builds(Standardise, epsilon=POSITIVE), max_size=2))
    dictionaries = st.builds(Pretrain, model=DICTIONARIES, optimiser=OPTIMISERS, **TRAINING)
    trained = [*draw(st.lists(dictionaries | SOLVES, max_size=1)), draw(pretrains())]
    trained += draw(
        st.lists(
            growing()
            | st.builds(FineTune, model=MAYBE | stacks(), optimiser=OPTIMISERS, **TRAINING),
            max_size=2,
        )
    )
    parts = st.lists(st.sampled_from(["train", "validation", "test"]), min_size=1, max_size=3)
    used = draw(
        st.lists(st.builds(Evaluate, parts=parts.map(tuple), pca=MAYBE | COUNTS), max_size=2)
    )
    used += draw(st.lists(st.builds(CrossDomain, domain=TEXT, samples=COUNTS), max_size=1))
    used += draw(st.lists(st.builds(Encode, layer=MAYBE | st.just(0)), max_size=1))
    used += draw(st.lists(st.builds(Report, examples=COUNTS), max_size=1))
    stages = [*prepared, *trained, *used]
    chains = any(_has_chains(stage) for stage in trained)
    taken = {*RESERVED, *Pipeline.model_fields}
    word = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True)
    names = draw(
        st.lists(
            word.filter(lambda name: name not in taken),
            min_size=len(stages),
            max_size=len(stages),
            unique=True,
        )
    )
    return Pipeline(
        name=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True)),
        source=draw(SOURCES.filter(lambda source: not (chains and source.masked))),
        stages=tuple(
            type(stage)(**dict(stage) | {"name": name})
            for stage, name in zip(stages, names, strict=True)
        ),
        seed=draw(st.integers(0, 2**63 - 1)),
    )


@st.composite
def of_targets(draw: st.DrawFn) -> Pipeline:
    """Return pipelines whose networks learn targets, or labels by weight."""
    loss = draw(st.sampled_from([None, "squared_error", "cross_entropy"]))
    top = Softmax(classes=2) if loss is None else Dense(units=draw(COUNTS))
    named = {"labels" if loss is None else "targets": draw(TEXT), "weights": draw(MAYBE | TEXT)}
    return Pipeline(
        name="p",
        source=draw(st.builds(ZarrSource, path=TEXT, features=TEXT)).model_copy(update=named),
        stages=(FineTune(model=Network(layers=(Dense(units=3), top), loss=loss)), Evaluate()),
    )


def test_a_pipeline_from_before_targets_is_read() -> None:
    net = {"kind": "network", "layers": [{"kind": "softmax", "classes": 2}]}
    old = {
        "format_version": 1,
        "name": "p",
        "source": {"kind": "zarr", "path": "x", "features": "f", "labels": "kind"},
        "stages": [{"kind": "finetune", "model": net}],
    }
    found = Pipeline.from_json(json.dumps(old))
    assert (found.source.targets, found.source.weights) == (None, None)
    assert found.stages[0].model == Network(layers=(Softmax(classes=2),))


def test_what_the_ends_of_epochs_decide_round_trips(validator: Any) -> None:
    again = Pipeline.from_json(PIPELINE.to_json())
    assert (again, hash(again)) == (PIPELINE, hash(PIPELINE))
    validator.validate(json.loads(PIPELINE.to_json()))


@given(pipelines() | of_targets())
def test_any_pipeline_round_trips(pipeline: Pipeline) -> None:
    again = Pipeline.from_json(pipeline.to_json())
    assert again == pipeline
    assert hash(again) == hash(pipeline)
    assert again.to_json() == pipeline.to_json()


@given(pipelines() | of_targets())
def test_the_pipeline_with_verbs_round_trips(pipeline: Pipeline) -> None:
    public = deepstrata.Pipeline.from_json(pipeline.to_json())
    assert public.to_json() == pipeline.to_json()
    assert public == deepstrata.Pipeline.from_json(public.to_json())
    assert public.replace(seed=public.seed) == public


@given(pipeline=pipelines() | of_targets())
def test_any_pipeline_satisfies_its_json_schema(validator: Any, pipeline: Pipeline) -> None:
    validator.validate(json.loads(pipeline.to_json()))


def test_the_json_schema_is_one(validator: Any) -> None:
    validator.check_schema(Pipeline.model_json_schema())
    assert json.loads(json.dumps(Pipeline.model_json_schema())) == Pipeline.model_json_schema()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["seed"], -1),
        (["name"], "two words"),
        (["of_my_own"], 1),
        (["source", "kind"], "csv"),
        (["stages", 1, "test"], 1.5),
        (["stages", 2, "model", "layers", 0, "hidden"], 0),
        (["stages", 2, "model", "layers", 0, "size"], 3),
        (["stages", 2, "optimiser"], 0.1),
        (["stages", 2, "keep"], "first"),
        (["stages", 2, "early_stopping", "patience"], 0),
        (["stages", 2, "optimiser", "learning_rate", "then", "factor"], 2),
        (["stages", 3, "metric"], "squared_error"),
        (["stages", 3, "optimiser", "learning_rate"], -1),
        (["stages", 3, "optimiser", "learning_rate", "kind"], "line"),
    ],
)
def test_the_json_schema_refuses(validator: Any, path: list[str | int], value: object) -> None:
    data = place = json.loads(PIPELINE.to_json())
    validator.validate(data)
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert not validator.is_valid(data)
