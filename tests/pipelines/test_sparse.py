"""Sparse models in pipelines: atoms where they belong after resume, networks on top, reports."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from support import StopAfter, same, stopping

from deepstrata import (
    PSD,
    SGD,
    Delayed,
    Encode,
    Evaluate,
    FineTune,
    LocalSteps,
    Network,
    Pipeline,
    Pretrain,
    Report,
    Softmax,
    SparseCoding,
    Split,
    Synchronous,
    ZarrSource,
    load_encoder,
)
from deepstrata.ops.sparse_coding import norms
from deepstrata.pipelines.run import resume, run

LOCAL = LocalSteps(batch=20, steps=2, shards=2)
RATE = SGD(learning_rate=0.05, momentum=0.5)


def pipeline(path: str, *stages: object, labels: str | None = None) -> Pipeline:
    source = ZarrSource(path=path, features="image", labels=labels)
    return Pipeline(name="sparse", source=source, stages=(Split(test=0.2), *stages), seed=5)


@pytest.mark.parametrize(
    ("model", "strategy"),
    [
        (PSD(atoms=8, penalty=0.3), LOCAL),
        (PSD(atoms=8, penalty=0.3), Synchronous(batch=20, shards=2)),
        (SparseCoding(atoms=40, penalty=0.3, steps=10), Delayed(rounds=1, batch=20, shards=2)),
    ],
)
def test_atoms_are_where_they_belong_after_resume(
    model: PSD | SparseCoding, strategy: object, bars_path: str, client: Client, tmp_path: Path
) -> None:
    stage = Pretrain(model=model, optimiser=RATE, strategy=strategy, epochs=2, checkpoint_rounds=1)
    declared = pipeline(bars_path, stage)
    whole = run(declared, client, out=str(tmp_path / "whole"))
    stopped = str(tmp_path / "stopped")
    with pytest.raises(StopAfter):
        run(declared, client, out=stopped, observer=stopping(2))
    again = resume(stopped, client)
    same(whole, again)
    lengths = norms(again.model.params.dictionary)
    if isinstance(model, PSD):
        np.testing.assert_allclose(lengths, 1, rtol=1e-6)
    else:
        assert lengths.max() <= 1 + 1e-6


def test_a_psd_is_measured_encoded_and_reported(
    bars_path: str, client: Client, tmp_path: Path
) -> None:
    model = PSD(atoms=8, penalty=0.3)
    stage = Pretrain(model=model, optimiser=RATE, strategy=LOCAL, epochs=4)
    declared = pipeline(bars_path, stage, Evaluate(), Encode(), Report(examples=8))
    done = run(declared, client, out=str(tmp_path / "run"))
    assert done.metrics["test_predicted_squared_error"] < 4
    assert 0 < done.metrics["test_nonzero_share"] < 1
    assert done.codes["code"].shape == (240, 8)
    image = xr.open_zarr(bars_path, consolidated=False)["image"]
    np.testing.assert_allclose(done.model.encode(image), done.codes["code"], atol=1e-6)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "8 hidden units" in page
    assert "Prediction distance" in page


def test_a_network_goes_on_from_its_psds(bars_path: str, client: Client, tmp_path: Path) -> None:
    net = Network(
        layers=(PSD(atoms=12, penalty=0.2), PSD(atoms=8, penalty=0.2), Softmax(classes=2))
    )
    declared = pipeline(
        bars_path,
        Pretrain(model=net, optimiser=RATE, strategy=LOCAL, epochs=3),
        FineTune(optimiser=SGD(learning_rate=0.2, momentum=0.9), strategy=LOCAL, epochs=8),
        Evaluate(),
        Report(examples=8),
        labels="label",
    )
    done = run(declared, client, out=str(tmp_path / "run"))
    assert done.metrics["test_error"] < 0.2
    again = load_encoder(str(tmp_path / "run" / "model"))
    assert [type(p).__name__ for p in again.params] == ["EncoderParams"] * 2 + ["DenseParams"]
