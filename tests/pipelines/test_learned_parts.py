"""Pretraining on the features of more parts than the training one."""

from pathlib import Path

import pytest
from distributed import Client
from support import dbn_pipeline, same

from deepstrata import DataError, Pipeline
from deepstrata.pipelines.pipeline import Pipeline as Declared
from deepstrata.pipelines.run import run

ALL = ("train", "validation", "test")


@pytest.fixture
def pipeline(bars_path: str) -> Pipeline:
    split, pretrain, *_ = dbn_pipeline(bars_path).stages
    declared = dbn_pipeline(bars_path).model_copy(update={"stages": (split, pretrain)})
    return declared.replace(**{"pretrain.monitor": 0})


def test_all_parts_are_as_no_parts(pipeline: Pipeline, client: Client, tmp_path: Path) -> None:
    found = run(pipeline.replace(**{"pretrain.parts": ALL}), client, out=str(tmp_path / "all"))
    undivided = pipeline.model_copy(update={"stages": pipeline.stages[1:]})
    same(found, run(undivided, client, out=str(tmp_path / "undivided")))


def test_parts_without_samples_stop_the_run_before_it_trains(
    pipeline: Pipeline, client: Client, out: str
) -> None:
    changes = {"split.validation": 0.0, "pretrain.parts": ("validation",)}
    with pytest.raises(DataError, match="'pretrain': no samples in validation"):
        run(pipeline.replace(**changes), client, out=out)


def test_the_plan_counts_what_is_learned_from(pipeline: Pipeline) -> None:
    rows = {}
    for parts in (("train",), ("train", "test"), ALL):
        plan = pipeline.replace(**{"pretrain.parts": parts}).plan()
        rows[parts] = next(s.shuffle.mix.rows for s in plan.steps if "pretrain" in s.stage)
    assert rows["train",] < rows["train", "test"] < rows[ALL] == 30


def test_labels_of_other_parts_are_not_learned(bars_path: str) -> None:
    generative = {
        "kind": "generative_dbn",
        "layers": [{"kind": "rbm", "hidden": 5}],
        "memory": {"hidden": 5, "classes": 2},
    }
    pipeline = dbn_pipeline(bars_path)
    with pytest.raises(Exception, match="learns labels, which are those of the training part"):
        pipeline.replace(**{"pretrain.model": generative, "pretrain.parts": ALL})


def test_what_is_learned_from_decides_nothing(pipeline: Declared) -> None:
    with pytest.raises(Exception, match="take validation out of parts"):
        pipeline.replace(**{"pretrain.keep": "best", "pretrain.monitor": 10, "pretrain.parts": ALL})
