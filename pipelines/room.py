"""Whether a worker has room for what a task is about to read.

A worker that takes more memory than it may is killed by its nanny or its system, without a word of
what it was doing. So a task that would go beyond the limit says so instead.
"""

import mmap
from pathlib import Path
from typing import Any, NamedTuple

from deepstrata.schemas.errors import ClusterError
from deepstrata.storage.shards import Shard

MIB = 1 << 20


class Room(NamedTuple):
    """What is known of the worker in this process."""

    worker: str = "this process"
    limit: int | None = None
    """Bytes it may take; None where nothing limits it."""


_room = Room()


def set_room(worker: Any) -> None:
    """Remember the limit of a Dask worker that runs in this process."""
    global _room
    limit = getattr(getattr(worker, "memory_manager", None), "memory_limit", None)
    _room = Room(str(worker.address), limit or None)


def used_bytes() -> int:
    """Return the resident size of this process; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * mmap.PAGESIZE


def check(shard: Shard, need: int) -> None:
    """Check that ``need`` bytes more, to read a shard, stay within the worker's limit.

    Raises
    ------
    ClusterError
        They do not; worker, shard, need, use and limit are named.
    """
    limit = _room.limit
    if limit is None or need + (used := used_bytes()) <= limit:
        return
    raise ClusterError(
        f"worker {_room.worker}: shard {shard.index} (samples {shard.start} to {shard.stop - 1}) "
        f"needs {need / MIB:,.0f} MiB, and {used / MIB:,.0f} of the worker's {limit / MIB:,.0f} "
        "MiB are in use; `deepstrata plan` says what a run takes: cut smaller shards "
        "(source.rows_per_shard, `deepstrata rechunk`), declare fewer places (strategy.shards), or "
        "give workers more memory"
    )
