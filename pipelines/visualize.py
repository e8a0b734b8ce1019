"""Pictures of a pipeline's stages and of the task graph of one of its rounds."""

from collections.abc import Hashable, Mapping, Sequence
from functools import singledispatch
from textwrap import wrap
from typing import Any

from deepstrata.pipelines.control import describe
from deepstrata.pipelines.report.boxes import Box, Drawing, draw
from deepstrata.pipelines.report.numbers import number
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.convolutional import ConvolutionalPSD, ConvolutionalRBM
from deepstrata.schemas.datasets import FileSource, Source, ZarrSource
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.growing import DiscriminativePretrain
from deepstrata.schemas.keys import Key
from deepstrata.schemas.layers import (
    Convolution,
    Dense,
    LocallyConnected,
    Pooling,
    Softmax,
    TransposedConvolution,
)
from deepstrata.schemas.machines import RBM, AssociativeMemory
from deepstrata.schemas.models import MSDA, GenerativeDBN, Layered, Model
from deepstrata.schemas.optimisers import (
    Cosine,
    Exponential,
    Linear,
    Optimiser,
    Rate,
    ReduceOnPlateau,
    Steps,
    WarmUp,
)
from deepstrata.schemas.pipelines import Pipeline, Start, Using
from deepstrata.schemas.sparse import PSD, SparseCoding
from deepstrata.schemas.stages import (
    Apply,
    CrossDomain,
    Encode,
    Evaluate,
    FineTune,
    Fitting,
    Pretrain,
    Report,
    Scale,
    Solve,
    Split,
    Stage,
    Standardise,
    Transfer,
)
from deepstrata.schemas.strategies import Delayed, LocalSteps, Strategy

WIDEST = 28  #: characters in a line of a box
SOURCE = ("the source",)  #: the source's key; no stage's name is a tuple
MOST_SHARDS = 8  #: of a round that is drawn

__all__ = ["Drawing", "draw_graph", "draw_pipeline", "draw_round"]

Graph = Mapping[Hashable, tuple[str, Sequence[Hashable]]]


def draw_pipeline(pipeline: Pipeline) -> Drawing:
    """Return the source and the stages as SVG; an arrow leads from what is read to who reads it."""
    boxes: dict[Hashable, Box] = {SOURCE: _source(pipeline.source)}
    prepared: Hashable = SOURCE
    for stage in pipeline.stages:
        after: tuple[Hashable, ...] = (prepared,)
        if isinstance(stage, Using):
            start = pipeline.start_of(stage)
            after = (prepared,) if start is None else (start.name,)
        elif isinstance(stage, Report):
            read = {key for box in boxes.values() for key in box.after}
            after = tuple(key for key in boxes if key not in read)
        elif not isinstance(stage, Start):
            prepared = stage.name
        lines = [part for line in settings(stage) for part in wrap(line, WIDEST)]
        boxes[stage.name] = Box(stage.name, tuple(lines), after, KINDS.get(type(stage), "data"))
    return draw(boxes, f"Stages of the pipeline {pipeline.name}")


def draw_graph(tasks: Graph, label: str = "Task graph of one round") -> Drawing:
    """Return a small task graph, ``{key: (label, keys it depends on)}``, as SVG.

    Raises
    ------
    ValueError
        The tasks depend on each other in a circle.
    """
    boxes = {key: Box(text, (), tuple(needs)) for key, (text, needs) in tasks.items()}
    return draw(boxes, label)


def draw_round(pipeline: Pipeline, stage_name: str) -> Drawing:
    """Return the task graph of one round of a training stage, as its strategy writes it.

    Raises
    ------
    DeclarationError
        There is no such stage, or it does not train.
    """
    from deepstrata.pipelines import strategies
    from deepstrata.pipelines.graph import Graph as TaskGraph
    from deepstrata.pipelines.rounds import Round, rows_per_place

    stage = pipeline.stage(stage_name)
    if not isinstance(stage, Fitting):
        raise DeclarationError(
            f"stage {stage_name!r} ({stage.kind}) has no rounds: name a training"
        )
    shards = min(stage.strategy.shards, MOST_SHARDS)
    strategy = stage.strategy.model_copy(update={"shards": shards})
    model = stage.pretrained[0] if isinstance(stage, Pretrain) else pipeline.model_of(stage)
    optimiser = stage.optimiser[0] if isinstance(stage.optimiser, tuple) else stage.optimiser
    settings = strategies.Learning(model, optimiser, strategy, 1, Key(pipeline.seed))
    graph, rows = TaskGraph(), rows_per_place(strategy)
    places = tuple(range(shards))
    replicas = places[: strategies.replica_count(settings)]
    parts = strategies.Parts(
        graph.call("state", (), dict), tuple(graph.call("replica", (0, i), dict) for i in replicas)
    )
    this = Round(0, 0, 0.0, 0, tuple((i,) for i in places), 0, rows, rows * shards, True, True)
    loads = [graph.call("load shard", (0, i), dict) for i in places]
    past = [parts] * strategies.memory(strategy)
    strategies.write_round(strategy, graph, settings, this, past, loads)
    tasks = {key: (_label(key), list(task.dependencies)) for key, task in graph.tasks.items()}
    few = (
        ""
        if shards == stage.strategy.shards
        else f", {shards} of its {stage.strategy.shards} shards"
    )
    return draw_graph(tasks, f"One round of {stage_name}{few}")


