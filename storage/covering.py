"""What reading some rows decodes: chunks are decoded whole, so their other rows come along."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def decoded_rows(
    starts: npt.ArrayLike, stops: npt.ArrayLike, chunks: int | Sequence[int] | None, samples: int
) -> Rows:
    """Return how many rows are decoded to read each run of rows.

    Parameters
    ----------
    starts, stops
        (R,) bounds of the runs; none is empty.
    chunks
        Rows of a chunk where all but the last are alike, or those of each; None for rows that
        can be read one by one.
    samples
        Rows there are. What pads the last chunk is not counted: it costs nothing on disk.

    Returns
    -------
    numpy.ndarray
        (R,) int64, at least ``stops - starts``.
    """
    starts, stops = (np.asarray(bounds, np.int64) for bounds in (starts, stops))
    if chunks is None:
        return np.asarray(stops - starts, np.int64)
    if isinstance(chunks, int):
        last = np.minimum(-(-stops // chunks) * chunks, samples)
        return np.asarray(last - starts // chunks * chunks, np.int64)
    return np.asarray(covered(starts, stops, chunks, chunks), np.int64)


def covered(
    starts: npt.ArrayLike, stops: npt.ArrayLike, lengths: Sequence[int], costs: npt.ArrayLike
) -> npt.NDArray[Any]:
    """Return what the pieces that a run of rows touches cost together.

    Parameters
    ----------
    starts, stops
        (R,) bounds of the runs.
    lengths
        (P,) rows of each piece, in their order.
    costs
        (P,) of each piece.
    """
    edges = np.cumsum([0, *lengths])
    total = np.cumsum([0, *np.asarray(costs).tolist()])
    first = np.searchsorted(edges, np.asarray(starts), side="right") - 1
    after = np.searchsorted(edges, np.asarray(stops), side="left")
    return np.asarray(total[after] - total[first])
