"""HDF5 files, read by h5py in blocks of rows: arrays of numbers, in one group or in several alike.

Groups that hold the same names, such as ``train`` and ``test``, are put one after another.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from deepstrata.schemas.errors import SchemaError, StorageError
from deepstrata.schemas.formats import HDF5
from deepstrata.storage import stores
from deepstrata.storage.formats.arrays import own_dims
from deepstrata.storage.formats.base import SAMPLE, Content, Rows, placeholder, required
from deepstrata.storage.formats.classes import flag_attrs
from deepstrata.storage.formats.files import SUBSETS

CACHE_BYTES = 64 * 1024**2  #: for each array: a chunk that two blocks share is decoded once
ATTRIBUTES = ("units", "long_name", "standard_name", "description", "flag_values", "flag_meanings")


class Array(NamedTuple):
    """What the file says of an array."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attrs: dict[str, Any]


Group = dict[str, Array]


def open_hdf5(source: str | None, sample_dim: str | None, options: HDF5 | None = None) -> Content:
    """Open an HDF5 file; see ``Format`` and ``schemas.formats.HDF5``.

    Arrays keep their names; their first dimension counts samples. Several groups give a
    coordinate: ``subset`` where they are called train, validation or test, else ``group``.
    """
    options, dim = options or HDF5(), sample_dim or SAMPLE
    path = required(source, "hdf5")
    groups = _chosen(path, _groups(path), options)
    first = next(iter(groups.values()))
    if dim in first:
        raise SchemaError(
            f"{path}: an array is called {dim!r} like the dimension that counts samples; call "
            "that something else with sample_dim"
        )
    ends = list(accumulate(_rows(path, group) for group in groups.values()))
    template = xr.Dataset({n: _placeholder(n, a, ends[-1], dim) for n, a in first.items()})
    name, numbers, attrs = _told(list(groups))
    if len(groups) > 1:
        if name in first:
            raise SchemaError(f"{path}: expected no array called {name!r}, which tells the groups")
        template = template.assign_coords(
            {name: placeholder((dim,), (ends[-1],), np.int64, **attrs)}
        )

    def blocks(rows: int) -> Iterator[Rows]:
        with _file(path) as file:
            for start in range(0, ends[-1], rows):
                block = slice(start, min(start + rows, ends[-1]))
                values: Rows = {n: _read(file, path, groups, n, ends, block) for n in first}
                if len(groups) > 1:
                    places = np.searchsorted(ends, np.arange(block.start, block.stop), "right")
                    values[name] = numbers[places]
                yield values

    return Content(template, dim, blocks)


@contextmanager
def _file(path: Path) -> Iterator[Any]:
    """Open the file.

    Raises
    ------
    SchemaError
        It is not HDF5, is truncated, or (inside) an array in it is damaged.
    StorageError
        It cannot be opened, or h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise StorageError("format 'hdf5': needs h5py: pip install 'deepstrata[hdf5]'") from None
    with stores.explained(path, "read"):
        path.open("rb").close()
    try:
        with h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES) as file:
            yield file
    except (SchemaError, StorageError):
        raise
    except (OSError, KeyError, RuntimeError) as error:
        raise SchemaError(f"{path}: not an HDF5 file, or a damaged one: {error}") from None


def _groups(path: Path) -> dict[str, Group]:
    """Return all arrays by the path of their group and their name, in the order of their paths."""
    found: dict[str, Group] = {}

    def visit(name: str, node: Any) -> None:
        if hasattr(node, "shape") and node.shape:
            group, _, short = name.rpartition("/")
            group = group or "/"
            attrs = {k: _plain(node.attrs[k]) for k in ATTRIBUTES if k in node.attrs}
            found.setdefault(group, {})[short] = Array(name, node.shape, node.dtype, attrs)

    with _file(path) as file:
        file.visititems(visit)
    return found


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _chosen(path: Path, found: dict[str, Group], options: HDF5) -> dict[str, Group]:
    """Return the groups and arrays that are to be read, all groups alike."""
    if not found:
        raise SchemaError(f"{path}: empty: no arrays in it")
    wanted = (
        list(found) if options.groups is None else [g.strip("/") or "/" for g in options.groups]
    )
    for group in wanted:
        if group not in found:
            raise SchemaError(
                f"{path}: no group {group!r} with arrays; there are: {', '.join(map(repr, found))}"
            )
    groups = {group: _kept(path, group, found[group], options) for group in wanted}
    (name, first), *others = groups.items()
    for other, arrays in others:
        if _kind(arrays) != _kind(first):
            raise SchemaError(
                f"{path}: group {other!r}: expected arrays like those of {name!r}: {_said(first)}; "
                f"found {_said(arrays)}; choose with the options groups and variables"
            )
    return groups


def _kept(path: Path, group: str, arrays: Group, options: HDF5) -> Group:
    for name in options.variables or ():
        if name not in arrays:
            raise SchemaError(
                f"{path}: group {group!r}: no array {name!r}; there are: {', '.join(arrays)}; "
                "choose with the options groups and variables"
            )
    kept = {name: arrays[name] for name in options.variables or arrays}
    for array in kept.values():
        if array.dtype.kind not in "biuf" or 0 in array.shape:
            raise SchemaError(
                f"{path}: array {array.path!r}: expected numbers with samples, found "
                f"{array.dtype}{array.shape}; leave it out with the option variables"
            )
    return kept


def _kind(group: Group) -> dict[str, tuple[Any, ...]]:
    return {name: (array.dtype, array.shape[1:]) for name, array in group.items()}


def _said(group: Group) -> str:
    return ", ".join(f"{name} {array.dtype}{array.shape}" for name, array in group.items())


def _rows(path: Path, group: Group) -> int:
    counts = {array.path: array.shape[0] for array in group.values()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise SchemaError(
            f"{path}: expected as many rows in each array, found {found}; choose with the option "
            "variables"
        )
    return next(iter(counts.values()))


def _placeholder(name: str, array: Array, samples: int, dim: str) -> Any:
    shape = (samples, *array.shape[1:])
    dtype = array.dtype.newbyteorder("=")
    return placeholder(own_dims(dim, name, shape), shape, dtype, **array.attrs)


def _told(groups: list[str]) -> tuple[str, npt.NDArray[np.int64], dict[str, Any]]:
    """Return the name of the coordinate, the number of each group, and the attributes."""
    parts = [SUBSETS.get(group.rpartition("/")[2].lower()) for group in groups]
    names = [part for part in parts if part is not None]
    if len(names) == len(set(names)) == len(groups):
        return "subset", np.arange(len(groups)), flag_attrs(names)
    return "group", np.arange(len(groups)), flag_attrs(groups)


def _read(
    file: Any, path: Path, groups: dict[str, Group], name: str, ends: list[int], block: slice
) -> npt.NDArray[Any]:
    """Read rows, which may end one group and begin the next."""
    pieces = []
    for end, group in zip(ends, groups.values(), strict=True):
        begin = end - group[name].shape[0]
        first, last = max(block.start, begin), min(block.stop, end)
        if first < last:
            pieces.append(file[group[name].path][first - begin : last - begin])
    joined = np.concatenate(pieces)
    return joined.astype(joined.dtype.newbyteorder("="), copy=False)
