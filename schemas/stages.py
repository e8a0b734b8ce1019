"""Stages: the steps of a pipeline, in the order in which they are declared."""

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PlainSerializer,
    PositiveInt,
    Tag,
    WithJsonSchema,
    model_validator,
)

from deepstrata.schemas._base import Declaration
from deepstrata.schemas.models import DBN, RBM, GenerativeDBN, Machine, Model, Softmax
from deepstrata.schemas.optimisers import SGD, Optimiser
from deepstrata.schemas.strategies import LocalSteps, Strategy

Fraction = Annotated[float, Field(ge=0, lt=1)]
Part = Literal["train", "validation", "test"]


def _import(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    module, _, name = value.partition(":")
    if not name:
        raise ValueError("expected a function or 'module:name'")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"cannot import {value!r}: {error}") from None


def _module_level(value: Any) -> Any:
    value = _import(value)
    name = getattr(value, "__qualname__", "")
    if not callable(value) or "<" in name or "." in name or not name:
        raise ValueError(
            "expected a function defined with def at the top level of a module, so that workers "
            "can find it by its name"
        )
    return value


def _name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


Function = Annotated[
    Callable[..., Any],
    BeforeValidator(_module_level),
    PlainSerializer(_name_of, return_type=str),
    WithJsonSchema({"type": "string", "description": "module:name"}),
]


def _plain(value: Any) -> Any:
    if not isinstance(value, str | int | float | bool | None):
        raise ValueError("expected text, a number, a boolean or None")
    return value


Argument = Annotated[str | int | float | bool | None, BeforeValidator(_plain)]


class _Stage(Declaration):
    name: str = ""
    """Unique within the pipeline; the kind by default."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name"):
            return data | {"name": cls.model_fields["kind"].default}
        return data


class Apply(_Stage):
    """Preprocess with a function of an ``xarray.Dataset`` that returns one, lazily."""

    kind: Literal["apply"] = "apply"
    function: Function
    arguments: dict[str, Argument] = {}
    """Passed on as keyword arguments."""


class Split(_Stage):
    """Assign every sample to training, validation or test.

    With ``by``, a variable names each sample's part; otherwise (or for what ``by`` calls
    ``train``) fractions of every shard are drawn by key, or taken from its end.
    """

    kind: Literal["split"] = "split"
    by: str | None = None
    """Variable along the sample dimension: strings, or numbers with CF ``flag_meanings``."""
    validation: Fraction = 0.0
    test: Fraction = 0.0
    shuffle: bool = True
    """Draw the fractions by key; False takes them from the end of each shard (time series)."""

    @model_validator(mode="after")
    def _some_left(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(
                "validation and test leave nothing to train on: expected less than 1 together, "
                f"found {self.validation} and {self.test}"
            )
        return self


class Scale(_Stage):
    """Map the features linearly to [0, 1]: ``(x - minimum) / (maximum - minimum)``."""

    kind: Literal["scale"] = "scale"
    minimum: float | None = None
    """Found in the training part when not given; likewise ``maximum``."""
    maximum: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if None not in (self.minimum, self.maximum) and not self.minimum < self.maximum:  # type: ignore[operator]
            raise ValueError(
                f"expected a minimum below the maximum, found {self.minimum} and {self.maximum}"
            )
        return self


class Standardise(_Stage):
    """Subtract the mean and divide by the standard deviation of the training part."""

    kind: Literal["standardise"] = "standardise"
    per: Literal["feature", "dataset"] = "feature"
    """Statistics of each feature, or of all together."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the standard deviation."""


class _Train(_Stage):
    epochs: NonNegativeInt = 10
    strategy: Strategy = LocalSteps()
    checkpoint_rounds: PositiveInt | None = None
    """Rounds between checkpoints; about an epoch by default. Never changes a result."""
    monitor: NonNegativeInt = 1000
    """Training and validation samples looked at after every epoch for the learning curves."""


def _how_many(value: Any) -> str:
    return "(each)" if isinstance(value, list | tuple) else "(one)"


