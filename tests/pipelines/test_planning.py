"""Plans: exact where they can be, upper bounds where they say so."""

from pathlib import Path

import pytest
from distributed import Client
from support import SAMPLES, SHARD, bars, dbn_pipeline

from deepstrata import LocalSteps, Synchronous
from deepstrata.pipelines.loading import load_pipeline
from deepstrata.pipelines.planning import plan, size
from deepstrata.pipelines.run import run


@pytest.mark.parametrize(
    "strategy", [LocalSteps(batch=10, steps=2, shards=2), Synchronous(batch=15, shards=3)]
)
def test_rounds_are_those_of_the_run(strategy, bars_path: str, client: Client, out: str) -> None:
    pipeline = dbn_pipeline(bars_path, strategy)
    steps = {step.stage: step for step in plan(pipeline).steps}
    done = run(pipeline, client, out=out)
    for node in done.history.leaves:
        assert steps[node.path.strip("/")].rounds == node.sizes["round"]


def test_memory_does_not_grow_with_the_data(bars_path: str, tmp_path: Path) -> None:
    path = str(tmp_path / "more.zarr")
    bars(4 * SAMPLES).chunk(sample=SHARD).to_zarr(path, zarr_format=3, consolidated=False)
    less, more = plan(dbn_pipeline(bars_path)), plan(dbn_pipeline(path))
    assert more.samples == 4 * less.samples
    assert more.tasks > 3 * less.tasks
    assert more.peak == less.peak


def test_a_plan_is_a_table_and_a_dict(bars_path: str) -> None:
    found = plan(dbn_pipeline(bars_path))
    assert "240 samples of 16 features in 8 shards" in str(found)
    assert "pretrain/layer-1" in str(found)
    data = found.to_dict()
    assert data["peak_worker_bytes"] == found.peak
    assert data["tasks"] == sum(step["tasks"] for step in data["steps"])


def test_a_split_by_a_variable_is_said_to_be_unknown(shared_data) -> None:
    found = plan(load_pipeline("dbn-mnist", str(shared_data / "mnist")))
    assert not found.exact
    assert found.samples == 70_000
    assert "the split reads them first" in str(found)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size(count) == text
