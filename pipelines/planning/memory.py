"""What a worker holds at one time: upper bounds, in one place because the engine decides them.

R rows of the longest shard, V features, P bytes of parameters and optimiser, B shards that a
place permutes together. Two groups are in flight at each place: one is computed on while the
next is read.
"""

from typing import NamedTuple

from deepstrata.pipelines.planning.data import Data
from deepstrata.pipelines.windows import GROUPS_IN_FLIGHT

#: What a worker process takes before it has read a byte: Python, NumPy, numba, Dask, xarray, Zarr;
#: and what its allocator keeps of what was freed (``environment.ALLOCATOR``).
BASE_BYTES = (384 << 20) + (256 << 20)


class Weights(NamedTuple):
    """Bytes of what is trained."""

    params: int
    optimiser: int

    @property
    def both(self) -> int:
        """Of parameters and optimiser."""
        return self.params + self.optimiser


class Peak(NamedTuple):
    """Bytes of a training in one worker."""

    fixed: int
    """Whatever the number of places."""
    place: int
    """For each place whose shards this worker has."""


def reading_bytes(data: Data, width: int | None = None) -> int:
    """Return the bytes that reading one shard takes: as seen, as float32, and one copy of each.

    Chunks that reach beyond a shard come on top.
    """
    seen = sum(column.seen_bytes for column in data.columns)
    # What decodes a part of a chunk keeps all chunks that it touches, whole.
    units = sum(
        int(max(column.decoded) - data.shard_rows) * column.row_bytes for column in data.columns
    )
    return data.shard_rows * (2 * seen + 8 * (width or data.visible)) + max(units, 0)


def held_row_bytes(data: Data, visible: int) -> int:
    """Return the bytes of one sample in a loaded shard: features, mask, row number, label."""
    features = data.columns[0]
    if features.small and not data.masked and visible == data.visible:
        return features.seen_bytes + 16
    return 4 * visible + data.masked * data.visible + 16


def training_peak(
    data: Data,
    weights: Weights,
    visible: int,
    widest: int,
    batch: int,
    buffer: int,
    monitor: int,
    states: int,
) -> Peak:
    """Return the peak of a training that reads ``states`` past states.

    No layer gives more than ``widest`` numbers of a sample.
    """
    held = data.shard_rows * held_row_bytes(data, visible)
    reading = reading_bytes(data, max(data.visible, visible))
    hidden = weights.params // (4 * visible)
    return Peak(
        fixed=reading
        + (3 + states) * weights.both
        + 2 * monitor * held_row_bytes(data, visible)
        + 32 * batch * max(visible, hidden, widest),
        # The group read ahead has been gathered before the last one of its parts is let go.
        place=(GROUPS_IN_FLIGHT + 1) * buffer * held + 4 * weights.both,
    )


def solving_peak(data: Data, inputs: int, units: int, columns: int, subset: int, runs: int) -> int:
    """Return the peak of a layer solved in closed form, with all of its sums in one worker.

    ``inputs`` of the layer, ``units`` that it gives, ``columns`` summed over for a ``subset``.
    """
    sums = 4 * subset * columns
    # In float64 the scatter matrix, the right sides, the solution, and copies of LAPACK's own.
    solution = 16 * (subset + 1) ** 2 + 24 * (subset + 1) * units
    return (
        reading_bytes(data)
        + 8 * data.shard_rows * (inputs + columns)
        + max((runs + 1) * sums, sums + solution)
    )


def svm_peak(data: Data, samples: int, width: int) -> int:
    """Return the peak of a machine trained on ``samples`` samples of ``width`` features."""
    # The samples as they arrive and put together; in float64 their products and short forms.
    return pass_peak(data, width) + 8 * samples * width + 8 * 8 * samples**2


def pass_peak(data: Data, width: int, copies: int = 1) -> int:
    """Return the peak of a pass that makes ``width`` numbers of every sample of a shard."""
    return reading_bytes(data) + 8 * copies * data.shard_rows * max(width, data.visible)
