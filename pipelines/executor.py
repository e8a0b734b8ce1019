"""Handing graphs to a cluster, again and again if it must be, and turning its failures into words.

A graph leads from files to outputs and its tasks are pure, so it may be handed over as often as a
scheduler dies: what has arrived is kept, the rest is computed again with the same bits.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from distributed import CancelledError, Client, Future, KilledWorker, TimeoutError, as_completed
from distributed.client import ClosedClientError
from distributed.comm.core import CommClosedError

from deepstrata.pipelines import cluster
from deepstrata.pipelines.events import Notice, Observer
from deepstrata.pipelines.graph import Graph, Ref
from deepstrata.schemas.errors import ClusterError

PATIENCE = 300.0  #: seconds for which a scheduler that somebody else started may be away
RETRY_SECONDS = 2.0
FORGET_SECONDS = 0.01
OnDone = Callable[[int, Any], None]


class Executor(Protocol):
    """What carries out graphs: a Dask cluster; in tests also a simulated one."""

    def execute(
        self, graph: Graph, outputs: Sequence[Ref], on_done: OnDone | None = None
    ) -> list[Any]:
        """Compute ``outputs`` and return their values in order.

        Parameters
        ----------
        on_done
            Called once with the place and the value of every output as it arrives, in any order.

        Raises
        ------
        ClusterError
            Workers died again and again under one task, or the scheduler went away for good.
        Exception
            Whatever a task raised.
        """
        ...

    def everywhere(self, function: Callable[[], Any]) -> dict[str, Any]:
        """Call a function in every worker; return what it gave by the worker's address."""
        ...

    def workers(self) -> set[str]:
        """Return the addresses of the workers that are there."""
        ...


class Workers:
    """Notices workers that come and go."""

    def __init__(self, executor: Executor, observer: Observer) -> None:
        self.executor, self.observer = executor, observer
        self.known = executor.workers()

    def look(self) -> None:
        """Tell the observer of workers that have gone or come since the last look."""
        now = self.executor.workers()
        for address in sorted(self.known - now):
            self.observer(Notice(f"worker {address} is gone; what it held is computed again"))
        for address in sorted(now - self.known):
            self.observer(Notice(f"worker {address} has joined"))
        self.known = now


class _Lost(Exception):
    """The scheduler is gone, and the tasks with it."""


