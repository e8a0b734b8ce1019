"""Training stages: layers one by one, a whole net by backpropagation or up-down."""

import time
from typing import Any

import xarray as xr

from deepstrata.ops import finetuning, models, pretraining, visible_bias
from deepstrata.pipelines.context import Context, TrainedModel, stage_digest
from deepstrata.pipelines.control import Control
from deepstrata.pipelines.feeds import STORED, Below, Feed, Saved
from deepstrata.pipelines.lowering.codes import write_codes
from deepstrata.pipelines.lowering.drawing import draw_labelled
from deepstrata.pipelines.lowering.statistics import learned_moments
from deepstrata.pipelines.lowering.table import lower
from deepstrata.pipelines.model import SAMPLE, TrainedEncoder, save_encoder
from deepstrata.pipelines.strategies import Learning, fresh_params, param_shapes
from deepstrata.pipelines.training import Trained, train
from deepstrata.pipelines.windows import Training
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.convolutional import ConvolutionalRBM
from deepstrata.schemas.keys import fold
from deepstrata.schemas.machines import RBM
from deepstrata.schemas.models import (
    DBN,
    GenerativeDBN,
    Layered,
    Model,
    Network,
    Trainable,
    classifies,
    fits_targets,
    is_supervised,
)
from deepstrata.schemas.runs import StageRecord
from deepstrata.schemas.stages import FineTune, Pretrain
from deepstrata.schemas.trees import Tree
from deepstrata.storage import checkpoints, stores, writing
from deepstrata.storage.datasets import Columns
from deepstrata.storage.models import ModelInfo
from deepstrata.storage.readers import ZarrReader
from deepstrata.storage.splits import PARTS, learned_counts

#: Activations are stored by default while they are not larger than this many bytes ...
STORE_BYTES = 8 << 30
#: ... and are read again in at least this many epochs.
STORE_EPOCHS = 4


def training_url(context: Context, name: str, key: str) -> str:
    """Return the directory of a training; another declaration has another one."""
    return stores.join(context.path, "stages", name, key[:12])


def params_url(training: Training) -> str:
    """Return where a training's parameters are, once it is over."""
    return stores.join(training.url, "params.safetensors")


def finish(context: Context, training: Training) -> tuple[Saved, Trained]:
    """Train, and save the parameters apart from the state."""
    trained = train(context.executor, training, context.observer)
    like = param_shapes(training.settings)
    digest = checkpoints.save_part(params_url(training), trained.state.params)
    return Saved(params_url(training), digest, like), trained


def pretrainings(stage: Pretrain, context: Context, key: str) -> list[Training]:
    """Return the trainings of a stage, from the bottom up."""
    found, visible, count = [], context.visible, len(stage.pretrained)
    feed = context.feed._replace(learned=tuple(PARTS.index(name) for name in stage.parts))
    counts = learned_counts(stage, context.counts)
    for i, (layer, between) in enumerate(zip(stage.pretrained, stage.between, strict=True)):
        visible = visible if between is None else models.code_width(between, visible)
        optimiser = stage.optimiser[i] if isinstance(stage.optimiser, tuple) else stage.optimiser
        layer_key = fold(context.stage_key(stage.name), "layer", i)
        name = f"{stage.name}/layer-{i}"
        found.append(
            Training(
                name=name,
                part=f"layer {i + 1} of {count}" if count > 1 else "",
                settings=Learning(
                    layer, optimiser, stage.strategy, visible, layer_key, context.feed.backend
                ),
                feed=_reads(feed, layer, between) if i == 0 else feed,
                grid=context.grid,
                counts=counts,
                epochs=stage.epochs,
                monitor=stage.monitor,
                every=stage.checkpoint_rounds,
                url=training_url(context, name, key),
                control=Control.of(stage),
            )
        )
        visible = models.code_width(layer, visible)
    return found


def _reads(feed: Feed, layer: Trainable, between: Network | None) -> Feed:
    """Return the feed of the lowest layer that learns, from what lies between it and the data."""
    if between is not None:
        return feed._replace(below=(Below(between),))
    return feed._replace(visible_units=visible_units(layer))


def visible_units(model: Trainable) -> str | None:
    """Return ``bernoulli`` where a model learns from values in [0, 1] only."""
    if isinstance(model, GenerativeDBN):
        return model.layers[0].visible_units
    if isinstance(model, Autoencoder):
        return "bernoulli" if model.loss == "cross_entropy" else None
    return model.visible_units if isinstance(model, RBM | ConvolutionalRBM) else None


@lower.register
def _(stage: Pretrain, context: Context) -> StageRecord:
    key = stage_digest(stage, context.chain)
    trainings = pretrainings(stage, context, key)
    done = context.finished(stage.name, key)
    if done is not None:
        likes = [param_shapes(t.settings) for t in trainings]
        _remember(
            stage,
            context,
            key,
            [
                Saved(params_url(t), done.outputs[f"layer-{i}"], likes[i])
                for i, t in enumerate(trainings)
            ],
        )
        return done
    started, examples, metrics = time.perf_counter(), 0, dict[str, float]()
    feed, saved = trainings[0].feed, list[Saved]()
    for i, training in enumerate(trainings):
        if i:
            below = (*feed.below, Below(stage.pretrained[i - 1], saved[-1]))
            if (between := stage.between[i]) is not None:
                below = (*below, Below(between))
            feed = feed._replace(below=below, visible_units=None)
            if stores_activations(stage, context.grid[-1].stop, training.settings.visible):
                feed = _store_activations(context, training, feed)
        training = training._replace(feed=feed)
        if stage.visible_bias == "mean":
            training = _begun_at_mean(context, training)
        layer, trained = finish(context, training)
        saved.append(layer)
        examples += trained.examples
        found = {k: v for k, v in trained.results.items() if "free_energy" not in k}
        metrics |= {f"layer_{i}_{k}": v for k, v in found.items()}
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


