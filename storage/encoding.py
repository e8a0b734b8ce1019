"""How values of each type are stored in Zarr, by the CF conventions that xarray reads.

Times become 64-bit integers of their own resolution since 1970 (cftime dates microseconds), time
differences integers with xarray's ``dtype`` attribute, booleans 8-bit integers, text
variable-length UTF-8. Numbers stay what they are.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from deepstrata.schemas.errors import SchemaError

UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
NOT_A_TIME = int(np.iinfo(np.int64).min)


def row_bytes(variable: xr.Variable, sample_dim: str) -> int:
    """Return the size of one sample of a variable in bytes."""
    samples = max(1, variable.sizes[sample_dim])
    return max(1, int(variable.size) // samples) * max(1, int(variable.dtype.itemsize))


def stored_as(name: str, variable: xr.Variable, sample_dim: str) -> tuple[Any, dict[str, Any]]:
    """Return the type that a variable is stored in, and the attributes that say how to read it.

    Raises
    ------
    SchemaError
        Such values cannot be stored.
    """
    dtype = variable.dtype
    if dtype.kind in "iufc":
        return dtype.newbyteorder("="), {}
    if dtype.kind == "b":
        return np.dtype("int8"), {"dtype": "bool"}
    if dtype.kind in "UTS":
        return str, {}
    if dtype.kind in "Mm":
        unit = UNITS.get(np.datetime_data(dtype)[0])
        if unit is not None:
            return np.dtype("int64"), _times(dtype, unit)
    if dtype.kind == "O" and variable.size:
        first = variable.isel({d: 0 for d in variable.dims}).values.item()
        if isinstance(first, str):
            return str, {}
        if hasattr(first, "calendar"):
            units = "microseconds since 1970-01-01"
            return np.dtype("int64"), {"units": units, "calendar": first.calendar}
    raise SchemaError(
        f"variable {name!r}: values of type {dtype} cannot be stored; expected numbers, "
        "booleans, text or times"
    )


def _times(dtype: np.dtype[Any], unit: str) -> dict[str, Any]:
    if dtype.kind == "m":
        return {"units": unit, "dtype": dtype.name, "_FillValue": NOT_A_TIME}
    calendar = {"calendar": "proleptic_gregorian", "_FillValue": NOT_A_TIME}
    return {"units": f"{unit} since 1970-01-01"} | calendar


def encoded(values: npt.NDArray[Any], attributes: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return values as they are stored under ``attributes`` (from ``stored_as``)."""
    kind = values.dtype.kind
    if kind == "b":
        return values.astype(np.int8) if attributes.get("dtype") == "bool" else values
    if kind in "Mm":
        unit = str(attributes.get("units", "")).split(" ")[0]
        short = next((s for s, long in UNITS.items() if long == unit), "ns")
        return values.astype(f"{kind}8[{short}]").astype(np.int64)
    if kind == "O" and "calendar" in attributes:
        encoding = {"units": attributes["units"], "calendar": attributes["calendar"]}
        dims = [f"d{i}" for i in range(values.ndim)]
        times = xr.Variable(dims, values, encoding=encoding | {"dtype": "int64"})
        return np.asarray(xr.conventions.encode_cf_variable(times).data)
    if kind == "S":  # the fixed-length bytes of netCDF and NumPy are text in practice
        return np.char.decode(values, "utf-8").astype(np.dtypes.StringDType())
    if kind in "OU":
        return values.astype(np.dtypes.StringDType())
    return values
