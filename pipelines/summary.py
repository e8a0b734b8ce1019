"""Gathering what the report shows of a run."""

import numpy as np

from deepstrata.ops import models, pretraining, updown
from deepstrata.ops.partials import Batch
from deepstrata.pipelines import feeds
from deepstrata.pipelines.context import Context, TrainedModel
from deepstrata.pipelines.history import history_tree
from deepstrata.pipelines.planning import plan
from deepstrata.pipelines.report import Report, write_report
from deepstrata.pipelines.report.classes import LARGEST_TABLE
from deepstrata.pipelines.report.transfer import Transfer
from deepstrata.schemas import stages
from deepstrata.schemas.keys import fold
from deepstrata.schemas.models import (
    MSDA,
    GenerativeDBN,
    Layered,
    Model,
    has_weights,
    is_supervised,
)
from deepstrata.schemas.runs import RunManifest
from deepstrata.schemas.trees import Array
from deepstrata.storage import sealed, stores
from deepstrata.storage.splits import PARTS

CODES = 1500  #: codes drawn as points, ...
CODE_SHARDS = 32  #: ... from so many shards, evenly along the samples
GENERATED = 12  #: samples of a class, at most, ...
SWEEPS = 300  #: ... after so many Gibbs sweeps


def write_run_report(
    run: str, manifest: RunManifest, context: Context, stage: stages.Report, path: str
) -> None:
    """Write the report of a run whose stages are all done."""
    write_report(gather(run, manifest, context, stage), path)


def gather(run: str, manifest: RunManifest, context: Context, stage: stages.Report) -> Report:
    """Return what the report shows: numbers of the run, and pictures from a few samples."""
    batch, where = _examples(context, stage.examples)
    learned = _decoding(context)
    report = Report(
        title=context.pipeline.name,
        manifest=manifest,
        history=history_tree(run),
        command=f"deepstrata run {run}/pipeline.json",
        plan=_plan(context),
    )
    if learned:
        best = learned[-1]
        made = models.reconstruct(best.model, best.params.load(), batch.x)
        report = report._replace(
            filters=_filters(context, learned[0], stage.examples),
            inputs=_picture(context, batch.x),
            reconstructions=_picture(context, made),
            reconstructions_of=where,
        )
    else:
        report = report._replace(filters=_first_layer(context, stage.examples))
    report = _with_confusion(report, run, manifest, context)
    report = report._replace(transfers=_transfers(run, manifest))
    return _with_codes(_with_generated(report, context, stage.examples), context)


def _plan(context: Context) -> str:
    if context.pipeline.source.kind == "dataset":
        return ""
    return str(plan(context.pipeline))


def _decoding(context: Context) -> list[TrainedModel]:
    """Return the trained models that make samples again from codes, in the order of training.

    An mSDA is none: its code holds the sample.
    """
    return [
        found
        for found in context.trained.values()
        if isinstance(found.model, GenerativeDBN)
        or not (
            is_supervised(found.model) or isinstance(found.model, MSDA) or _is_above(found.model)
        )
    ]


def _is_above(model: Model) -> bool:
    """Tell whether what learned stands above layers that have no way back to a sample."""
    return isinstance(model, Layered) and not has_weights(model.layers[0])


def _examples(context: Context, count: int) -> tuple[Batch, str]:
    """Return some samples of the test part, or of the training part if there is none."""
    part = 2 if context.total(2) else 0
    index = next(i for i, counts in enumerate(context.counts) if counts[part])
    shard = context.grid[index]
    feed = context.feed.narrow(shard)._replace(backend="numpy")
    batch = feeds.load(feed, shard, part, limit=count)
    return batch, f"{PARTS[part]} part"


def _picture(context: Context, x: Array) -> Array:
    """Give rows of features the shape of a sample."""
    shape = context.feed.columns.feature_shape
    return np.asarray(x).reshape(len(x), *(shape or (-1,)))


def _filters(context: Context, trained: TrainedModel, count: int) -> tuple[tuple[str, Array], ...]:
    """Return, for the hidden units with the largest weights, what each looks for in a sample.

    Units of higher layers are drawn as the sum of the filters below, weighted by their weights. Of
    convolutions the filters of the lowest are drawn.
    """
    kernels = _kernels(trained, count)
    if kernels:
        return kernels
    found, seen = [], None
    for i, own in enumerate(pretraining.filters(trained.params.load())):
        if seen is not None and own.shape[1] != len(seen):
            break  # a layer without weights lies between
        seen = own if seen is None else own @ seen
        found.append((f"layer {i + 1}", _picture(context, _strongest(seen, count))))
    return tuple(found)


