"""Variants of digits: made anew they are the same, whatever part of them is asked for."""

import numpy as np
import pytest
import xarray as xr

from tests.benchmarks import variants


def digits(samples: int = 12) -> xr.Dataset:
    image = np.zeros((samples, 28, 28), np.uint8)
    image[:, 4:24, 10:14] = 200
    image[:, 4:8, 10:20] = 255
    return xr.Dataset({"image": (("sample", "y", "x"), image)}).chunk(sample=5)


@pytest.mark.parametrize("kind", variants.FUNCTIONS)
def test_a_digits_variant_depends_on_its_place_alone(kind: str) -> None:
    change = variants.FUNCTIONS[kind]
    whole = change(digits())["image"]
    assert whole.chunks is not None
    assert (whole.dims, whole.dtype) == (("sample", "y", "x"), np.uint8)
    made = whole.values
    np.testing.assert_array_equal(change(digits().compute())["image"], made)
    np.testing.assert_array_equal(whole[7:9], made[7:9])
    assert all((made[0] != other).any() for other in made[1:])


@pytest.mark.parametrize("kind", ["random-background", "image-background"])
def test_backgrounds_are_behind_the_digit(kind: str) -> None:
    clean, made = digits()["image"].values, variants.FUNCTIONS[kind](digits())["image"].values
    assert (made >= clean).all()
    assert made[clean == 0].std() > 20


def test_a_turned_digit_keeps_its_ink() -> None:
    clean, made = digits()["image"].values, variants.rotated(digits())["image"].values
    np.testing.assert_allclose(made.sum((1, 2)), clean.sum((1, 2), dtype=float), rtol=0.05)
