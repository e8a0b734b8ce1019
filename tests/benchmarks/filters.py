"""Filters learned without labels, for a convolutional net that then sees few: do they help?

After Jarrett, Kavukcuoglu, Ranzato, LeCun (2009). One layer of filters is pretrained on 10,000
digits as a convolutional PSD, autoencoder or RBM; the net above it (absolute values where codes
have signs, contrast normalisation, average pooling, a softmax) is trained on a few labels of each
class, from these filters and from fresh ones, all layers together. Errors are those of the test
images. A command by itself, as it needs real data:
``python -m tests.benchmarks.filters --data path/to/mnist``.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from distributed import Client

from deepstrata import (
    SGD,
    Autoencoder,
    ContrastNormalisation,
    Convolution,
    ConvolutionalPSD,
    ConvolutionalRBM,
    Evaluate,
    FileSource,
    FineTune,
    Linear,
    LocalSteps,
    Network,
    Pipeline,
    Pooling,
    Pretrain,
    Rectification,
    Scale,
    Softmax,
    Split,
)
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.run import run
from tests.benchmarks import measuring

PLACES: dict[str, Any] = {"maps": 16, "kernel": (7, 7)}
ABOVE = (
    ContrastNormalisation(size=5),
    Pooling(size=(4, 4), stride=2, function="average"),
    Softmax(classes=10),
)


BEGINS = ("fresh", "learned")


class Filters(NamedTuple):
    """How filters are learned."""

    layers: tuple[Any, ...]
    rate: float
    """Where the learning rate of their training begins; it falls to a tenth."""


KINDS = {
    "PSD": Filters(
        (
            ConvolutionalPSD(penalty=0.5, prediction_weight=0.3, **PLACES),
            Rectification(),
        ),
        3e-3,
    ),
    "autoencoder": Filters(
        (
            Autoencoder(encoder=(Convolution(activation="tanh", **PLACES),), tied=True),
            Rectification(),
        ),
        1e-3,
    ),
    "RBM": Filters((ConvolutionalRBM(sparsity_target=0.05, sparsity_cost=0.3, **PLACES),), 1e-4),
}


def pipeline(kind: str, labels: tuple[int, ...], data: str, seed: int, quick: bool) -> Pipeline:
    """Return the training of one kind of filters, and of a net with and without them."""
    filters, epochs = KINDS[kind], 1 if quick else 2
    net = Network(layers=(*filters.layers, *ABOVE), input_shape=(28, 28, 1))
    falling = Linear(start=filters.rate, end=filters.rate / 10, epochs=epochs)
    few: dict[str, Any] = {
        "epochs": 1 if quick else 30,
        "optimiser": SGD(learning_rate=0.01, momentum=0.9),
        "strategy": LocalSteps(batch=20, steps=50, shards=1, buffer=14),
        "monitor": 0,
    }
    stages: list[Any] = [
        Split(by="subset", validation=5 / 6),
        Scale(minimum=0, maximum=255),
        Pretrain(
            model=net,
            epochs=epochs,
            optimiser=SGD(learning_rate=falling, momentum=0.9),
            strategy=LocalSteps(batch=50, steps=20, shards=2),
            monitor=200,
        ),
    ]
    hows: tuple[dict[str, Any], ...] = ({"model": net}, {"start": "pretrain"})
    for count in labels:
        for begin, how in zip(BEGINS, hows, strict=True):
            name = f"{begin}-{count}"
            stages += [
                FineTune(name=f"train-{name}", labelled=count, **how, **few),
                Evaluate(name=name, start=f"train-{name}", parts=("test",)),
            ]
    source = FileSource(
        format="idx", path=data, features="image", labels="label", rows_per_shard=5000
    )
    return Pipeline(name="filters", source=source, stages=tuple(stages), seed=seed)


def rows(client: Client, given: argparse.Namespace) -> Iterator[tuple[str, float, float]]:
    """Run everything; yield the mean test error, in %, with fresh filters and with learned ones."""
    labels = (10, 100)
    for kind in KINDS:
        found: dict[str, list[float]] = {}
        for seed in range(given.seeds):
            declared = pipeline(kind, labels, given.data, seed, given.quick)
            done = run(declared, client, out=str(Path(given.out, f"{kind}-{seed}")))
            for record in done.manifest.stages:
                if "test_error" in record.metrics:
                    found.setdefault(record.name, []).append(100 * record.metrics["test_error"])
        for count in labels:
            fresh, learned = (statistics.mean(found[f"{name}-{count}"]) for name in BEGINS)
            yield f"{kind}, {count} labels a class", fresh, learned


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="PATH", help="folder of MNIST's idx files")
    parser.add_argument("--out", default="runs/filters", metavar="PATH", help="where runs go")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each, 1")
    parser.add_argument("--quick", action="store_true", help="one epoch: that it runs, no more")
    given = parser.parse_args()
    measuring.begin(f"Convolutional filters learned without labels, {given.seeds} seed(s)")
    with connect("local") as client:
        found = list(rows(client, given))
    measuring.show(("test error, %", "fresh filters", "learned filters"), found)
    measuring.end()


if __name__ == "__main__":
    main()
