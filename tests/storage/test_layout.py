"""The default layout: few rows stay whole, many become shards of 16 to 64 MiB."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepstrata.schemas.errors import SchemaError
from deepstrata.storage.layout import KIB, MIB, choose, inner_rows


@given(samples=st.integers(1, 10**9), row=st.integers(1, 10**7))
def test_chunks_divide_shards(samples: int, row: int) -> None:
    layout = choose(samples, row)
    assert 1 <= layout.chunk_rows <= layout.shard_rows <= samples
    assert layout.shard_rows % layout.chunk_rows == 0
    if samples * row >= 1024 * MIB and row <= 8 * MIB:
        assert 16 * MIB <= layout.shard_rows * row <= 64 * MIB
    if layout.shard_rows < samples:
        assert layout.shard_rows * row >= 16 * KIB
    if row <= MIB and layout.shard_rows < samples:
        assert layout.chunk_rows * row <= 3 * MIB


@pytest.mark.parametrize(
    ("samples", "row", "shards"), [(1797, 64, 8), (70_000, 784, 32), (10_000_000, 3072, 914)]
)
def test_the_number_of_shards(samples: int, row: int, shards: int) -> None:
    layout = choose(samples, row)
    assert abs(-(-samples // layout.shard_rows) - shards) <= 2


def test_inner_chunks_are_about_a_mebibyte() -> None:
    assert inner_rows(4096, 4096) * 4096 == MIB
    assert inner_rows(100, 10) == 100


def test_nothing_cannot_be_laid_out() -> None:
    with pytest.raises(SchemaError, match="0 samples"):
        choose(0, 10)
