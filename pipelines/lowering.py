"""What each stage does: it connects functions of ops and storage to graphs, and holds no logic."""

import inspect
import json
import time
from functools import reduce, singledispatch
from typing import Any

import numpy as np
import xarray as xr

from deepstrata.ops import backend, models, moments
from deepstrata.ops.partials import add_stats
from deepstrata.pipelines import feeds
from deepstrata.pipelines.context import Context, TrainedModel, each_shard, stage_digest
from deepstrata.pipelines.feeds import STORED, Affine, Below, Feed, Saved
from deepstrata.pipelines.meter import measure
from deepstrata.pipelines.model import UNIT, TrainedEncoder, save_encoder
from deepstrata.pipelines.strategies import Learning, param_shapes
from deepstrata.pipelines.training import RATES, Trained, Training, train
from deepstrata.schemas.errors import StorageError
from deepstrata.schemas.keys import fold
from deepstrata.schemas.models import DBN, RBM, Model
from deepstrata.schemas.runs import StageRecord
from deepstrata.schemas.stages import (
    Apply,
    Encode,
    Evaluate,
    FineTune,
    Pretrain,
    Report,
    Scale,
    Split,
    Stage,
    Standardise,
)
from deepstrata.schemas.trees import ArraySpec
from deepstrata.storage import checkpoints, stores, writing
from deepstrata.storage.models import ModelInfo
from deepstrata.storage.readers import ZarrReader
from deepstrata.storage.shards import Shard, shard_grid
from deepstrata.storage.splits import PARTS

SAMPLE = "sample"

#: Activations are stored by default while they are not larger than this many bytes ...
STORE_BYTES = 8 << 30
#: ... and are read again in at least this many epochs.
STORE_EPOCHS = 4


@singledispatch
def lower(stage: Stage, context: Context) -> StageRecord | None:
    """Do a stage, unless it is done; return what is recorded of it.

    None where a stage has nothing to do by itself: its declaration is read by others.
    """
    raise TypeError(f"no rule for a {type(stage).__name__}")


@lower.register
def _(stage: Apply, context: Context) -> None:
    source = inspect.getsource(stage.function)
    context.chain = stage_digest(stage, context.chain, source)


@lower.register
def _(stage: Split, context: Context) -> None:
    context.chain = stage_digest(stage, context.chain)


@lower.register
def _(stage: Report, context: Context) -> None:
    """The report is written when the run is complete: it shows the whole of it."""


# Statistics -----------------------------------------------------------------------------------


def shard_moments(feed: Feed, shard: Shard, whole: bool) -> moments.Moments:
    """Return the moments of the training samples of a shard, per feature or as a whole."""
    batch = feeds.load(feed, shard, 0)
    with measure("compute"):
        x, mask = batch.x, batch.mask
        if whole:
            x, mask = x.reshape(-1, 1), None if mask is None else mask.reshape(-1, 1)
        return moments.moments(x, mask)


def _statistics(stage: Scale | Standardise, context: Context, whole: bool) -> moments.Moments:
    with_rows = [shard for shard in context.grid if context.counts[shard.index][0]]
    found: moments.Moments
    (found,) = each_shard(
        context, stage.name, shard_moments, with_rows, (whole,), merge=moments.merge
    )
    return found


def _affine(stage: Scale | Standardise, context: Context, shift: Any, divisor: Any) -> None:
    """Save ``(x - shift) / divisor`` and let all later stages use it."""
    affine = Affine(np.asarray(shift, np.float32), np.asarray(divisor, np.float32))
    url = stores.join(context.path, "stages", stage.name, "affine.safetensors")
    _use_affine(context, affine, url, checkpoints.save_part(url, affine))


def _use_affine(context: Context, like: Affine, url: str, digest: str) -> None:
    spec = Affine(*(ArraySpec(tuple(leaf.shape), "float32") for leaf in like))
    saved = Saved(url, digest, spec)
    context.feed = context.feed._replace(affine=(*context.feed.affine, saved))


