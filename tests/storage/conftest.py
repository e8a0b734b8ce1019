"""Fixtures of the storage tests."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
import zarr


@pytest.fixture(autouse=True)
def zarr_configuration_stays() -> Iterator[None]:
    """Nothing that is opened or written may leave zarr's configuration changed."""
    before = zarr.config.get("codec_pipeline.path")
    yield
    assert zarr.config.get("codec_pipeline.path") == before


@pytest.fixture
def memory_url() -> Iterator[str]:
    """A fresh place in fsspec's object store in memory."""
    url = f"memory://{uuid4().hex}"
    yield url
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(url):
        filesystem.rm(url, recursive=True)


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A directory on the disk, and the same in an object store."""
    if request.param == "local":
        return str(tmp_path / "place")
    url: str = request.getfixturevalue("memory_url")
    return url