class Pretrain(_Train):
    """Train the RBMs of a model one by one; each reads the activations of the one below."""

    kind: Literal["pretrain"] = "pretrain"
    model: Model
    optimiser: Annotated[
        Annotated[Optimiser, Tag("(one)")] | Annotated[tuple[Optimiser, ...], Tag("(each)")],
        Discriminator(_how_many),
    ] = SGD(learning_rate=0.05, momentum=0.5)
    """One for all RBMs, or one each."""
    activations: Literal["auto", "recompute", "store"] = "auto"
    """What an RBM above the first reads: recomputed with each shard, or stored once as Zarr."""

    @property
    def rbms(self) -> tuple[Machine, ...]:
        """The RBMs at the bottom of the model, in the order in which they are trained."""
        if isinstance(self.model, RBM):
            return (self.model,)
        if isinstance(self.model, GenerativeDBN):
            return (*self.model.layers, self.model.memory)
        stack: list[RBM] = []
        for layer in self.model.layers:
            if not isinstance(layer, RBM):
                break
            stack.append(layer)
        return tuple(stack)

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if not self.rbms:
            raise ValueError(
                "expected a model whose first layer is an RBM: there is nothing to pretrain; "
                "FineTune(model=...) trains one from fresh weights"
            )
        if isinstance(self.optimiser, tuple) and len(self.optimiser) != len(self.rbms):
            raise ValueError(
                f"expected one optimiser, or one for each of the {len(self.rbms)} RBMs; "
                f"found {len(self.optimiser)}"
            )
        return self


class FineTune(_Train):
    """Train all layers of a model together, from pretrained or fresh weights.

    A ``DBN`` with a ``Softmax`` learns by backpropagation, a ``GenerativeDBN`` by up-down.
    """

    kind: Literal["finetune"] = "finetune"
    model: Model | None = None
    """Trained from fresh weights; by default the model of ``start`` goes on."""
    start: str | None = None
    """Name of a ``Pretrain`` or ``FineTune`` stage above; the nearest one by default."""
    optimiser: Optimiser = SGD(learning_rate=0.1, momentum=0.9)
    gibbs_steps: PositiveInt | None = None
    """Sweeps of a ``GenerativeDBN``'s memory in each step of up-down; its own by default."""

    @model_validator(mode="after")
    def _can_classify(self) -> Self:
        if self.model is not None and self.start is not None:
            raise ValueError("give a model (fresh weights) or a start (trained ones), not both")
        return self


class Evaluate(_Stage):
    """Measure a trained model on parts of the data."""

    kind: Literal["evaluate"] = "evaluate"
    start: str | None = None
    """Name of the stage that trained the model; the nearest one above by default."""
    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = ("validation", "test")
    """Parts without samples are left out."""


class Encode(_Stage):
    """Write the codes of every sample to Zarr, with the samples' coordinates."""

    kind: Literal["encode"] = "encode"
    start: str | None = None
    """Name of the stage that trained the model; the nearest one above by default."""
    path: str | None = None
    """Where to write; ``codes.zarr`` in the run directory by default."""
    layer: NonNegativeInt | None = None
    """Layer whose output is the code; the last one below the softmax by default."""


class Report(_Stage):
    """Write one HTML file that shows the run."""

    kind: Literal["report"] = "report"
    examples: PositiveInt = 32
    """Filters, reconstructions and samples shown."""


Stage = Annotated[
    Apply | Split | Scale | Standardise | Pretrain | FineTune | Evaluate | Encode | Report,
    Field(discriminator="kind"),
]


def learns_classes(stage: Stage) -> bool:
    """Tell whether a stage needs labels: fine-tuning does, and pretraining a memory of them."""
    if isinstance(stage, Pretrain):
        return isinstance(stage.model, GenerativeDBN)
    return isinstance(stage, FineTune)


def classes_of(model: Model) -> int | None:
    """Return how many classes a model tells apart; None where it learns without labels."""
    if isinstance(model, GenerativeDBN):
        return model.memory.classes
    top = model.layers[-1] if isinstance(model, DBN) else model
    return top.classes if isinstance(top, Softmax) else None


def classifies(model: Model) -> bool:
    """Tell whether a model learns classes: it ends in a softmax, or in a memory of labels."""
    return classes_of(model) is not None
