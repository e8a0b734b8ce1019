"""Patches cut from pictures, for dictionaries: scikit-learn's two photographs, or a Zarr group's.

Where a patch is cut follows from a key, so a source gives the same patches everywhere. Each is
grey, less its mean, over its standard deviation (or over a tenth of the picture's, where that is
more: noise of a clear sky is not blown up).
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from deepstrata.schemas.errors import SchemaError
from deepstrata.schemas.formats import Patches
from deepstrata.schemas.keys import Key, fold
from deepstrata.storage.datasets import first_dim, open_dataset
from deepstrata.storage.formats.base import SAMPLE, Content, Rows, placeholder
from deepstrata.storage.shards import permutation

FLAT = 0.1  #: of a picture's standard deviation: patches are not divided by less
#: load_sample_images: two of 427 x 640.
PHOTOGRAPHS = (2, 427, 640)
CREDIT = (
    "china by danielbuechele, flower by vultilion (flickr.com), CC BY 2.0; from scikit-learn's "
    "load_sample_images"
)

Picture = npt.NDArray[Any]


class Pictures(NamedTuple):
    """Pictures that are read one by one."""

    total: int
    height: int
    width: int
    read: Callable[[int], Picture]
    """Returns picture i, (y, x) or (y, x, channel)."""
    title: str


def open_patches(
    source: str | None, sample_dim: str | None, options: Patches | None = None
) -> Content:
    """Open pictures to be cut; see ``Format`` and ``schemas.formats.Patches``.

    Gives ``image`` (sample, y, x) float32.

    Without a source the pictures are scikit-learn's. That of a Zarr group is its first variable
    of (picture, y, x) or (picture, y, x, channel).
    """
    options, dim = options or Patches(), sample_dim or SAMPLE
    pictures = _photographs() if source is None else _stored(source, sample_dim)
    height, width = options.size
    if not pictures.total or pictures.height < height or pictures.width < width:
        raise SchemaError(
            f"{pictures.title}: expected pictures of at least {height} x {width} (height x width), "
            f"found {pictures.total} of {pictures.height} x {pictures.width}"
        )
    shape = (options.patches, height, width)
    template = {"image": placeholder((dim, "y", "x"), shape, np.float32)}
    attrs = {"title": f"Patches of {pictures.title}"}
    dataset = xr.Dataset(template, attrs=attrs)
    return Content(dataset, dim, lambda rows: _blocks(pictures, options, rows))


def _photographs() -> Pictures:
    def read(number: int) -> Picture:
        from sklearn.datasets import load_sample_images  # a second of import time

        picture: Picture = load_sample_images().images[number]
        return picture

    return Pictures(*PHOTOGRAPHS, read, CREDIT)


def _stored(source: str, sample_dim: str | None) -> Pictures:
    dataset = open_dataset(source)
    dim = sample_dim or first_dim(dataset)
    for name, variable in dataset.data_vars.items():
        if variable.dims[:1] != (dim,) or variable.ndim not in (3, 4):
            continue
        total, height, width = variable.shape[:3]
        return Pictures(total, height, width, partial(_read, variable), f"{name} in {source}")
    there = ", ".join(f"{name} {v.dims}" for name, v in dataset.data_vars.items()) or "none"
    raise SchemaError(
        f"{source}: expected a variable ({dim}, y, x) or ({dim}, y, x, channel), found: {there}"
    )


def _read(variable: xr.DataArray, number: int) -> Picture:
    return variable[number].values


def _blocks(pictures: Pictures, options: Patches, rows: int) -> Iterator[Rows]:
    """Yield the patches of one picture after the other."""
    count = options.patches
    pictures = pictures._replace(read=lru_cache(maxsize=1)(pictures.read))
    ends = [i * count // pictures.total for i in range(pictures.total + 1)]
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        touched = np.searchsorted(ends, [start, stop - 1], side="right") - 1
        pieces = []
        for i in range(touched[0], touched[1] + 1):
            places = np.arange(max(start, ends[i]), min(stop, ends[i + 1])) - ends[i]
            pieces.append(cut(pictures, i, places, options.size))
        yield {"image": np.concatenate(pieces)}


def cut(
    pictures: Pictures, number: int, places: npt.NDArray[np.int64], size: tuple[int, int]
) -> Picture:
    """Return patches (n, *size) of one picture, from places in its keyed order of corners."""
    down, across = pictures.height - size[0] + 1, pictures.width - size[1] + 1
    key = fold(Key(0), "patches", number)
    corners = permutation(key, down * across, places % (down * across))
    picture = pictures.read(number).astype(np.float32)
    if picture.ndim == 3:
        picture = picture.mean(axis=2)
    windows = np.lib.stride_tricks.sliding_window_view(picture, size)
    patches = windows[corners // across, corners % across]
    patches = patches - patches.mean(axis=(1, 2), keepdims=True)
    spread = patches.std(axis=(1, 2), keepdims=True)
    least = max(FLAT * float(picture.std()), float(np.finfo(np.float32).tiny))
    normal: Picture = patches / np.maximum(spread, np.float32(least))
    return normal
