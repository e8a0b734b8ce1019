"""What is simulated: small pipelines with every kind of training stage, over data in memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from deepstrata import (
    DBN,
    RBM,
    SGD,
    Adagrad,
    Adam,
    DatasetSource,
    Delayed,
    Encode,
    Evaluate,
    FineTune,
    LocalSteps,
    Pipeline,
    Pretrain,
    Softmax,
    Split,
    Standardise,
    StorageError,
    Synchronous,
    ZarrSource,
)

SAMPLES, FEATURES, SHARD = 44, 6, 12
STORE = "sim://data.zarr"
STRATEGIES = (
    Synchronous(batch=5, shards=2),
    LocalSteps(batch=4, steps=2, shards=2),
    Synchronous(batch=9, shards=3),
    LocalSteps(batch=5, steps=1, shards=3, outer=SGD(learning_rate=0.7, momentum=0.9)),
    LocalSteps(batch=3, steps=3, shards=1),
    LocalSteps(batch=5, steps=2, shards=2, buffer=2),
    Delayed(rounds=2, batch=5, shards=2),
)
OPTIMISERS = (SGD(learning_rate=0.1, momentum=0.5), Adam(learning_rate=0.01), Adagrad())
COUNT = 42


@dataclass(frozen=True)
class Rows:
    """Reads rows of arrays in memory: a ``Reader`` without faults."""

    arrays: dict[str, Any]

    def narrow(self, start: int, stop: int) -> "Rows":
        """Return this reader."""
        return self

    def read(self, start: int, stop: int, names: Iterable[str]) -> dict[str, Any]:
        """Return ``{name: (stop - start, ...)}``, copies."""
        return {name: self.arrays[name][start:stop].copy() for name in names}

    def confirm(self, start: int, stop: int, names: Iterable[str]) -> None:
        """Nothing is missing in memory."""

    def changed(self, name: str, start: int, stop: int) -> StorageError:
        """Return an error: what is in memory does not change."""
        return StorageError(f"{name!r}, rows {start} to {stop}: changed in memory")

    def __hash__(self) -> int:
        return id(self)


def dataset() -> xr.Dataset:
    """Noisy patterns of two classes, with coordinates."""
    random = np.random.default_rng(5)
    label = random.integers(0, 2, SAMPLES)
    pattern = np.arange(FEATURES) % 2 == label[:, None]
    x = np.abs(pattern - 0.3 * random.random((SAMPLES, FEATURES))).astype(np.float32)
    return xr.Dataset(
        {"x": (("sample", "feature"), x), "label": ("sample", label.astype(np.uint8))},
        coords={"sample": np.arange(SAMPLES) * 10},
    )


def pipeline(case: int, rounds: int | None = None) -> Pipeline:
    """Return one of ``COUNT`` pipelines: strategies, optimisers, and what else changes the path.

    ``rounds`` between two checkpoints: the case's own by default. They change no result.
    """
    strategy, optimiser = STRATEGIES[case % len(STRATEGIES)], OPTIMISERS[case % len(OPTIMISERS)]
    chains = {"persistent": True, "chains": 5} if case % 4 == 1 else {}
    layers = (RBM(hidden=5, **chains), RBM(hidden=3), Softmax(classes=2))
    common = {"features": "x", "labels": "label"}
    in_memory = DatasetSource(**common, rows_per_shard=SHARD)
    scale = (Standardise(),) if case % 8 == 3 else ()
    if scale:
        layers = (RBM(hidden=5, visible_units="gaussian", **chains), *layers[1:])
    every = {
        "strategy": strategy,
        "checkpoint_rounds": rounds or (1, 2, 3)[case // 3 % 3],
        "monitor": 20,
    }
    return Pipeline(
        name=f"case-{case}",
        source=ZarrSource(path=STORE, **common) if reads_zarr(case) else in_memory,
        stages=(
            Split(validation=0.1, test=0.2),
            *scale,
            Pretrain(
                model=DBN(layers=layers),
                epochs=1,
                optimiser=optimiser,
                activations="store" if case % 2 else "recompute",
                **every,
            ),
            FineTune(epochs=2, optimiser=OPTIMISERS[(case + 1) % 3], **every),
            Evaluate(),
            Encode(),
        ),
        seed=case,
    )


def reads_zarr(case: int) -> bool:
    """Tell whether the data lies in the simulated store, where reading may fail."""
    return case % 5 == 4
