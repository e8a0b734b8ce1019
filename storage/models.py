"""Trained models on disk: ``weights.safetensors`` and ``model.json``, usable without the run."""

from typing import Any, Literal

import numpy as np

from deepstrata.schemas._base import Document
from deepstrata.schemas.errors import StorageError
from deepstrata.schemas.models import Model
from deepstrata.schemas.trees import Tree
from deepstrata.storage import checkpoints, sealed, stores
from deepstrata.storage.digests import digest

WEIGHTS = "weights.safetensors"
DOCUMENT = "model.json"


class ModelInfo(Document):
    """What a reader of the weights must know."""

    model: Model
    visible: int
    """Features of a sample."""
    features: str
    """Name of the variable that the model reads."""
    feature_dims: tuple[str, ...]
    feature_shape: tuple[int, ...]
    missing: Literal["refuse", "absent"] = "refuse"
    """Whether NaN among the features means a value that is not there."""
    labels: str | None = None
    targets: str | None = None
    """Name of the variable that the model predicts; its dimensions but for the samples' follow."""
    target_dims: tuple[str, ...] = ()
    target_shape: tuple[int, ...] = ()
    pipeline: str = ""
    """Name of the pipeline that trained it."""
    digest: str = ""
    """SHA-256 of the arrays; filled in when the model is saved."""


def save_model(path: str, info: ModelInfo, tree: Tree) -> str:
    """Write a model and return the digest of its arrays; the document is written last."""
    saved = checkpoints.save_part(stores.join(path, WEIGHTS), tree)
    document = info.model_copy(update={"digest": saved})
    sealed.write_document(stores.join(path, DOCUMENT), document)
    return saved


def load_model(path: str) -> tuple[ModelInfo, dict[str, np.ndarray[Any, Any]]]:
    """Return a model's document, and its arrays by their paths in the tree.

    Raises
    ------
    StorageError
        There is no model, or the arrays are not those that the document was written for.
    """
    url = stores.join(path, DOCUMENT)
    if not stores.exists(url):
        raise StorageError(f"{path}: not a model: expected a {DOCUMENT} in it")
    info = sealed.read_document(ModelInfo, url)
    flat = checkpoints.load_arrays(stores.join(path, WEIGHTS))
    found = digest(flat)
    if found != info.digest:
        raise StorageError(
            f"{path}: damaged: expected arrays {info.digest[:12]}, found {found[:12]}"
        )
    return info, flat
