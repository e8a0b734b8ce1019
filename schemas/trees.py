"""Trees: tuples, NamedTuples and dicts with arrays at the leaves.

Parameters, optimiser states and statistics are trees. A leaf has a path such as
``params/0/weights``, which is its name in a checkpoint and in an error.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from deepstrata.schemas.errors import StorageError

Array = Any  #: a numpy.ndarray, a cupy.ndarray, or another array of the array API standard
Tree = Any  #: an Array, or a tuple, NamedTuple or dict of Trees


class ArraySpec(NamedTuple):
    """What an array looks like, where the array itself is not needed."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def is_leaf(tree: Tree) -> bool:
    """Tell whether ``tree`` is an array or the description of one."""
    return isinstance(tree, ArraySpec) or not isinstance(tree, tuple | dict)


def tree_map(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply ``function`` leaf by leaf; all trees share one structure."""
    if is_leaf(tree):
        return function(tree, *rest)
    if isinstance(tree, dict):
        return {k: tree_map(function, v, *(r[k] for r in rest)) for k, v in tree.items()}
    leaves = [tree_map(function, *items) for items in zip(tree, *rest, strict=True)]
    return type(tree)(*leaves) if hasattr(tree, "_fields") else tuple(leaves)


def _children(tree: Tree) -> Iterator[tuple[str, Tree]]:
    if isinstance(tree, dict):
        yield from ((str(k), v) for k, v in tree.items())
    elif hasattr(tree, "_fields"):
        yield from zip(tree._fields, tree, strict=True)
    else:
        yield from ((str(i), v) for i, v in enumerate(tree))


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Return ``{path: leaf}`` in the order of the tree."""
    if is_leaf(tree):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, child in _children(tree):
        flat |= flatten(child, f"{prefix}/{name}" if prefix else name)
    return flat


def leaves(tree: Tree) -> list[Any]:
    """Return the leaves in the order of the tree."""
    if is_leaf(tree):
        return [tree]
    children = tree.values() if isinstance(tree, dict) else tree
    return [leaf for child in children for leaf in leaves(child)]


def unflatten(like: Tree, flat: Mapping[str, Any], where: str, prefix: str = "") -> Tree:
    """Rebuild a tree of the structure of ``like`` from ``{path: leaf}``.

    Raises
    ------
    StorageError
        A leaf is missing, or has another shape or dtype than in ``like``; both are named.
    """
    if is_leaf(like):
        if prefix not in flat:
            raise StorageError(f"{where}: no array {prefix!r}; it holds {sorted(flat)}")
        found = flat[prefix]
        if tuple(found.shape) != tuple(like.shape) or str(found.dtype) != str(like.dtype):
            raise StorageError(
                f"{where}: array {prefix!r}: expected {like.dtype}{tuple(like.shape)}, "
                f"found {found.dtype}{tuple(found.shape)}"
            )
        return found
    below = {
        name: unflatten(child, flat, where, f"{prefix}/{name}" if prefix else name)
        for name, child in _children(like)
    }
    if isinstance(like, dict):
        return dict(zip(like, below.values(), strict=True))
    return type(like)(*below.values()) if hasattr(like, "_fields") else tuple(below.values())


def nbytes(tree: Tree) -> int:
    """Return the size of all leaves in bytes."""
    return sum(int(leaf.nbytes) for leaf in leaves(tree))
