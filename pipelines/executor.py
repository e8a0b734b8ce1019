"""Handing graphs to a cluster and turning its failures into words."""

from collections.abc import Callable, Sequence
from typing import Any

from distributed import CancelledError, Client, KilledWorker, TimeoutError, as_completed

from deepstrata.pipelines.events import Notice, Observer
from deepstrata.pipelines.graph import Graph, Ref
from deepstrata.schemas.errors import ClusterError


class Workers:
    """Notices workers that come and go."""

    def __init__(self, client: Client, observer: Observer) -> None:
        self.client, self.observer = client, observer
        self.known = self._now()

    def _now(self) -> set[str]:
        return set(self.client.scheduler_info(n_workers=-1)["workers"])

    def look(self) -> None:
        """Tell the observer of workers that have gone or come since the last look."""
        now = self._now()
        for address in sorted(self.known - now):
            self.observer(Notice(f"worker {address} is gone; what it held is computed again"))
        for address in sorted(now - self.known):
            self.observer(Notice(f"worker {address} has joined"))
        self.known = now


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
        for future, value in as_completed(futures, loop=client.loop, with_results=True):
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
