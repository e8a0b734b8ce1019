"""Seconds that this process spent computing, and waiting for data; never part of a result."""

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, local

_seconds: dict[str, float] = defaultdict(float)
_lock = Lock()
_thread = local()


@contextmanager
def measure(what: str) -> Iterator[None]:
    """Add the time spent in the block to this process's account of ``what``."""
    if getattr(_thread, "aside", False):
        yield
        return
    start = time.perf_counter()
    try:
        yield
    finally:
        spent = time.perf_counter() - start
        with _lock:
            _seconds[what] += spent


@contextmanager
def unmeasured() -> Iterator[None]:
    """Leave what this thread does in the block out of the account: no task waits for it."""
    _thread.aside = True
    try:
        yield
    finally:
        _thread.aside = False


def seconds() -> dict[str, float]:
    """Return the account of this process so far."""
    with _lock:
        return dict(_seconds)


def peak_bytes() -> int:
    """Return the largest resident size this process has had."""
    status = Path("/proc/self/status")
    if status.exists():
        # What ``getrusage`` says on Linux includes the parent's size when this process was forked.
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
