"""Learning curves out of a run's history.

A history is a tree with one node per trained thing (``pretrain/layer-0``, ``finetune``). A node's
Dataset has means over the samples of each round, along ``round`` with a coordinate ``epoch``, and
``train_NAME`` and ``validation_NAME``, measured after each epoch, along ``epoch_end``.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepstrata.pipelines.report.chart import Chart, Series
from deepstrata.schemas.trees import Array

if TYPE_CHECKING:
    import xarray as xr

#: Rounds call it so where monitors call it otherwise.
ALIASES = {"errors": "error"}
PARTS = ("train", "validation")
GAP = "free_energy"
UNDRAWN = (GAP, "n")  #: the gap has a chart of its own; n counts samples


class _Kind(NamedTuple):
    title: str
    unit: str
    percent: bool = False


KINDS = {
    "squared_error": _Kind("Reconstruction error", "squared, summed over a sample"),
    "loss": _Kind("Loss", "what is minimised, per sample"),
    "error": _Kind("Errors", "% of samples misclassified", True),
    "learning_rate": _Kind("Learning rate", "when a round begins"),
}
RATE = "learning_rate"  #: drawn where it is not always the same
GAP_KIND = _Kind("Free-energy gap", "validation minus training, nats per sample")


def curves(history: "xr.DataTree") -> list[tuple[str, list[Chart]]]:
    """Return, for each node with something to show, its path and its charts."""
    found = []
    for node in history.subtree:
        charts = _charts(node.to_dataset())
        if charts:
            found.append((node.path.strip("/"), charts))
    return found


def _charts(node: "xr.Dataset") -> list[Chart]:
    names = dict.fromkeys(filter(None, (_base(node, str(name)) for name in node.data_vars)))
    charts = []
    for name in sorted(names, key=[*KINDS, *names].index):
        if name in UNDRAWN or (name == RATE and np.ptp(node[RATE].values) == 0):
            continue
        kind = KINDS.get(name, _Kind(name.replace("_", " ").capitalize(), "mean over samples"))
        series = [*_rounds(node, name), *_monitors(node, name)]
        charts.append(Chart(kind.title, kind.unit, tuple(series), percent=kind.percent))
    return charts + _gap(node)


def _base(node: "xr.Dataset", name: str) -> str | None:
    if node[name].dims == ("round",):
        return ALIASES.get(name, name)
    for part in PARTS:
        if node[name].dims == ("epoch_end",) and name.startswith(f"{part}_"):
            return name.removeprefix(f"{part}_")
    return None


def _epochs(node: "xr.Dataset") -> Array:
    if "epoch_end" in node.coords:
        return np.asarray(node["epoch_end"].values, float)
    return np.arange(1, node.sizes["epoch_end"] + 1, dtype=float)


def _rounds(node: "xr.Dataset", name: str) -> list[Series]:
    own = [v for v in node.data_vars if ALIASES.get(str(v), v) == name and "round" in node[v].dims]
    if not own:
        return []
    x = node["epoch"].values if "epoch" in node.coords else np.arange(node.sizes["round"])
    return [Series("rounds", "rounds", x, node[own[0]].values, dots=False)]


def _monitors(node: "xr.Dataset", name: str) -> list[Series]:
    return [
        Series(label, part, _epochs(node), node[f"{part}_{name}"].values)
        for part, label in zip(PARTS, ("training", "validation"), strict=True)
        if f"{part}_{name}" in node
    ]


def _gap(node: "xr.Dataset") -> list[Chart]:
    train, validation = (node.get(f"{part}_{GAP}") for part in PARTS)
    if train is None or validation is None:
        return []
    gap = Series("gap", "gap", _epochs(node), validation.values - train.values)
    return [Chart(GAP_KIND.title, GAP_KIND.unit, (gap,), zero=True)]
