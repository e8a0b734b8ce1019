"""Writing Dask graphs: a graph is a dict of key -> Task, and a reference to a task is a TaskRef."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from dask.task_spec import Task, TaskRef

from deepstrata.ops import backend

FAN_IN = 8
Ref = TaskRef


@dataclass(frozen=True)
class OnAligned:
    """Calls a function with arguments that do not show whether they came over the network."""

    function: Callable[..., Any]

    @property
    def __name__(self) -> str:
        """The function's, for whoever looks at a task."""
        return self.function.__name__

    def __call__(self, *args: Any) -> Any:
        return self.function(*backend.aligned(args))


class Graph:
    """A graph under construction.

    Keys are ``(name-token, *place)``: the dashboard groups tasks by name, and the token keeps two
    graphs on one cluster apart. Names and places never enter a result.
    """

    def __init__(self) -> None:
        self.tasks: dict[Any, Task] = {}
        self.token = uuid4().hex

    def call(self, name: str, place: tuple[int | str, ...], function: Any, *args: Any) -> Ref:
        """Add ``function(*args)``; arguments that are references become dependencies."""
        key = (f"{name}-{self.token}", *place)
        if key in self.tasks:
            raise ValueError(f"task {name} {place} is in the graph already")
        self.tasks[key] = Task(key, OnAligned(function), *args)
        return TaskRef(key)

    def reduce(
        self,
        name: str,
        place: tuple[int | str, ...],
        merge: Callable[..., Any],
        refs: Sequence[Ref],
        down_to: int = 1,
    ) -> list[Ref]:
        """Merge ``refs`` in a tree of fan-in 8 until at most ``down_to`` are left.

        The tree's shape follows from the number of references alone.
        """
        level = 0
        refs = list(refs)
        while len(refs) > down_to:
            groups = [refs[i : i + FAN_IN] for i in range(0, len(refs), FAN_IN)]
            refs = [
                self.call(name, (*place, level, i), merge, *group) if len(group) > 1 else group[0]
                for i, group in enumerate(groups)
            ]
            level += 1
        return refs
