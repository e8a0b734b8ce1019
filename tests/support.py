"""What several tests share: a small dataset, a pipeline over it, runs that stop half-way."""

from collections.abc import Callable

import numpy as np
import xarray as xr

from deepstrata import (
    DBN,
    RBM,
    SGD,
    Encode,
    Evaluate,
    FineTune,
    LocalSteps,
    Pipeline,
    Pretrain,
    Softmax,
    Split,
    ZarrSource,
)
from deepstrata.pipelines.run import Run
from deepstrata.schemas.strategies import Strategy

SAMPLES, SIDE, SHARD = 240, 4, 30


def bars(samples: int = SAMPLES, seed: int = 0) -> xr.Dataset:
    """Pictures of 4 x 4 pixels with one noisy bar; the label says whether it lies or stands."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, samples)
    place = random.integers(0, SIDE, samples)
    image = np.zeros((samples, SIDE, SIDE), np.float32)
    for i, (stands, where) in enumerate(zip(label, place, strict=True)):
        image[i, :, where] = stands
        image[i, where, :] = np.maximum(image[i, where, :], 1 - stands)
    noise = random.random(image.shape) < 0.05
    image = np.abs(image - noise).astype(np.float32)
    return xr.Dataset(
        {"image": (("sample", "y", "x"), image), "label": ("sample", label.astype(np.uint8))},
        coords={"sample": np.arange(samples) * 10},
        attrs={"title": "bars"},
    )


def dbn_pipeline(path: str, strategy: Strategy | None = None, epochs: int = 3) -> Pipeline:
    """Every kind of stage on the bars, in a second."""
    strategy = strategy or LocalSteps(batch=10, steps=2, shards=2)
    return Pipeline(
        name="bars",
        source=ZarrSource(path=path, features="image", labels="label"),
        stages=(
            Split(validation=0.1, test=0.2),
            Pretrain(
                model=DBN(layers=(RBM(hidden=12), RBM(hidden=8), Softmax(classes=2))),
                epochs=epochs,
                optimiser=SGD(learning_rate=0.1, momentum=0.5, weight_decay=1e-4),
                strategy=strategy,
            ),
            FineTune(
                epochs=epochs, optimiser=SGD(learning_rate=0.2, momentum=0.9), strategy=strategy
            ),
            Evaluate(),
            Encode(),
        ),
        seed=7,
    )


class StopAfter(Exception):
    """Ends a run from an observer, as a crash of the client would."""


def stopping(done: int, stage: str = "pretrain") -> Callable[[object], None]:
    """Return an observer that ends the run when so many rounds are done."""

    def observe(event: object) -> None:
        if getattr(event, "done", 0) >= done and getattr(event, "stage", "") == stage:
            raise StopAfter

    return observe


def same(a: Run, b: Run) -> None:
    assert a.manifest.weights_sha256 == b.manifest.weights_sha256
    for node in a.history.leaves:
        other = b.history[node.path].to_dataset()
        assert node.to_dataset().equals(other)
