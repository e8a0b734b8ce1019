"""The grid covers every row once, and orders are bijections that a key decides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepstrata.schemas.errors import SchemaError
from deepstrata.schemas.keys import Key, fold
from deepstrata.storage.shards import epoch_order, permutation, shard_grid, shard_plan

KEYS = st.integers(0, 2**64 - 1).map(Key)


@given(
    samples=st.integers(1, 5000),
    chunk=st.integers(1, 700),
    least=st.none() | st.integers(1, 2000),
)
def test_a_grid_is_made_of_whole_chunks(samples: int, chunk: int, least: int | None) -> None:
    grid = shard_grid(samples, chunk, least)
    assert [shard.index for shard in grid] == list(range(len(grid)))
    assert grid[0].start == 0
    assert grid[-1].stop == samples
    assert all(a.stop == b.start for a, b in zip(grid, grid[1:], strict=False))
    assert all(shard.start % chunk == 0 and shard.rows > 0 for shard in grid)
    assert all(shard.rows >= (least or 1) for shard in grid[:-1])


@given(lengths=st.lists(st.integers(0, 50), min_size=1, max_size=30), least=st.integers(1, 120))
def test_irregular_chunks_stay_whole(lengths: list[int], least: int) -> None:
    samples = sum(lengths)
    if samples == 0:
        with pytest.raises(SchemaError, match="at least one sample"):
            shard_grid(samples, lengths, least)
        return
    edges = {0, *np.cumsum(lengths).tolist()}
    grid = shard_grid(samples, lengths, least)
    assert sum(shard.rows for shard in grid) == samples
    assert all(shard.start in edges and shard.stop in edges for shard in grid)


def test_rows_in_memory_are_cut_anywhere() -> None:
    assert [s.rows for s in shard_grid(10, None)] == [10]
    assert [s.rows for s in shard_grid(10, None, 4)] == [4, 4, 2]


def test_chunks_have_to_add_up() -> None:
    with pytest.raises(SchemaError, match="10 rows together, found 9"):
        shard_grid(10, (4, 5))


@given(key=KEYS, n=st.integers(0, 3000))
def test_a_permutation_is_a_bijection(key: Key, n: int) -> None:
    order = permutation(key, n)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))


@given(key=KEYS, n=st.integers(1, 3000), data=st.data())
def test_any_part_of_a_permutation_is_computed_alone(key: Key, n: int, data: st.DataObject) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=20)), dtype=np.int64)
    assert np.array_equal(permutation(key, n, positions), permutation(key, n)[positions])


SMALL = [1, 8, 5, 7, 0, 9, 4, 6, 3, 2]
LARGE = [19, 470, 979, 407, 520, 149]


def test_permutations_are_pinned() -> None:
    # These orders are part of what makes a run reproducible: a change of them is a new format.
    assert permutation(Key(7), 10).tolist() == SMALL
    assert permutation(Key(7), 1000)[:6].tolist() == LARGE


@pytest.mark.parametrize("n", [5, 64, 65, 100, 1000])
def test_every_number_comes_to_every_position_equally_often(n: int) -> None:
    keys = [fold(Key(3), "order", i) for i in range(200 * min(n, 20))]
    cells = min(n, 20)
    for position in (0, n // 2, n - 1):
        at = np.array([position])
        found = np.array([permutation(key, n, at)[0] for key in keys]) * cells // n
        counts = np.bincount(found, minlength=cells)
        share = np.bincount(np.arange(n) * cells // n, minlength=cells) / n
        statistic = float(((counts - share * len(keys)) ** 2 / (share * len(keys))).sum())
        # Chi-square with cells - 1 degrees of freedom: six standard deviations above its mean.
        assert statistic < cells - 1 + 6 * np.sqrt(2 * (cells - 1))


def test_neighbours_do_not_stay_neighbours() -> None:
    n = 4096
    follows = np.mean([(np.diff(permutation(Key(i), n)) == 1).mean() for i in range(20)])
    assert follows < 10 / n


def test_keys_and_epochs_give_other_orders() -> None:
    assert not np.array_equal(permutation(Key(1), 100), permutation(Key(2), 100))
    assert np.array_equal(epoch_order(100, Key(1)), epoch_order(100, Key(1)))


@given(
    key=KEYS,
    shards=st.integers(1, 40),
    width=st.integers(1, 9),
    buffer=st.integers(1, 4),
    epoch=st.integers(0, 5),
)
def test_a_plan_holds_every_sample_once(
    key: Key, shards: int, width: int, buffer: int, epoch: int
) -> None:
    grid = shard_grid(shards * 10, 10)
    counts = [i % 4 for i in range(shards)]
    plan = shard_plan(grid, counts, key, epoch, width, buffer)
    places = [place for group in plan for place in group.places]
    seen = sorted(shard.index for place in places for shard in place)
    assert seen == [i for i, n in enumerate(counts) if n]
    held = [n for group in plan for n in group.counts]
    assert held == [sum(counts[shard.index] for shard in place) for place in places]
    assert all(len(group.places) == width for group in plan[:-1])
    assert all(len(place) == buffer for group in plan[:-1] for place in group.places)
    last = [len(place) for place in plan[-1].places] if plan else [0]
    assert max(last) - min(last) <= 1


def test_epochs_go_through_the_shards_in_another_order() -> None:
    grid = shard_grid(200, 10)
    plans = {
        tuple(s.index for g in shard_plan(grid, [10] * 20, Key(0), epoch, 2) for (s,) in g.places)
        for epoch in range(5)
    }
    assert len(plans) == 5
