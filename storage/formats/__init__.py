"""Formats that can be ingested: an open table of functions, one for each name."""

from deepstrata.storage.formats.arrays import open_npy, open_npz
from deepstrata.storage.formats.base import Content, Format
from deepstrata.storage.formats.digits import open_digits
from deepstrata.storage.formats.idx import open_idx
from deepstrata.storage.formats.labelled import open_netcdf, open_zarr
from deepstrata.storage.formats.patches import open_patches
from deepstrata.storage.formats.table import open_csv

__all__ = ["FORMATS", "Content", "Format"]

FORMATS: dict[str, Format] = {
    "csv": open_csv,
    "digits": open_digits,
    "idx": open_idx,
    "netcdf": open_netcdf,
    "npy": open_npy,
    "npz": open_npz,
    "patches": open_patches,
    "zarr": open_zarr,
}
"""Add a name and a function here, and ``ingest`` knows a format more."""