def _label(key: tuple[Any, ...]) -> str:
    """Turn a task's key, ``("steps-TOKEN", round, place)``, into ``steps 0``."""
    name, *place = key
    return " ".join([str(name).rpartition("-")[0], *map(str, place[1:][-1:])])


KINDS: dict[type[Any], str] = {
    Solve: "train",
    Pretrain: "train",
    DiscriminativePretrain: "train",
    Transfer: "train",
    FineTune: "train",
    Evaluate: "result",
    CrossDomain: "result",
    Encode: "result",
    Report: "result",
}


def _source(source: Source) -> Box:
    names = [f"features: {source.features}"]
    for role in ("labels", "targets", "weights"):
        name = getattr(source, role)
        names += [f"{role}: {name}"] if name else []
    where: str | None = None
    if isinstance(source, ZarrSource):
        where = f"Zarr: {_last(source.path)}"
    elif isinstance(source, FileSource):
        where = f"{source.format}: {_last(source.path)}" if source.path else source.format
    lines = [where or "an xarray.Dataset", *names]
    return Box("source", tuple(part for line in lines for part in wrap(line, WIDEST)), (), "data")


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


@singledispatch
def settings(stage: Stage) -> list[str]:
    """Return the lines that say the most about a stage."""
    return [stage.kind]


@settings.register
def _(stage: Apply) -> list[str]:
    return [stage.function.__qualname__]


@settings.register
def _(stage: Split) -> list[str]:
    parts = {"validation": stage.validation, "test": stage.test}
    shares = [f"{100 * share:g} % {part}" for part, share in parts.items() if share]
    return [*([f"by {stage.by}"] if stage.by else []), *shares]


@settings.register
def _(stage: Scale) -> list[str]:
    given = [("found" if v is None else f"{v:g}") for v in (stage.minimum, stage.maximum)]
    return [f"{given[0]} to {given[1]} becomes 0 to 1"]


@settings.register
def _(stage: Standardise) -> list[str]:
    return [f"per {stage.per}"]


@settings.register(Pretrain)
@settings.register(DiscriminativePretrain)
def _(stage: Pretrain | DiscriminativePretrain) -> list[str]:
    optimisers = stage.optimiser if isinstance(stage.optimiser, tuple) else (stage.optimiser,)
    lines = list(dict.fromkeys(map(describe_optimiser, optimisers)))
    return [
        describe_model(stage.model),
        describe(stage),
        *lines,
        _strategy(stage.strategy),
    ]


@settings.register
def _(stage: Solve) -> list[str]:
    return [describe_model(stage.model), f"on {', '.join(stage.parts)}"]


@settings.register
def _(stage: Transfer) -> list[str]:
    return [describe_model(stage.model), f"{stage.taken} layers of {_last(stage.run)}"]


@settings.register
def _(stage: FineTune) -> list[str]:
    model = [describe_model(stage.model)] if stage.model else []
    optimiser = describe_optimiser(stage.optimiser)
    own = [f"layer {name}: {_factor(factor)}" for name, factor in stage.learning_rates.items()]
    return [*model, describe(stage), optimiser, *own, _strategy(stage.strategy)]


def _factor(factor: float) -> str:
    return f"{factor:g} of the rate" if factor else "frozen"


@settings.register
def _(stage: Evaluate) -> list[str]:
    return list(stage.parts)


@settings.register
def _(stage: CrossDomain) -> list[str]:
    return [f"SVMs by {stage.domain}"]


@settings.register
def _(stage: Encode) -> list[str]:
    return [_last(stage.path or "codes.zarr")]


@settings.register
def _(stage: Report) -> list[str]:
    return ["one HTML file"]


