"""The table of what each stage does, and the stages that others read."""

import inspect
from functools import singledispatch

from deepstrata.pipelines.context import Context, stage_digest
from deepstrata.schemas.runs import StageRecord
from deepstrata.schemas.stages import Apply, Report, Split, Stage


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
