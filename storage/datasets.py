"""Datasets: Zarr groups opened by xarray, described, and checked against what a source names.

N counts samples. Nothing here reads data; coordinates that index a dimension are the exception,
where xarray is asked for them.
"""

import math
import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
import zarr
from xarray.coders import CFTimedeltaCoder
from zarr.errors import ContainsArrayError, NodeNotFoundError

from deepstrata.schemas.datasets import DatasetSchema, Source, Variable
from deepstrata.schemas.errors import SchemaError, StorageError
from deepstrata.storage import stores
from deepstrata.storage.codecs import fast_codecs

COMPLETE = "deepstrata_complete"
"""Attribute of a store that we write: false from its first moment, true once all is there."""

NUMBERS = "biuf"
INTEGERS = "iu"


class Columns(NamedTuple):
    """The variables of a dataset that a source names, found and checked."""

    features: str
    labels: str | None
    mask: str | None
    sample_dim: str
    samples: int
    feature_shape: tuple[int, ...]
    """Lengths of the other dimensions of the features, in their order."""
    feature_dims: tuple[str, ...]
    dtype: str
    """Of the features, as a reader sees them."""
    classes: int | None
    """Number of classes where the labels say so themselves (CF ``flag_values``)."""
    missing: Literal["refuse", "absent"] = "refuse"
    """What NaN among the features means."""
    targets: str | None = None
    target_dims: tuple[str, ...] = ()
    """Dimensions of the targets but for the samples', in their order; and their lengths:"""
    target_shape: tuple[int, ...] = ()
    weights: str | None = None

    @property
    def target_width(self) -> int:
        """Numbers in one sample's targets; 0 without any."""
        return math.prod(self.target_shape) if self.targets is not None else 0

    @property
    def visible(self) -> int:
        """Numbers in one sample: the product of ``feature_shape``."""
        return int(np.prod(self.feature_shape, dtype=np.int64))

    @property
    def names(self) -> tuple[str, ...]:
        """The variables named: features, then what else there is of labels, mask and so on."""
        names = (self.features, self.labels, self.mask, self.targets, self.weights)
        return tuple(name for name in names if name is not None)


def _text(error: BaseException) -> str:
    return str(error.args[0]) if error.args else type(error).__name__


def open_group(path: str, group: str | None = None) -> zarr.Group:
    """Open a Zarr group, v2 or v3, for reading.

    Raises
    ------
    StorageError
        There is nothing at ``path``, or it cannot be read.
    SchemaError
        What is there is not a Zarr group.
    """
    where = path if group is None else f"{path}, group {group!r}"
    path = stores.absolute(path)
    if not stores.exists(path):
        raise StorageError(f"{path}: there is nothing there; expected a Zarr group")
    with stores.explained(where, "open"):
        try:
            return zarr.open_group(path, mode="r", path=group or "")
        except ContainsArrayError:
            raise SchemaError(
                f"{where}: expected a Zarr group with named variables, found a single Zarr array; "
                "open the group that holds it"
            ) from None
        except (NodeNotFoundError, NotADirectoryError, ValueError, KeyError) as error:
            raise SchemaError(
                f"{where}: expected a Zarr group (v2 or v3), found none ({_text(error)}); "
                "files of another format have to be ingested first"
            ) from None


def open_dataset(
    path: str | os.PathLike[str],
    group: str | None = None,
    *,
    chunked: bool = False,
    indexes: bool = True,
) -> xr.Dataset:
    """Open a Zarr group (v2 or v3; a path or an fsspec URL) lazily, decoded by CF conventions.

    Parameters
    ----------
    path, group
        Where the store is, and the group in it.
    chunked
        Give Dask arrays with one chunk per Zarr chunk (per Zarr v3 shard, where there are any),
        for computing with them; arrays that are read only when indexed otherwise.
    indexes
        Load the coordinates that index dimensions, as xarray does.

    Raises
    ------
    StorageError
        There is nothing at ``path``, it cannot be read, or its writing was interrupted.
    SchemaError
        What is there is not a Zarr group, or xarray cannot read it.
    """
    path = stores.absolute(path)
    found = open_group(path, group)
    if found.attrs.get(COMPLETE) is False:
        raise StorageError(
            f"{path}: incomplete: the process that wrote it was interrupted; write it again"
        )
    consolidated = found.metadata.consolidated_metadata is not None
    try:
        with fast_codecs(), stores.explained(path, "open"):
            dataset = xr.open_dataset(
                path,
                engine="zarr",
                group=group,
                chunks=None,
                cache=False,
                decode_timedelta=CFTimedeltaCoder(decode_via_units=False),
                create_default_indexes=indexes,
                backend_kwargs={"consolidated": consolidated and group is None},
            )
    except (KeyError, ValueError, TypeError) as error:
        raise SchemaError(f"{path}: xarray cannot read this group: {_text(error)}") from error
    dataset.attrs.pop(COMPLETE, None)
    # A directory is listed in any order; what "the first variable" is must not depend on that.
    data = {name: dataset.variables[name] for name in sorted(dataset.data_vars, key=str)}
    dataset = dataset.drop_vars(list(data)).assign(data)
    return _chunked(dataset) if chunked else dataset


