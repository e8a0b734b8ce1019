"""Images in folders, read by Pillow: a folder for each class, all images alike.

The values stay what they are: 0 to 255 in uint8, and uint16 where there are 16 bits.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from deepstrata.schemas.errors import SchemaError, StorageError
from deepstrata.schemas.formats import Images
from deepstrata.storage.formats.base import SAMPLE, Content, Rows, opened, placeholder
from deepstrata.storage.formats.files import Files, find_files, in_order, read_names, with_columns

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
READ_AS = {"1": "L", "P": "RGB"} | {mode: mode for mode in ("L", "LA", "RGB", "RGBA", "I;16")}
"""Pillow's modes that are read, and what they become: black and white grey, palettes colours."""
CONVERTED = {"grey": "L", "colour": "RGB"}
CHANNELS = {
    "LA": ("grey", "alpha"),
    "RGB": ("red", "green", "blue"),
    "RGBA": ("red", "green", "blue", "alpha"),
}


class Kind(NamedTuple):
    """What all images have to have in common."""

    mode: str
    """Pillow's name of it."""
    size: tuple[int, int]
    """Height and width in pixels."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image as an array."""
        channels = CHANNELS.get(self.mode)
        return (*self.size, len(channels)) if channels else self.size

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Of an image as an array."""
        return np.uint16 if self.mode == "I;16" else np.uint8

    def __str__(self) -> str:
        return f"{self.mode}, {self.size[0]} x {self.size[1]} (height x width)"


def open_images(
    source: str | None, sample_dim: str | None, options: Images | None = None
) -> Content:
    """Open the images below a directory; see ``Format`` and ``schemas.formats.Images``.

    Gives ``image`` (sample, y, x), or (sample, y, x, channel) where there is more than grey;
    ``label`` from the folders; and coordinates: ``file`` and what the paths tell. Of each file
    the header is read before anything is written.
    """
    options, dim = options or Images(), sample_dim or SAMPLE
    files = in_order(find_files(source, "images", SUFFIXES), options)
    columns = read_names(files, options)
    kind = _kind_of_all(files, options)
    template = with_columns(_template(files, kind, dim), columns, dim)
    labels = {name: template[name].values for name in ("file", *columns)}
    paths = files.paths

    def blocks(rows: int) -> Iterator[Rows]:
        for start in range(0, len(paths), rows):
            block = slice(start, start + rows)
            images = [_pixels(path, kind) for path in paths[block]]
            yield {"image": np.stack(images)} | {n: v[block] for n, v in labels.items()}

    return Content(template, dim, blocks)


@contextmanager
def _image(path: Path) -> Iterator["Image"]:
    """Open an image, of which only the header is read.

    Raises
    ------
    SchemaError
        It is none that Pillow reads; also inside, when its pixels turn out to be damaged.
    StorageError
        It cannot be opened, or Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise StorageError(
            "format 'images': needs Pillow: pip install 'deepstrata[images]'"
        ) from None
    with opened(path) as file:
        try:
            with Image.open(file) as image:
                yield image
        except DAMAGED as error:
            if isinstance(error, SchemaError | StorageError):
                raise
            raise SchemaError(f"{path}: not an image that Pillow can read: {error}") from None


def _kind_of_all(files: Files, options: Images) -> Kind:
    first, *others = files.paths
    wanted = _kind(first, options)
    for path in others:
        found = _kind(path, options)
        if found != wanted:
            raise SchemaError(
                f"{path}: expected an image like {first}: {wanted}; found {found}; make them "
                "alike with the options size=(height, width) and mode='grey' or 'colour'"
            )
    return wanted


def _kind(path: Path, options: Images) -> Kind:
    with _image(path) as image:
        mode = CONVERTED[options.mode] if options.mode else READ_AS.get(image.mode)
        if mode is None:
            raise SchemaError(
                f"{path}: expected an image of mode {', '.join(READ_AS)}, found {image.mode}; "
                "convert it with the option mode='grey' or mode='colour'"
            )
        return Kind(mode, options.size or (image.height, image.width))


def _pixels(path: Path, kind: Kind) -> npt.NDArray[Any]:
    height, width = kind.size
    with _image(path) as image:
        found = image if image.mode == kind.mode else image.convert(kind.mode)
        if found.size != (width, height):
            found = found.resize((width, height), resample=2)  # bilinear
        return np.asarray(found, dtype=kind.dtype)


def _template(files: Files, kind: Kind, dim: str) -> xr.Dataset:
    dims = (dim, "y", "x", "channel")[: 1 + len(kind.shape)]
    shape = (len(files.names), *kind.shape)
    template = xr.Dataset(
        {"image": placeholder(dims, shape, kind.dtype)},
        coords={"file": (dim, np.array(files.names, dtype=object))},
    )
    if kind.mode not in CHANNELS:
        return template
    names = np.array(CHANNELS[kind.mode], dtype=object)
    return template.assign_coords(channel=("channel", names))
