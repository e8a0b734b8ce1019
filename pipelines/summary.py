"""Gathering what the report shows of a run."""

from collections.abc import Iterator

import numpy as np

from deepstrata.ops import models
from deepstrata.ops.autoencoder import AutoencoderParams
from deepstrata.ops.partials import Batch
from deepstrata.ops.rbm import RBMParams
from deepstrata.pipelines import feeds
from deepstrata.pipelines.context import Context, TrainedModel
from deepstrata.pipelines.history import history_tree
from deepstrata.pipelines.planning import plan
from deepstrata.pipelines.report import Report, write_report
from deepstrata.pipelines.report.transfer import Transfer
from deepstrata.schemas import stages
from deepstrata.schemas.layers import Convolution, Dense, Softmax
from deepstrata.schemas.models import MSDA, RBM, Layered
from deepstrata.schemas.runs import RunManifest
from deepstrata.schemas.stages import classifies
from deepstrata.schemas.trees import Array, Tree
from deepstrata.storage import sealed, stores
from deepstrata.storage.splits import PARTS

CODES = 1500  #: codes drawn as points, ...
CODE_SHARDS = 32  #: ... from so many shards, evenly along the samples


def write_run_report(
    run: str, manifest: RunManifest, context: Context, stage: stages.Report, path: str
) -> None:
    """Write the report of a run whose stages are all done."""
    write_report(gather(run, manifest, context, stage), path)


def gather(run: str, manifest: RunManifest, context: Context, stage: stages.Report) -> Report:
    """Return what the report shows: numbers of the run, and pictures from a few samples."""
    batch, where = _examples(context, stage.examples)
    learned = _without_labels(context)
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
    return _with_codes(report._replace(transfers=_transfers(run, manifest)), context)


def _plan(context: Context) -> str:
    if context.pipeline.source.kind == "dataset":
        return ""
    return str(plan(context.pipeline))


def _without_labels(context: Context) -> list[TrainedModel]:
    """Return the trained models that make samples again from codes, in the order of training.

    An mSDA is none: its code holds the sample.
    """
    trained = context.trained.values()
    return [t for t in trained if not (classifies(t.model) or isinstance(t.model, MSDA))]


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

    Units of higher layers are drawn as the sum of the filters below, weighted by their weights.
    """
    found, seen = [], None
    for i, weights in enumerate(_matrices(trained.params.load())):
        seen = weights if seen is None else seen @ weights
        norms = np.linalg.norm(seen, axis=0)
        strongest = np.sort(np.argsort(-norms, kind="stable")[:count])
        found.append((f"layer {i + 1}", _picture(context, seen[:, strongest].T)))
    return tuple(found)


def _first_layer(context: Context, count: int) -> tuple[tuple[str, Array], ...]:
    """Return what the units of a fine-tuned net's first layer look for, the strongest of them."""
    tuned = [s.name for s in context.pipeline.stages if isinstance(s, stages.FineTune)]
    nets = [context.trained[name] for name in tuned if name in context.trained]
    if not nets or not isinstance(nets[0].model, Layered):
        return ()
    layer = nets[0].model.layers[0]
    if not isinstance(layer, Convolution | Dense | RBM | Softmax):
        return ()
    weights = nets[0].params.load()[0].weights
    if isinstance(layer, Convolution):  # its channels are drawn one below the other
        pictures = np.moveaxis(weights, (-1, -2), (0, 1))
    else:
        pictures = _picture(context, weights.T)
    norms = np.linalg.norm(pictures.reshape(len(pictures), -1), axis=1)
    strongest = np.sort(np.argsort(-norms, kind="stable")[:count])
    return (("layer 1", pictures[strongest]),)


def _matrices(params: Tree) -> Iterator[Array]:
    """Yield the weights of the layers at the bottom that are matrices, of codes not of decoders."""
    if isinstance(params, RBMParams):
        params = (params,)
    net = params.encoder if isinstance(params, AutoencoderParams) else models.feed_forward(params)
    for own in net:
        if isinstance(own, tuple) and not hasattr(own, "_fields"):
            yield from _matrices(own)
        elif getattr(getattr(own, "weights", None), "ndim", 0) == 2:
            yield own.weights
        else:
            return


def _with_confusion(report: Report, run: str, manifest: RunManifest, context: Context) -> Report:
    for record in manifest.stages:
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
