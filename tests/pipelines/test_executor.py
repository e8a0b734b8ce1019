"""Carrying out graphs while schedulers die and other clients are about."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from chaos.outside import Outside
from distributed import Client

from deepstrata.pipelines import cluster, environment
from deepstrata.pipelines.events import Notice, ignore
from deepstrata.pipelines.executor import DaskExecutor
from deepstrata.pipelines.graph import Graph
from deepstrata.schemas.errors import ClusterError

SECONDS = 60


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    """A scheduler and a worker that sets no BLAS threads by itself, as one with a nanny does."""
    outside = Outside(tmp_path, f"{os.getpid()}-executor")
    outside.ensure(1, nanny=False)
    yield outside
    outside.close()


def threads(executor: DaskExecutor) -> set[str]:
    """Return the threads that BLAS has in a task, by a graph of its own."""
    graph = Graph()
    (found,) = executor.execute(graph, [graph.call("blas", (), environment.blas_bits)])
    return {text.rpartition(", ")[2] for text in found.values()}


def start_again(outside: Outside) -> None:
    """Kill the scheduler, and have it and its worker back."""
    (before,) = outside.workers
    outside.kill_scheduler()
    before.wait(SECONDS)  # it ends with its scheduler
    outside.ensure(1, nanny=False)


@pytest.mark.parametrize("ask", [threads, DaskExecutor.workers], ids=["graph", "workers"])
def test_workers_of_a_scheduler_that_came_back_are_prepared(outside: Outside, ask) -> None:
    """Dask's client connects again by itself while nothing runs, and says nothing."""
    said: list[str] = []

    def observe(event: object) -> None:
        if isinstance(event, Notice):
            said.append(event.text)

    with Client(outside.address) as client:
        cluster.check(client)
        executor = DaskExecutor(client, observe)
        assert threads(executor) == {"1 thread(s)"}
        line = client.scheduler_comm
        start_again(outside)
        deadline = time.monotonic() + SECONDS
        while client.scheduler_comm in (None, line):
            assert time.monotonic() < deadline, "the client did not connect again"
            time.sleep(0.05)
        ask(executor)
        assert any("connected to" in text and "again" in text for text in said)
        assert threads(executor) == {"1 thread(s)"}
        executor.close()


def test_a_client_that_gave_up_is_replaced(outside: Outside) -> None:
    """Dask's client closes itself when the scheduler is away for longer than its timeout."""
    with Client(outside.address, timeout=1) as client:
        cluster.check(client)
        executor = DaskExecutor(client, ignore)
        outside.kill_scheduler()
        outside.kill_workers()  # or one may be counted as there, and end a moment later
        deadline = time.monotonic() + SECONDS
        while client.status != "closed":
            assert time.monotonic() < deadline, "the client did not give up"
            time.sleep(0.05)
        outside.ensure(1, nanny=False)
        assert len(executor.everywhere(os.getpid)) == 1
        assert threads(executor) == {"1 thread(s)"}
        executor.close()


def deadly(before: int, note: str) -> str:
    """Kill this process the first time."""
    if not os.path.exists(note):
        Path(note).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def test_a_task_that_was_given_up_is_run_again_while_there_is_progress(tmp_path: Path) -> None:
    graph = Graph()
    first = graph.call("first", (), int)
    last = graph.call("last", (), deadly, first, str(tmp_path / "note"))
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        cluster.connect("local", workers=1) as client,
    ):
        assert DaskExecutor(client, ignore).execute(graph, [first, last]) == [0, "survived"]


def test_no_worker_that_comes_is_said(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(count: int, timeout: float) -> None:
        raise TimeoutError

    executor = DaskExecutor(client, ignore, patience=7)
    monkeypatch.setattr(client, "wait_for_workers", wait)
    monkeypatch.setattr(client, "run", lambda *_, **__: {"tcp://a:1": OSError("gone")})
    with pytest.raises(ClusterError, match="none came within 7 seconds; `deepstrata resume`"):
        executor.everywhere(os.getpid)