def describe_model(model: Model) -> str:
    """Return a model in one line: ``RBM 500, RBM 500, softmax 10``."""
    layers = model.layers if isinstance(model, Layered | GenerativeDBN) else (model,)
    top = (model.memory,) if isinstance(model, GenerativeDBN) else ()
    return ", ".join(map(_layer, (*layers, *top)))


@singledispatch
def _layer(layer: Any) -> str:
    return str(layer.kind).replace("_", " ")


@_layer.register
def _(layer: RBM) -> str:
    gaussian = "gaussian" in (layer.visible_units, layer.hidden_units)
    return f"{'Gaussian ' if gaussian else ''}RBM {layer.hidden}"


@_layer.register
def _(layer: AssociativeMemory) -> str:
    return f"memory {layer.hidden} of {layer.classes} classes"


@_layer.register
def _(layer: Autoencoder) -> str:
    noise = f", {layer.noise.kind.replace('_', ' ')} noise" if layer.noise else ""
    return f"autoencoder ({', '.join(map(_layer, layer.encoder))}{noise})"


@_layer.register
def _(layer: MSDA) -> str:
    return f"mSDA, {layer.depth} layers, noise {layer.noise:g}"


@_layer.register
def _(layer: SparseCoding) -> str:
    return f"sparse coding, {layer.atoms} atoms"


@_layer.register
def _(layer: PSD) -> str:
    return f"PSD, {layer.atoms} atoms"


@_layer.register
def _(layer: ConvolutionalPSD) -> str:
    return f"convolutional PSD {layer.maps} of {_times(layer.kernel)}"


@_layer.register
def _(layer: ConvolutionalRBM) -> str:
    gaussian = "Gaussian " if layer.visible_units == "gaussian" else ""
    return f"{gaussian}convolutional RBM {layer.maps} of {_times(layer.kernel)}"


@_layer.register
def _(layer: Dense) -> str:
    return f"{layer.activation} {layer.units}{_tied(layer)}"


@_layer.register
def _(layer: Softmax) -> str:
    return f"softmax {layer.classes}"


@_layer.register
def _(layer: Convolution) -> str:
    pooled = "" if layer.pooling is None else f", {_layer(layer.pooling)}"
    return f"{_convolving(layer)}{_tied(layer)}{pooled}"


@_layer.register
def _(layer: TransposedConvolution) -> str:
    return f"{_convolving(layer)}{_tied(layer)}"


@_layer.register(LocallyConnected)
def _convolving(layer: Convolution | LocallyConnected | TransposedConvolution) -> str:
    kind = layer.kind.replace("_", " ")
    return f"{kind} {layer.maps} of {_times(layer.kernel)}, {layer.activation}"


def _tied(layer: Dense | Convolution | TransposedConvolution) -> str:
    """Say whose weights a layer uses, where it has none of its own."""
    turned = " transposed" if isinstance(layer, Dense) and layer.transposed else ""
    return f" by {layer.weights_of}{turned}" if layer.weights_of else ""


@_layer.register
def _(layer: Pooling) -> str:
    return f"{layer.function} of {_times(layer.size)}"


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def describe_optimiser(optimiser: Optimiser) -> str:
    """Return an optimiser in one line: ``SGD, rate 0.05, momentum 0.5 to 0.9``."""
    text = f"{type(optimiser).__name__}, rate {_rate(optimiser.learning_rate)}"
    momentum = getattr(optimiser, "momentum", 0)
    clip = next((c for c in (optimiser.clip_norm, optimiser.clip_value) if c), None)
    text = f"{text}, momentum {_rate(momentum)}" if momentum else text
    return text if clip is None else f"{text}, clipped at {number(clip)}"


def _rate(rate: Rate) -> str:
    if isinstance(rate, Steps):
        return f"{number(rate.values[0])} to {number(rate.values[-1])}"
    if isinstance(rate, Linear | Cosine):
        return f"{number(rate.start)} to {number(rate.end)}"
    if isinstance(rate, Exponential):
        return f"{number(rate.start)} falling"
    if isinstance(rate, ReduceOnPlateau):
        return f"{number(rate.start)} falling on plateaus"
    if isinstance(rate, WarmUp):
        return f"{_rate(rate.then)} after a warm-up"
    return number(rate)


def _strategy(strategy: Strategy) -> str:
    places = f"{strategy.shards} × {strategy.buffer}" if strategy.buffer > 1 else strategy.shards
    if isinstance(strategy, LocalSteps):
        return f"{places} shards × {strategy.steps} steps of {strategy.batch}"
    late = f", {strategy.rounds} rounds late" if isinstance(strategy, Delayed) else ""
    return f"a step of {places} shards × {strategy.batch}{late}"
