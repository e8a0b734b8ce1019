"""The package: light to import, every public name there."""

import subprocess
import sys
from pathlib import Path

import pytest

import deepstrata

HEAVY = ["dask", "distributed", "zarr", "xarray", "numba", "matplotlib", "scipy", "sklearn", "cupy"]


@pytest.mark.parametrize("module", ["deepstrata", "deepstrata.pipelines.recipes.dbn_mnist"])
def test_declaring_a_pipeline_is_light(module: str, tmp_path: Path) -> None:
    code = f"import {module}, sys; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "\n", "")


@pytest.mark.parametrize("name", deepstrata.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(deepstrata, name).__name__ == name


def test_public_names_are_each_there_once() -> None:
    assert len(set(deepstrata.__all__)) == len(deepstrata.__all__)
    assert set(deepstrata._LAZY) <= set(deepstrata.__all__)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="'deepstrata' has no attribute 'no_such_thing'"):
        deepstrata.no_such_thing  # noqa: B018
