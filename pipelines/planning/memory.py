"""What a worker holds at one time: upper bounds, in one place because the engine decides them.

R rows of the longest shard, V features, P bytes of parameters and optimiser, B shards that a
place permutes together. Two groups are in flight at each place: one is computed on while the
next is read.
"""

import math
from typing import NamedTuple

from deepstrata.ops import fused, models, network
from deepstrata.pipelines.graph import FAN_IN
from deepstrata.pipelines.planning.data import Data
from deepstrata.pipelines.windows import GROUPS_IN_FLIGHT
from deepstrata.schemas.layers import Convolution
from deepstrata.schemas.models import Layered, Trainable
from deepstrata.schemas.shapes import maps_after

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


class Passes(NamedTuple):
    """Bytes that the layers of a net take while samples pass through them."""

    up: int
    """For each sample: what every layer gives is kept."""
    down: int
    """For each sample that is trained on, besides: derivatives by what each layer takes."""
    tiles: int
    """Whatever the number of samples: maps that are pooled a few samples at a time."""


def passes(model: Trainable, visible: int) -> Passes:
    """Return what layers take; nothing for a model that is no net of layers.

    Two float32 are counted for each number: a layer may keep one more, such as where a maximum was
    or what a dropout has drawn.
    """
    if not isinstance(model, Layered):
        return Passes(0, 0, 0)
    shapes = network.input_shapes(model, visible)
    given, taken = (sum(map(math.prod, some)) for some in (shapes[1:], shapes[:-1]))
    pooled = (
        max(fused.TILE, 4 * math.prod(maps_after(layer, shape)))
        for layer, shape in zip(model.layers, shapes, strict=False)
        if isinstance(layer, Convolution) and layer.pooling is not None
    )
    return Passes(8 * given, 8 * taken, 2 * sum(pooled))


def reading_bytes(data: Data, width: int | None = None, supervised: bool = False) -> int:
    """Return the bytes that reading one shard takes: as seen, as float32, and one copy of each.

    Chunks that reach beyond a shard come on top, targets and weights where they are read.
    """
    columns = [column for column in data.columns if supervised or not column.supervises]
    seen = sum(column.seen_bytes for column in columns)
    # What decodes a part of a chunk keeps all chunks that it touches, whole.
    units = sum(int(max(column.decoded) - data.shard_rows) * column.row_bytes for column in columns)
    numbers = (width or data.visible) + supervised * data.supervising
    return data.shard_rows * (2 * seen + 8 * numbers) + max(units, 0)


def held_row_bytes(data: Data, visible: int, supervised: bool = False) -> int:
    """Return the bytes of one sample in a loaded shard.

    That is features, mask, row number, label; targets and weight where they are read.
    """
    features, more = data.columns[0], 16 + 4 * supervised * data.supervising
    if features.small and not data.masked and visible == data.visible:
        return features.seen_bytes + more
    return 4 * visible + data.masked * data.visible + more


def training_peak(
    data: Data,
    weights: Weights,
    model: Trainable,
    visible: int,
    batch: int,
    buffer: int,
    monitor: int,
    states: int,
    supervised: bool = False,
) -> Peak:
    """Return the peak of a training that reads ``states`` past states."""
    layers, widest = passes(model, visible), models.widest(model, visible)
    row = held_row_bytes(data, visible, supervised)
    held = data.shard_rows * row
    reading = reading_bytes(data, max(data.visible, visible), supervised)
    hidden = weights.params // (4 * visible)
    return Peak(
        fixed=reading
        + (3 + states) * weights.both
        + 2 * monitor * row
        + max(32 * batch * max(visible, hidden, widest), batch * (layers.up + layers.down))
        + monitor * layers.up
        + layers.tiles,
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


def pca_peak(data: Data, components: int, runs: int, run_bytes: int) -> int:
    """Return the bytes of sums for principal components: of features, or of ``runs`` of samples."""
    if not runs:
        return 4 * 8 * data.visible**2
    samples = sum(train for train, *_ in data.counts)
    run = max(run_bytes, 8 * data.shard_rows * data.visible)
    # Two runs with a copy of each, all products with their eigenvectors, components merged.
    return 4 * run + 4 * 8 * samples**2 + (FAN_IN + 1) * 8 * data.visible * components


def svm_peak(data: Data, samples: int, model: Trainable, width: int) -> int:
    """Return the peak of a machine trained on codes of ``samples`` samples."""
    # The samples as they arrive and put together; in float64 their products and short forms.
    return coding_peak(data, model, width) + 8 * samples * width + 8 * 8 * samples**2


def coding_peak(data: Data, model: Trainable, width: int, supervised: bool = False) -> int:
    """Return the peak of a pass of every sample of a shard through a model."""
    layers = passes(model, data.visible)
    peak = pass_peak(data, width, supervised=supervised)
    return peak + data.shard_rows * layers.up + layers.tiles


def pass_peak(data: Data, width: int, copies: int = 1, supervised: bool = False) -> int:
    """Return the peak of a pass that makes ``width`` numbers of every sample of a shard."""
    # Targets are measured in float64: themselves, their residuals, and what is summed of them.
    numbers = copies * max(width, data.visible) + 5 * supervised * data.supervising
    return reading_bytes(data, supervised=supervised) + 8 * data.shard_rows * numbers
