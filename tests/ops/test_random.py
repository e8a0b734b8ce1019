"""Random numbers by address: known answers, splits, oracles and distributions."""

import array_api_compat.numpy as xnp
import array_api_strict
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstrata.ops import random
from deepstrata.schemas.keys import Key, fold

SEED = 0xFEDCBA9876543210
ROWS = np.array([5, 2**40 + 3, 7, 0, 2**32 - 1, 2**62])


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([2**32 - 1] * 4, [2**32 - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, answer):
    words = random.philox(tuple(np.array([c], np.uint64) for c in counter), key[0] | key[1] << 32)
    assert [int(w[0]) for w in words] == answer


def test_address_map_is_the_documented_one():
    words = random.words(xnp, Key(SEED), ROWS, 200, 9, 64)
    for row, i in ((3, 2), (1, 5)):
        for unit in (64, 79, 80, 130, 263):
            tile, place = divmod(unit, 64)
            word, lane = divmod(place, 16)
            full = int(ROWS[row])
            counter = (tile * 16 + lane, full % 2**32, full >> 32, 9)
            made = random.philox(tuple(np.array([c], np.uint64) for c in counter), SEED)
            assert int(words[row, unit - 64]) == int(made[word][0]), i


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.integers(0, 2**62), min_size=1, max_size=9),
    cut=st.integers(0, 9),
    units=st.integers(1, 300),
    tile=st.integers(0, 4),
    draw=st.integers(0, 2**32 - 1),
    seed=st.integers(0, 2**64 - 1),
    kind=st.sampled_from(["uniform", "normal"]),
)
def test_any_split_of_rows_and_tiles_gives_the_same_numbers(
    rows, cut, units, tile, draw, seed, kind
):
    make, key, rows = getattr(random, kind), Key(seed), np.array(rows)
    whole = make(key, rows, units, draw)
    assert whole.dtype == np.float32
    assert whole.shape == (len(rows), units)
    parts = [make(key, part, units, draw) for part in (rows[:cut], rows[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    first = 64 * min(tile, (units - 1) // 64)
    right = make(key, rows, units - first, draw, first_unit=first)
    np.testing.assert_array_equal(right, whole[:, first:])
    order = np.argsort(rows)
    np.testing.assert_array_equal(make(key, rows[order], units, draw), whole[order])


@pytest.mark.parametrize("xp", [xnp, array_api_strict], ids=["numpy", "strict"])
@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize(("units", "first"), [(1, 0), (64, 64), (1100, 0)])
def test_compiled_kernels_give_the_oracles_bits(xp, kind, units, first):
    made = getattr(random, kind)(Key(SEED), ROWS, units, 3, first)
    oracle = getattr(random, f"{kind}_oracle")(xp, Key(SEED), ROWS, units, 3, first)
    np.testing.assert_array_equal(made, np.asarray(oracle))
    assert oracle.dtype == xp.float32


def test_like_chooses_the_library():
    like = array_api_strict.zeros(1, dtype=array_api_strict.float32)
    for make in (random.uniform, random.normal):
        made = make(Key(1), ROWS, 70, like=like)
        assert type(made) is type(like)
        np.testing.assert_array_equal(np.asarray(made), make(Key(1), ROWS, 70))


def test_distributions():
    rows = np.arange(400)
    u = random.uniform(Key(7), rows, 500).ravel()
    assert u.min() >= 0
    assert u.max() < 1
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3
    z = random.normal(Key(7), rows, 500, draw=1).ravel()
    assert scipy.stats.kstest(z, "norm").pvalue > 1e-3
    assert abs(scipy.stats.kurtosis(z)) < 0.05


def test_neighbouring_addresses_are_not_correlated():
    rows = np.arange(300)
    base = random.normal(Key(7), rows, 320)
    others = {
        "row": random.normal(Key(7), rows + 1, 320),
        "unit": random.normal(Key(7), rows, 320, first_unit=64),
        "draw": random.normal(Key(7), rows, 320, draw=1),
        "seed": random.normal(Key(8), rows, 320),
        "stream": random.normal(fold(Key(7), 1), rows, 320),
    }
    for name, other in others.items():
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.015, name


def test_normal_inverts_the_distribution_function_to_float32():
    word = random.words(xnp, Key(1), np.arange(200), 256, 0, 0)
    exact = scipy.special.ndtri((word + 0.5) / 2.0**32)
    np.testing.assert_allclose(random.normal(Key(1), np.arange(200), 256), exact, rtol=1.3e-7)


def test_bernoulli_has_its_probability_and_type():
    rows = np.arange(2000)
    for dtype in (np.float32, np.float64):
        p = np.broadcast_to(np.array([0.0, 0.2, 0.9, 1.0], dtype), (2000, 4))
        s = random.bernoulli(Key(3), p, rows)
        assert s.dtype == dtype
        np.testing.assert_allclose(s.mean(0), [0, 0.2, 0.9, 1], atol=0.04)
        assert set(np.unique(s)) == {0, 1}


def test_addresses_off_the_grid_are_refused():
    with pytest.raises(ValueError, match="multiple of 64, found 10"):
        random.uniform(Key(1), ROWS, 5, first_unit=10)
    with pytest.raises(ValueError, match="draw"):
        random.normal(Key(1), ROWS, 5, draw=2**32)
