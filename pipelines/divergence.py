"""Trainings that come to infinity or NaN: noticed in the round, named, with what may help."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deepstrata.ops.gradients import not_finite
from deepstrata.ops.partials import Partial
from deepstrata.schemas.errors import DivergenceError
from deepstrata.schemas.trees import Tree, leaves

REMEDIES = (
    "declare a lower learning rate, clipped gradients (clip_norm=1.0) or a warm-up "
    "(learning_rate=WarmUp(...)), or put Standardise() above the training"
)


def check_round(this: int, epoch: int, partial: Partial, params: Tree) -> None:
    """Check that a round left numbers.

    Parameters
    ----------
    this, epoch
        The round, counted from 0, and its epoch, counted from 1: for the message.
    partial
        What the parameters were changed by, and what is reported of the round.
    params
        The parameters after the round.

    Raises
    ------
    DivergenceError
        A sum that is reported, or a parameter, is infinite or NaN; where it began is said.
    """
    wrong = [f"{name} is {v}" for name, v in scalars(partial.stats) if not math.isfinite(v)]
    lost = not_finite(params)
    if lost:
        count = len(leaves(params))
        wrong.append(f"params/{lost[0]} is not finite ({len(lost)} of {count} arrays are not)")
        wrong.append(_began(partial, count))
    if wrong:
        raise DivergenceError(f"round {this} of epoch {epoch}: {', '.join(wrong)}")


def scalars(stats: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return those of some sums that are single numbers."""
    return [(name, float(value)) for name, value in stats.items() if getattr(value, "ndim", 0) == 0]


def _began(partial: Partial, count: int) -> str:
    """Say what gradients tell of where a number was lost; they come from the top layer down."""
    lost = not_finite(partial.total)
    if not lost:
        return "while the gradient is: the step was too long"
    if len(lost) == count:
        return "nor is any gradient: it was lost on the way up, or in the loss"
    return f"nor is the gradient of params/{lost[-1]}, where it was lost"


def check_epochs(rows: Sequence[Mapping[str, float]]) -> None:
    """Check that the measures after some epochs are numbers.

    Raises
    ------
    DivergenceError
        One is not.
    """
    for row in rows:
        for name, value in row.items():
            if not math.isfinite(value):
                raise DivergenceError(
                    f"round {row['round']} of epoch {row['epoch']}: {name} is {value}"
                )


def advised(error: DivergenceError, name: str, begin: int) -> DivergenceError:
    """Return an error that says where a training diverged, what is left of it, and what to do.

    Parameters
    ----------
    name, begin
        The training, and how many rounds its newest checkpoint has.
    """
    stage = name.split("/")[0]
    return DivergenceError(
        f"stage {name!r} diverged in {error}; the checkpoint after {begin} rounds is as it was; "
        f"{REMEDIES}; `deepstrata resume RUN --set {stage}.optimiser...` runs the stage anew and "
        "keeps those above it"
    )