@lower.register
def _(stage: Scale | Standardise, context: Context) -> StageRecord:
    key = context.chain = stage_digest(stage, context.chain)
    url = stores.join(context.path, "stages", stage.name, "affine.safetensors")
    per_feature = isinstance(stage, Standardise) and stage.per == "feature"
    shape = (context.visible,) if per_feature else ()
    done = context.record(stage.name)
    if done is not None and done.key == key:
        like = Affine(ArraySpec(shape), ArraySpec(shape))
        _use_affine(context, like, url, done.outputs["digest"])
        return done
    started = time.perf_counter()
    if isinstance(stage, Standardise):
        found = _statistics(stage, context, whole=not per_feature)
        spread = np.sqrt(moments.variance(found)) + stage.epsilon
        _affine(stage, context, moments.mean(found).reshape(shape), spread.reshape(shape))
    else:
        low, high = stage.minimum, stage.maximum
        if low is None or high is None:
            found = _statistics(stage, context, whole=True)
            low = float(found.minimum[0]) if low is None else low
            high = float(found.maximum[0]) if high is None else high
        _affine(stage, context, low, high - low or 1.0)
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=key,
        seconds=time.perf_counter() - started,
        examples=context.total(0),
        outputs={
            "affine": stores.relative(url, context.path),
            "digest": context.feed.affine[-1].digest,
        },
    )


# Training -------------------------------------------------------------------------------------


def training_url(context: Context, name: str, key: str) -> str:
    """Return the directory of a training; another declaration has another one."""
    return stores.join(context.path, "stages", name, key[:12])


def _params_url(training: Training) -> str:
    return stores.join(training.url, "params.safetensors")


def _finish(context: Context, training: Training) -> tuple[Saved, Trained]:
    """Train, and save the parameters apart from the state."""
    trained = train(context.client, training, context.observer)
    context.checkpoints += trained.records
    like = param_shapes(training.settings)
    digest = checkpoints.save_part(_params_url(training), trained.state.params)
    return Saved(_params_url(training), digest, like), trained


def pretrainings(stage: Pretrain, context: Context, key: str) -> list[Training]:
    """Return the trainings of a stage, from the bottom up."""
    found, visible = [], context.visible
    for i, rbm in enumerate(stage.rbms):
        optimiser = stage.optimiser[i] if isinstance(stage.optimiser, tuple) else stage.optimiser
        layer_key = fold(context.stage_key(stage.name), "layer", i)
        name = f"{stage.name}/layer-{i}"
        found.append(
            Training(
                name=name,
                part=f"layer {i + 1} of {len(stage.rbms)}" if len(stage.rbms) > 1 else "",
                settings=Learning(
                    rbm, optimiser, stage.strategy, visible, layer_key, context.feed.backend
                ),
                feed=context.feed._replace(visible_units=rbm.visible_units if i == 0 else None),
                grid=context.grid,
                counts=context.counts,
                epochs=stage.epochs,
                monitor=stage.monitor,
                every=stage.checkpoint_rounds,
                url=training_url(context, name, key),
            )
        )
        visible = rbm.hidden
    return found


@lower.register
def _(stage: Pretrain, context: Context) -> StageRecord:
    key = stage_digest(stage, context.chain)
    trainings = pretrainings(stage, context, key)
    done = context.record(stage.name)
    if done is not None and done.key == key:
        likes = [param_shapes(t.settings) for t in trainings]
        _remember(
            stage,
            context,
            key,
            [
                Saved(_params_url(t), done.outputs[f"layer-{i}"], likes[i])
                for i, t in enumerate(trainings)
            ],
        )
        return done
    started, examples, metrics = time.perf_counter(), 0, dict[str, float]()
    feed, saved = trainings[0].feed, list[Saved]()
    for i, training in enumerate(trainings):
        if i:
            feed = feed._replace(
                below=(*feed.below, Below(stage.rbms[i - 1], saved[-1])), visible_units=None
            )
            if stores_activations(stage, context, i):
                feed = _store_activations(context, training, feed)
        layer, trained = _finish(context, training._replace(feed=feed))
        saved.append(layer)
        examples += trained.examples
        last = (trained.history["epoch"] or [{}])[-1]
        metrics |= {f"layer_{i}_{k}": v for k, v in last.items() if "squared_error" in k}
    _remember(stage, context, key, saved)
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=key,
        seconds=time.perf_counter() - started,
        examples=examples,
        metrics=metrics,
        outputs={f"layer-{i}": layer.digest for i, layer in enumerate(saved)},
    )


