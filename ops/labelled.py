"""A few labelled samples of each class, drawn by key: the same however the rows are split.

Letters: N samples, M of them drawn.
"""

import numpy as np
import numpy.typing as npt

from deepstrata.ops.random import uniform
from deepstrata.schemas.errors import DataError
from deepstrata.schemas.keys import Key

Numbers = npt.NDArray[np.int64]


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
