"""Deep networks on arrays too big for memory, where they live: Zarr, xarray, Dask.

Installed as ``deepstrata/__init__.py``: the public names.
"""

from typing import TYPE_CHECKING, Any

from deepstrata.pipelines.pipeline import Pipeline
from deepstrata.schemas.datasets import (
    DatasetSchema,
    DatasetSource,
    FileSource,
    Variable,
    ZarrSource,
)
from deepstrata.schemas.errors import (
    ClusterError,
    DataError,
    DeclarationError,
    DeepstrataError,
    SchemaError,
    StorageError,
)
from deepstrata.schemas.models import (
    DBN,
    RBM,
    AssociativeMemory,
    Dense,
    GenerativeDBN,
    Softmax,
)
from deepstrata.schemas.optimisers import SGD, Adagrad, Adam, Cosine, Exponential, Linear, Steps
from deepstrata.schemas.stages import (
    Apply,
    Encode,
    Evaluate,
    FineTune,
    Pretrain,
    Report,
    Scale,
    Split,
    Standardise,
)
from deepstrata.schemas.strategies import Delayed, LocalSteps, Synchronous

if TYPE_CHECKING:
    from deepstrata.pipelines.cluster import connect
    from deepstrata.pipelines.loading import load_pipeline
    from deepstrata.pipelines.model import load_encoder
    from deepstrata.pipelines.planning import plan
    from deepstrata.pipelines.run import Run, open_run, resume, run
    from deepstrata.pipelines.verify import verify
    from deepstrata.storage.ingest import ingest

__version__ = "0.1.0"

#: Names that bring Dask, Zarr or numba with them; imported when they are first asked for.
_LAZY = {
    "Run": "pipelines.run",
    "connect": "pipelines.cluster",
    "ingest": "storage.ingest",
    "load_encoder": "pipelines.model",
    "load_pipeline": "pipelines.loading",
    "open_run": "pipelines.run",
    "plan": "pipelines.planning",
    "resume": "pipelines.run",
    "run": "pipelines.run",
    "verify": "pipelines.verify",
}

__all__ = [
    "DBN",
    "RBM",
    "SGD",
    "Adagrad",
    "Adam",
    "Apply",
    "AssociativeMemory",
    "ClusterError",
    "Cosine",
    "DataError",
    "DatasetSchema",
    "DatasetSource",
    "Delayed",
    "DeclarationError",
    "DeepstrataError",
    "Dense",
    "Encode",
    "Evaluate",
    "Exponential",
    "FileSource",
    "FineTune",
    "GenerativeDBN",
    "Linear",
    "LocalSteps",
    "Pipeline",
    "Pretrain",
    "Report",
    "Run",
    "Scale",
    "SchemaError",
    "Softmax",
    "Split",
    "Standardise",
    "Steps",
    "StorageError",
    "Synchronous",
    "Variable",
    "ZarrSource",
    "connect",
    "ingest",
    "load_encoder",
    "load_pipeline",
    "open_run",
    "plan",
    "resume",
    "run",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"deepstrata.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'deepstrata' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