class DaskExecutor:
    """Carries out graphs on a Dask cluster; waits for a scheduler of somebody else's to return."""

    def __init__(self, client: Client, observer: Observer, patience: float = PATIENCE) -> None:
        self.client, self.observer, self.patience = client, observer, patience
        self.address = cluster.address_of(client)
        self._own: Client | None = None
        self._line = client.scheduler_comm

    def close(self) -> None:
        """Close the connection that replaced a lost one; the first belongs to its owner."""
        if self._own is not None:
            with suppress(OSError, TimeoutError):
                self._own.close()

    def execute(
        self, graph: Graph, outputs: Sequence[Ref], on_done: OnDone | None = None
    ) -> list[Any]:
        """Compute ``outputs`` and return their values in order; see ``Executor.execute``."""
        keys = [ref.key for ref in outputs]
        values: dict[Any, Any] = {}
        arrived = -1
        while len(values) < len(set(keys)):
            try:
                self._collect(graph, keys, values, on_done)
            except KilledWorker as error:
                if len(values) == arrived:
                    raise ClusterError(_killed(error)) from None
                arrived = len(values)  # there is progress between the deaths: not the task's fault
            except _Lost:
                self._reconnect()
        return [values[key] for key in keys]

    def _is_lost(self) -> bool:
        """Tell whether the connection has been replaced since the workers were prepared.

        A client connects again by itself, without a word, to a scheduler that was started anew; the
        workers of that one have neither been checked nor been told to use one BLAS thread.
        """
        return self.client.scheduler_comm is not self._line

    def _collect(
        self, graph: Graph, keys: list[Any], values: dict[Any, Any], on_done: OnDone | None
    ) -> None:
        """Hand over the graph and take what arrives of the outputs that are missing."""
        place = {key: i for i, key in enumerate(keys)}
        if self._is_lost():
            raise _Lost
        try:
            futures = self.client.get(
                graph.tasks, [key for key in place if key not in values], sync=False
            )
            for future, value in as_completed(futures, loop=self.client.loop, with_results=True):
                if isinstance(value, CancelledError) or self._is_lost():
                    raise _Lost
                values[future.key] = value
                if on_done is not None:
                    on_done(place[future.key], value)
        except KilledWorker:
            self._forget(futures)
            raise
        except (CancelledError, CommClosedError, ClosedClientError) as error:
            raise _Lost from error

    def _forget(self, futures: list[Future[Any]]) -> None:
        """Let go of futures; while one is held its key is failed, and never computed again."""
        for future in futures:
            future.release()
        keys = {future.key for future in futures}
        while not keys.isdisjoint(self.client.futures) and not self._is_lost():
            time.sleep(FORGET_SECONDS)

    def everywhere(self, function: Callable[[], Any]) -> dict[str, Any]:
        """Call a function in every worker; see ``Executor.everywhere``."""
        while True:
            self._attend()
            try:
                found = self.client.run(function, on_error="return")
            except (CommClosedError, TimeoutError, OSError):
                self._reconnect()
                continue
            # A worker that dies while it is asked has nothing to say.
            said = {a: v for a, v in found.items() if not isinstance(v, OSError)}
            for value in said.values():
                if isinstance(value, Exception):
                    raise value
            if said:
                return said
            self._await_worker()

    def _await_worker(self) -> None:
        """Wait for a worker; return without one if the scheduler goes away meanwhile.

        Raises
        ------
        ClusterError
            None comes in time.
        """
        try:
            self.client.wait_for_workers(1, timeout=self.patience)
        except TimeoutError:
            raise ClusterError(
                f"all workers of {self.address} are gone, and none came within "
                f"{self.patience:.0f} seconds; `deepstrata resume` goes on from the last checkpoint"
            ) from None
        except OSError:
            return

    def workers(self) -> set[str]:
        """Return the addresses of the workers that are there."""
        self._attend()
        return set(self.client.scheduler_info(n_workers=-1)["workers"])

    def _attend(self) -> None:
        """Connect anew if the connection is not the one whose workers were prepared."""
        if self._is_lost():
            self._reconnect()

    def _reconnect(self) -> None:
        """Connect again to a scheduler that was started anew at the same address.

        Raises
        ------
        ClusterError
            It was this process's own, or it does not come back in time.
        """
        gone = f"the scheduler at {self.address} is gone, and the run's tasks with it"
        again = "`deepstrata resume` goes on from the last checkpoint"
        if self.client.cluster is not None:
            raise ClusterError(f"{gone}; {again}")
        patience = f"{self.patience:.0f} seconds"
        self.observer(Notice(f"{gone}; waiting up to {patience} for it to come back"))
        end = time.monotonic() + self.patience
        while (found := self._connected(end)) is None:
            if time.monotonic() > end:
                raise ClusterError(
                    f"{gone}, and it did not come back with a worker within {patience}; {again}"
                )
            time.sleep(RETRY_SECONDS)
        self.close()
        self.client = self._own = found
        self._line = found.scheduler_comm
        self.observer(Notice(f"connected to {self.address} again; what is missing is computed"))

    def _connected(self, end: float) -> Client | None:
        """Return a client of the scheduler if it is there, with a checked worker before ``end``."""
        try:
            client = Client(self.address, security=self.client.security, timeout=RETRY_SECONDS)
        except (OSError, TimeoutError):
            return None
        try:
            client.wait_for_workers(1, timeout=max(end - time.monotonic(), RETRY_SECONDS))
            cluster.check(client, self.observer)
        except (OSError, TimeoutError):
            client.close()
            return None
        except BaseException:
            client.close()
            raise
        return client


def _killed(error: KilledWorker) -> str:
    """Say what is known of workers that died under one task."""
    last = error.last_worker
    limit, used = last.memory_limit, last.metrics.get("memory", 0)
    memory = ""
    if limit:
        memory = f" (limit {limit / 2**30:.2f} GiB, {used / 2**30:.2f} GiB when last heard of)"
    return (
        f"task {_named(error.task)} was given up: {error.allowed_failures + 1} workers died "
        f"while they ran it, the last one at {last.address}{memory}. Most often a worker needs "
        "more memory than it has: see `deepstrata plan`, use fewer shards a round or smaller "
        "shards, or give workers more memory"
    )


def _named(key: Any) -> str:
    """Return the name and place of a task, without the token that keeps graphs apart."""
    if isinstance(key, tuple):
        return " ".join([str(key[0]).rpartition("-")[0], *map(str, key[1:])])
    return repr(key)
