"""Transfer: what is taken, from whom, what fits, and that the parent is needed only once."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from distributed import Client
from support import SHARD, StopAfter, bars, same, stopping

from deepstrata import (
    RBM,
    Activation,
    DeclarationError,
    Dense,
    Encode,
    Evaluate,
    FineTune,
    Network,
    Pipeline,
    Scale,
    Softmax,
    Standardise,
    StorageError,
    Transfer,
    ZarrSource,
)
from deepstrata.pipelines.cli import cli
from deepstrata.pipelines.parents import check_parents
from deepstrata.pipelines.run import Run, resume, run
from deepstrata.pipelines.verify import verify
from deepstrata.schemas.trees import leaves
from deepstrata.storage import runs

V = 16
NET = Network(
    layers=(
        Activation(function="tanh"),
        Dense(units=8, name="low"),
        Dense(units=6),
        Softmax(classes=2),
    )
)


def source(path: str) -> ZarrSource:
    return ZarrSource(path=path, features="image", labels="label")


def trained(path: str, out: Path, client: Client, epochs: int = 2) -> Run:
    stages = (Standardise(), FineTune(model=NET, epochs=epochs))
    return run(Pipeline(name="parent", source=source(path), stages=stages), client, out=str(out))


def child(path: str, parent: str, **more: Any) -> Pipeline:
    stages = (
        Transfer(run=parent, **{"model": NET} | more),
        FineTune(epochs=3, learning_rates={"1": 0}, checkpoint_rounds=1),
        Evaluate(parts=("train",)),
    )
    return Pipeline(name="child", source=source(path), stages=stages, seed=1)


@pytest.fixture(scope="module")
def parent(bars_path: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(bars_path, tmp_path_factory.mktemp("parent") / "run", client)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Data that the parent has not seen."""
    path = str(tmp_path_factory.mktemp("data") / "others.zarr")
    bars(120, seed=1).chunk(sample=SHARD).to_zarr(path, zarr_format=3, consolidated=False)
    return path


