"""Discriminative pretraining: nets that grow by a hidden layer, each trained from the last."""

import time

from deepstrata.ops import finetuning
from deepstrata.pipelines.context import Context, TrainedModel, stage_digest
from deepstrata.pipelines.control import Control
from deepstrata.pipelines.feeds import Saved
from deepstrata.pipelines.lowering.drawing import draw_labelled
from deepstrata.pipelines.lowering.fitting import finish, params_url, starting, training_url
from deepstrata.pipelines.lowering.table import lower
from deepstrata.pipelines.strategies import Learning, param_shapes
from deepstrata.pipelines.windows import Training
from deepstrata.schemas.growing import DiscriminativePretrain
from deepstrata.schemas.keys import fold
from deepstrata.schemas.models import Net
from deepstrata.schemas.runs import StageRecord


def growings(stage: DiscriminativePretrain, context: Context, key: str) -> list[Training]:
    """Return the trainings of a stage, from the smallest net to the whole."""
    found, count = [], len(stage.grown)
    for i, net in enumerate(stage.grown):
        optimiser = stage.optimiser[i] if isinstance(stage.optimiser, tuple) else stage.optimiser
        step_key = fold(context.stage_key(stage.name), "layer", i)
        name = f"{stage.name}/layer-{i}"
        found.append(
            Training(
                name=name,
                part=f"layer {i + 1} of {count}",
                settings=Learning(
                    net,
                    optimiser,
                    stage.strategy,
                    context.visible,
                    step_key,
                    context.feed.backend,
                ),
                feed=context.feed._replace(supervised=True),
                grid=context.grid,
                counts=context.counts,
                epochs=stage.epochs,
                monitor=stage.monitor,
                every=stage.checkpoint_rounds,
                url=training_url(context, name, key),
                control=Control.of(stage),
            )
        )
    return found


def _grown(training: Training, model: Net, below: Saved) -> Training:
    """Begin with the hidden layers of a smaller net; what stands above them is drawn anew."""
    settings, hidden = training.settings, below.load()[:-1]
    net = finetuning.start_net(model, hidden, settings.visible, fold(settings.key, "init"))
    return starting(training, net)


@lower.register
def _(stage: DiscriminativePretrain, context: Context) -> StageRecord:
    key = stage_digest(stage, context.chain)
    trainings = growings(stage, context, key)
    done = context.finished(stage.name, key)
    if done is not None:
        last = trainings[-1]
        digest = done.outputs[f"layer-{len(trainings) - 1}"]
        whole = Saved(params_url(last), digest, param_shapes(last.settings))
        context.trained[stage.name] = TrainedModel(stage.model, whole, key)
        return done
    started, examples, metrics = time.perf_counter(), 0, dict[str, float]()
    labelled, counts, saved = None, context.counts, list[Saved]()
    if stage.labelled is not None:
        found, counts = draw_labelled(context, stage, stage.labelled, stage.model.classes or 0)
        labelled = found.labelled
    for i, training in enumerate(trainings):
        feed = training.feed._replace(labelled=labelled)
        training = training._replace(feed=feed, counts=counts)
        if saved:
            training = _grown(training, stage.grown[i], saved[-1])
        net, trained = finish(context, training)
        saved.append(net)
        examples += trained.examples
        metrics |= {f"layer_{i}_{name}": value for name, value in trained.results.items()}
    context.trained[stage.name] = TrainedModel(stage.model, saved[-1], key)
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=key,
        seconds=time.perf_counter() - started,
        examples=examples,
        metrics=metrics,
        outputs={f"layer-{i}": net.digest for i, net in enumerate(saved)},
    )
