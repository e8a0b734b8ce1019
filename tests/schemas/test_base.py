"""Declarations: frozen, strict, and refused in words a user can act on."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from deepstrata.schemas._base import Declaration, Document, explain
from deepstrata.schemas.datasets import DatasetSchema, ZarrSource
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.layers import Softmax
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import DBN
from deepstrata.schemas.optimisers import SGD, Linear
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.runs import RunManifest
from deepstrata.schemas.stages import Evaluate, Pretrain
from deepstrata.schemas.training import NamedStage, TrainingStage

SCHEMA = {"sample_dim": "time", "variables": []}
PIPELINE = {"name": "p", "source": {"kind": "zarr", "path": "x", "features": "f"}, "stages": []}
MANIFEST = {"run": "r", "pipeline": PIPELINE, "started": "now", "environment": {"bits": {}}}
DOCUMENTS = [(DatasetSchema, SCHEMA), (Pipeline, PIPELINE), (RunManifest, MANIFEST)]


ABSTRACT = {NamedStage, TrainingStage}  #: what stages inherit from


def declarations(base: type[Declaration] = Declaration) -> list[type[Declaration]]:
    """Return all that a user can write down, in ``deepstrata.schemas``."""
    found = [k for k in base.__subclasses__() if k.__module__.startswith("deepstrata.schemas")]
    below = [kind for parent in found for kind in declarations(parent)]
    named = [kind for kind in found if not kind.__name__.startswith("_")]
    return [kind for kind in named if kind not in ABSTRACT] + below


def told(kind: type[Declaration], where: str = "here", /, **fields: Any) -> list[str]:
    """Return the lines that explain why a declaration is refused."""
    with pytest.raises(ValidationError) as refused:
        kind(**fields)
    return explain(refused.value, where).splitlines()


KINDS = (
    "'rbm', 'autoencoder', 'psd', 'convolutional_psd', 'convolutional_rbm', 'msda', "
    "'sparse_coding', 'dbn', 'generative_dbn', 'network'"
)


@pytest.mark.parametrize(("kind", "fields"), DOCUMENTS)
@pytest.mark.parametrize("version", [2, 99, "2", None])
def test_another_format_version_is_refused(
    kind: type[Document], fields: dict[str, Any], version: object
) -> None:
    text = json.dumps(fields | {"format_version": version, "of the future": True})
    with pytest.raises(DeclarationError) as refused:
        kind.from_json(text, where="there.json")
    assert str(refused.value) == (
        f"there.json: {kind.__name__}: format_version {version!r} is not one this deepstrata "
        "reads (it reads 1); upgrade deepstrata or write the document again"
    )


@pytest.mark.parametrize(("kind", "fields"), DOCUMENTS)
def test_a_document_names_its_format_version(kind: type[Document], fields: dict[str, Any]) -> None:
    document = kind.from_json(json.dumps(fields))
    assert json.loads(document.to_json())["format_version"] == 1
    assert kind.from_json(document.to_json()) == document


def test_the_version_of_a_document_in_a_document_counts_too() -> None:
    fields = MANIFEST | {"pipeline": PIPELINE | {"format_version": 3}}
    with pytest.raises(DeclarationError, match=r"run\.json: .*pipeline: format_version 3"):
        RunManifest.from_json(json.dumps(fields), where="run.json")


def test_text_is_written_indented_and_ends_in_a_newline() -> None:
    text = Pipeline(**PIPELINE).to_json()
    assert text.startswith('{\n  "format_version": 1,\n')
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there: DatasetSchema: not JSON: EOF"),
        ('{"sample_dim": ', "there: DatasetSchema: not JSON: EOF"),
        ("[]", "there: DatasetSchema: expected a declaration, or a mapping of its fields"),
        ("{}", "there: DatasetSchema: sample_dim: expected a value, found none"),
    ],
)
def test_text_that_is_no_document(text: str, message: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        DatasetSchema.from_json(text, where="there")
    assert str(refused.value).startswith(message)


def test_without_a_place_the_document_is_named() -> None:
    with pytest.raises(DeclarationError, match=r"^Pipeline: not JSON"):
        Pipeline.from_json(b"{")


@pytest.mark.parametrize("kind", declarations(), ids=lambda kind: kind.__name__)
def test_unknown_fields_are_refused_with_those_there_are(kind: type[Declaration]) -> None:
    (line,) = told(kind, of_my_own=1)
    fields = ", ".join(kind.model_fields)
    assert line == f"here: {kind.__name__}: no field 'of_my_own'; there are: {fields}"
    assert kind.model_json_schema()["additionalProperties"] is False


def test_unknown_fields_far_below_are_placed() -> None:
    stage = {"kind": "pretrain", "model": {"kind": "rbm", "hidden": 3, "size": 3}}
    (line,) = told(Pipeline, **PIPELINE | {"stages": [stage]})
    assert line.startswith("here: Pipeline: stages.0 (pretrain).model: no field 'size'; there")


def test_values_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RBM(hidden=3).hidden = 4


def test_equal_values_have_equal_hashes() -> None:
    assert len({RBM(hidden=3), RBM(hidden=3, gibbs_steps=1), RBM(hidden=4)}) == 2
    assert hash(SGD()) != hash(Linear(start=1, end=0, epochs=1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value: float) -> None:
    (line,) = told(SGD, learning_rate=value)
    assert line == f"here: SGD: learning_rate: should be a finite number (found {value})"


def test_the_declaration_is_named_unless_the_place_names_it() -> None:
    assert told(RBM, "my.py", hidden=0) == [
        "my.py: RBM: hidden: should be greater than 0 (found 0)"
    ]
    assert told(RBM, "rbm 7", hidden=0) == ["rbm 7: hidden: should be greater than 0 (found 0)"]


def test_every_problem_has_a_line() -> None:
    assert told(RBM, hidden=0, gibbs_steps="one", visible_units="ising") == [
        "here: RBM: hidden: should be greater than 0 (found 0)",
        "here: RBM: gibbs_steps: should be a valid integer, unable to parse string as an integer "
        "(found 'one')",
        "here: RBM: visible_units: should be 'bernoulli' or 'gaussian' (found 'ising')",
    ]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"hidden": 3}, "model: expected a field 'kind' that says what this is, found none"),
        (
            {"kind": "svm"},
            f"model: expected one of the kinds {KINDS}, found 'svm'",
        ),
        (
            Softmax(classes=2),
            f"model: expected one of the kinds {KINDS}, found 'softmax'",
        ),
        ("rbm", "model: expected a declaration, or a mapping of its fields (found 'rbm')"),
        ({"kind": "rbm"}, "model.hidden: expected a value, found none"),
        ({"kind": "dbn", "layers": []}, "model.layers: expected at least 1, found 0 (found [])"),
        (
            {"kind": "dbn", "layers": [{"kind": "rbm", "hidden": -1}]},
            "model.layers.0 (rbm).hidden: should be greater than 0 (found -1)",
        ),
    ],
)
def test_unions_are_told_apart(model: object, message: str) -> None:
    assert told(Pretrain, model=model) == [f"here: Pretrain: {message}"]


def test_a_field_that_is_called_like_a_kind_keeps_its_name() -> None:
    strategy = {"kind": "local_steps", "steps": 0}
    (line,) = told(Pretrain, model=RBM(hidden=3), strategy=strategy)
    assert line == "here: Pretrain: strategy.steps: should be greater than 0 (found 0)"


def test_long_values_are_cut() -> None:
    (line,) = told(Evaluate, parts="x" * 1000)
    assert len(line) < 200


def test_a_check_of_the_whole_shows_no_dump() -> None:
    (line,) = told(DBN, layers=(Softmax(classes=2), Softmax(classes=2)))
    assert line == "here: DBN: layer 0 is a Softmax; only the last layer can be one"


def test_fields_are_documented_for_the_json_schema() -> None:
    fields = ZarrSource.model_json_schema()["properties"]
    assert fields["features"]["description"].startswith("Variable with the features")
