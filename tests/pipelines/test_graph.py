"""Graphs: what a task gets does not show where its inputs were computed."""

import pickle

import numpy as np
import pytest

from deepstrata import RBM
from deepstrata.ops import models
from deepstrata.ops.partials import Batch
from deepstrata.ops.rbm import RBMParams
from deepstrata.pipelines.graph import Graph
from deepstrata.schemas.keys import Key


def at_an_odd_byte(x: np.ndarray) -> np.ndarray:
    """Return a copy that begins where one that came over the network may."""
    found = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    found[...] = x
    return found


def evaluate(params: RBMParams, batch: Batch) -> dict[str, float]:
    return models.evaluate(RBM(hidden=256), params, batch)


def gradient(params: RBMParams, batch: Batch) -> bytes:
    partial, _ = models.gradient(RBM(hidden=256), params, batch, Key(3))
    return partial.total.weights.tobytes()


@pytest.mark.parametrize("rows", [1, 4, 20, 179])
@pytest.mark.parametrize("function", [evaluate, gradient])
def test_a_task_gives_the_same_bits_wherever_its_inputs_come_from(function, rows: int) -> None:
    """NumPy multiplies by a transposed copy of what is not aligned: 4 rows showed it."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((64, 256)).astype(np.float32) / 8
    params = RBMParams(weights, np.zeros(64, np.float32), np.zeros(256, np.float32))
    batch = Batch(np.arange(rows), random.random((rows, 64), dtype=np.float32))
    moved = RBMParams(*map(at_an_odd_byte, params)), batch._replace(x=at_an_odd_byte(batch.x))
    graph = Graph()
    given = ((params, batch), moved)
    here, there = (graph.call("f", (i,), function, *a) for i, a in enumerate(given))
    assert graph.tasks[here.key]() == graph.tasks[there.key]()


def test_a_task_is_named_after_its_function() -> None:
    graph = Graph()
    task = pickle.loads(pickle.dumps(graph.tasks[graph.call("f", (), evaluate).key]))
    assert task.func.__name__ == "evaluate"
