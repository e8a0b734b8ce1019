"""What is decided at the ends of epochs: when to stop, what to keep, which rates go on.

Pure functions of the learning curves, so that a training that is resumed decides as one that was
not. Windows end where epochs do when something is to be decided there.
"""

import math
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Literal, NamedTuple, Self

from deepstrata.schemas.errors import DataError, DeclarationError
from deepstrata.schemas.optimisers import SGD, Optimiser, Rate, ReduceOnPlateau, WarmUp
from deepstrata.schemas.pipelines import Pipeline
from deepstrata.schemas.stages import Fitting, decides
from deepstrata.schemas.strategies import LocalSteps, Strategy
from deepstrata.schemas.training import EarlyStopping

#: What the learning curves say of an epoch: ``epoch`` (from 1), ``round`` (its last), measures.
Row = Mapping[str, float]


class Control(NamedTuple):
    """What a stage declares of the ends of epochs."""

    metric: str = ""
    early_stopping: EarlyStopping | None = None
    keep: Literal["last", "best"] = "last"
    decides: bool = False
    """Whether anything is decided there."""

    @classmethod
    def of(cls, stage: Fitting) -> Self:
        """Return what a stage declares."""
        return cls(f"validation_{stage.metric}", stage.early_stopping, stage.keep, decides(stage))

    def scores(self, rows: Sequence[Row]) -> list[float]:
        """Return what is to fall, after each epoch."""
        return [self.score(row) for row in rows]

    def score(self, row: Row) -> float:
        """Return what is to fall, after one epoch.

        Raises
        ------
        DataError
            It is not known: no validation sample that is watched counts.
        """
        if self.metric not in row:
            raise DataError(
                f"there is no {self.metric} to decide by: of the validation samples that are "
                "watched all weigh nothing, or lack targets; watch more of them (monitor=...)"
            )
        return row[self.metric]


def check_validation(pipeline: Pipeline, counts: Sequence[tuple[int, int, int]]) -> None:
    """Check that the data has validation samples if the ends of epochs decide by them.

    Parameters
    ----------
    counts
        Training, validation and test samples of every shard.

    Raises
    ------
    DeclarationError
        There are none; the stage that needs them is named.
    """
    for stage in pipeline.stages:
        if not isinstance(stage, Fitting) or not decides(stage):
            continue
        if not any(validation for _, validation, _ in counts):
            raise DeclarationError(
                f"stage {stage.name!r} decides by validation samples when an epoch ends, and the "
                f"split leaves none of {sum(map(sum, counts)):,}; declare a larger validation part"
            )


def spells(scores: Sequence[float], length: int, min_delta: float) -> int:
    """Count the spells of ``length`` epochs in a row without a gain.

    A gain is a score that is lower than that of the last gain by more than ``min_delta``.
    """
    lowest, spell, found = math.inf, 0, 0
    for score in scores:
        if score < lowest - min_delta:
            lowest, spell = score, 0
        else:
            spell += 1
        if spell == length:
            spell, found = 0, found + 1
    return found


def is_over(control: Control, rows: Sequence[Row]) -> bool:
    """Tell whether a training stops early after the epochs so far."""
    stopping = control.early_stopping
    if stopping is None:
        return False
    return spells(control.scores(rows), stopping.patience, stopping.min_delta) > 0


def kept(control: Control, rows: Sequence[Row]) -> Row | None:
    """Return the epoch whose parameters a training that ended now would keep.

    None means those it has now. Of epochs that are as good, the first is the best.
    """
    if control.keep == "last" or not rows:
        return None
    return min(rows, key=control.score)


def settled(optimiser: Optimiser, scores: Sequence[float]) -> Optimiser:
    """Return an optimiser whose rates follow what the epochs so far came to."""
    update = {"learning_rate": _settled(optimiser.learning_rate, scores)}
    if isinstance(optimiser, SGD):
        update["momentum"] = _settled(optimiser.momentum, scores)
    return optimiser.model_copy(update=update)


def settled_strategy(strategy: Strategy, scores: Sequence[float]) -> Strategy:
    """Return a strategy whose own optimiser, if it has one, is settled."""
    if not isinstance(strategy, LocalSteps):
        return strategy
    return strategy.model_copy(update={"outer": settled(strategy.outer, scores)})


@singledispatch
def _settled(rate: Rate, scores: Sequence[float]) -> Rate:
    return rate


@_settled.register
def _(rate: ReduceOnPlateau, scores: Sequence[float]) -> Rate:
    found = spells(scores, rate.patience + 1, rate.min_delta)
    return rate.model_copy(update={"reductions": rate.reductions + found})


@_settled.register
def _(rate: WarmUp, scores: Sequence[float]) -> Rate:
    then = _settled(rate.then, scores[math.ceil(rate.epochs) :])
    return rate.model_copy(update={"then": then})


def describe(stage: Fitting) -> str:
    """Return how long a stage trains and what it keeps: ``at most 30 epochs, stops early ...``."""
    text = f"{stage.epochs} epochs"
    if stage.early_stopping is not None:
        patience = stage.early_stopping.patience
        text = f"at most {text}, stops early after {patience} without gain"
    return f"{text}, keeps the best" if stage.keep == "best" else text
