"""Patches of pictures: where they come from, and that blocks and readers do not change them."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from deepstrata.schemas.errors import SchemaError
from deepstrata.schemas.formats import Patches
from deepstrata.storage.formats.patches import open_patches
from deepstrata.storage.ingest import describe_source, ingest

FEW, SIDE = 40, 12
OPTIONS = Patches(patches=FEW)


def pictures(path: Path, **sizes: int) -> str:
    shape = {"picture": 3, "y": 20, "x": 30, "channel": 3} | sizes
    values = np.random.default_rng(0).integers(0, 256, tuple(shape.values()), dtype=np.uint8)
    store = path / "pictures.zarr"
    dataset = xr.Dataset({"when": ("picture", np.arange(3.0)), "photo": (tuple(shape), values)})
    dataset.to_zarr(store, zarr_format=3, consolidated=False)
    return str(store)


def test_patches_of_a_store(tmp_path: Path) -> None:
    source, dest = pictures(tmp_path), str(tmp_path / "patches.zarr")
    written = ingest("patches", source, dest, patches=FEW)
    assert written == describe_source("patches", source, patches=FEW)
    found = xr.open_zarr(dest, consolidated=False)["image"]
    assert found.dims == ("sample", "y", "x")
    assert found.shape == (FEW, SIDE, SIDE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean(("y", "x")), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(("y", "x")), 1, rtol=1e-3)
    photo = xr.open_zarr(source, consolidated=False)["photo"].mean("channel").values
    for patch, number in ((found[0], 0), (found[FEW // 2], 1), (found[FEW - 1], 2)):
        windows = np.lib.stride_tricks.sliding_window_view(photo[number], (SIDE, SIDE))
        likeness = np.einsum("abyx,yx->ab", windows, patch) / windows.std((2, 3)) / SIDE**2
        assert likeness.max() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("rows", [1, 7, FEW])
def test_the_size_of_blocks_changes_nothing(tmp_path: Path, rows: int) -> None:
    content = open_patches(pictures(tmp_path), None, OPTIONS)
    assert content.blocks is not None
    (whole,) = content.blocks(1000)
    blocks = [block["image"] for block in content.blocks(rows)]
    assert all(len(block) == rows for block in blocks[:-1])
    np.testing.assert_array_equal(np.concatenate(blocks), whole["image"])
    assert len(np.unique(whole["image"], axis=0)) == FEW


def test_a_flat_part_stays_flat(tmp_path: Path) -> None:
    photo = np.zeros((1, 2 * SIDE, 2 * SIDE), np.float32)
    photo[0, -1, -1] = 1000.0
    store = str(tmp_path / "flat.zarr")
    xr.Dataset({"photo": (("picture", "y", "x"), photo)}).to_zarr(store, consolidated=False)
    content = open_patches(store, None, OPTIONS)
    assert content.blocks is not None
    (found,) = content.blocks(FEW)
    assert np.isfinite(found["image"]).all()
    assert np.abs(found["image"]).max(axis=(1, 2)).min() == 0


def test_photographs_come_with_scikit_learn() -> None:
    content = open_patches(None, None, OPTIONS)
    assert "CC BY 2.0" in content.template.attrs["title"]
    assert content.blocks is not None
    (found,) = content.blocks(FEW)
    assert found["image"].shape == (FEW, SIDE, SIDE)


def test_size_and_number_are_options(tmp_path: Path) -> None:
    content = open_patches(pictures(tmp_path), None, Patches(size=(4, 7), patches=5))
    assert content.blocks is not None
    assert [block["image"].shape for block in content.blocks(3)] == [(3, 4, 7), (2, 4, 7)]


def test_pictures_smaller_than_a_patch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"photo in .*at least 12 x 12 .*found 3 of 11 x 30"):
        open_patches(pictures(tmp_path, y=11), None)
    with pytest.raises(SchemaError, match=r"at least 428 x 12 .*found 2 of 427 x 640"):
        open_patches(None, None, Patches(size=(428, 12)))


def test_a_store_without_pictures_is_refused(tmp_path: Path) -> None:
    store = str(tmp_path / "numbers.zarr")
    xr.Dataset({"number": ("picture", np.arange(3.0))}).to_zarr(store, consolidated=False)
    with pytest.raises(SchemaError, match=r"\(picture, y, x\) or .*found: number \('picture',\)"):
        open_patches(store, None)
