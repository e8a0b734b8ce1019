"""Handing graphs to a cluster and turning its failures into words."""

from collections.abc import Callable, Sequence
from typing import Any

from distributed import CancelledError, Client, KilledWorker, TimeoutError, as_completed

from deepstrata.pipelines.graph import Graph, Ref
from deepstrata.schemas.errors import ClusterError


def execute(
    client: Client,
    graph: Graph,
    outputs: Sequence[Ref],
    on_done: Callable[[int, Any], None] | None = None,
) -> list[Any]:
    """Compute ``outputs`` and return their values in order.

    Parameters
    ----------
    on_done
        Called with the place and the value of every output as it arrives, in any order.

    Raises
    ------
    ClusterError
        Workers died again and again under one task, or the scheduler went away.
    Exception
        Whatever a task raised.
    """
    keys = [ref.key for ref in outputs]
    place = {key: i for i, key in enumerate(keys)}
    values: list[Any] = [None] * len(keys)
    try:
        futures = client.get(graph.tasks, keys, sync=False)
        for future, value in as_completed(futures, with_results=True):
            values[place[future.key]] = value
            if on_done is not None:
                on_done(place[future.key], value)
    except KilledWorker as error:
        raise ClusterError(
            f"a task ({error.task!r}) was given up: {error.allowed_failures + 1} workers died "
            f"while they ran it, the last one at {error.last_worker.address}. Most often a worker "
            "needs more memory than it has: see `deepstrata plan`, use fewer shards a round or "
            "smaller shards, or give workers more memory"
        ) from None
    except (CancelledError, TimeoutError) as error:
        raise ClusterError(
            f"the cluster lost the run's tasks ({error}); is the scheduler still there? "
            "`deepstrata resume` goes on from the last checkpoint"
        ) from None
    return values