@pytest.fixture(scope="module")
def whole(
    others: str, parent: Run, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    out = tmp_path_factory.mktemp("child") / "run"
    return run(child(others, parent.path), client, out=str(out))


def test_layers_and_scaling_are_those_of_the_parent(whole: Run, parent: Run) -> None:
    for ours, theirs in zip(leaves(whole.model.affine), leaves(parent.model.affine), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    frozen, other = whole.model.params[1], whole.model.params[2]
    np.testing.assert_array_equal(frozen.weights, parent.model.params[1].weights)
    assert (other.weights != parent.model.params[2].weights).any()


def test_a_run_says_who_its_parent_is(whole: Run, parent: Run) -> None:
    told = whole.manifest.parent
    assert told["parent"] == parent.path
    assert told["parent_fingerprint"] == parent.fingerprint
    assert whole.manifest.digests.parent == told["parent_weights"] == parent.model.info.digest
    assert parent.manifest.parent == {}
    shown = CliRunner().invoke(cli, ["show", whole.path]).output
    assert str(parent.fingerprint) in shown


def test_a_saved_model_will_do_wherever_it_lies(
    whole: Run, others: str, parent: Run, client: Client, tmp_path: Path
) -> None:
    shutil.copytree(Path(parent.path) / "model", tmp_path / "model")
    again = run(child(others, str(tmp_path / "model")), client, out=str(tmp_path / "run"))
    assert verify(whole.path, again.path).same
    assert "parent_fingerprint" not in again.manifest.parent


def test_a_run_goes_on_when_its_parent_is_gone(
    whole: Run, others: str, parent: Run, client: Client, tmp_path: Path
) -> None:
    moved, out = str(tmp_path / "parent"), str(tmp_path / "run")
    shutil.copytree(parent.path, moved)
    with pytest.raises(StopAfter):
        run(child(others, moved), client, out=out, observer=stopping(2, "finetune"))
    shutil.rmtree(moved)
    same(whole, resume(out, client))
    with pytest.raises(StorageError, match="no such path"):
        resume(out, client, changes={"transfer.layers": 2})


def test_another_parent_is_named(
    whole: Run, bars_path: str, others: str, client: Client, tmp_path: Path
) -> None:
    other = trained(bars_path, tmp_path / "parent", client, epochs=1)
    again = run(child(others, other.path), client, out=str(tmp_path / "run"))
    text = verify(whole.path, again.path).text
    assert f"the parents differ: weights {whole.manifest.digests.parent[:12]} of the run" in text
    assert f"of the run {str(other.fingerprint)[:12]} at {other.path}" in text
    assert "the pipelines differ" not in text


def test_layers_are_codes_without_training(
    others: str, parent: Run, client: Client, tmp_path: Path
) -> None:
    stages = (Transfer(run=parent.path, model=NET, layers="low"), Encode())
    pipeline = Pipeline(name="codes", source=source(others), stages=stages)
    done = run(pipeline, client, out=str(tmp_path / "run"))
    assert done.codes is not None
    expected = parent.model.encode(bars(120, seed=1), layer=1)
    np.testing.assert_allclose(done.codes["code"], expected, atol=1e-5)


def test_a_whole_net_is_measured_without_training(
    bars_path: str, parent: Run, client: Client, tmp_path: Path
) -> None:
    stages = (Transfer(run=parent.path, model=NET, layers=4), Evaluate(parts=("train",)))
    pipeline = Pipeline(name="measured", source=source(bars_path), stages=stages)
    done = run(pipeline, client, out=str(tmp_path / "run"))
    predicted = parent.model.predict(bars()).argmax("class")
    error = float((predicted != bars()["label"]).mean())
    assert done.metrics["train_error"] == pytest.approx(error)


def refused(pipeline: Pipeline, error: type[Exception], message: str, visible: int = V) -> None:
    with pytest.raises(error, match=message):
        check_parents(pipeline, visible)


def test_a_parent_that_is_not_there(others: str, client: Client, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"stage 'transfer': .*nowhere: .*no such path"):
        run(child(others, str(tmp_path / "nowhere")), client, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    (tmp_path / "empty").mkdir()
    refused(child(others, str(tmp_path / "empty")), StorageError, "found neither in it")


def test_a_parent_that_has_not_finished(others: str, parent: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "parent")
    manifest = parent.manifest.model_copy(update={"status": "interrupted"})
    runs.write_manifest(path, manifest)
    refused(child(others, path), StorageError, "it is interrupted|is interrupted; go on with it")
    runs.write_manifest(path, parent.manifest)
    refused(child(others, path), StorageError, "a run that trained no model")


def test_a_damaged_parent(others: str, parent: Run, tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(Path(parent.path) / "model", path)
    weights = path / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused(child(others, str(path)), StorageError, "damaged: expected arrays")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({1: Dense(units=9, name="low")}, r"layer 1 'low' (dense): expected units=9, found 8"),
        ({2: Dense(units=6, activation="relu")}, "layer 2 (dense): expected activation='relu'"),
        ({2: Activation(function="relu")}, "layer 2 (activation): expected kind='activation'"),
        ({3: Softmax(classes=3)}, "layer 3 (softmax): expected classes=3, found 2"),
        ({0: RBM(hidden=4)}, "layer 0 (rbm): expected kind='dense', found 'activation'"),
    ],
)
def test_layers_that_compute_something_else(
    changes: dict[int, Any], message: str, others: str, parent: Run
) -> None:
    layers = tuple(changes.get(i, layer) for i, layer in enumerate(NET.layers))
    pipeline = child(others, parent.path, model=Network(layers=layers), layers=4)
    refused(pipeline, DeclarationError, re.escape(message))
    if 3 in changes:  # other classes are no matter where the softmax is not taken
        check_parents(child(others, parent.path, model=Network(layers=layers)), V)


def test_layers_of_other_shapes(others: str, parent: Run) -> None:
    message = r"expected weights \(9, 8\), found \(16, 8\); its samples had 16 features, these"
    refused(child(others, parent.path), DeclarationError, message, visible=9)
    message = "expected a scaling for 9 features, found one for 16.*scaling='own'"
    refused(child(others, parent.path, layers=1), DeclarationError, message, visible=9)
    check_parents(child(others, parent.path, layers=1, scaling="own"), 9)
    taller = Network(layers=(*NET.layers[:3], Dense(units=4), *NET.layers[2:]))
    pipeline = child(others, parent.path, model=taller, layers=5)
    refused(pipeline, DeclarationError, "expected 5 layers to take, found 4")


def test_scaling_comes_from_one_of_the_two(others: str, parent: Run) -> None:
    pipeline = child(others, parent.path)
    stages = (Scale(), *pipeline.stages)
    with pytest.raises(ValueError, match=r"stage 'scale' \(scale\) comes on top of the scaling"):
        Pipeline(name="twice", source=pipeline.source, stages=stages)
    own = pipeline.stages[0].model_copy(update={"scaling": "own"})
    Pipeline(name="own", source=pipeline.source, stages=(Scale(), own, *pipeline.stages[1:]))


def test_what_classifies_nothing_is_not_measured(others: str, parent: Run) -> None:
    stages = (Transfer(run=parent.path, model=NET), Evaluate())
    with pytest.raises(ValueError, match="classify nothing yet; put a FineTune between"):
        Pipeline(name="early", source=source(others), stages=stages)
