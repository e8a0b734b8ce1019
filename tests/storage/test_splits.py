"""Splits: exact fractions, every sample in one part, names checked."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from deepstrata.schemas.errors import DataError, SchemaError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.stages import Split
from deepstrata.storage.shards import Shard, shard_grid
from deepstrata.storage.splits import PARTS, assign, flags

KEY = Key(5)


def test_without_a_declaration_everything_trains() -> None:
    assert assign(None, Shard(0, 0, 7), None, KEY).tolist() == [0] * 7


@given(
    samples=st.integers(1, 2000),
    chunk=st.integers(1, 90),
    validation=st.sampled_from([0.0, 0.1, 0.25, 0.29]),
    test=st.sampled_from([0.0, 0.05, 0.2]),
)
def test_fractions_are_exact_over_all_shards(
    samples: int, chunk: int, validation: float, test: float
) -> None:
    split = Split(validation=validation, test=test)
    codes = [assign(split, s, None, KEY) for s in shard_grid(samples, chunk)]
    for part, fraction in ((1, validation), (2, test)):
        found = sum(int((c == part).sum()) for c in codes)
        # Shards of one or two rows cannot give one row to two parts.
        slack = 0 if chunk > 2 else len(codes)
        assert abs(found - int(samples * fraction + 1e-9)) <= slack
    assert all(c.dtype == np.int8 and set(np.unique(c)) <= {0, 1, 2} for c in codes)


def test_an_order_in_time_is_kept() -> None:
    codes = assign(Split(validation=0.2, test=0.3, shuffle=False), Shard(1, 10, 20), None, KEY)
    assert codes.tolist() == [0] * 5 + [1] * 2 + [2] * 3


def test_a_key_decides_who() -> None:
    split, shard = Split(test=0.5), Shard(0, 0, 100)
    assert np.array_equal(assign(split, shard, None, KEY), assign(split, shard, None, KEY))
    assert not np.array_equal(assign(split, shard, None, KEY), assign(split, shard, None, Key(6)))


@pytest.mark.parametrize("dtype", ["U10", "S10", object, np.dtypes.StringDType()])
def test_names_say_the_part(dtype: object) -> None:
    values = np.array(["train", "test", "validation", "train"], dtype=dtype)  # type: ignore[call-overload]
    assert assign(Split(by="part"), Shard(0, 0, 4), values, KEY).tolist() == [0, 2, 1, 0]


def test_numbers_say_the_part_by_their_flags() -> None:
    attrs = {"flag_values": np.array([0, 5], np.int8), "flag_meanings": "train test"}
    meanings = flags(xr.DataArray(np.zeros(2, np.int8), attrs=attrs))
    assert meanings == {0: "train", 5: "test"}
    codes = assign(Split(by="subset"), Shard(0, 0, 3), np.array([0, 5, 5]), KEY, meanings)
    assert codes.tolist() == [0, 2, 2]


def test_fractions_are_taken_from_what_trains() -> None:
    values = np.array(["train"] * 60 + ["test"] * 40)
    codes = assign(Split(by="part", validation=0.25), Shard(0, 0, 100), values, KEY)
    assert np.bincount(codes).tolist() == [45, 15, 40]
    assert set(codes[60:]) == {PARTS.index("test")}


def test_errors_name_the_value_and_what_was_expected() -> None:
    with pytest.raises(DataError, match="'dev'.*one of: train, validation, test"):
        assign(Split(by="part"), Shard(0, 0, 1), np.array(["dev"]), KEY)
    with pytest.raises(DataError, match="'3'"):
        assign(Split(by="part"), Shard(0, 0, 1), np.array([3]), KEY, {0: "train"})
    with pytest.raises(SchemaError, match="flag_values"):
        assign(Split(by="part"), Shard(0, 0, 1), np.array([3]), KEY)
    with pytest.raises(SchemaError, match="found shape"):
        assign(Split(by="part"), Shard(0, 0, 2), np.array(["train"]), KEY)
    with pytest.raises(SchemaError, match="no values of 'part'"):
        assign(Split(by="part"), Shard(0, 0, 2), None, KEY)


def test_flags_have_to_match() -> None:
    assert flags(xr.DataArray(0)) is None
    with pytest.raises(SchemaError, match="as many flag_meanings"):
        flags(xr.DataArray(0, attrs={"flag_values": [0, 1], "flag_meanings": "train"}))