def _begun_at_mean(context: Context, training: Training) -> Training:
    """Return the training with visible biases that give the mean of what it learns from."""
    found = learned_moments(context, training)
    settings = training.settings._replace(backend="numpy")
    assert isinstance(settings.model, RBM | Autoencoder)
    params = visible_bias.at_mean(settings.model, fresh_params(settings), found)
    return starting(training, params)


def starting(training: Training, params: Tree) -> Training:
    """Save the parameters with which a training begins."""
    url = stores.join(training.url, "start.safetensors")
    digest = checkpoints.save_part(url, params)
    return training._replace(start=Saved(url, digest, param_shapes(training.settings)))


def _remember(stage: Pretrain, context: Context, key: str, saved: list[Saved]) -> None:
    """Put the trained layers together to one model that later stages go on from."""
    model, whole = stage.model, saved[0]
    if stage.pretrained != (model,):
        model = _stack(stage)
        params = pretraining.assemble(model, tuple(layer.load() for layer in saved))
        like = pretraining.assemble(model, tuple(layer.like for layer in saved))
        url = stores.join(training_url(context, stage.name, key), "params.safetensors")
        whole = Saved(url, checkpoints.save_part(url, params), like)
    context.trained[stage.name] = TrainedModel(model, whole, key)


def _stack(stage: Pretrain) -> Model:
    """Return the model that the layers of a stage are, once they are trained."""
    if isinstance(stage.model, GenerativeDBN):
        return stage.model
    if isinstance(stage.model, Layered):
        return stage.model.bottom(len(stage.stack))
    # The RBMs of an autoencoder are a deep belief net until they are unrolled.
    return DBN(layers=stage.stack)


def stores_activations(stage: Pretrain, samples: int, hidden: int) -> bool:
    """Tell whether a layer's input, ``hidden`` numbers a sample, is stored for its training.

    Otherwise it is computed with every shard that is read.
    """
    if stage.activations != "auto":
        return stage.activations == "store"
    return stage.epochs >= STORE_EPOCHS and samples * hidden * 4 <= STORE_BYTES


def _store_activations(context: Context, training: Training, feed: Feed) -> Feed:
    """Write what a layer reads once, and return the feed that reads it."""
    path = stores.join(training.url, "activations.zarr")
    width = training.settings.visible
    if not writing.is_complete(path):
        writing.discard(path, own=True)
        stage, part = training.name.split("/")[0], f"input of {training.part}"
        write_codes(context, stage, feed, path, STORED, width, xr.Dataset(), part=part)
    return feed._replace(stored=ZarrReader(path, None, SAMPLE, writer="run"), below=())


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
            _sweeping(model, stage.gibbs_steps),
            stage.optimiser,
            stage.strategy,
            context.visible,
            context.stage_key(stage.name),
            context.feed.backend,
            stage.factors(model),
        ),
        feed=context.feed._replace(
            visible_units=visible_units(model), supervised=is_supervised(model)
        ),
        grid=context.grid,
        counts=context.counts,
        epochs=stage.epochs,
        monitor=stage.monitor,
        every=stage.checkpoint_rounds,
        url=training_url(context, stage.name, key),
        control=Control.of(stage),
    )
    like = param_shapes(training.settings)
    done = context.finished(stage.name, key)
    if done is not None:
        saved = Saved(params_url(training), done.outputs["params"], like)
        context.trained[stage.name] = TrainedModel(model, saved, key)
        return done
    started = time.perf_counter()
    if stage.labelled is not None and classifies(model):
        feed, counts = draw_labelled(context, stage, stage.labelled, model.classes or 0)
        feed = training.feed._replace(labelled=feed.labelled)
        training = training._replace(feed=feed, counts=counts)
    if parent is not None:
        net = finetuning.start_net(
            model, parent.params.load(), context.visible, fold(training.settings.key, "init")
        )
        training = starting(training, net)
    saved, trained = finish(context, training)
    context.trained[stage.name] = TrainedModel(model, saved, key)
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=key,
        seconds=time.perf_counter() - started,
        examples=trained.examples,
        metrics=trained.results,
        outputs={"params": saved.digest},
    )


def _targets_of(model: Model, columns: Columns) -> dict[str, Any]:
    """Return what a reader of a model must know of the targets that it gives, if it does."""
    if not fits_targets(model):
        return {}
    return {
        "targets": columns.targets,
        "target_dims": columns.target_dims,
        "target_shape": columns.target_shape,
    }


def _sweeping(model: Model, steps: int | None) -> Model:
    """Return the model with ``steps`` Gibbs steps in its memory, where any are asked for."""
    if steps is None or not isinstance(model, GenerativeDBN):
        return model
    memory = model.memory.model_copy(update={"gibbs_steps": steps})
    return model.model_copy(update={"memory": memory})


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
        missing=columns.missing,
        labels=columns.labels,
        pipeline=context.pipeline.name,
        **_targets_of(last.model, columns),
    )
    affine = tuple(saved.load() for saved in context.feed.affine)
    save_encoder(path, TrainedEncoder(info, last.params.load(), affine))
    return last.params.digest
