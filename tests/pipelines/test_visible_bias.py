"""Pretraining that begins with visible biases at the mean of the data."""

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from support import StopAfter, dbn_pipeline, same, stopping

from deepstrata import PSD, Network, Pipeline
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.run import resume, run


@pytest.fixture
def pipeline(bars_path: str) -> Pipeline:
    split, pretrain, *_ = dbn_pipeline(bars_path).stages
    declared = dbn_pipeline(bars_path).model_copy(update={"stages": (split, pretrain)})
    return declared.replace(**{"pretrain.visible_bias": "mean"})


def test_every_layer_begins_at_the_mean_of_what_it_learns_from(
    pipeline: Pipeline, bars_path: str, client: Client, out: str
) -> None:
    everything = {"pretrain.epochs": 0, "pretrain.parts": ("train", "validation", "test")}
    first, second = run(pipeline.replace(**everything), client, out=out).model.params
    x = xr.open_zarr(bars_path, consolidated=False)["image"].values.reshape(240, -1)
    odds = (x.sum(axis=0) + 1) / (len(x) - x.sum(axis=0) + 1)
    np.testing.assert_allclose(first.visible_bias, np.log(odds), rtol=1e-5)
    h = 1 / (1 + np.exp(-(x @ first.weights + first.hidden_bias)))
    odds = (h.sum(axis=0) + 1) / (len(h) - h.sum(axis=0) + 1)
    np.testing.assert_allclose(second.visible_bias, np.log(odds), rtol=1e-4, atol=1e-5)


def test_any_number_of_workers_and_a_stop_give_the_same_bits(
    pipeline: Pipeline, client: Client, out: str
) -> None:
    done = run(pipeline, client, out=out)
    with pytest.raises(StopAfter):
        run(pipeline, client, out=f"{out}-stopped", observer=stopping(3))
    with connect("threads", workers=1) as one:
        same(done, resume(f"{out}-stopped", one))
    zero = pipeline.replace(**{"pretrain.visible_bias": "zero"})
    other = run(zero, client, out=f"{out}-zero").manifest.weights_sha256
    assert other != done.manifest.weights_sha256


def test_the_plan_counts_the_pass(pipeline: Pipeline) -> None:
    zero = pipeline.replace(**{"pretrain.visible_bias": "zero"})
    steps, without = (
        [s for s in declared.plan().steps if "pretrain" in s.stage] for declared in (pipeline, zero)
    )
    shards = len(xr.open_zarr(pipeline.source.path, consolidated=False).chunksizes["sample"])
    assert [a.tasks - b.tasks for a, b in zip(steps, without, strict=True)] == [shards, shards]
    assert all(a.bytes_read > b.bytes_read for a, b in zip(steps, without, strict=True))


@pytest.mark.parametrize(
    "model",
    [
        PSD(atoms=4),
        Network(
            layers=(
                {
                    "kind": "autoencoder",
                    "encoder": [{"kind": "dense", "units": 3}],
                    "output": "tanh",
                },
            )
        ),
    ],
)
def test_other_layers_have_no_visible_bias(pipeline: Pipeline, model: object) -> None:
    with pytest.raises(Exception, match="expected an RBM, or an Autoencoder whose decoder ends"):
        pipeline.replace(**{"pretrain.model": model})
