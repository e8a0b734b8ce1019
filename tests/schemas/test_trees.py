"""Trees: what is flattened comes back; what does not fit is named."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deepstrata.schemas.errors import StorageError
from deepstrata.schemas.trees import (
    ArraySpec,
    Tree,
    flatten,
    is_leaf,
    leaves,
    nbytes,
    tree_map,
    unflatten,
)


class Pair(NamedTuple):
    weights: Tree
    bias: Tree


LEAVES = arrays.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
NAMES = st.text(min_size=1, max_size=5).filter(lambda name: "/" not in name)


def branches(below: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.one_of(
        st.builds(Pair, below, below),
        st.lists(below, max_size=3).map(tuple),
        st.dictionaries(NAMES, below, max_size=3),
        st.dictionaries(st.integers(), below, max_size=3),
    )


TREES = st.recursive(LEAVES, branches, max_leaves=8)
PARAMS = {"layers": (Pair(np.zeros((3, 2), np.float32), np.ones(2)), ()), "n": np.int64(7)}


def same(a: Tree, b: Tree) -> bool:
    """Tell whether two trees are of the same types with the same names and arrays."""
    if type(a) is not type(b):
        return False
    if is_leaf(a):
        return bool(a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(map(same, a, b))


def spec(leaf: Any) -> ArraySpec:
    return ArraySpec(leaf.shape, str(leaf.dtype))


@given(TREES)
def test_trees_come_back_by_example(tree: Tree) -> None:
    assert same(unflatten(tree, flatten(tree), "here"), tree)
    assert same(unflatten(tree_map(spec, tree), flatten(tree), "here"), tree)


@given(TREES)
def test_the_order_of_the_flat_form_does_not_matter(tree: Tree) -> None:
    backwards = dict(reversed(flatten(tree).items()))
    assert same(unflatten(tree, backwards, "here"), tree)


@given(TREES)
def test_sizes_are_those_of_the_arrays(tree: Tree) -> None:
    assert nbytes(tree) == sum(leaf.nbytes for leaf in leaves(tree))
    assert nbytes(tree_map(spec, tree)) == nbytes(tree)


@given(TREES)
def test_a_map_keeps_the_structure(tree: Tree) -> None:
    assert same(tree_map(lambda leaf: leaf, tree), tree)
    both = tree_map(lambda a, b: (a is b) and a, tree, tree)
    assert same(both, tree)
    assert len(leaves(tree)) == len(flatten(tree))


def test_leaves_are_named_by_their_path() -> None:
    assert list(flatten(PARAMS)) == ["layers/0/weights", "layers/0/bias", "n"]
    assert list(flatten(PARAMS, "state")) == ["state/layers/0/weights", "state/layers/0/bias"] + [
        "state/n"
    ]
    assert list(flatten(np.zeros(2))) == [""]
    assert flatten(()) == {}


def test_a_description_is_a_leaf_and_not_a_tuple() -> None:
    assert is_leaf(ArraySpec((2, 3)))
    assert nbytes(ArraySpec((2, 3), "float64")) == 48
    assert nbytes(ArraySpec(())) == 4


def test_part_of_what_is_there_can_be_read() -> None:
    flat = flatten(PARAMS) | {"more": np.zeros(1)}
    assert unflatten(PARAMS["layers"][0], flat, "here", "layers/0").bias is PARAMS["layers"][0].bias


def test_a_missing_leaf_is_named() -> None:
    flat = flatten(PARAMS)
    del flat["layers/0/bias"]
    with pytest.raises(StorageError) as refused:
        unflatten(PARAMS, flat, "state.safetensors")
    assert str(refused.value) == (
        "state.safetensors: no array 'layers/0/bias'; it holds ['layers/0/weights', 'n']"
    )


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (np.zeros((2, 3), np.float32), "float32(2, 3)"),
        (np.zeros((3, 2), np.float64), "float64(3, 2)"),
        (np.zeros(6, np.float32), "float32(6,)"),
    ],
)
def test_a_leaf_of_another_shape_or_type_is_named(found: Any, text: str) -> None:
    flat = flatten(PARAMS) | {"layers/0/weights": found}
    with pytest.raises(StorageError) as refused:
        unflatten(PARAMS, flat, "state.safetensors")
    assert str(refused.value) == (
        f"state.safetensors: array 'layers/0/weights': expected float32(3, 2), found {text}"
    )