def row_chunks(dataset: xr.Dataset, name: str, sample_dim: str) -> tuple[int, ...] | int | None:
    """Return the chunk lengths of a variable along the sample dimension.

    One number means a regular grid (a store's), a tuple Dask's chunks in their order, and None
    that the variable lies in memory and is not chunked at all.
    """
    variable = dataset.variables[name]
    axis = variable.dims.index(sample_dim)
    if variable.chunks is not None:
        return tuple(int(n) for n in variable.chunks[axis])
    lengths = stored_chunks(variable)
    return None if lengths is None else lengths[axis]


def stored_chunks(variable: xr.Variable) -> tuple[int, ...] | None:
    """Return the largest chunk along each dimension: Dask's, else the store's shard or chunk."""
    if variable.chunks is not None:
        return tuple(max(lengths, default=0) for lengths in variable.chunks)
    stored = variable.encoding.get("shards") or variable.encoding.get("chunks")
    if stored is None or len(stored) != variable.ndim:
        return None
    return tuple(n if isinstance(n, int) else max(n) for n in stored)


def _chunked(dataset: xr.Dataset) -> xr.Dataset:
    variables = {}
    for name, variable in dataset.variables.items():
        lengths = stored_chunks(variable)
        if name not in dataset.xindexes and lengths:
            variables[name] = variable.chunk(dict(zip(variable.dims, lengths, strict=True)))
    coords = {name: variable for name, variable in variables.items() if name in dataset.coords}
    data = {name: variable for name, variable in variables.items() if name not in coords}
    return dataset.assign(data).assign_coords(coords)


def describe(dataset: xr.Dataset, sample_dim: str | None = None) -> DatasetSchema:
    """Describe the variables of a dataset: dimensions, type after decoding, lengths and chunks.

    Parameters
    ----------
    dataset
        The dataset; its data variables and then its coordinates are described, sorted by name.
    sample_dim
        The dimension that counts samples; by default the first dimension of the first data
        variable that has any.

    Raises
    ------
    SchemaError
        The dataset has no variable with a dimension, or not this dimension.
    """
    if sample_dim is None:
        sample_dim = first_dim(dataset)
    elif sample_dim not in dataset.dims:
        raise SchemaError(f"dataset: no dimension {sample_dim!r}; it has {_listed(dataset.dims)}")
    names = [*sorted(dataset.data_vars, key=str), *sorted(dataset.coords, key=str)]
    variables = tuple(_variable(str(name), dataset.variables[name]) for name in names)
    return DatasetSchema(sample_dim=sample_dim, variables=variables)


def first_dim(dataset: xr.Dataset) -> str:
    """Return the first dimension of the first data variable that has one.

    Raises
    ------
    SchemaError
        There is no such variable.
    """
    for array in dataset.data_vars.values():
        if array.dims:
            return str(array.dims[0])
    raise SchemaError("dataset: no data variable with a dimension, so nothing that counts samples")


def _variable(name: str, variable: xr.Variable) -> Variable:
    dtype = np.dtype(variable.dtype)
    return Variable(
        name=name,
        dims=tuple(str(dim) for dim in variable.dims),
        dtype="object" if dtype.kind == "T" else str(dtype.newbyteorder("=")),
        shape=tuple(int(n) for n in variable.shape),
        chunks=stored_chunks(variable),
    )


def _listed(names: Any) -> str:
    return ", ".join(str(name) for name in names) or "none"


