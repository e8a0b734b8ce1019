"""Pretraining on variants of MNIST: denoising autoencoders, plain ones, none at all.

After Larochelle et al. (2007) and Vincent et al. (2010): digits turned by a random angle, on random
pixels, or on patches of photographs (scikit-learn's two). Each number is addressed by the digit's
place, so a variant is the same wherever it is made. A command by itself, as it needs real data:
``python -m tests.benchmarks.variants --data path/to/mnist``.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from distributed import Client
from scipy import ndimage
from sklearn.datasets import load_sample_images

from deepstrata import Dense, Linear, Network, Pipeline, Softmax, ZarrSource
from deepstrata.ops.random import uniform
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.loading import load_pipeline
from deepstrata.pipelines.run import resume, run
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.trees import Array
from deepstrata.storage.ingest import ingest
from deepstrata.storage.writing import is_complete
from tests.benchmarks import measuring

SIDE = 28
LEARNED = 10_000  #: digits learned from; all others are tested on
ROWS = 2500  #: in a shard
UNITS = 500  #: of each layer
MODELS = ("SDAE", "SAE", "no pretraining")

Change = Callable[[Array, Array, Key], Array]


def _each_image(dataset: xr.Dataset, change: Change, name: str) -> xr.Dataset:
    """Change images (N, y, x) lazily, block by block; ``change`` gets their rows too."""
    image = dataset["image"]
    sample, *places = map(str, image.dims)
    row = xr.DataArray(np.arange(image.sizes[sample]), dims=sample)
    if image.chunks is not None:
        row = row.chunk({sample: image.chunksizes[sample]})
    changed: xr.DataArray = xr.apply_ufunc(
        change,
        image,
        row,
        input_core_dims=[places, []],
        output_core_dims=[places],
        kwargs={"key": fold(Key(0), "variant", name)},
        dask="parallelized",
        output_dtypes=[np.uint8],
    )
    return dataset.assign(image=changed.transpose(*image.dims))


def rotated(dataset: xr.Dataset) -> xr.Dataset:
    """Turn every digit by an angle of its own, from 0 to 360 degrees."""
    return _each_image(dataset, _turn, "rotated")


def random_background(dataset: xr.Dataset) -> xr.Dataset:
    """Put every digit on pixels of random brightness."""
    return _each_image(dataset, _on_noise, "random-background")


def image_background(dataset: xr.Dataset) -> xr.Dataset:
    """Put every digit on a patch of a photograph."""
    return _each_image(dataset, _on_photographs, "image-background")


def _turn(images: Array, rows: Array, key: Key) -> Array:
    angles = 360.0 * uniform(key, rows, 1)[:, 0]
    turned = [
        ndimage.rotate(image.astype(np.float32), angle, reshape=False, order=1)
        for image, angle in zip(images, angles, strict=True)
    ]
    return np.clip(np.rint(turned), 0, 255).astype(np.uint8).reshape(images.shape)


def _on_noise(images: Array, rows: Array, key: Key) -> Array:
    noise = uniform(key, rows, SIDE * SIDE).reshape(images.shape)
    return np.maximum(images, (256 * noise).astype(np.uint8))


def _on_photographs(images: Array, rows: Array, key: Key) -> Array:
    photographs, made = _photographs(), images.copy()
    for image, (which, down, across) in zip(made, uniform(key, rows, 3), strict=True):
        photograph = photographs[int(which * len(photographs))]
        y, x = (
            int(u * (n - SIDE + 1)) for u, n in zip((down, across), photograph.shape, strict=True)
        )
        np.maximum(image, photograph[y : y + SIDE, x : x + SIDE], out=image)
    return made


@cache
def _photographs() -> list[Array]:
    """Return grey pictures, (y, x) uint8 each."""
    return [np.rint(image.mean(axis=2)).astype(np.uint8) for image in load_sample_images().images]


FUNCTIONS = {
    "rotated": rotated,
    "random-background": random_background,
    "image-background": image_background,
}


def store(kind: str, data: str, out: str) -> str:
    """Write a variant of MNIST to a Zarr store, unless it is there; return its path.

    The first ``LEARNED`` digits are its training part, as many as Larochelle et al. learn from.
    """
    digits, made = Path(out, "digits.zarr"), Path(out, f"{kind}.zarr")
    if not is_complete(str(digits)):
        ingest("idx", data, str(digits))
    if not made.exists():
        changed = FUNCTIONS[kind](xr.open_zarr(digits, consolidated=False))
        part = (np.arange(changed.sizes["sample"]) >= LEARNED).astype(np.int8)
        flags = {"flag_values": np.arange(2), "flag_meanings": "train test"}
        changed = changed.assign_coords(subset=("sample", part, flags)).drop_encoding()
        changed = changed.drop_attrs(deep=False)  # that it was ingested is not true of it
        partial = made.with_suffix(".partial")
        rows = {"sample": ROWS, "y": -1, "x": -1}
        changed.chunk(rows).to_zarr(partial, mode="w", zarr_format=3, consolidated=False)
        partial.rename(made)
    return str(made)


def pipeline(path: str, model: str, seed: int, pretraining: int, finetuning: int) -> Pipeline:
    """Return the recipe ``sdae-mnist`` on a variant, with the pretraining of one of ``MODELS``.

    Layers are half as wide, for a sixth as many digits, and all models are fine-tuned at a rate
    that one without pretraining can learn at. That one begins with weights four times
    Glorot's: with those of the recipe its logistic units stay on a plateau.
    """
    changes: dict[str, Any] = {"seed": seed, "finetune.strategy.batch": 10}
    for stage, epochs in (("pretrain", pretraining), ("finetune", finetuning)):
        rate = Linear(start=0.1, end=0.001, epochs=epochs)
        changes |= {f"{stage}.epochs": epochs, f"{stage}.optimiser.learning_rate": rate}
    changes |= {f"pretrain.model.layers.{i}.encoder.0.units": UNITS for i in range(3)}
    if model == "SAE":
        changes |= {f"pretrain.model.layers.{i}.noise": None for i in range(3)}
    recipe = load_pipeline("sdae-mnist").replace(**changes)
    split, scale, pretrain, finetune, evaluate, _ = recipe.stages
    training: tuple[Any, ...] = (pretrain, finetune)
    if model == "no pretraining":
        inputs = (SIDE * SIDE, UNITS, UNITS)
        layers = [
            Dense(units=UNITS, initial_weights=4 * math.sqrt(2 / (n + UNITS))) for n in inputs
        ]
        net = Network(layers=(*layers, Softmax(classes=10)))
        training, pretraining = (finetune.model_copy(update={"model": net}),), 0
    source = ZarrSource(path=path, features="image", labels="label", rows_per_shard=ROWS)
    return Pipeline(
        name=f"{Path(path).stem}-{pretraining}-{finetuning}",
        source=source,
        stages=(split, scale, *training, evaluate),
        seed=seed,
    )


def errors(client: Client, given: argparse.Namespace) -> Iterator[tuple[str, float, float, float]]:
    """Run everything; yield mean, least and greatest test error of each variant and model, in %."""
    for kind in given.kinds:
        path = store(kind, given.data, given.out)
        for model in MODELS:
            found = []
            for seed in range(given.seeds):
                declared = pipeline(path, model, seed, given.pretraining, given.finetuning)
                out = Path(given.out, f"{declared.name}-{model.replace(' ', '-')}-{seed}")
                # What a stopped comparison has done is not done again.
                done = (
                    resume(str(out), client)
                    if out.exists()
                    else run(declared, client, out=str(out))
                )
                found.append(100 * done.metrics["test_error"])
            yield f"{kind}, {model}", statistics.mean(found), min(found), max(found)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, metavar="PATH", help="folder of MNIST's idx files")
    parser.add_argument("--out", default="runs/variants", metavar="PATH", help="where runs go")
    parser.add_argument("--kinds", nargs="+", choices=FUNCTIONS, default=list(FUNCTIONS))
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each, 3")
    for stage, epochs, of in (("pretraining", 20, "each layer's "), ("finetuning", 40, "")):
        words = f"{of}epochs, {epochs}"
        parser.add_argument(f"--{stage}", type=int, default=epochs, metavar="N", help=words)
    given = parser.parse_args()
    measuring.begin(f"SDAE, SAE and no pretraining on variants of MNIST, {given.seeds} seeds")
    with connect("local") as client:
        rows = list(errors(client, given))
    measuring.show(("test error, %", "mean", "least", "greatest"), rows)
    measuring.end()


if __name__ == "__main__":
    main()
