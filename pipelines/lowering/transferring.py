"""Taking over layers that another run has trained; their parameters are copied into this one."""

import time

from deepstrata.ops import models
from deepstrata.ops.preprocess import Affine
from deepstrata.pipelines.context import Context, TrainedModel, digest_of, stage_digest
from deepstrata.pipelines.feeds import Saved
from deepstrata.pipelines.lowering.fitting import training_url
from deepstrata.pipelines.lowering.statistics import use_affine
from deepstrata.pipelines.lowering.table import lower
from deepstrata.pipelines.parents import open_parent, taken
from deepstrata.schemas.runs import StageRecord
from deepstrata.schemas.stages import Transfer
from deepstrata.storage import checkpoints, stores


@lower.register
def _(stage: Transfer, context: Context) -> StageRecord:
    before = context.record(stage.name)
    digest = before.outputs.get("parent_weights", "") if before else ""
    done = context.finished(stage.name, stage_digest(stage, context.chain, digest))
    if done is None:
        started = time.perf_counter()
        done = _copy(stage, context)
        done = done.model_copy(update={"seconds": time.perf_counter() - started})
    _remember(stage, context, done)
    return done


def _content(stage: Transfer, context: Context, digest: str) -> str:
    """Return the key of what is taken, wherever the parent lies."""
    return stage_digest(stage.model_copy(update={"run": ""}), context.chain, digest)


def _copy(stage: Transfer, context: Context) -> StageRecord:
    """Write what is taken to the run's directory: the parent may go."""
    parent = open_parent(stage)
    params = taken(stage, parent, context.visible)
    url = training_url(context, stage.name, _content(stage, context, parent.digest))
    outputs = {"parent": parent.url, "parent_weights": parent.digest}
    if parent.fingerprint is not None:
        outputs["parent_fingerprint"] = parent.fingerprint
    outputs["params"] = checkpoints.save_part(stores.join(url, "params.safetensors"), params)
    for i, affine in enumerate(parent.encoder.affine if stage.scaling == "parent" else ()):
        outputs[f"affine-{i}"] = checkpoints.save_part(
            stores.join(url, f"affine-{i}.safetensors"), affine
        )
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        key=stage_digest(stage, context.chain, parent.digest),
        seconds=0.0,
        outputs=outputs,
    )


def _remember(stage: Transfer, context: Context, record: StageRecord) -> None:
    """Let later stages go on from the layers, and see the data as the parent saw its own."""
    key = _content(stage, context, record.outputs["parent_weights"])
    url = training_url(context, stage.name, key)
    like = models.feed_forward(models.shapes(stage.trunk, context.visible))
    saved = Saved(stores.join(url, "params.safetensors"), record.outputs["params"], like)
    context.trained[stage.name] = TrainedModel(stage.trunk, saved, key)
    digests = [v for name, v in record.outputs.items() if name.startswith("affine-")]
    for i, digest in enumerate(digests):
        path = stores.join(url, f"affine-{i}.safetensors")
        use_affine(context, Affine(**checkpoints.load_arrays(path)), path, digest)
    if digests:
        context.chain = digest_of(context.chain, digests)
