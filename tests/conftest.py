"""Fixtures for all tests."""

from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says nothing on machines that others use at the same time.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

SHARED = (Path(__file__).parents[1] / "../shared/data").resolve()


@pytest.fixture
def shared_data() -> Path:
    """The real data sets, in a folder ``shared`` beside the repository; nothing depends on them."""
    if not SHARED.is_dir():
        pytest.skip("no shared/data beside the repository; put the data sets there to run this")
    return SHARED
