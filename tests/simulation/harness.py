"""Playing one schedule: run, die, resume, until the run ends; compare with one that never died.

What must be the same: weights, history, metrics, codes, what every stage recorded, every checkpoint
on the way, and which samples each round used.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature as parameters
from time import perf_counter
from traceback import extract_tb
from typing import Any, NamedTuple

import numpy as np
import zarr

from deepstrata.ops.partials import Batch
from deepstrata.pipelines import run as engine
from deepstrata.pipelines.events import Checkpointed, Event
from deepstrata.pipelines.history import history_urls, merge_rows
from deepstrata.pipelines.run import Run
from deepstrata.pipelines.strategies import gradient_task, local_steps_task
from deepstrata.schemas.errors import StorageError
from deepstrata.schemas.keys import Key, fold
from deepstrata.storage import checkpoints, runs, stores
from deepstrata.storage.models import load_model

from . import cases
from .cluster import Cluster, SimulatedExecutor
from .faults import Death, Schedule
from .processes import Process
from .store import Disk
from .world import World

PATH = "sim://run"
MOST_ATTEMPTS = 80
#: Parts of the errors that explain a disk that is full or fails.
EXPLAINED = ("the disk is full", "Input/output error")


class Failure(AssertionError):
    """A schedule ended otherwise than it must."""


class Outcome(NamedTuple):
    """What came of a schedule."""

    seed: int
    failure: str | None
    faults: Counter[str]
    deaths: int
    errors: int
    seconds: float


class Result(NamedTuple):
    """What must be the same after any schedule."""

    weights: str
    fingerprint: str
    metrics: dict[str, float]
    stages: list[Any]
    checkpoints: list[tuple[str, int, str]]
    history: dict[str, Any]
    codes: bytes
    labels: bytes
    model: str
    rows: dict[tuple[int, int, int], tuple[int, ...]]


class Watch:
    """Notes which samples the tasks use, and which checkpoints are said to be there."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.rows: dict[tuple[int, int, int], tuple[int, ...]] = {}
        self.reached: dict[str, tuple[int, str]] = {}

    def task(self, task: Any, inputs: dict[Any, Any]) -> None:
        """Note the samples of a task that learns from some."""
        if getattr(task.func, "__name__", "") not in LEARNING:
            return
        where = LEARNING[task.func.__name__]
        start, stop = task.args[where["rows"]]
        batch = next(value for value in inputs.values() if isinstance(value, Batch))
        _, index, place = task.key
        address = (task.args[where["settings"]].key.seed, index, place)
        rows = tuple(batch.rows[start:stop].tolist())
        if self.rows.setdefault(address, rows) != rows:
            raise Failure(
                f"round {index}, place {place}: samples {self.rows[address]}, then {rows}"
            )

    def event(self, event: Event) -> None:
        """Note a checkpoint; the process may end at any event."""
        if isinstance(event, Checkpointed):
            self.schedule.note("checkpoint", event.training, event.round, event.digest[:8])
            self.reached[event.training] = event.round, event.digest
        self.schedule.step(type(event).__name__)


LEARNING = {
    function.__name__: {name: i for i, name in enumerate(parameters(function).parameters)}
    for function in (gradient_task, local_steps_task)
}


class Player:
    """Plays schedules in one world; keeps what the undisturbed runs gave."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.expected: dict[int, Result] = {}

    def play(self, seed: int, verbose: bool = False) -> Outcome:
        """Play the schedule of a seed."""
        started, schedule = perf_counter(), Schedule(seed, verbose)
        case = schedule.random.randrange(cases.COUNT)
        schedule.note(f"seed {seed}: {cases.pipeline(case).name}", schedule.rates)
        game = Game(self.world, schedule, case)
        failure = None
        try:
            found, expected = game.to_the_end(), self._expected(case)
            failure = _difference(found, expected)
        except Exception as error:
            place = extract_tb(error.__traceback__)[-1]
            where = f"{place.filename.rpartition('/')[2]}:{place.lineno}"
            failure = f"{type(error).__name__} in {where}: {error}"
            if verbose:
                raise
        seconds = perf_counter() - started
        return Outcome(seed, failure, schedule.happened, game.deaths, game.errors, seconds)

    def _expected(self, case: int) -> Result:
        if case not in self.expected:
            result = Game(self.world, Schedule(None), case, rounds=1).to_the_end()
            _each_sample_once(result, cases.pipeline(case))
            _all_finite(result)
            self.expected[case] = result
        return self.expected[case]


class Game:
    """One run and what befalls it."""

    def __init__(
        self, world: World, schedule: Schedule, case: int, rounds: int | None = None
    ) -> None:
        self.world, self.schedule, self.case = world, schedule, case
        self.pipeline, self.watch = cases.pipeline(case, rounds), Watch(schedule)
        self.disk: Disk = world.disk(schedule, renames=schedule.random.random() < 0.5)
        self.cluster = Cluster(schedule)
        self.deaths = self.errors = 0

    def to_the_end(self) -> Result:
        """Run and resume until the run is finished; return what it came to."""
        for _ in range(MOST_ATTEMPTS):
            if self._attempt():
                with self._quiet():
                    return _result(self.watch)
            with self._quiet():
                self._checkpoints_are_there()
        raise Failure(f"not finished after {MOST_ATTEMPTS} attempts")

    def _attempt(self) -> bool:
        """Run or resume once in a new process; tell whether it came to the end."""
        schedule = self.schedule
        schedule.dead, schedule.errors, schedule.where = False, 0, "client"
        try:
            with Process().running():
                self._go()
            return True
        except Death as death:
            self.deaths += 1
            schedule.note("client is dead:", death)
            if schedule.random.random() < 0.5:
                self.cluster = Cluster(schedule)
        except StorageError as error:
            self.errors += 1
            schedule.note("run failed:", error)
            if not schedule.errors:
                raise
            if not any(text in str(error) for text in EXPLAINED):
                raise Failure(f"not explained: {error}") from error
        return False

    def _go(self) -> None:
        there = engine.Cluster(
            SimulatedExecutor(self.cluster, self.watch.task),
            self.world.description,
            {},
            lambda url: None,
        )
        data, observer = self.world.data, self.watch.event
        if not stores.exists(runs.manifest_url(PATH)):
            engine.begin(runs.check_free(PATH), self.pipeline, there, data, observer)
            return
        path = runs.open_run_directory(PATH)
        manifest = runs.read_manifest(path)
        if self.schedule.strikes("other windows"):
            other = cases.pipeline(self.case, self.schedule.random.randint(1, 4))
            manifest = manifest.model_copy(update={"pipeline": other})
        engine.go_on(path, manifest, there, data, observer)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Look at the disk without faults."""
        self.disk.faults, self.schedule.dead = False, False
        try:
            with Process().running():
                yield
        finally:
            self.disk.faults = True

    def _checkpoints_are_there(self) -> None:
        """Check that no checkpoint that was announced is lost to what came after."""
        for name, (index, digest) in self.watch.reached.items():
            (key,) = _keys(name)
            url = stores.join(PATH, "stages", name, key, "checkpoints")
            newest = checkpoints.latest(url)
            if newest is None or newest.round < index:
                raise Failure(f"{name}: checkpoint {index} is lost; newest: {newest}")
            if newest.round == index and newest.digest() != digest:
                raise Failure(f"{name}: checkpoint {index} is another one")


