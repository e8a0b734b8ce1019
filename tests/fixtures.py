"""Fixtures of the engine's tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client
from support import SHARD, bars

from deepstrata.pipelines import cluster
from deepstrata.pipelines.cluster import connect

# Processes that run tests side by side do not look for a free port at the same moment.
cluster.DASHBOARD_PORT += int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


@pytest.fixture(scope="session")
def bars_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "bars.zarr"
    bars().chunk(sample=SHARD, y=-1, x=-1).to_zarr(path, zarr_format=3, consolidated=False)
    return str(path)


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Two threads in this process."""
    with connect("threads", workers=2) as client:
        yield client


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "run")
