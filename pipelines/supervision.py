"""What networks learn from: whether the targets fit the nets, and whether any sample counts."""

import math
from collections.abc import Iterator, Sequence

from deepstrata.ops import network
from deepstrata.pipelines.inspection import Inspected
from deepstrata.schemas.datasets import DatasetSchema, Variable
from deepstrata.schemas.errors import DataError, SchemaError
from deepstrata.schemas.growing import DiscriminativePretrain
from deepstrata.schemas.models import Network, fits_targets, is_supervised
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.stages import FineTune, decides
from deepstrata.storage.splits import PARTS


def _fitting(pipeline: Pipeline) -> Iterator[tuple[FineTune, Network]]:
    """Yield the stages that learn targets, with their models."""
    for stage in pipeline.stages:
        if isinstance(stage, FineTune):
            model = pipeline.model_of(stage)
            if fits_targets(model):
                yield stage, model


def check_targets(pipeline: Pipeline, visible: int, shape: Sequence[int]) -> None:
    """Check that a sample has a target for each number that the last layer gives.

    Parameters
    ----------
    visible
        Features of a sample.
    shape
        Of the targets of a sample.

    Raises
    ------
    SchemaError
        It has more or fewer; the stage, the layer and the variable are named.
    """
    for stage, model in _fitting(pipeline):
        outputs, width = network.output_width(model, visible), math.prod(shape)
        if outputs != width:
            shaped = f"{width}, of shape {tuple(shape)}" if shape else "1"
            raise SchemaError(
                f"stage {stage.name!r}: its last layer ({model.layers[-1].kind}) gives {outputs} "
                f"numbers for a sample; the targets {pipeline.source.targets!r} have {shaped}; "
                f"give that layer as many, or name other targets"
            )


def check_described(pipeline: Pipeline, schema: DatasetSchema) -> None:
    """Check the targets of files that have not been ingested by what is said of their variables.

    Raises
    ------
    SchemaError
        They do not fit a network; see ``check_targets``.
    """
    source = pipeline.source
    if source.targets is not None:
        features, targets = (
            _sample_shape(schema.variable(name), schema.sample_dim)
            for name in (source.features, source.targets)
        )
        if features is not None and targets is not None:
            check_targets(pipeline, math.prod(features), targets)


def _sample_shape(variable: Variable, sample_dim: str) -> tuple[int, ...] | None:
    """Return the shape of a sample; None where it is not known."""
    lengths = zip(variable.dims, variable.shape or (None,) * len(variable.dims), strict=True)
    shape = tuple(length for dim, length in lengths if dim != sample_dim)
    return None if None in shape else tuple(length or 0 for length in shape)


def ranges(pipeline: Pipeline) -> tuple[Variable, ...]:
    """Return between which values targets must lie: those of a cross-entropy are probabilities."""
    name = pipeline.source.targets
    if name is None or all(model.loss != "cross_entropy" for _, model in _fitting(pipeline)):
        return ()
    return (Variable(name=name, dims=(), dtype="float32", minimum=0, maximum=1),)


def check_counting(pipeline: Pipeline, found: Sequence[Inspected]) -> None:
    """Check that some samples count, where networks learn from them or epochs are judged by them.

    Raises
    ------
    DataError
        All of a part weigh nothing, or lack targets; the part and the variables are named.
    """
    together = [s for s in pipeline.stages if isinstance(s, FineTune | DiscriminativePretrain)]
    learning = [stage for stage in together if is_supervised(pipeline.model_of(stage))]
    if not learning:
        return
    for part in range(1 + any(map(decides, learning))):
        samples = sum(f.counts[part] for f in found)
        if samples and not sum(f.counting[part] for f in found):
            raise DataError(
                f"the {PARTS[part]} part has {samples:,} samples, and none counts: "
                f"{_why(pipeline)}; stage {learning[0].name!r} needs some that do"
            )


def _why(pipeline: Pipeline) -> str:
    targets, weights = pipeline.source.targets, pipeline.source.weights
    missing = f"all of the targets {targets!r} are missing (NaN)"
    nothing = f"all of the weights {weights!r} are zero"
    if targets is None or weights is None:
        return missing if weights is None else nothing
    return f"where the weights {weights!r} are not zero, {missing}"
