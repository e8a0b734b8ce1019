"""Ctrl-C for a process with a cluster of its own: it is told, the workers are not."""

import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any

from distributed import Client

from deepstrata.pipelines import cluster as clusters


@contextmanager
def connected(cluster: str, workers: int | None, **settings: Any) -> Iterator[Client]:
    """Yield a client as ``cluster.connect`` does, and keep its workers quiet after Ctrl-C."""
    if cluster not in clusters.KINDS:
        with clusters.connect(cluster, workers, **settings) as client:
            yield client
        return
    with ExitStack() as stack:
        with workers_ignore_interrupts():
            client = stack.enter_context(clusters.connect(cluster, workers, **settings))
        try:
            yield client
        except KeyboardInterrupt:
            # The cluster is closed in the middle of its work: what it says of that is no news.
            logging.disable(logging.CRITICAL)
            with suppress(OSError):  # a worker that is gone is silent
                client.run(_fall_silent, wait=False)
            raise


async def _fall_silent() -> None:
    """Log no more in this process."""
    logging.disable(logging.CRITICAL)


@contextmanager
def workers_ignore_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started inside, now or later, by threads begun there.

    A terminal sends it to every process of the job: workers would die of it, each with a traceback,
    before this process could bring the run to an orderly end. Threads and processes inherit the
    signals that are blocked where they are started; here they are unblocked again, and an interrupt
    that came meanwhile is delivered then.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # otherwise multiprocessing unblocks them when it starts it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
