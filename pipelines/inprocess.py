"""Threads of this process in place of a cluster: for data so small that to start one costs more.

No scheduler, no messages, no open port; shards, keys and reductions are those of any cluster, and
so are the bits.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dask import threaded
from dask.callbacks import Callback

from deepstrata.pipelines import environment
from deepstrata.pipelines.executor import OnDone
from deepstrata.pipelines.graph import Graph, Ref
from deepstrata.pipelines.run import Cluster

ADDRESS = "this process"


class ThreadExecutor:
    """Carries out graphs on threads of this process; see ``Executor``."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def execute(
        self, graph: Graph, outputs: Sequence[Ref], on_done: OnDone | None = None
    ) -> list[Any]:
        """Compute ``outputs`` and return their values in order; see ``Executor.execute``."""
        keys = [ref.key for ref in outputs]
        place = {key: i for i, key in enumerate(keys)}

        def arrived(key: Any, value: Any, *_: Any) -> None:
            if on_done is not None and key in place:
                on_done(place[key], value)

        with Callback(posttask=arrived):
            return list(threaded.get(graph.tasks, keys, num_workers=self.threads))

    def everywhere(self, function: Callable[[], Any]) -> dict[str, Any]:
        """Call a function here; see ``Executor.everywhere``."""
        return {ADDRESS: function()}

    def workers(self) -> set[str]:
        """Return the one address there is."""
        return {ADDRESS}


@contextmanager
def in_process(threads: int | None = None) -> Iterator[Cluster]:
    """Yield threads of this process as ``run`` takes a cluster.

    Parameters
    ----------
    threads
        One for each core by default. BLAS has one thread meanwhile, as on every worker.
    """
    threads = threads or os.cpu_count() or 1
    with environment.limit_blas(1):
        notes = {"scheduler": ADDRESS, "workers": "1", "threads": str(threads)}
        yield Cluster(ThreadExecutor(threads), environment.describe(), notes, _is_shared)


def _is_shared(url: str) -> None:
    """Accept any place: the only worker is this process."""
