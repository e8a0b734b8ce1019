"""Checks of values as they are read: what a shard holds is what its variable may hold."""

from typing import Any

import numpy as np
import numpy.typing as npt

from deepstrata.schemas.datasets import Variable
from deepstrata.schemas.errors import DataError


def _first(bad: npt.NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))[0])


def check_finite(
    name: str,
    values: npt.NDArray[Any],
    mask: npt.NDArray[Any] | None,
    start: int,
    where: str,
) -> None:
    """Check that every value that is present is a finite number.

    Parameters
    ----------
    name
        Of the variable.
    values
        (rows, ...) of any type.
    mask
        (rows, ...) true where a value is present; None if all are.
    start
        Global row of the first.
    where
        The dataset, for the error.

    Raises
    ------
    DataError
        A value is NaN or infinite; the variable, rows and first bad sample are named.
    """
    if values.dtype.kind not in "fc":
        return
    bad = ~np.isfinite(values)
    if mask is not None:
        bad &= mask.astype(bool)
    if not bad.any():
        return
    first = _first(bad)
    found = values[first][bad[first]].flat[0]
    absent = "missing='absent' if NaN stands for a value that is missing, or "
    hint = (
        f"declare {absent if np.isnan(found) else ''}a mask variable (source.mask), "
        "or fill them in an Apply stage"
        if mask is None
        else f"{'they count' if bad.sum() > 1 else 'it counts'} as present"
    )
    raise DataError(
        f"{where}: variable {name!r}, rows {start} to {start + len(values)}: {int(bad.sum())} "
        f"values are not finite, the first in sample {start + first} ({found}); {hint}"
    )


def check_range(
    variable: Variable,
    values: npt.NDArray[Any],
    mask: npt.NDArray[Any] | None,
    start: int,
    where: str,
) -> None:
    """Check values against the range that a schema declares.

    Raises
    ------
    DataError
        A value that is present lies outside; the variable, rows and first bad sample are named.
    """
    bad = np.zeros(values.shape, dtype=bool)
    if variable.minimum is not None:
        bad |= values < variable.minimum
    if variable.maximum is not None:
        bad |= values > variable.maximum
    if mask is not None:
        bad &= mask.astype(bool)
    if not bad.any():
        return
    first = _first(bad)
    low = "-inf" if variable.minimum is None else f"{variable.minimum:g}"
    high = "inf" if variable.maximum is None else f"{variable.maximum:g}"
    raise DataError(
        f"{where}: variable {variable.name!r}, rows {start} to {start + len(values)}: expected "
        f"values from {low} to {high}, found {values[first][bad[first]].flat[0]} "
        f"in sample {start + first}"
    )


def check_labels(name: str, values: npt.NDArray[Any], start: int) -> None:
    """Check that labels, (rows,) integers, are class numbers.

    Raises
    ------
    DataError
        One is negative; the variable and the sample are named.
    """
    if values.min() < 0:
        row = int(np.argmin(values))
        raise DataError(
            f"variable {name!r}, sample {start + row}: expected a class number 0, 1, ..., "
            f"found {values[row]}"
        )


def check_targets(name: str, values: npt.NDArray[Any], start: int) -> None:
    """Check that targets, (rows, ...) of any type, are finite where they are not NaN.

    Raises
    ------
    DataError
        One is infinite, as a float32 at least; the variable and the sample are named.
    """
    with np.errstate(over="ignore"):
        bad = np.isinf(values.astype(np.float32))
    if bad.any():
        row = _first(bad)
        raise DataError(
            f"variable {name!r}, sample {start + row}: expected finite targets, or NaN where one "
            f"is not known, found {values[row][bad[row]].flat[0]}"
        )


def check_weights(name: str, values: npt.NDArray[Any], start: int) -> None:
    """Check that weights, (rows,) of any type, are finite and not negative.

    Raises
    ------
    DataError
        One is not; the variable and the sample are named.
    """
    with np.errstate(over="ignore"):
        bad = ~(np.isfinite(values.astype(np.float32)) & (values >= 0))
    if bad.any():
        row = _first(bad)
        raise DataError(
            f"variable {name!r}, sample {start + row}: expected a finite weight, 0 or more, "
            f"found {values[row]} ({int(bad.sum())} weights of this shard are not)"
        )
