"""Gathering what the report shows of a run."""

import numpy as np

from deepstrata.ops import models, preprocess, pretraining, updown
from deepstrata.ops.partials import Batch
from deepstrata.pipelines import feeds
from deepstrata.pipelines.context import Context, TrainedModel
from deepstrata.pipelines.history import history_tree
from deepstrata.pipelines.planning import plan
from deepstrata.pipelines.report import Report, write_report
from deepstrata.pipelines.report.classes import LARGEST_TABLE
from deepstrata.pipelines.report.maps import Maps, grid_of
from deepstrata.pipelines.report.numbers import coordinate
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
MAPS = 4  #: samples drawn as maps
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
        made = models.fill(best.model, best.params.load(), batch)
        report = report._replace(
            filters=_filters(context, learned[0], stage.examples, _ever_present(batch)),
            inputs=_picture(context, _shown(batch)),
            reconstructions=_picture(context, np.where(_ever_present(batch), made, np.nan)),
            reconstructions_of=where,
            maps=_maps(context, batch, made),
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
    """Give rows of features the shape of a sample; north is up, where that is known."""
    shape, grid = context.feed.columns.feature_shape, grid_of(context.sample)
    samples = np.asarray(x).reshape(len(x), *(shape or (-1,)))
    return samples if grid is None else grid.oriented(samples)


def _shown(batch: Batch) -> Array:
    """Return samples with NaN where a value is absent."""
    return batch.x if batch.mask is None else np.where(batch.mask, batch.x, np.float32(np.nan))


def _ever_present(batch: Batch) -> Array:
    """Return which features are present in any of some samples, (V,); all are without a mask."""
    there = np.ones(batch.x.shape, bool) if batch.mask is None else batch.mask
    return there.any(axis=0)


def _maps(context: Context, batch: Batch, made: Array) -> Maps | None:
    """Return some samples beside what was made of them, if they lie on a map."""
    grid = grid_of(context.sample)
    if grid is None:
        return None
    some = np.unique(np.linspace(0, len(batch.rows) - 1, MAPS).round().astype(int))
    affine = tuple(saved.load() for saved in context.feed.affine)
    fields = [
        _picture(context, np.where(there, preprocess.undo(affine, x[some]), np.float32(np.nan)))
        for x, there in (
            (batch.x, np.isfinite(_shown(batch)[some])),
            (made, _ever_present(batch)),
        )
    ]
    titles = tuple(_title(context, int(row)) for row in batch.rows[some])
    return Maps(grid, titles, fields[0], fields[1], str(context.sample.attrs.get("units", "")))


def _title(context: Context, row: int) -> str:
    """Return a sample's coordinate, or its number where it has none."""
    dim = context.feed.columns.sample_dim
    found = context.coords[dim][row].values if dim in context.coords.coords else row
    return coordinate(found)


def _filters(
    context: Context, trained: TrainedModel, count: int, there: Array
) -> tuple[tuple[str, Array], ...]:
    """Return, for the hidden units with the largest weights, what each looks for in a sample.

    Units of higher layers are drawn as the sum of the filters below, weighted by their weights. Of
    convolutions the filters of the lowest are drawn. Features that are not ``there`` have weights
    that nothing was learned of.
    """
    kernels = _kernels(trained, count)
    if kernels:
        return kernels
    found, seen = [], None
    for i, own in enumerate(pretraining.filters(trained.params.load())):
        if seen is not None and own.shape[1] != len(seen):
            break  # a layer without weights lies between
        seen = own if seen is None else own @ seen
        drawn = np.where(there, _strongest(seen, count), np.float32(np.nan))
        found.append((f"layer {i + 1}", _picture(context, drawn)))
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
