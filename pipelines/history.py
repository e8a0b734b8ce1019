"""Learning curves as xarray: a node for each training, along rounds and along epochs."""

from collections.abc import Sequence
from typing import Any

import xarray as xr

from deepstrata.schemas.errors import StorageError
from deepstrata.schemas.growing import DiscriminativePretrain
from deepstrata.schemas.stages import FineTune, Pretrain, Stage
from deepstrata.storage import runs, sealed, stores

LONG_NAMES = {
    "squared_error": "squared error, summed over a sample",
    "free_energy": "free energy",
    "loss": "loss",
    "error": "share of samples that are misclassified",
    "hamming_loss": "share of labels that are wrong",
    "r2": "coefficient of determination, mean over targets",
    "n": "samples in the round, or the sum of their weights",
    "learning_rate": "learning rate when the round began",
    "kept_epoch": "epoch with the best parameters so far",
}


def history_urls(training: str) -> list[str]:
    """Return the history files below a training's directory, in the order of their rounds."""
    directory = stores.join(training, "history")
    # A process that is killed while it writes leaves part of a file under another name.
    names = [name for name in stores.children(directory) if name.endswith(".json")]
    return [stores.join(directory, name) for name in names]


def merge_rows(urls: Sequence[str]) -> dict[str, list[dict[str, float]]]:
    """Return the rows of some history files by ``round`` and ``epoch``, each row once."""
    found: dict[str, dict[float, dict[str, float]]] = {"round": {}, "epoch": {}}
    for url in urls:
        data = _read(url)
        for kind, rows in found.items():
            rows |= {row[kind]: row for row in data[kind]}
    return {kind: [rows[i] for i in sorted(rows)] for kind, rows in found.items()}


def _read(url: str) -> dict[str, Any]:
    try:
        return sealed.read(url)
    except sealed.DamagedError as error:
        raise StorageError(
            f"{error}; or remove it, to do without its part of the learning curves"
        ) from None


def history_dataset(rows: dict[str, list[dict[str, float]]]) -> xr.Dataset:
    """Return one training's history.

    Over ``round``: means over the samples of a round, as it was trained. Over ``epoch_end``: means
    over the fixed samples that are watched, after each epoch.
    """
    dataset = xr.Dataset(attrs={"title": "means per sample"})
    for dim, kind, other in (("round", "round", "epoch"), ("epoch_end", "epoch", "round")):
        table = rows[kind]
        if not table:
            continue
        names = [name for name in table[0] if name not in (kind, other)]
        dataset = dataset.assign_coords(
            {
                dim: (dim, [int(row[kind]) for row in table]),
                (other if dim == "round" else "last_round"): (dim, [row[other] for row in table]),
            }
        )
        for name in names:
            values = [row.get(name, float("nan")) for row in table]
            what = name.removeprefix("train_").removeprefix("validation_")
            dataset[name] = (dim, values, {"long_name": LONG_NAMES.get(what, what)})
    return dataset


def trainings(path: str) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Return the rows of every training of a run, finished or not, by its name."""
    manifest = runs.read_manifest(path)
    keys = {record.name: record.key[:12] for record in manifest.stages}
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for stage in manifest.pipeline.stages:
        for name in _parts(stage):
            directory = stores.join(path, "stages", name)
            known = stores.children(directory)
            key = keys.get(stage.name) or (known[-1] if known else "")
            urls = history_urls(stores.join(directory, key))
            if urls:
                found[name] = merge_rows(urls)
    return found


def _parts(stage: Stage) -> list[str]:
    """Return the names of a stage's trainings; none where it does not train."""
    if isinstance(stage, FineTune):
        return [stage.name]
    layers: tuple[Any, ...] = ()
    if isinstance(stage, Pretrain):
        layers = stage.pretrained
    elif isinstance(stage, DiscriminativePretrain):
        layers = stage.grown
    return [f"{stage.name}/layer-{i}" for i in range(len(layers))]


def history_tree(path: str) -> xr.DataTree:
    """Return the history of every training of a run, finished or not."""
    nodes = {name: history_dataset(rows) for name, rows in trainings(path).items()}
    return xr.DataTree.from_dict(nodes)
