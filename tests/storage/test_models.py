"""Saved models: read without the run, complete or an error."""

from pathlib import Path

import numpy as np
import pytest

from deepstrata.schemas.errors import StorageError
from deepstrata.schemas.machines import RBM
from deepstrata.storage import stores
from deepstrata.storage.models import ModelInfo, load_model, save_model


def info() -> ModelInfo:
    return ModelInfo(
        model=RBM(hidden=3),
        visible=4,
        features="image",
        feature_dims=("y", "x"),
        feature_shape=(2, 2),
        pipeline="digits",
    )


def test_a_model_round_trips(place: str) -> None:
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    digest = save_model(place, info(), {"layers": ({"weights": weights},)})
    found, arrays = load_model(place)
    assert found == info().model_copy(update={"digest": digest})
    assert list(arrays) == ["layers/0/weights"]
    assert np.array_equal(arrays["layers/0/weights"], weights)


def test_weights_without_a_declaration_are_no_model(tmp_path: Path) -> None:
    save_model(str(tmp_path), info(), {"w": np.zeros(1, np.float32)})
    (tmp_path / "model.json").unlink()
    with pytest.raises(StorageError, match=r"not a model: expected a model\.json"):
        load_model(str(tmp_path))


def test_weights_of_another_model_are_noticed(place: str) -> None:
    save_model(place, info(), {"w": np.zeros(1, np.float32)})
    document = stores.read_bytes(stores.join(place, "model.json"))
    save_model(place, info(), {"w": np.ones(1, np.float32)})
    stores.write_bytes(stores.join(place, "model.json"), document)
    with pytest.raises(StorageError, match="damaged: expected arrays"):
        load_model(place)