def _remember(stage: Pretrain, context: Context, key: str, saved: list[Saved]) -> None:
    """Put the trained layers together to one model that later stages go on from."""
    model: Model = stage.model
    whole = saved[0]
    if not isinstance(model, RBM):
        model = model.model_copy(update={"layers": stage.rbms})
        params = tuple(layer.load() for layer in saved)
        url = stores.join(training_url(context, stage.name, key), "params.safetensors")
        whole = Saved(url, checkpoints.save_part(url, params), tuple(layer.like for layer in saved))
    context.trained[stage.name] = TrainedModel(model, whole, key)


def stores_activations(stage: Pretrain, context: Context, layer: int) -> bool:
    """Tell whether what ``layer`` reads is stored, rather than computed with every shard."""
    if stage.activations != "auto":
        return stage.activations == "store"
    size = context.grid[-1].stop * stage.rbms[layer - 1].hidden * 4
    return stage.epochs >= STORE_EPOCHS and size <= STORE_BYTES


def _store_activations(context: Context, training: Training, feed: Feed) -> Feed:
    """Write what a layer reads once, and return the feed that reads it."""
    path = stores.join(training.url, "activations.zarr")
    width = training.settings.visible
    if not writing.is_complete(path):
        stage, part = training.name.split("/")[0], f"input of {training.part}"
        _write_codes(context, stage, feed, path, STORED, width, xr.Dataset(), part=part)
    return feed._replace(stored=ZarrReader(path, None, SAMPLE), below=())


@lower.register
def _(stage: FineTune, context: Context) -> StageRecord:
    start = context.pipeline.start_of(stage)
    parent = context.trained[start.name] if start else None
    key = stage_digest(stage, context.chain, parent.key if parent else "")
    model = context.pipeline.model_of(stage)
    training = Training(
        name=stage.name,
        part="",
        settings=Learning(
            model,
            stage.optimiser,
            stage.strategy,
            context.visible,
            context.stage_key(stage.name),
            context.feed.backend,
        ),
        feed=context.feed,
        grid=context.grid,
        counts=context.counts,
        epochs=stage.epochs,
        monitor=stage.monitor,
        every=stage.checkpoint_rounds,
        url=training_url(context, stage.name, key),
    )
    like = param_shapes(training.settings)
    done = context.record(stage.name)
    if done is not None and done.key == key:
        saved = Saved(_params_url(training), done.outputs["params"], like)
        context.trained[stage.name] = TrainedModel(model, saved, key)
        return done
    started = time.perf_counter()
    if parent is not None and isinstance(model, DBN):
        net = models.start_net(
            model, parent.params.load(), context.visible, fold(training.settings.key, "init")
        )
        url = stores.join(training.url, "start.safetensors")
        training = training._replace(start=Saved(url, checkpoints.save_part(url, net), like))
    saved, trained = _finish(context, training)
    context.trained[stage.name] = TrainedModel(model, saved, key)
    last = (trained.history["epoch"] or [{}])[-1]
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=key,
        seconds=time.perf_counter() - started,
        examples=trained.examples,
        metrics={k: v for k, v in last.items() if k.startswith(("train_", "validation_"))},
        outputs={"params": saved.digest},
    )


# Using a model --------------------------------------------------------------------------------


def _used_model(stage: Evaluate | Encode, context: Context) -> TrainedModel:
    start = context.pipeline.start_of(stage)
    assert start is not None
    return context.trained[start.name]


def merge_sums(*sums: dict[str, Any]) -> dict[str, Any]:
    """Add what shards found, in their order."""
    return reduce(add_stats, sums)


def evaluate_shard(
    feed: Feed, shard: Shard, model: Model, params: Saved, part: int
) -> dict[str, Any]:
    """Return the sums that measure a model on one part of a shard."""
    batch = feeds.load(feed, shard, part)
    with measure("compute"):
        return models.evaluate(model, params.load(feed.backend), batch)


