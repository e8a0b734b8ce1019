"""The engine on another array library, where a GPU's would be: array-api-strict in CuPy's place.

It has no more than the standard, refuses to mix with NumPy, and gives NumPy's bits.
"""

import sys

import array_api_strict
import pytest
from distributed import Client
from support import dbn_pipeline

from deepstrata import RBM, Adam, Pipeline, Pretrain, Standardise, Synchronous, ZarrSource
from deepstrata.ops import backend, blas
from deepstrata.pipelines import environment
from deepstrata.pipelines.run import run


@pytest.fixture
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Make the workers of this process compute with array-api-strict; return what was moved."""
    moved: set[str] = set()

    def device_array(x: object, to: str) -> object:
        if to == "numpy":
            return backend.to_numpy(x)
        moved.add(type(x).__module__.partition(".")[0])
        return array_api_strict.asarray(x)

    for name, module in list(sys.modules.items()):
        if name.startswith("deepstrata.ops") and hasattr(module, "device_array"):
            monkeypatch.setattr(module, "device_array", device_array)
    monkeypatch.setattr(environment, "cuda_device", lambda: "array-api-strict")
    return moved


@pytest.mark.parametrize("strategy", [None, Synchronous(batch=15, shards=2)], ids=str)
def test_a_whole_pipeline(
    strategy, pretend_gpu: set[str], bars_path: str, client: Client, out: str, monkeypatch
) -> None:
    pipeline = dbn_pipeline(bars_path, strategy, epochs=1)
    there = run(pipeline, client, out=out + "-there")
    assert there.manifest.environment.bits["device"] == "array-api-strict"
    assert "numpy" in pretend_gpu
    monkeypatch.undo()
    monkeypatch.setattr(blas, "find", lambda: None)  # the other library has no such thing
    here = run(pipeline, client, out=out + "-here")
    assert there.metrics == pytest.approx(here.metrics, rel=1e-5)
    assert there.manifest.weights_sha256 == here.manifest.weights_sha256


def test_statistics_and_chains(pretend_gpu: set[str], bars_path: str, client, out: str) -> None:
    pipeline = Pipeline(
        name="chains",
        source=ZarrSource(path=bars_path, features="image"),
        stages=(
            Standardise(),
            Pretrain(
                model=RBM(hidden=6, visible_units="gaussian", persistent=True, chains=8),
                optimiser=Adam(learning_rate=0.01),
                strategy=Synchronous(batch=15, shards=2),
                epochs=2,
            ),
        ),
    )
    history = run(pipeline, client, out=out).history["pretrain/layer-0"]
    assert history["train_squared_error"][-1] < history["train_squared_error"][0] * 1.1