def resolve(source: Source, dataset: xr.Dataset) -> Columns:
    """Find the variables that a source names, and check that they fit each other.

    Raises
    ------
    SchemaError
        A variable or the sample dimension is missing; a type cannot be used (features are
        numbers, so are targets and weights, labels integers); lengths differ or are 0; or the
        dataset is not what
        ``source.expected`` says. The thing is named, with what was expected and found.
    """
    where = getattr(source, "path", None) or "dataset"
    features = _named(dataset, source.features, "features", where)
    if source.sample_dim is None and not features.dims:
        raise SchemaError(f"{where}: features {source.features!r}: a single number, no dimensions")
    sample_dim = source.sample_dim or str(features.dims[0])
    _check_numbers("features", source.features, features, sample_dim, where)
    if source.missing == "absent" and features.dtype.kind != "f":
        raise SchemaError(
            f"{where}: features {source.features!r}: missing='absent' takes floats, of which NaN "
            f"is missing, found {features.dtype}; name a mask variable (source.mask), or leave it "
            "out"
        )
    labels = None
    if source.labels is not None:
        labels = _named(dataset, source.labels, "labels", where)
        _check_labels(source.labels, labels, sample_dim, where)
    if source.mask is not None:
        mask = _named(dataset, source.mask, "mask", where)
        _check_mask(source.mask, mask, features, where)
    targets = xr.Variable((sample_dim,), [])
    if source.targets is not None:
        targets = _named(dataset, source.targets, "targets", where)
        _check_numbers("targets", source.targets, targets, sample_dim, where)
    if source.weights is not None:
        weights = _named(dataset, source.weights, "weights", where)
        _check_numbers("weights", source.weights, weights, sample_dim, where)
        _check_alone("weights", source.weights, weights, sample_dim, where)
    if source.expected is not None:
        source.expected.check(describe(dataset, sample_dim), where)
    dims, target_dims = (
        tuple(str(dim) for dim in found.dims if dim != sample_dim) for found in (features, targets)
    )
    return Columns(
        features=source.features,
        labels=source.labels,
        mask=source.mask,
        sample_dim=sample_dim,
        samples=int(features.sizes[sample_dim]),
        feature_shape=tuple(int(features.sizes[dim]) for dim in dims),
        feature_dims=dims,
        dtype=str(features.dtype.newbyteorder("=")),
        classes=None if labels is None else _classes(labels.attrs),
        missing=source.missing,
        targets=source.targets,
        target_dims=target_dims,
        target_shape=tuple(int(targets.sizes[dim]) for dim in target_dims),
        weights=source.weights,
    )


def _named(dataset: xr.Dataset, name: str, role: str, where: str) -> xr.Variable:
    if name not in dataset.variables:
        there = _listed([*dataset.data_vars, *dataset.coords])
        raise SchemaError(f"{where}: no variable {name!r} for the {role}; it has: {there}")
    return dataset.variables[name]


def _check_numbers(
    role: str, name: str, variable: xr.Variable, sample_dim: str, where: str
) -> None:
    if variable.dtype.kind not in NUMBERS:
        raise SchemaError(
            f"{where}: {role} {name!r}: expected numbers (bool, integer or float), "
            f"found {variable.dtype}"
        )
    if sample_dim not in variable.dims:
        raise SchemaError(
            f"{where}: {role} {name!r}: expected the sample dimension {sample_dim!r}, "
            f"found {_listed(variable.dims)}"
        )
    empty = [str(dim) for dim, length in variable.sizes.items() if length == 0]
    if empty:
        raise SchemaError(
            f"{where}: {role} {name!r}: dimension {empty[0]!r} has length 0, nothing to learn"
        )


def _check_alone(role: str, name: str, variable: xr.Variable, sample_dim: str, where: str) -> None:
    if variable.dims != (sample_dim,):
        raise SchemaError(
            f"{where}: {role} {name!r}: expected the dimension {sample_dim!r} alone, "
            f"found {_listed(variable.dims)}"
        )


def _check_labels(name: str, labels: xr.Variable, sample_dim: str, where: str) -> None:
    _check_alone("labels", name, labels, sample_dim, where)
    if labels.dtype.kind not in INTEGERS:
        packed = "_FillValue" in labels.encoding or "scale_factor" in labels.encoding
        hint = " (its fill value or scale factor makes xarray read it as one)" if packed else ""
        raise SchemaError(
            f"{where}: labels {name!r}: expected integers (0, 1, ...), found {labels.dtype}{hint}"
        )


def _check_mask(name: str, mask: xr.Variable, features: xr.Variable, where: str) -> None:
    if dict(mask.sizes) != dict(features.sizes):
        raise SchemaError(
            f"{where}: mask {name!r}: expected the shape of the features {dict(features.sizes)}, "
            f"found {dict(mask.sizes)}"
        )
    if mask.dtype.kind not in "biu":
        raise SchemaError(
            f"{where}: mask {name!r}: expected bool (true where a value is present), "
            f"found {mask.dtype}"
        )


def _classes(attributes: Mapping[Any, Any]) -> int | None:
    values = attributes.get("flag_values")
    return None if values is None else int(np.max(values)) + 1
