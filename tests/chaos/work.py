"""What is run: a deep belief net on scikit-learn's digits, with a checkpoint every half second."""

from pathlib import Path

import numpy as np

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
    Scale,
    Softmax,
    Split,
    ZarrSource,
)
from deepstrata.pipelines.run import open_run
from deepstrata.pipelines.verify import verify
from deepstrata.storage.ingest import ingest

PIPELINE, REFERENCE = "pipeline.json", "reference"
ROUNDS = 16  #: between checkpoints


def prepare(folder: Path, epochs: int) -> None:
    """Write the data and the pipeline's declaration."""
    data = str(folder / "digits.zarr")
    ingest("digits", None, data)
    pipeline = Pipeline(
        name="chaos",
        source=ZarrSource(path=data, features="image", labels="label"),
        stages=(
            Split(validation=0.1, test=0.2),
            Scale(),
            Pretrain(
                model=DBN(layers=(RBM(hidden=256), RBM(hidden=256), Softmax(classes=10))),
                epochs=epochs,
                optimiser=SGD(learning_rate=0.1, momentum=0.5),
                strategy=LocalSteps(batch=20, steps=16, shards=2),
                checkpoint_rounds=ROUNDS,
            ),
            FineTune(
                epochs=epochs,
                optimiser=SGD(learning_rate=0.05, momentum=0.9),
                strategy=LocalSteps(batch=20, steps=16, shards=2),
                checkpoint_rounds=ROUNDS,
            ),
            Evaluate(),
            Encode(),
        ),
        seed=0,
    )
    (folder / PIPELINE).write_text(pipeline.to_json())


def difference(reference: str, other: str) -> str | None:
    """Return the first thing that differs between two runs: weights, metrics, history, codes."""
    verdict = verify(reference, other)
    if not verdict.same:
        return verdict.text
    a, b = open_run(reference), open_run(other)
    if a.metrics != b.metrics:
        return f"metrics: {a.metrics} and {b.metrics}"
    if a.manifest.checkpoints != b.manifest.checkpoints:
        return "the checkpoints that were passed"
    theirs = {node.path: node.to_dataset() for node in b.history.subtree}
    for node in a.history.subtree:
        if node.path not in theirs or not node.to_dataset().identical(theirs[node.path]):
            return f"history of {node.path}"
    if a.codes is None or b.codes is None or not a.codes.compute().identical(b.codes.compute()):
        return "codes"
    return None if np.isfinite(a.codes["code"]).all() else "codes are not finite"