def _keys(name: str) -> list[str]:
    found = stores.children(stores.join(PATH, "stages", name))
    return [key for key in found if not key.startswith("layer-") and "." not in key]


def _result(watch: Watch) -> Result:
    manifest = Run(PATH).manifest
    if manifest.status != "finished" or manifest.error is not None:
        raise Failure(f"ended as {manifest.status!r}: {manifest.error}")
    names = sorted({record.stage for record in manifest.checkpoints})
    urls = {name: stores.join(PATH, "stages", name, *_keys(name)) for name in names}
    _, arrays = load_model(stores.join(PATH, "model"))
    codes = zarr.open_group(stores.join(PATH, "codes.zarr"), mode="r")
    return Result(
        weights=manifest.weights_sha256 or "",
        fingerprint=manifest.fingerprint or "",
        metrics=manifest.metrics,
        stages=[(r.name, r.kind, r.key, r.metrics, r.outputs) for r in manifest.stages],
        checkpoints=sorted((r.stage, r.round, r.digest) for r in manifest.checkpoints),
        history={name: merge_rows(history_urls(url)) for name, url in urls.items()},
        codes=np.asarray(codes["code"]).tobytes(),
        labels=np.asarray(codes["label"]).tobytes(),
        model=checkpoints.tree_digest(arrays),
        rows=watch.rows,
    )


def _difference(found: Result, expected: Result) -> str | None:
    # The undisturbed run stops at every round; others pass some of its checkpoints.
    passed = set(found.checkpoints)
    expected = expected._replace(checkpoints=[c for c in expected.checkpoints if c in passed])
    for name, one, other in zip(Result._fields, found, expected, strict=True):
        if one != other:
            return f"{name} differs: {_first(one, other)}"
    return None


def _first(one: Any, other: Any) -> str:
    """Return the first place where two results part."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        key = next(key for key in one if one[key] != other[key])
        return f"{key}: {_first(one[key], other[key])}"
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        i = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        return f"[{i}]: {_first(one[i], other[i])}"
    return f"{one!r:.300} and not {other!r:.300}"


def _all_finite(result: Result) -> None:
    """Check that what is compared is not NaN everywhere, which would be the same for ever."""
    rows = [row for kinds in result.history.values() for rows in kinds.values() for row in rows]
    numbers = [*result.metrics.values(), *(value for row in rows for value in row.values())]
    if not np.isfinite(numbers).all() or not np.isfinite(np.frombuffer(result.codes, "f4")).all():
        raise Failure("the undisturbed result is not finite")


def _each_sample_once(result: Result, pipeline: Any) -> None:
    """Check that every epoch of every training uses each training sample once."""
    stage_key = [fold(Key(pipeline.seed), "stage", name) for name in ("pretrain", "finetune")]
    names = {fold(stage_key[0], "layer", i).seed: f"pretrain/layer-{i}" for i in range(2)}
    names[stage_key[1].seed] = "finetune"
    used: dict[tuple[str, int], list[int]] = {}
    for (seed, index, _), rows in result.rows.items():
        history = result.history[names[seed]]["round"]
        used.setdefault((names[seed], int(history[index]["epoch"])), []).extend(rows)
    (inspected,) = (metrics for name, _, _, metrics, _ in result.stages if name == "inspect")
    for epoch, samples in used.items():
        if len(set(samples)) != len(samples) or len(samples) != inspected["train_samples"]:
            raise Failure(f"{epoch}: samples are not used once: {sorted(samples)}")
    if len(used) != 4 or len({frozenset(samples) for samples in used.values()}) != 1:
        raise Failure(f"expected the same samples in 4 epochs, found {used}")
