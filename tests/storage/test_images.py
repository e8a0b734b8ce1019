"""Images in folders: values as Pillow reads them, classes, and images that are not alike."""

import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepstrata.schemas.errors import SchemaError, StorageError
from deepstrata.storage.datasets import open_dataset
from deepstrata.storage.ingest import describe_source, ingest
from deepstrata.storage.splits import flags

Image = pytest.importorskip("PIL.Image", reason="Pillow reads the images: install it")

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> Any:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, values: Any, mode: str | None = None) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path)
    return values


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Grey images of two classes."""
    for name in ("10/a", "10/b", "9/c", "9/d"):
        write(tmp_path / "all" / f"{name}.png", pixels(5, 4))
    return tmp_path / "all"


def ingested(source: Path, **options: Any) -> Any:
    dest = str(source.parent / "d.zarr")
    assert ingest("images", str(source), dest, **options) == describe_source(
        "images", str(source), **options
    )
    return open_dataset(dest).load()


def test_grey_images(source: Path) -> None:
    found = ingested(source)
    assert found.image.dims == ("sample", "y", "x")
    assert found.image.dtype == np.uint8
    assert flags(found.label) == {0: "9", 1: "10"}
    for sample in range(4):
        name = str(found.file[sample].values)
        assert np.array_equal(found.image[sample], np.asarray(Image.open(source / name)))
        assert {"9": 0, "10": 1}[name.split("/")[0]] == found.label[sample]


@pytest.mark.parametrize(
    ("channels", "names"),
    [(3, ["red", "green", "blue"]), (4, ["red", "green", "blue", "alpha"])],
)
def test_images_in_colour(tmp_path: Path, channels: int, names: list[str]) -> None:
    values = write(tmp_path / "a.png", pixels(3, 2, channels))
    found = ingested(tmp_path / "a.png")
    assert found.image.dims == ("sample", "y", "x", "channel")
    assert found.channel.values.tolist() == names
    assert np.array_equal(found.image[0], values)
    assert "label" not in found


def test_palettes_bits_and_wide_greys(tmp_path: Path) -> None:
    values = (RNG.integers(0, 2, (3, 2)) * 255).astype(np.uint8)
    write(tmp_path / "bits" / "a.png", values, "1")
    assert np.array_equal(ingested(tmp_path / "bits").image[0], values)
    write(tmp_path / "p" / "palette" / "a.gif", np.full((3, 2, 3), 255, np.uint8), "P")
    assert ingested(tmp_path / "p" / "palette").image.values.tolist() == [[[[255] * 3] * 2] * 3]
    wide = write(tmp_path / "w" / "wide" / "a.png", np.array([[0, 300], [65535, 7]], np.uint16))
    found = ingested(tmp_path / "w" / "wide")
    assert (found.image.dtype, found.image.values.tolist()) == (np.uint16, [wide.tolist()])


def test_images_are_made_alike(source: Path) -> None:
    write(source / "9" / "e.jpg", pixels(8, 8, 3))
    found = ingested(source, size=(6, 3), mode="grey")
    assert found.image.shape == (5, 6, 3)
    name = str(found.file[0].values)
    wanted = Image.open(source / name).convert("L").resize((3, 6), Image.Resampling.BILINEAR)
    assert np.array_equal(found.image[0], np.asarray(wanted))
    dest = str(source.parent / "colour.zarr")
    ingest("images", str(source), dest, size=(5, 4), mode="colour")
    assert open_dataset(dest).image.shape == (5, 5, 4, 3)


def _size(source: Path) -> None:
    write(source / "9" / "z.png", pixels(4, 5))


def _mode(source: Path) -> None:
    write(source / "9" / "z.png", pixels(5, 4, 3))


def _other_mode(source: Path) -> None:
    write(source / "9" / "z.tif", np.zeros((5, 4), np.float32))


def _cut(source: Path) -> None:
    path = source / "9" / "c.png"
    path.write_bytes(path.read_bytes()[:-30])


def _no_image(source: Path) -> None:
    (source / "9" / "c.png").write_bytes(b"hello")


def _nothing(source: Path) -> None:
    (source / "9" / "c.png").write_bytes(b"")


def _no_files(source: Path) -> None:
    for path in source.rglob("*.png"):
        path.unlink()


def _beside(source: Path) -> None:
    write(source / "z.png", pixels(5, 4))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_size, r"z\.png: expected an image like .*\.png: L, 5 x 4 .*found L, 4 x 5 .*size="),
        (_mode, r"z\.png: expected an image like .*found RGB, 5 x 4 .*mode='grey'"),
        (_other_mode, r"z\.tif: expected an image of mode 1, .*found F"),
        (_cut, r"c\.png: not an image that Pillow can read"),
        (_no_image, r"c\.png: not an image that Pillow can read"),
        (_nothing, r"c\.png: not an image that Pillow can read"),
        (_no_files, r"no files of format 'images': expected \.png"),
        (_beside, r"z\.png: lies beside the folders"),
    ],
)
def test_bad_images(source: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(source)
    with pytest.raises(SchemaError, match=message):
        ingested(source, shuffle=False)
    assert not (source.parent / "d.zarr").exists()


def test_memory_is_bounded_by_a_block(tmp_path: Path) -> None:
    path = tmp_path / "all" / "0.png"
    write(path, np.zeros((200, 200, 3), np.uint8))
    for i in range(1, 200):
        os.link(path, path.with_name(f"{i}.png"))
    tracemalloc.start()
    ingest("images", str(path.parent), str(tmp_path / "d"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6  # of 24e6


def test_without_pillow_it_says_what_to_install(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(StorageError, match=r"needs Pillow: pip install 'deepstrata\[images\]'"):
        ingested(source)
