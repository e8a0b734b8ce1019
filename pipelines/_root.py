"""Deep networks on arrays too big for memory, where they live: Zarr, xarray, Dask.

Installed as ``deepstrata/__init__.py``: the public names.
"""

from typing import TYPE_CHECKING, Any

from deepstrata.pipelines.pipeline import Pipeline
from deepstrata.schemas.autoencoders import Autoencoder
from deepstrata.schemas.convolutional import ConvolutionalPSD, ConvolutionalRBM
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
    DivergenceError,
    SchemaError,
    StorageError,
)
from deepstrata.schemas.growing import DiscriminativePretrain
from deepstrata.schemas.layers import (
    Activation,
    ContrastNormalisation,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    LocallyConnected,
    Pooling,
    Rectification,
    Softmax,
    TransposedConvolution,
)
from deepstrata.schemas.machines import RBM, AssociativeMemory
from deepstrata.schemas.models import DBN, MSDA, GenerativeDBN, Network
from deepstrata.schemas.noise import GaussianNoise, MaskingNoise, SaltAndPepperNoise
from deepstrata.schemas.optimisers import (
    SGD,
    Adagrad,
    Adam,
    Cosine,
    Exponential,
    Linear,
    ReduceOnPlateau,
    Steps,
    WarmUp,
)
from deepstrata.schemas.sparse import PSD, SparseCoding
from deepstrata.schemas.stages import (
    Apply,
    CrossDomain,
    Encode,
    Evaluate,
    FineTune,
    Pretrain,
    Report,
    Scale,
    Solve,
    Split,
    Standardise,
    Transfer,
)
from deepstrata.schemas.strategies import Delayed, LocalSteps, Synchronous
from deepstrata.schemas.training import EarlyStopping

if TYPE_CHECKING:
    from deepstrata.pipelines.cluster import connect
    from deepstrata.pipelines.estimators import DBNClassifier, DenoisingAutoencoder, RBMEncoder
    from deepstrata.pipelines.loading import load_pipeline
    from deepstrata.pipelines.model import load_encoder
    from deepstrata.pipelines.planning import plan
    from deepstrata.pipelines.run import Run, open_run, resume, run
    from deepstrata.pipelines.verify import verify
    from deepstrata.storage.ingest import ingest

__version__ = "0.1.0"

#: Names that bring Dask, Zarr or numba with them; imported when they are first asked for.
_LAZY = {
    "DBNClassifier": "pipelines.estimators",
    "DenoisingAutoencoder": "pipelines.estimators",
    "RBMEncoder": "pipelines.estimators",
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
    "MSDA",
    "PSD",
    "RBM",
    "SGD",
    "Activation",
    "Adagrad",
    "Adam",
    "Apply",
    "AssociativeMemory",
    "Autoencoder",
    "ClusterError",
    "ContrastNormalisation",
    "Convolution",
    "ConvolutionalPSD",
    "ConvolutionalRBM",
    "Cosine",
    "CrossDomain",
    "DBNClassifier",
    "DataError",
    "DatasetSchema",
    "DatasetSource",
    "DeclarationError",
    "DeepstrataError",
    "Delayed",
    "DenoisingAutoencoder",
    "Dense",
    "DiscriminativePretrain",
    "Dropout",
    "DivergenceError",
    "EarlyStopping",
    "Encode",
    "Evaluate",
    "Exponential",
    "FileSource",
    "FineTune",
    "Flatten",
    "GaussianNoise",
    "GenerativeDBN",
    "Linear",
    "LocalSteps",
    "LocallyConnected",
    "MaskingNoise",
    "Network",
    "Pipeline",
    "Pooling",
    "Pretrain",
    "RBMEncoder",
    "Rectification",
    "ReduceOnPlateau",
    "Report",
    "Run",
    "SaltAndPepperNoise",
    "Scale",
    "SchemaError",
    "Softmax",
    "Solve",
    "SparseCoding",
    "Split",
    "Standardise",
    "Steps",
    "StorageError",
    "Synchronous",
    "Transfer",
    "TransposedConvolution",
    "Variable",
    "WarmUp",
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
