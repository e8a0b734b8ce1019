"""Manifests: what a run says of itself comes back as it was."""

import pytest

import deepstrata
from deepstrata.schemas.datasets import ZarrSource
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.runs import (
    CheckpointRecord,
    Digests,
    Environment,
    RunManifest,
    StageRecord,
)
from deepstrata.schemas.stages import Apply, Pretrain

DECLARED = {
    "name": "p",
    "source": ZarrSource(path="x.zarr", features="f"),
    "stages": (
        Apply(function="os.path:join", arguments={"a": 1}),
        Pretrain(model=RBM(hidden=4)),
    ),
}
BEGUN = RunManifest(
    run="p-1",
    pipeline=Pipeline(**DECLARED),
    started="2026-01-01T00:00:00+00:00",
    environment=Environment(bits={"numpy": "2.4"}, notes={"python": "3.13"}),
)
DONE = RunManifest(
    run="p-1",
    pipeline=Pipeline(**DECLARED),
    status="finished",
    started="2026-01-01T00:00:00+00:00",
    finished="2026-01-01T00:01:00+00:00",
    environment=BEGUN.environment,
    cluster={"workers": "2"},
    stages=(
        StageRecord(
            name="pretrain",
            kind="pretrain",
            key="ab" * 32,
            seconds=1.5,
            examples=10,
            wait=0.25,
            metrics={"layer_0_train_squared_error": 0.1 + 0.2},
            outputs={"layer-0": "cd" * 32},
        ),
    ),
    checkpoints=(CheckpointRecord(stage="pretrain/layer-0", round=3, digest="ef" * 32),),
    metrics={"test_error": 1 / 3},
    digests=Digests(data="1", weights="2"),
    fingerprint="3",
    weights_sha256="2",
    examples_per_second=1e6 / 7,
    data_wait=0.1,
    peak_worker_bytes=2**40,
)


@pytest.mark.parametrize("manifest", [BEGUN, DONE], ids=["begun", "done"])
def test_manifests_round_trip(manifest: RunManifest) -> None:
    again = RunManifest.from_json(manifest.to_json())
    assert (again, hash(again)) == (manifest, hash(manifest))
    assert again.to_json() == manifest.to_json()


def test_a_pipeline_with_verbs_is_written_as_the_declaration_that_it_is() -> None:
    manifest = BEGUN.model_copy(update={"pipeline": deepstrata.Pipeline(**DECLARED)})
    assert manifest.to_json() == BEGUN.to_json()


def test_a_run_begins_as_running() -> None:
    assert (BEGUN.status, BEGUN.stages, BEGUN.fingerprint) == ("running", (), None)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"finished"', '"done"', r"status: should be 'running', 'finished', .* \(found 'done'\)"),
        ('"seconds"', '"minutes"', r"stages\.0: no field 'minutes'; there are: name, kind, key"),
        ('"round": 3', '"round": 3.5', r"checkpoints\.0\.round: should be a valid integer"),
        ('"hidden": 4', '"hidden": 0', r"pipeline\.stages\.1 \(pretrain\)\.model\.hidden: should"),
        ('"run": "p-1"', '"run": 1', r"run: should be a valid string \(found 1\)"),
    ],
)
def test_what_does_not_fit_is_named(before: str, after: str, message: str) -> None:
    text = DONE.to_json()
    assert before in text
    with pytest.raises(DeclarationError, match=rf"^run\.json: RunManifest: {message}"):
        RunManifest.from_json(text.replace(before, after, 1), where="run.json")
