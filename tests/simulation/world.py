"""What has to be put in the place of the real things while schedules are played.

zarr-python runs its coroutines in a thread of its own and compresses in others. Nothing in the
simulation ever waits, so they are run where they are called: in one order, and twice as fast.
"""

import asyncio
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import xarray as xr
import zarr.core.sync

from deepstrata.pipelines import environment, sources
from deepstrata.storage import writing
from deepstrata.storage.layout import Layout
from deepstrata.storage.readers import reader

from . import cases
from .faults import Death, Schedule
from .store import Disk, SimulatedFileSystem, register

#: What zarr-python says of strays that torn writes leave.
STRAY = "Object at .* is not recognized"


async def _inline(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _nothing(*_: Any) -> None:
    """Say nothing."""


def _unless_coroutine(unraisable: Any) -> None:
    if not asyncio.iscoroutine(unraisable.object):
        sys.__unraisablehook__(unraisable)


async def _all(tasks: set[Any]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


class World:
    """One data set, one event loop, one description of the environment for all schedules."""

    def __init__(self) -> None:
        self.data = cases.dataset()
        self.rows = cases.Rows({name: v.values for name, v in self.data.variables.items()})
        self.loop = asyncio.new_event_loop()
        self.description: dict[str, Any] = {}
        self.stored: Any = None

    def run(self, coroutine: Any, loop: Any) -> Future[Any]:
        """Run a coroutine to its end; in place of ``asyncio.run_coroutine_threadsafe``."""
        future: Future[Any] = Future()
        try:
            future.set_result(self.loop.run_until_complete(coroutine))
        except Death:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            raise
        finally:
            rest = asyncio.all_tasks(self.loop)
            if rest:
                self.loop.run_until_complete(_all(rest))
        return future

    def reader(self, source: Any, dataset: xr.Dataset, names: Any = ()) -> Any:
        """Return a reader of arrays in memory where the source is a dataset."""
        return reader(source, dataset, names) if source.kind == "zarr" else self.rows

    def disk(self, schedule: Schedule, renames: bool) -> Disk:
        """Return a disk that holds the data, and give it to the file system."""
        disk = SimulatedFileSystem.disk = Disk(schedule, renames)
        if self.stored is not None:
            disk.root["data.zarr"] = self.stored
        return disk

    @contextmanager
    def entered(self) -> Iterator["World"]:
        """Play schedules inside."""
        with ExitStack() as stack:
            self._put_in_place(stack)
            yield self

    def enter(self) -> "World":
        """Play schedules from now until the process ends."""
        self._put_in_place(ExitStack())
        return self

    def _put_in_place(self, stack: ExitStack) -> None:
        members: dict[str, Any] = {str(name): value for name, value in vars(asyncio).items()}
        threaded = SimpleNamespace(**(members | {"run_coroutine_threadsafe": self.run}))
        limits = environment.limit_blas(1)
        stack.callback(limits.restore_original_limits)
        stack.callback(self.loop.close)
        stack.enter_context(patch.object(zarr.core.sync, "asyncio", threaded))
        stack.enter_context(patch.object(asyncio, "to_thread", _inline))
        stack.enter_context(patch.object(sources, "reader", self.reader))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=STRAY)
        # A death cuts coroutines off before they begin, and tasks before they are asked.
        stack.enter_context(patch.object(warnings, "_warn_unawaited_coroutine", _nothing))
        stack.enter_context(patch.object(sys, "unraisablehook", _unless_coroutine))
        self.loop.set_exception_handler(_nothing)
        register()
        self.description = environment.describe()
        disk = self.disk(Schedule(None), renames=True)
        layout = Layout(cases.SHARD, cases.SHARD)
        writing.write_dataset(self.data, cases.STORE, layout=layout)
        self.stored = disk.root["data.zarr"]
