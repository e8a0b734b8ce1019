"""What estimators take and give back: NumPy in and out, Dask in and out, xarray in and out.

Letters: N samples, V features, K classes.
"""

from functools import singledispatch
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from deepstrata.schemas.errors import SchemaError

#: Dimensions of data without labels.
SAMPLE, FEATURE = "sample", "feature"


@singledispatch
def labelled(X: Any, estimator: Any, reset: bool) -> xr.DataArray:
    """Return samples with names of their dimensions, checked as far as that needs no computing.

    Parameters
    ----------
    X
        (N, V) array-like or ``dask.array.Array``; or an ``xarray.DataArray`` (sample, ...): all
        dimensions but the first are the features.
    estimator
        Whose ``n_features_in_`` and ``feature_names_in_`` are set, or must be found again.
    reset
        Whether to set them.

    Raises
    ------
    ValueError, TypeError
        The data cannot be used, or is not like that of ``fit``.
    """
    checked = validate_data(estimator, X, reset=reset)
    return xr.DataArray(checked, dims=(SAMPLE, FEATURE))


@labelled.register
def _(X: da.Array, estimator: Any, reset: bool) -> xr.DataArray:
    found = xr.DataArray(X, dims=(SAMPLE, FEATURE)[: X.ndim] if X.ndim <= 2 else None)
    return _labelled(found, X, estimator, reset)


@labelled.register
def _(X: xr.DataArray, estimator: Any, reset: bool) -> xr.DataArray:
    return _labelled(X, X, estimator, reset)


def _labelled(found: xr.DataArray, X: Any, estimator: Any, reset: bool) -> xr.DataArray:
    """Check what is to stay lazy: its values are checked when they are read."""
    is_table = X.ndim == 2 or (X.ndim > 2 and isinstance(X, xr.DataArray))
    if not is_table:
        raise SchemaError(
            f"expected 2 dimensions, samples and features, found {X.ndim} of shape {X.shape}. "
            "Reshape your data, or hand over an xarray.DataArray, which may have several "
            "dimensions of features"
        )
    if found.dtype.kind not in "biuf":
        raise SchemaError(f"expected numbers (bool, integer or float), found {found.dtype}")
    if not all(length >= 0 for length in found.shape):  # NaN where Dask does not know it
        raise SchemaError(
            f"the Dask array's shape {found.shape} is not known; find it with compute_chunk_sizes()"
        )
    flat = found.data.reshape(len(found), -1) if X.ndim > 2 else found.data
    validate_data(estimator, flat, reset=reset, skip_check_array=True)
    return found


@singledispatch
def class_numbers(y: Any) -> tuple[np.ndarray[Any, Any], Any]:
    """Return the classes, sorted, and the number of each sample's class among them.

    Parameters
    ----------
    y
        (N,) labels: an array-like, a ``dask.array.Array`` or an ``xarray.DataArray``.

    Returns
    -------
    tuple
        (K,) NumPy array; (N,) int64, a Dask array for one.

    Raises
    ------
    ValueError
        The labels are no classes: fractions, or more than one a sample.
    """
    y = column_or_1d(y, warn=True)
    check_array(y, ensure_2d=False, dtype=None, input_name="y")
    check_classification_targets(y)
    classes, numbers = np.unique(y, return_inverse=True)
    return classes, numbers.astype(np.int64)


@class_numbers.register
def _(y: da.Array) -> tuple[np.ndarray[Any, Any], Any]:
    classes = np.asarray(da.unique(y.ravel()).compute())
    check_classification_targets(classes)
    return classes, y.map_blocks(_places, classes, dtype=np.int64)  # type: ignore[arg-type]


@class_numbers.register
def _(y: xr.DataArray) -> tuple[np.ndarray[Any, Any], Any]:
    return class_numbers(y.data)


def _places(y: np.ndarray[Any, Any], classes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return where labels are in sorted classes."""
    return np.searchsorted(classes, y).astype(np.int64)


def like(found: xr.DataArray, X: Any) -> Any:
    """Return a result as the kind of array that ``X`` is."""
    return found if isinstance(X, xr.DataArray) else found.data
