"""scikit-learn's ``load_digits``: 1,797 real scans of 8 x 8 pixels, of which nothing is fetched."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from deepstrata.schemas.errors import SchemaError
from deepstrata.storage.formats.base import SAMPLE, Content, Rows, placeholder

SIDE, SAMPLES, CLASSES = 8, 1797, 10


def open_digits(source: str | None, sample_dim: str | None) -> Content:
    """Open the digits; see ``Format``. ``image`` holds 0 to 16, ``label`` 0 to 9."""
    if source is not None:
        raise SchemaError(
            f"format 'digits' brings its own data: expected no path, found {source!r}"
        )
    dim = sample_dim or SAMPLE
    template = {
        "image": placeholder((dim, "y", "x"), (SAMPLES, SIDE, SIDE), np.uint8, valid_range=[0, 16]),
        "label": placeholder(
            (dim,),
            (SAMPLES,),
            np.uint8,
            flag_values=list(range(CLASSES)),
            flag_meanings=" ".join(str(i) for i in range(CLASSES)),
        ),
    }
    attrs = {"title": "Optical recognition of handwritten digits (scikit-learn's load_digits)"}
    return Content(xr.Dataset(template, attrs=attrs), dim, _blocks)


def _blocks(rows: int) -> Iterator[Rows]:
    from sklearn.datasets import load_digits  # a second of import time, spent only when needed

    found = load_digits()
    images, labels = found.images.astype(np.uint8), found.target.astype(np.uint8)
    for start in range(0, len(labels), rows):
        yield {"image": images[start : start + rows], "label": labels[start : start + rows]}
