"""Formats that can be ingested: an open table of functions, one for each name."""

from deepstrata.storage.formats.arrays import open_npy, open_npz
from deepstrata.storage.formats.base import Content, Format
from deepstrata.storage.formats.digits import open_digits
from deepstrata.storage.formats.hdf5 import open_hdf5
from deepstrata.storage.formats.idx import open_idx
from deepstrata.storage.formats.images import open_images
from deepstrata.storage.formats.labelled import open_netcdf, open_zarr
from deepstrata.storage.formats.patches import open_patches
from deepstrata.storage.formats.svmlight import open_svmlight
from deepstrata.storage.formats.table import open_csv
from deepstrata.storage.formats.wav import open_wav

__all__ = ["FORMATS", "Content", "Format"]

FORMATS: dict[str, Format] = {
    "csv": open_csv,
    "digits": open_digits,
    "hdf5": open_hdf5,
    "idx": open_idx,
    "images": open_images,
    "netcdf": open_netcdf,
    "npy": open_npy,
    "npz": open_npz,
    "patches": open_patches,
    "svmlight": open_svmlight,
    "wav": open_wav,
    "zarr": open_zarr,
}
"""Add a name and a function here, and ``ingest`` knows a format more; its options, if it has any,
go to ``deepstrata.schemas.formats.OPTIONS``, and are the function's third argument."""