@lower.register
def _(stage: Evaluate, context: Context) -> StageRecord:
    used = _used_model(stage, context)
    key = stage_digest(stage, context.chain, used.key)
    done = context.record(stage.name)
    if done is not None and done.key == key:
        return done
    started, examples = time.perf_counter(), 0
    metrics, outputs = dict[str, float](), dict[str, str]()
    for name in stage.parts:
        part = PARTS.index(name)
        shards = [shard for shard in context.grid if context.counts[shard.index][part]]
        if not shards:
            continue
        (found,) = each_shard(
            context, stage.name, evaluate_shard, shards, (used.model, used.params, part), merge_sums
        )
        n = int(found.pop("n"))
        examples += n
        confusion = found.pop("confusion", None)
        if confusion is not None:
            url = stores.join(context.path, "stages", stage.name, f"confusion-{name}.json")
            stores.write_bytes(url, json.dumps(np.asarray(confusion).tolist()).encode())
            outputs[f"confusion_{name}"] = stores.relative(url, context.path)
        metrics |= {f"{name}_{RATES.get(k, k)}": float(v) / n for k, v in found.items()}
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=key,
        seconds=time.perf_counter() - started,
        examples=examples,
        metrics=metrics,
        outputs=outputs,
    )


def encode_rows(
    feed: Feed,
    rows: Shard,
    model: Model | None,
    params: Saved | None,
    layer: int | None,
    path: str,
    name: str,
) -> int:
    """Write the codes of a run of rows; return how many there are."""
    x = feeds.load(feed, rows, None).x
    with measure("compute"):
        if model is not None and params is not None:
            x = models.encode(model, params.load(feed.backend), x, layer)
    writing.write_rows(path, name, rows.start, backend.to_numpy(x))
    return rows.stop - rows.start


def _write_codes(
    context: Context,
    stage: str,
    feed: Feed,
    path: str,
    name: str,
    width: int,
    coords: xr.Dataset,
    model: TrainedModel | None = None,
    layer: int | None = None,
    attrs: dict[str, Any] | None = None,
    part: str = "",
) -> None:
    """Write a vector for every sample, in runs of rows as long as the longest shard."""
    samples = context.grid[-1].stop
    rows = max(shard.stop - shard.start for shard in context.grid)
    sample_dim = feed.columns.sample_dim if coords.sizes else SAMPLE
    writing.create_like(
        path, coords, name, (sample_dim, UNIT), (samples, width), "float32", rows, attrs or {}
    )
    runs = shard_grid(samples, rows)
    using = (model.model, model.params) if model else (None, None)
    each_shard(context, stage, encode_rows, runs, (*using, layer, path, name), feed=feed, part=part)
    writing.finish(path)


@lower.register
def _(stage: Encode, context: Context) -> StageRecord:
    used = _used_model(stage, context)
    key = stage_digest(stage, context.chain, used.key)
    path = stores.absolute(stage.path or stores.join(context.path, "codes.zarr"))
    done = context.record(stage.name)
    if done is not None and done.key == key and writing.is_complete(path):
        return done
    started = time.perf_counter()
    _make_room(context, stage, path)
    width = models.code_width(used.model, context.visible, stage.layer)
    attrs = {"long_name": "code", "model": used.model.kind, "pipeline": context.pipeline.name}
    _write_codes(
        context,
        stage.name,
        context.feed,
        path,
        "code",
        width,
        context.coords,
        used,
        stage.layer,
        attrs,
    )
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=key,
        seconds=time.perf_counter() - started,
        examples=context.grid[-1].stop,
        outputs={"codes": stores.relative(path, context.path)},
    )


def _make_room(context: Context, stage: Encode, path: str) -> None:
    """Remove what this stage wrote before; what somebody else wrote stays."""
    done = context.record(stage.name)
    own = done is not None and stores.resolved(done.outputs["codes"], context.path) == path
    if stores.exists(path) and not own and writing.is_complete(path):
        raise StorageError(
            f"{path}: exists already; give stage {stage.name!r} another path, or remove it"
        )
    writing.discard(path)


def save_final_model(context: Context, path: str) -> str:
    """Write the model that training ended with; return the SHA-256 of its weights."""
    if not context.trained:
        return ""
    last = list(context.trained.values())[-1]
    columns = context.feed.columns
    info = ModelInfo(
        model=last.model,
        visible=context.visible,
        features=columns.features,
        feature_dims=columns.feature_dims,
        feature_shape=columns.feature_shape,
        labels=columns.labels,
        pipeline=context.pipeline.name,
    )
    affine = tuple(saved.load() for saved in context.feed.affine)
    save_encoder(path, TrainedEncoder(info, last.params.load(), affine))
    return last.params.digest
