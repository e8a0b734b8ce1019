"""The certificate: what differs is named, and where the weights part."""

from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from support import SHARD, bars, dbn_pipeline

from deepstrata.ops import optimisers
from deepstrata.pipelines.environment import continued
from deepstrata.pipelines.run import Run, run
from deepstrata.pipelines.verify import verify
from deepstrata.schemas.runs import Environment
from deepstrata.storage import runs


@pytest.fixture(scope="module")
def reference(bars_path, client: Client, tmp_path_factory) -> Run:
    out = str(tmp_path_factory.mktemp("reference") / "run")
    return run(dbn_pipeline(bars_path, epochs=2), client, out=out)


def changed(reference: Run, tmp_path: Path, **changes: Any) -> str:
    """Write a run directory that says something else; return its path."""
    path = str(tmp_path / "changed")
    runs.write_manifest(path, reference.manifest.model_copy(update=changes))
    return path


def test_a_run_is_the_same_as_itself(reference: Run) -> None:
    verdict = verify(reference.path, reference.path)
    assert verdict.same
    assert verdict.text == f"same: weights {reference.manifest.weights_sha256}"


def test_other_data_is_named_by_content(reference: Run, client: Client, tmp_path: Path) -> None:
    store = str(tmp_path / "other.zarr")
    bars(seed=1).chunk(sample=SHARD).to_zarr(store, zarr_format=3, consolidated=False)
    run(dbn_pipeline(store, epochs=2), client, out=str(tmp_path / "run"))
    text = verify(reference.path, str(tmp_path / "run")).text
    assert text.startswith("the data differs: ")
    assert "the weights part in stage pretrain/layer-0" in text


def test_every_field_of_the_pipeline_that_differs_is_named(reference: Run, tmp_path: Path) -> None:
    pipeline = reference.pipeline.replace(**{"seed": 8, "finetune.epochs": 9})
    verdict = verify(reference.path, changed(reference, tmp_path, pipeline=pipeline))
    assert not verdict.same
    assert "the pipelines differ: seed is 7 and 8" in verdict.text
    assert "epochs is 2 and 9" in verdict.text
    assert "the weights are the same all the same" in verdict.text


def test_the_code_is_a_digest_of_its_own(reference: Run, tmp_path: Path) -> None:
    digests = reference.manifest.digests.model_copy(update={"code": "1" * 64})
    verdict = verify(reference.path, changed(reference, tmp_path, digests=digests))
    assert not verdict.same
    assert verdict.text.startswith("the code of deepstrata differs: ")


def test_the_environment_is_compared_name_by_name(reference: Run, tmp_path: Path) -> None:
    environment = reference.manifest.environment
    bits = environment.bits | {"numpy": "1.0"}
    other = environment.model_copy(update={"bits": bits})
    verdict = verify(reference.path, changed(reference, tmp_path, environment=other))
    assert "the environments differ: numpy is" in verdict.text
    assert "and '1.0'" in verdict.text


def test_a_run_that_went_on_elsewhere_says_so() -> None:
    first, second = Environment(bits={"numpy": "1"}), Environment(bits={"numpy": "2"})
    mixed = continued(first, second)
    assert mixed.bits == {"numpy": "1, then 2"}
    assert continued(mixed, second).bits == mixed.bits
    assert continued(first, first).bits == first.bits


def test_the_fingerprint_covers_every_digest(reference: Run) -> None:
    digests = reference.manifest.digests.model_dump()
    assert set(digests) == {"data", "pipeline", "code", "environment", "parent", "weights"}
    assert digests.pop("parent") == ""
    assert all(len(digest) == 64 for digest in digests.values())


@pytest.mark.parametrize("spoiled", [0, 3])
def test_the_round_where_weights_part_is_named(
    spoiled: int, reference: Run, bars_path: str, client: Client, out: str, monkeypatch: Any
) -> None:
    update, calls = optimisers.update, []

    def spoil(*args: Any) -> Any:
        params, state = update(*args)
        calls.append(1)
        if len(calls) == spoiled + 1:
            params.weights[0, 0] += 1e-3
        return params, state

    monkeypatch.setattr(optimisers, "update", spoil)
    run(dbn_pipeline(bars_path, epochs=2), client, out=out)
    verdict = verify(reference.path, out)
    assert not verdict.same
    assert f"the weights part in stage pretrain/layer-0, by round {spoiled + 1}" in verdict.text
    assert "(the same until round 0 of pretrain/layer-0)" in verdict.text


def test_a_run_that_is_not_finished_is_no_certificate(reference: Run, tmp_path: Path) -> None:
    path = changed(reference, tmp_path, fingerprint=None, status="interrupted")
    assert "has not finished (it is interrupted)" in verify(reference.path, path).text