def _strongest(weights: Array, count: int) -> Array:
    """Return the weights (H, ...) of the units whose are largest, in their order."""
    norms = np.linalg.norm(weights.reshape(len(weights), -1), axis=1)
    return weights[np.sort(np.argsort(-norms, kind="stable")[:count])]


def _first_layer(context: Context, count: int) -> tuple[tuple[str, Array], ...]:
    """Return what the units of a fine-tuned net's first layer look for, the strongest of them."""
    tuned = [s.name for s in context.pipeline.stages if isinstance(s, stages.FineTune)]
    nets = [context.trained[name] for name in tuned if name in context.trained]
    if not nets or not isinstance(nets[0].model, Layered):
        return ()
    kernels, found = _kernels(nets[0], count), pretraining.filters(nets[0].params.load()[0])
    if kernels or not found:
        return kernels
    return (("layer 1", _picture(context, _strongest(found[0], count))),)


def _kernels(trained: TrainedModel, count: int) -> tuple[tuple[str, Array], ...]:
    """Return the filters of the lowest layer with weights, if they are those of a convolution.

    Its channels are drawn one below the other.
    """
    model, params = trained.model, trained.params.load()
    layers, owns = (model.layers, params) if isinstance(model, Layered) else ((model,), (params,))
    number = next((i for i, layer in enumerate(layers) if has_weights(layer)), 0)
    found = pretraining.kernels(layers[number], owns[number])
    return () if found is None else ((f"layer {number + 1}", _strongest(found, count)),)


def _with_generated(report: Report, context: Context, count: int) -> Report:
    """Add samples of each class, where the model that training ended with makes some."""
    trained = next(reversed(context.trained.values()), None)
    if trained is None or not isinstance(trained.model, GenerativeDBN):
        return report
    each, classes = min(count, GENERATED), min(trained.model.classes, LARGEST_TABLE)
    labels = np.repeat(np.arange(classes), each)
    x = updown.generate(
        trained.model,
        trained.params.load(),
        labels,
        np.arange(len(labels)),
        fold(context.key, "report"),
        SWEEPS,
    )
    made = _picture(context, x)
    return report._replace(
        generated=tuple(made[labels == k] for k in range(classes)),
        class_names=report.class_names or _class_names(context),
    )


def _with_confusion(report: Report, run: str, manifest: RunManifest, context: Context) -> Report:
    for record in reversed(manifest.stages):
        for part in ("test", "validation", "train"):
            url = record.outputs.get(f"confusion_{part}")
            if url is not None:
                counts = np.asarray(sealed.read(stores.resolved(url, run))["counts"])
                return report._replace(confusion=counts, class_names=_class_names(context))
    return report


def _class_names(context: Context) -> tuple[str, ...]:
    """Return the names in the labels' CF attribute ``flag_meanings``, if they have one."""
    labels = context.feed.columns.labels
    if labels is None or labels not in context.coords:
        return ()
    return tuple(str(context.coords[labels].attrs.get("flag_meanings", "")).split())


def _transfers(run: str, manifest: RunManifest) -> tuple[tuple[str, Transfer], ...]:
    """Return what each comparison of domains found."""
    found = []
    for record in manifest.stages:
        url = record.outputs.get("transfer")
        if url is not None:
            table = sealed.read(stores.resolved(url, run))
            errors = {name: np.asarray(values) for name, values in table["errors"].items()}
            found.append((record.name, Transfer(tuple(table["domains"]), errors)))
    return tuple(found)


def _with_codes(report: Report, context: Context) -> Report:
    """Add the codes of some samples, coloured by label or by their place."""
    if not context.trained:
        return report
    trained = list(context.trained.values())[-1]
    there = [shard for shard in context.grid if any(context.counts[shard.index])]
    shards = there[:: -(-len(there) // CODE_SHARDS)]
    rows, batches = -(-CODES // len(shards)), []
    for shard in shards:
        feed = context.feed.narrow(shard)._replace(backend="numpy")
        batches.append(feeds.load(feed, shard, None, context.key, rows))
    x = np.concatenate([batch.x for batch in batches])
    codes = models.encode(trained.model, trained.params.load(), x)
    if context.feed.columns.labels is not None:
        labels = np.concatenate([batch.labels for batch in batches])
        name = context.feed.columns.labels
    else:
        labels = np.concatenate([batch.rows for batch in batches]).astype(float)
        name = f"row along {context.feed.columns.sample_dim}"
    return report._replace(codes=codes, code_labels=labels, code_labels_name=name)
