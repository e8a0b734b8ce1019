"""Plans: what a pipeline will do, and what it had better not, before anything runs."""

from deepstrata.pipelines.planning.checks import NO_LIMITS, Limits, check_plan, limits_of, warnings
from deepstrata.pipelines.planning.estimates import plan
from deepstrata.pipelines.planning.plans import Plan, Step
from deepstrata.pipelines.planning.text import size

__all__ = [
    "NO_LIMITS",
    "Limits",
    "Plan",
    "Step",
    "check_plan",
    "limits_of",
    "plan",
    "size",
    "warnings",
]
