"""Labels: checked, and a few samples of each class drawn by key, the same however rows are split.

Letters: N samples, M of them drawn.
"""

import numpy as np
import numpy.typing as npt

from deepstrata.ops.random import uniform
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.keys import Key
from deepstrata.schemas.trees import Array

Numbers = npt.NDArray[np.int64]


def check_labels(labels: Array | None, rows: Array, classes: int) -> Array:
    """Return ``labels``, (N,) int64 in NumPy, if they are all in [0, classes).

    Raises
    ------
    DataError
        There are none, or one is out of range; the message names its value and row.
    """
    if labels is None:
        raise DataError("the model learns classes, and the source names no labels variable")
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        first = outside[0]
        raise DataError(
            f"label {labels[first]} at row {rows[first]}: expected 0 to {classes - 1} for "
            f"{classes} classes ({len(outside)} labels are out of range in this batch)"
        )
    return labels


def draw(labels: Numbers, rows: Numbers, count: int, key: Key) -> tuple[Numbers, Numbers]:
    """Draw up to ``count`` samples of each class; drawing from what was drawn of parts is the same.

    Parameters
    ----------
    labels, rows
        (N,) class numbers, and the global rows that address the draw.

    Returns
    -------
    (M,) labels and (M,) rows, in the order of the rows
    """
    order = np.lexsort((rows, uniform(key, rows, 1)[:, 0]))
    chosen = [order[labels[order] == label][:count] for label in np.unique(labels)]
    kept = np.concatenate([order[:0], *chosen])
    kept = kept[np.argsort(rows[kept])]
    return labels[kept], rows[kept]


def check_enough(labels: Numbers, count: int, classes: int) -> None:
    """Check that ``count`` samples of each class were drawn.

    Raises
    ------
    DataError
        There are fewer; the class is named.
    """
    found = np.bincount(labels, minlength=classes)
    if found.min() < count:
        label = int(found.argmin())
        raise DataError(
            f"expected {count} training samples of each of {classes} classes, found "
            f"{found[label]} of class {label}; declare fewer labelled"
        )
