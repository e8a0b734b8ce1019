"""Formats that xarray opens: netCDF files, and Zarr stores that are to have another layout."""

from typing import Any

import xarray as xr
from xarray.coders import CFTimedeltaCoder

from deepstrata.schemas.errors import SchemaError, StorageError
from deepstrata.storage import stores
from deepstrata.storage.datasets import first_dim, open_dataset
from deepstrata.storage.formats.base import Content, required

INSTALL = "install netcdf4, or h5netcdf together with h5py"


def _content(dataset: xr.Dataset, sample_dim: str | None, where: Any) -> Content:
    try:
        dim = sample_dim or first_dim(dataset)
    except SchemaError as error:
        raise SchemaError(f"{where}: {error}") from None
    if dim not in dataset.dims:
        there = ", ".join(str(d) for d in dataset.dims) or "none"
        raise SchemaError(f"{where}: no dimension {dim!r}; it has: {there}")
    if not any(dim in array.dims for array in dataset.data_vars.values()):
        raise SchemaError(f"{where}: no data variable along the sample dimension {dim!r}")
    if dataset.sizes[dim] == 0:
        raise SchemaError(f"{where}: empty: dimension {dim!r} has length 0")
    return Content(dataset, dim)


def open_zarr(source: str | None, sample_dim: str | None) -> Content:
    """Open a Zarr group, to be written with the default layout; see ``Format``."""
    if source is None:
        raise SchemaError("format 'zarr': expected the path or URL of a Zarr group, found none")
    return _content(open_dataset(source), sample_dim, source)


def open_netcdf(source: str | None, sample_dim: str | None) -> Content:
    """Open a netCDF file; see ``Format``. By default its first dimension counts samples."""
    path = required(source, "netcdf")
    try:
        dataset = xr.open_dataset(
            path,
            chunks=None,
            cache=False,
            decode_timedelta=CFTimedeltaCoder(decode_via_units=False),
        )
    except ImportError as error:
        raise StorageError(f"{path}: no engine for netCDF: {INSTALL} ({error})") from None
    except ValueError as error:
        if "found the following matches" in str(error) or "must be installed" in str(error):
            raise StorageError(f"{path}: no engine for this kind of netCDF: {INSTALL}") from None
        raise SchemaError(f"{path}: not a netCDF file that xarray reads: {error}") from None
    except (OSError, KeyError, TypeError) as error:
        with stores.explained(path, "read"):
            path.open("rb").close()
        raise SchemaError(f"{path}: not a netCDF file: {error}") from None
    return _content(dataset, sample_dim, path)
