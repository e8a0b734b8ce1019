"""Fine-tuning on a few labelled samples of each class, drawn by key."""

from pathlib import Path

import pytest
from distributed import Client
from support import StopAfter, dbn_pipeline, same, stopping

from deepstrata import DataError, Pipeline
from deepstrata.pipelines.run import resume, run

EPOCHS, CLASSES, FEW = 2, 2, 4


@pytest.fixture
def pipeline(bars_path: str) -> Pipeline:
    changes = {"pretrain.epochs": 1, "finetune.labelled": FEW, "finetune.checkpoint_rounds": 1}
    return dbn_pipeline(bars_path, epochs=EPOCHS).replace(**changes)


def test_an_epoch_is_what_was_drawn_and_resumes(
    pipeline: Pipeline, client: Client, tmp_path: Path
) -> None:
    whole = run(pipeline, client, out=str(tmp_path / "whole"))
    assert whole.history["finetune"]["n"].sum() == EPOCHS * CLASSES * FEW
    stopped = str(tmp_path / "stopped")
    with pytest.raises(StopAfter):
        run(pipeline, client, out=stopped, observer=stopping(2, "finetune"))
    same(whole, resume(stopped, client))


def test_a_class_with_too_few_labels_stops_the_run(
    pipeline: Pipeline, client: Client, out: str
) -> None:
    with pytest.raises(DataError, match=r"expected 1000 training samples of each of 2 classes"):
        run(pipeline.replace(**{"finetune.labelled": 1000}), client, out=out)


def test_the_plan_counts_what_is_drawn(pipeline: Pipeline) -> None:
    (step,) = (step for step in pipeline.plan().steps if step.stage == "finetune")
    all_of_them = pipeline.replace(**{"finetune.labelled": None}).plan()
    (other,) = (step for step in all_of_them.steps if step.stage == "finetune")
    assert 0 < step.shuffle.mix.rows < other.shuffle.mix.rows
