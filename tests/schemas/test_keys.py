"""Keys: an address for every stream, the same for ever; a change of them changes every run."""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deepstrata.schemas.keys import Key, fold

PATHS = st.lists(st.integers() | st.text(), max_size=4).map(tuple)


@pytest.mark.parametrize(
    ("seed", "path", "found"),
    [
        (0, ("a",), 5743393754540945274),
        (7, ("stage", "pretrain"), 2097214278185615992),
        (2**63 - 1, ("layer", 3, "round", 12), 14953294483646670400),
    ],
)
def test_keys_never_change(seed: int, path: tuple[int | str, ...], found: int) -> None:
    assert fold(Key(seed), *path) == Key(found)


def test_no_two_paths_of_a_grid_share_a_key() -> None:
    stages = ("pretrain", "finetune", "1")
    kinds = ("layer", "round", "rows", "")
    paths = [
        *product(stages, kinds, range(40), range(100)),
        *product(stages, kinds, range(40)),
        *product(stages, kinds, map(str, range(40))),
        *product(range(-100, 100), range(100)),
        (),
    ]
    keys = {fold(Key(seed), *path).seed for seed in (0, 1) for path in paths}
    assert len(keys) == 2 * len(paths)


@given(PATHS, PATHS)
def test_other_paths_have_other_keys(a: tuple[int | str, ...], b: tuple[int | str, ...]) -> None:
    assume(a != b)
    assert fold(Key(0), *a) != fold(Key(0), *b)


@given(st.integers(0, 2**64 - 1), PATHS)
def test_keys_have_64_bits(seed: int, path: tuple[int | str, ...]) -> None:
    assert 0 <= fold(Key(seed), *path).seed < 2**64


def test_steps_taken_together_and_apart_differ() -> None:
    key = Key(0)
    paths = [("ab",), ("a", "b"), ("a b",), ("a', 'b",), ("b", "a"), (1,), ("1",)]
    keys = {fold(key, *path) for path in paths} | {fold(fold(key, "a"), "b"), key}
    assert len(keys) == len(paths) + 2


def test_every_bit_is_as_often_set_as_not() -> None:
    n = 4096
    keys = np.array([fold(Key(0), "round", i).seed for i in range(n)], dtype=np.uint64)
    bits = (keys[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(n)


def test_numbers_and_text_of_numpy_are_those_of_python() -> None:
    expected = fold(Key(3), "round", 5)
    for number in (np.int64(5), np.uint8(5), np.array(5)):
        assert fold(Key(3), "round", number) == expected
    assert fold(Key(3), np.str_("round"), 5) == expected
    assert fold(Key(np.int64(3)), "round", 5) == expected


@pytest.mark.parametrize("step", [1.0, None, ("a",), np.float32(1)])
def test_a_step_is_a_number_or_text(step: object) -> None:
    with pytest.raises(TypeError):
        fold(Key(0), step)
