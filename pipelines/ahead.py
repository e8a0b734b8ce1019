"""Reading ahead: a thread of each process reads what the next load task of a place will take.

A load task starts the next read of its place, which then goes on while the tasks that follow
compute. What is read ahead is only kept for sooner use: a load task that finds nothing (its place
has moved to another process) reads by itself, and gets the same.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple

from deepstrata.pipelines.meter import measure, unmeasured

THREADS = 2


class Read(NamedTuple):
    """A read that may be done before it is asked for: ``function(*arguments)``."""

    window: str
    """Token of the graph it belongs to."""
    place: tuple[int, ...]
    """Unique within the graph."""
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def now(self) -> Any:
        """Read."""
        return self.function(*self.arguments)


_readers = ThreadPoolExecutor(THREADS, thread_name_prefix="deepstrata-read")
_begun: dict[tuple[str, tuple[int, ...]], Future[Any]] = {}
_lock = Lock()


def take(this: Read, following: Read | None, done: Any = None) -> Any:
    """Return what ``this`` reads, and begin to read what follows.

    Parameters
    ----------
    done
        Anything: what must be computed before (so that a place holds two reads at most).
    """
    with _lock:
        found = _begun.pop((this.window, this.place), None)
    if found is None:
        value = this.now()
    else:
        with measure("wait"):
            value = found.result()
    if following is not None:
        _begin(following)
    return value


def _begin(read: Read) -> None:
    address = (read.window, read.place)
    with _lock:
        for other in [key for key in _begun if key[0] != read.window]:
            del _begun[other]  # of a window that is over: nobody came for it
        if address not in _begun:
            _begun[address] = _readers.submit(_aside, read)


def _aside(read: Read) -> Any:
    with unmeasured():
        return read.now()
