"""Rows that are decoded, against counting them one by one."""

from hypothesis import given
from hypothesis import strategies as st

from deepstrata.storage.covering import decoded_rows


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 70), max_size=6),
)
def test_irregular_chunks(lengths: list[int], cuts: list[int]) -> None:
    samples = sum(lengths)
    bounds = sorted({0, samples, *(c for c in cuts if c < samples)})
    chunk_of = [i for i, length in enumerate(lengths) for _ in range(length)]
    found = decoded_rows(bounds[:-1], bounds[1:], lengths, samples)
    for a, b, rows in zip(bounds[:-1], bounds[1:], found, strict=True):
        assert rows == sum(lengths[i] for i in set(chunk_of[a:b]))


@given(samples=st.integers(1, 60), chunk=st.integers(1, 70), cuts=st.lists(st.integers(1, 60)))
def test_regular_chunks(samples: int, chunk: int, cuts: list[int]) -> None:
    bounds = sorted({0, samples, *(c for c in cuts if c < samples)})
    lengths = [min(chunk, samples - start) for start in range(0, samples, chunk)]
    regular = decoded_rows(bounds[:-1], bounds[1:], chunk, samples)
    assert regular.tolist() == decoded_rows(bounds[:-1], bounds[1:], lengths, samples).tolist()


def test_what_is_not_chunked_costs_its_rows() -> None:
    assert decoded_rows([0, 3], [3, 10], None, 10).tolist() == [3, 7]
