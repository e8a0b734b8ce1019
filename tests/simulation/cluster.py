"""A simulated cluster: workers that run one task at a time, in virtual time, and come and go.

A result lies with the workers that computed or fetched it. One that is lost and still needed is
computed again, and what it depends on if that is gone too, as Dask's scheduler does; one that
nobody needs any more is let go. Time is virtual and drawn, so a slow worker costs nothing.
"""

import heapq
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from deepstrata.pipelines.executor import OnDone
from deepstrata.pipelines.graph import Graph, Ref

from .faults import Death, Schedule
from .processes import Process
from .values import signature

MOST_WORKERS = 4
SLOW = 50.0
#: Share of deaths in a task that take the whole cluster and the client with them.
ALL_DIE = 0.3
Seen = Callable[[Any, dict[Any, Any]], None]


class Impure(AssertionError):
    """A task changed its input, or gave two results."""


class Worker:
    """A process with a name and a speed."""

    def __init__(self, number: int, slow: bool) -> None:
        self.name, self.process = f"worker-{number}", Process()
        self.slowness = SLOW if slow else 1.0


class Late(NamedTuple):
    """A task that its worker still runs when the client that wanted it is gone."""

    worker: Worker
    task: Any
    inputs: dict[Any, Any]


class Cluster:
    """Workers, and the tasks that nobody waits for any more."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.born = schedule, 0
        self.workers: list[Worker] = []
        self.late: list[Late] = []
        for _ in range(schedule.random.randint(1, MOST_WORKERS)):
            self.join()

    def join(self) -> Worker:
        """Start a worker."""
        self.born += 1
        worker = Worker(self.born, self.schedule.strikes("slow worker", f"worker-{self.born}"))
        self.workers.append(worker)
        return worker

    def kill(self, worker: Worker) -> None:
        """End a worker; another is started when none is left, as a nanny does."""
        self.workers.remove(worker)
        self.late = [late for late in self.late if late.worker is not worker]
        if not self.workers:
            self.join()

    def run_late(self) -> Worker | None:
        """Let a worker finish a task that the client of before had wanted; return one that dies."""
        if not self.late or not self.schedule.strikes("late task"):
            return None
        late = self.late.pop(self.schedule.random.randrange(len(self.late)))
        self.schedule.where = late.worker.name
        try:
            with late.worker.process.running():
                late.task(late.inputs)
        except Death:
            return late.worker
        except Exception as error:  # there is nobody left to tell
            self.schedule.note("late task failed", repr(error))
        finally:
            self.schedule.where = "client"
        return None


class SimulatedExecutor:
    """Carries out graphs on a simulated cluster; see ``Executor``."""

    def __init__(self, cluster: Cluster, seen: Seen) -> None:
        self.cluster, self.seen = cluster, seen

    def execute(
        self, graph: Graph, outputs: Sequence[Ref], on_done: OnDone | None = None
    ) -> list[Any]:
        """Compute ``outputs`` and return their values in order."""
        return _Job(self, graph, [ref.key for ref in outputs], on_done).carry_out()

    def everywhere(self, function: Callable[[], Any]) -> dict[str, Any]:
        """Call a function in every worker."""
        found = {}
        for worker in self.cluster.workers:
            with worker.process.running():
                found[worker.name] = function()
        return found

    def workers(self) -> set[str]:
        """Return the names of the workers that are there."""
        return {worker.name for worker in self.cluster.workers}


class _Job:
    """One graph on its way. Tasks go by numbers: a key holds a token that differs each time."""

    def __init__(
        self, executor: SimulatedExecutor, graph: Graph, outputs: list[Any], on_done: OnDone | None
    ) -> None:
        self.cluster, self.seen = executor.cluster, executor.seen
        self.schedule, self.on_done = executor.cluster.schedule, on_done
        self.tasks = list(graph.tasks.values())
        number = {key: i for i, key in enumerate(graph.tasks)}
        self.inputs = [sorted(number[key] for key in task.dependencies) for task in self.tasks]
        self.users: list[list[int]] = [[] for _ in self.tasks]
        for i, inputs in enumerate(self.inputs):
            for j in inputs:
                self.users[j].append(i)
        self.outputs = [number[key] for key in outputs]
        self.place = {i: place for place, i in enumerate(self.outputs)}
        self.values: dict[int, Any] = {}
        self.wanted: dict[int, None] = {}
        self.missing: dict[int, int] = {}
        self.held: dict[int, dict[Worker, Any]] = {}
        self.running: dict[Worker, tuple[int, dict[Any, Any]]] = {}
        self.first: dict[int, Any] = {}
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0

    def carry_out(self) -> list[Any]:
        """Run until every output has arrived."""
        for i in self.place:
            self._want(i)
        try:
            while len(self.values) < len(self.place):
                self._start_tasks()
                self.schedule.time, _, action = heapq.heappop(self.events)
                action()
                self._weather()
        finally:
            for worker, (i, inputs) in self.running.items():
                self.cluster.late.append(Late(worker, self.tasks[i], inputs))
        return [self.values[i] for i in self.outputs]

    def _name(self, i: int) -> str:
        key: Any = self.tasks[i].key
        name, *place = key
        return " ".join([name.rpartition("-")[0], *map(str, place)])

    def _after(self, delay: float, action: Callable[[], None]) -> None:
        self.count += 1
        time = self.schedule.time + delay * self.schedule.random.random()
        heapq.heappush(self.events, (time, self.count, action))

    def _want(self, i: int) -> None:
        """See to it that a task is run, and all that it depends on and that is not there."""
        if i in self.wanted:
            return
        self.wanted[i] = None
        self.missing[i] = 0
        for j in self.inputs[i]:
            if j not in self.held:
                self.missing[i] += 1
                self._want(j)

    def _start_tasks(self) -> None:
        while True:
            idle = [worker for worker in self.cluster.workers if worker not in self.running]
            busy = {i for i, _ in self.running.values()}
            ready = [i for i in self.wanted if not self.missing[i] and i not in busy]
            if not idle or not ready:
                return
            self._start(self.schedule.choose(idle), self.schedule.choose(ready))

    def _start(self, worker: Worker, i: int) -> None:
        inputs = {self.tasks[j].key: self._fetch(worker, j) for j in self.inputs[i]}
        self.running[worker] = i, inputs
        self.schedule.note("starts", worker.name, self._name(i))
        self._after(worker.slowness, lambda: self._finish(worker, i))

    def _fetch(self, worker: Worker, i: int) -> Any:
        """Return a result; a copy of it stays with the worker that asked."""
        holders = self.held[i]
        if worker not in holders:
            value = next(iter(holders.values()))
            holders[worker] = self._sent(value, self._name(i))
        return holders[worker]

    def _sent(self, value: Any, name: str) -> Any:
        if self.schedule.strikes("through pickle", name):
            return pickle.loads(pickle.dumps(value))
        return value

    def _finish(self, worker: Worker, i: int) -> None:
        if self.running.get(worker, (None,))[0] != i:
            return  # it died meanwhile
        _, inputs = self.running[worker]
        try:
            value = self._run(worker, i, inputs)
        except Death:
            if self.schedule.random.random() < ALL_DIE:
                self.running.pop(worker)
                self.cluster.kill(worker)
                self.schedule.dead = True
                raise
            self._lose_worker(worker, "dies of it")
            return
        except Exception:
            self.running.pop(worker)
            raise
        self.running.pop(worker)
        self._store(worker, i, value)

    def _run(self, worker: Worker, i: int, inputs: dict[Any, Any]) -> Any:
        task, name = self.tasks[i], self._name(i)
        checked = self.schedule.strikes("inputs checked", name)
        before = signature(inputs) if checked else b""
        value = self._call(worker, task, inputs)
        if self.schedule.strikes("task twice", name):
            other = self.schedule.choose(self.cluster.workers)
            self._same(name, value, self._call(other, task, inputs))
        if i in self.first:
            self._same(name, self.first[i], value)
        if checked and signature(inputs) != before:
            raise Impure(f"task {name} changed its input")
        self.seen(task, inputs)
        self.first[i] = value
        return value

    def _call(self, worker: Worker, task: Any, inputs: dict[Any, Any]) -> Any:
        self.schedule.where = worker.name
        try:
            with worker.process.running():
                return task(inputs)
        finally:
            self.schedule.where = "client"

    def _same(self, name: str, one: Any, other: Any) -> None:
        if signature(one) != signature(other):
            raise Impure(f"task {name} gave two results")

    def _store(self, worker: Worker, i: int, value: Any) -> None:
        self.held[i] = {worker: value}
        del self.wanted[i]
        for j in self.users[i]:
            if j in self.wanted:
                self.missing[j] -= 1
        for j in self.inputs[i]:
            self._release(j)
        self._release(i)
        if i in self.place and i not in self.values:
            self._after(1.0, lambda: self._deliver(i))

    def _release(self, i: int) -> None:
        """Let a result go that nobody needs."""
        needed = any(j in self.wanted for j in self.users[i])
        if not needed and (i not in self.place or i in self.values):
            self.held.pop(i, None)

    def _deliver(self, i: int) -> None:
        if i in self.values or i not in self.held:
            return  # it was lost on the way and is computed again
        value = self._sent(next(iter(self.held[i].values())), self._name(i))
        self.values[i] = value
        self.schedule.note("arrives", self._name(i))
        self._release(i)
        if self.on_done is not None:
            self.on_done(self.place[i], value)
        self.schedule.step(f"{self._name(i)} has arrived")

    def _lose(self, i: int) -> None:
        """Lose a result everywhere; want it again if somebody needs it."""
        del self.held[i]
        users = [j for j in self.users[i] if j in self.wanted]
        for j in users:
            self.missing[j] += 1
        if users or (i in self.place and i not in self.values):
            self._want(i)

    def _lose_worker(self, worker: Worker, how: str) -> None:
        self.schedule.note(worker.name, how)
        self.running.pop(worker, None)
        self.cluster.kill(worker)
        for i, holders in list(self.held.items()):
            if worker in holders:
                del holders[worker]
                if not holders:
                    self._lose(i)

    def _weather(self) -> None:
        """Let happen what happens to a cluster between two steps."""
        schedule, workers = self.schedule, self.cluster.workers
        if schedule.strikes("worker dies"):
            self._lose_worker(schedule.choose(workers), "dies")
        if len(workers) > 1 and schedule.strikes("worker leaves"):
            self._leave(schedule.choose(workers))
        if len(workers) < MOST_WORKERS and schedule.strikes("worker joins"):
            self.cluster.join()
        if self.held and schedule.strikes("result lost"):
            self._lose(schedule.choose(list(self.held)))
        fallen = self.cluster.run_late()
        if fallen is not None:
            self._lose_worker(fallen, "dies of a late task")

    def _leave(self, worker: Worker) -> None:
        """Let a worker retire: what it alone holds goes to another one first."""
        heir = next(other for other in self.cluster.workers if other is not worker)
        for holders in self.held.values():
            if worker in holders:
                holders.setdefault(heir, holders[worker])
        self._lose_worker(worker, "leaves")
