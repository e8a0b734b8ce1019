"""Values that a variable may not hold are found, and the first of them is named."""

import numpy as np
import pytest

from deepstrata.schemas.datasets import Variable
from deepstrata.schemas.errors import DataError
from deepstrata.storage.values import (
    check_finite,
    check_labels,
    check_range,
    check_targets,
    check_weights,
)


def test_values_that_are_not_finite_are_found() -> None:
    values = np.zeros((4, 2), np.float32)
    check_finite("x", values, None, 100, "d.zarr")
    check_finite("x", np.zeros(3, np.uint8), None, 0, "d.zarr")
    values[2, 1] = np.nan
    with pytest.raises(DataError, match=r"d\.zarr: variable 'x', rows 100 to 104: 1 .*sample 102"):
        check_finite("x", values, None, 100, "d.zarr")
    with pytest.raises(DataError, match=r"declare missing='absent' if NaN .*, or a mask variable"):
        check_finite("x", values, None, 100, "d.zarr")
    mask = np.ones((4, 2), bool)
    with pytest.raises(DataError, match="it counts as present"):
        check_finite("x", values, mask, 100, "d.zarr")
    mask[2, 1] = False
    check_finite("x", values, mask, 100, "d.zarr")
    check_finite("x", values, mask.astype(np.int8), 100, "d.zarr")


def test_values_out_of_range_are_found() -> None:
    declared = Variable(name="x", dims=("sample",), dtype="float32", minimum=0, maximum=1)
    check_range(declared, np.array([0, 0.5, 1]), None, 0, "d")
    with pytest.raises(DataError, match=r"expected values from 0 to 1, found 1\.5 in sample 11"):
        check_range(declared, np.array([0, 1.5]), None, 10, "d")
    check_range(declared, np.array([0, 1.5]), np.array([True, False]), 10, "d")


def test_labels_are_class_numbers() -> None:
    check_labels("kind", np.array([0, 7]), 100)
    with pytest.raises(DataError, match="'kind', sample 101: expected a class number.*found -2"):
        check_labels("kind", np.array([0, -2]), 100)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32, np.float64])
def test_targets_are_any_numbers(dtype: type) -> None:
    check_targets("rain", np.ones((3, 2), dtype), 100)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_targets_are_finite_or_absent(value: float) -> None:
    targets = np.zeros((3, 2))
    targets[1, 1] = np.nan
    check_targets("rain", targets, 100)
    targets[2, 0] = value
    with pytest.raises(DataError, match=r"'rain', sample 102: expected finite targets, or NaN"):
        check_targets("rain", targets, 100)


@pytest.mark.parametrize("value", [-1e-6, np.nan, np.inf, 1e300])
def test_weights_are_finite_and_not_negative(value: float) -> None:
    weights = np.array([1.0, 0.0, 2.5])
    check_weights("area", weights, 100)
    weights[1] = value
    with pytest.raises(DataError, match=r"'area', sample 101: expected a finite weight, 0 or more"):
        check_weights("area", weights, 100)
    check_weights("count", np.array([0, 3], np.uint8), 0)
