"""MNIST at the 16 x 16 pixels of USPS, two hidden layers: the parent of transfer-digits."""

import numpy as np
import numpy.typing as npt
import xarray as xr

from deepstrata import (
    SGD,
    Apply,
    Dense,
    Dropout,
    Evaluate,
    FileSource,
    FineTune,
    Linear,
    LocalSteps,
    Network,
    Pipeline,
    Report,
    Softmax,
    Split,
)

SIDE, MARGIN = 16, 4


def areas(inputs: int, outputs: int) -> npt.NDArray[np.float32]:
    """Return (outputs, inputs) weights that average pixels over areas, row by row."""
    edges = np.arange(outputs + 1)[:, None] * (inputs / outputs)
    covered = np.clip(edges - np.arange(inputs), 0, 1)
    shares: npt.NDArray[np.float64] = np.diff(covered, axis=0) * (outputs / inputs)
    return shares.astype(np.float32)


def shrink(dataset: xr.Dataset, name: str = "image") -> xr.Dataset:
    """Cut the margin of four pixels, resample the 20 x 20 with the digit, and scale to [0, 1]."""
    image = dataset[name]
    _, y, x = image.dims
    image = image.isel({y: slice(MARGIN, -MARGIN), x: slice(MARGIN, -MARGIN)})
    down = xr.DataArray(areas(image.sizes[y], SIDE) / np.float32(255), dims=("row", y))
    across = xr.DataArray(areas(image.sizes[x], SIDE), dims=("column", x))
    rows = xr.dot(image.astype(np.float32), down, dim=[y])
    return dataset.drop_vars(name).assign({name: xr.dot(rows, across, dim=[x])})


pipeline = Pipeline(
    name="digits-mnist16",
    source=FileSource(
        format="idx",
        path="path/to/mnist",
        features="image",
        labels="label",
        rows_per_shard=4000,
    ),
    stages=(
        Apply(function=shrink),
        Split(by="subset"),
        FineTune(
            model=Network(
                layers=(
                    Dense(units=500, activation="relu", initial_weights="he", name="low"),
                    Dropout(rate=0.3),
                    Dense(units=500, activation="relu", initial_weights="he", name="high"),
                    Dropout(rate=0.3),
                    Softmax(classes=10),
                )
            ),
            epochs=5,
            optimiser=SGD(
                learning_rate=Linear(start=0.1, end=0.005, epochs=5),
                momentum=0.9,
                weight_decay=1e-5,
            ),
            strategy=LocalSteps(batch=100, steps=20, shards=2),
        ),
        Evaluate(),
        Report(),
    ),
    seed=0,
)
