"""Datasets as they are stored: nothing is unpacked, masked or turned into times."""

from typing import Any

import xarray as xr

from deepstrata.storage import stores
from deepstrata.storage.codecs import fast_codecs
from deepstrata.storage.datasets import open_group

AS_STORED: dict[str, Any] = {
    "chunks": None,
    "cache": False,
    "mask_and_scale": False,
    "decode_times": False,
    "decode_timedelta": False,
    "decode_coords": False,
    "create_default_indexes": False,
}


def open_stored(source: str) -> xr.Dataset:
    """Open a Zarr group or a netCDF file lazily; what packs its values stays in attributes.

    Raises
    ------
    StorageError, SchemaError
        As ``open_group`` does.
    """
    if stores.is_local(source) and stores.local(source).is_file():
        return xr.open_dataset(source, **AS_STORED)
    found = open_group(source)
    consolidated = found.metadata.consolidated_metadata is not None
    with fast_codecs(), stores.explained(source, "open"):
        return xr.open_dataset(
            source, engine="zarr", backend_kwargs={"consolidated": consolidated}, **AS_STORED
        )
