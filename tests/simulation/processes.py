"""Processes of a simulated cluster: what a real process keeps in memory between tasks.

Modules of the package keep caches. In the simulation all processes are one, so each has caches of
its own, put in place while it runs; a process that dies takes them with it.
"""

import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from copy import deepcopy
from functools import _lru_cache_wrapper, lru_cache
from types import ModuleType
from typing import Any

CONTAINERS = (dict, list, set, deque, OrderedDict, defaultdict)
#: Caches of what never changes while Python runs.
CONSTANT = {"code_digest"}


class Inline(Executor):
    """Does at once what is handed over, in place of a pool of threads."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call ``fn`` and return its result or error as a future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _modules() -> list[ModuleType]:
    return [
        module
        for name, module in sorted(sys.modules.items())
        if name.startswith("deepstrata.") and module is not None
    ]


def _is_cache(name: str, value: Any) -> bool:
    if isinstance(value, _lru_cache_wrapper):
        return name not in CONSTANT
    private = name.startswith("_") and not name.startswith("__") and name.islower()
    return private and isinstance(value, (*CONTAINERS, Executor))


def _caches() -> list[tuple[ModuleType, str, Any]]:
    return [
        (module, name, value)
        for module in _modules()
        for name, value in sorted(vars(module).items())
        if _is_cache(name, value)
    ]


def _fresh(value: Any) -> Any:
    if isinstance(value, _lru_cache_wrapper):
        return lru_cache(**value.cache_parameters())(value.__wrapped__)
    return Inline() if isinstance(value, Executor) else deepcopy(value)


class Process:
    """The caches of one process, empty when it is started."""

    def __init__(self) -> None:
        if not _PRISTINE:
            _PRISTINE.extend(_caches())
        self.caches = [(module, name, _fresh(value)) for module, name, value in _PRISTINE]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run what is inside in this process."""
        before = [getattr(module, name) for module, name, _ in self.caches]
        for module, name, value in self.caches:
            setattr(module, name, value)
        try:
            yield
        finally:
            # What was bound anew inside belongs to this process.
            self.caches = [(m, n, getattr(m, n)) for m, n, _ in self.caches]
            for (module, name, _), value in zip(self.caches, before, strict=True):
                setattr(module, name, value)


_PRISTINE: list[tuple[ModuleType, str, Any]] = []
