"""The pipeline: a source, stages and a seed, checked as a whole when it is declared."""

import re
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from deepstrata.schemas._base import Document, explain
from deepstrata.schemas.datasets import Source
from deepstrata.schemas.errors import DeclarationError
from deepstrata.schemas.models import Model
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
    classifies,
)

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
RESERVED = ("ingest",)
#: Stages come in this order; those of one rank may be mixed.
RANKS = {Apply: 0, Split: 1, Scale: 2, Standardise: 2, Pretrain: 3, FineTune: 3}
ONCE = (Split, Report)


class Pipeline(Document):
    """What is read, what is done with it, and the seed that every random number follows from."""

    name: Annotated[str, Field(pattern=NAME)]
    source: Source
    stages: tuple[Stage, ...]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_names()
        self._check_order()
        for stage in self.stages:
            if isinstance(stage, FineTune | Evaluate | Encode):
                self._check_start(stage)
        return self

    def _check_names(self) -> None:
        seen: set[str] = set()
        for stage in self.stages:
            if not re.match(NAME, stage.name):
                raise ValueError(f"stage name {stage.name!r}: use letters, digits, '_', '.', '-'")
            if stage.name in RESERVED:
                raise ValueError(f"stage name {stage.name!r} is reserved")
            if stage.name in seen:
                raise ValueError(f"two stages are called {stage.name!r}; give one another name")
            seen.add(stage.name)

    def _check_order(self) -> None:
        highest = 0
        for stage in self.stages:
            rank = RANKS.get(type(stage), highest)
            if rank < highest:
                raise ValueError(
                    f"stage {stage.name!r} ({stage.kind}) stands after a stage that needs it: "
                    "the order is apply, split, scale or standardise, then training"
                )
            highest = rank
        for kind in ONCE:
            if sum(isinstance(stage, kind) for stage in self.stages) > 1:
                raise ValueError(f"more than one {kind.__name__} stage")

    def _check_start(self, stage: FineTune | Evaluate | Encode) -> None:
        model = self.model_of(stage)
        if isinstance(stage, FineTune):
            if not classifies(model):
                raise ValueError(
                    f"stage {stage.name!r}: the model has no Softmax on top, "
                    "so there is nothing to fine-tune it for"
                )
            if self.source.labels is None:
                raise ValueError(f"stage {stage.name!r} needs labels; the source names none")

    def start_of(self, stage: FineTune | Evaluate | Encode) -> Pretrain | FineTune | None:
        """Return the training stage that ``stage`` goes on from; None for a fresh model.

        Raises
        ------
        ValueError
            It names a stage that does not exist above it, or there is none.
        """
        if isinstance(stage, FineTune) and stage.model is not None:
            return None
        above: dict[str, Pretrain | FineTune] = {}
        for other in self.stages:
            if other.name == stage.name:
                break
            if isinstance(other, Pretrain | FineTune):
                above[other.name] = other
        if stage.start is not None and stage.start not in above:
            there = ", ".join(above) or "none"
            raise ValueError(
                f"stage {stage.name!r}: start={stage.start!r} is not a training stage above it; "
                f"there are: {there}"
            )
        if not above:
            raise ValueError(f"stage {stage.name!r}: no training stage above it")
        return above[stage.start] if stage.start else list(above.values())[-1]

    def model_of(self, stage: Stage) -> Model:
        """Return the model that ``stage`` trains, measures or encodes with."""
        if isinstance(stage, Pretrain | FineTune) and stage.model is not None:
            return stage.model
        if isinstance(stage, FineTune | Evaluate | Encode):
            start = self.start_of(stage)
            if start is not None:
                return self.model_of(start)
        raise ValueError(f"stage {stage.name!r} has no model")

    def stage(self, name: str) -> Stage:
        """Return the stage called ``name``.

        Raises
        ------
        DeclarationError
            There is none; the message lists those there are.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        there = ", ".join(stage.name for stage in self.stages)
        raise DeclarationError(f"pipeline {self.name!r}: no stage {name!r}; it has: {there}")

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values, checked anew.

        A key is a field of the pipeline (``seed``), of its source (``source.path``) or of a stage
        (``pretrain.epochs``, ``pretrain.strategy.shards``, ``pretrain.model.layers.0.hidden``).

        Raises
        ------
        DeclarationError
            No such field, or a value that does not fit; the field is named.
        """
        data = self.model_dump(mode="json")
        for path, value in changes.items():
            self._set(data, path, value)
        try:
            return type(self).model_validate(data)
        except ValidationError as error:
            raise DeclarationError(explain(error, f"pipeline {self.name!r}")) from None

    def _set(self, data: dict[str, Any], path: str, value: Any) -> None:
        first, *rest = path.split(".")
        names = {stage.name: i for i, stage in enumerate(self.stages)}
        place: Any = data
        steps = [first, *rest] if first in data and first != "stages" else None
        if steps is None:
            if first not in names or not rest:
                raise DeclarationError(
                    f"{path}: no such field; expected STAGE.FIELD with one of the stages "
                    f"{', '.join(names)}, source.FIELD, or seed"
                )
            place, steps = data["stages"][names[first]], rest
        for step in steps[:-1]:
            place = _enter(place, step, path)
        last = steps[-1]
        _enter(place, last, path)
        place[int(last) if isinstance(place, list) else last] = value


def _enter(place: Any, step: str, path: str) -> Any:
    if isinstance(place, list) and step.isdigit() and int(step) < len(place):
        return place[int(step)]
    if isinstance(place, dict) and step in place:
        return place[step]
    there = (
        ", ".join(place)
        if isinstance(place, dict)
        else f"0 to {len(place) - 1}"
        if isinstance(place, list)
        else "none"
    )
    raise DeclarationError(f"{path}: no field {step!r}; there are: {there}")
