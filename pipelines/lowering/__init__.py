"""What each stage does: it connects functions of ops and storage to graphs, and holds no logic.

``lower`` chooses by the declaration's type; each file adds its rules to the table.
"""

from deepstrata.pipelines.lowering import (
    codes,
    cross_domain,
    evaluation,
    fitting,
    growing,
    solving,
    statistics,
    transferring,
)
from deepstrata.pipelines.lowering.fitting import save_final_model
from deepstrata.pipelines.lowering.table import lower

__all__ = [
    "codes",
    "cross_domain",
    "evaluation",
    "fitting",
    "growing",
    "lower",
    "save_final_model",
    "solving",
    "statistics",
    "transferring",
]
