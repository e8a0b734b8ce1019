"""What benchmarks share: options, interleaved repetitions, work in several processes, tables."""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, NamedTuple

from deepstrata.pipelines import environment

Contender = Callable[[], float]
"""Works once and returns a rate."""
Rates = dict[str, list[float]]
"""Of each contender, one of every repetition."""
Work = Callable[..., float]
"""Works once and returns how much was done: examples, bytes."""

DROP_CACHES = "/proc/sys/vm/drop_caches"


class Spent(NamedTuple):
    """What some processes did at the same time."""

    units: float
    seconds: float
    """From the first to begin to the last to end."""
    cores: float
    """Processor seconds a second, of all of them."""

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.units / self.seconds


def parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="small: that it runs, not how fast")
    made.add_argument("--repeats", type=int, help=f"by default {repeats}, quick 1")
    made.add_argument("--folder", help="where to make temporary files; the system's by default")
    return made


def repeats(given: argparse.Namespace, default: int) -> int:
    """Return how often to measure."""
    return given.repeats or (1 if given.quick else default)


def begin(title: str) -> None:
    """Fix one BLAS thread and say on which machine, and beside what load, this is measured."""
    environment.limit_blas(1)
    blas = environment.blas_bits()["blas of numpy"]
    print(f"{title}\n{os.cpu_count()} cores, {blas}, load {load()}", flush=True)


def load() -> str:
    """Return the machine's load of the last minute."""
    return f"{os.getloadavg()[0]:.2f}"


def end() -> None:
    """Say what the load has become."""
    print(f"load at the end {load()}\n", flush=True)


def drop_caches() -> None:
    """Forget what files hold, so that the next reading comes from the disk."""
    os.sync()
    with open(DROP_CACHES, "w") as file:
        file.write("1")


def can_drop_caches(given: argparse.Namespace) -> bool:
    """Tell whether to read cold: the machine allows it and it is worth it; if not, say so."""
    allowed = os.access(DROP_CACHES, os.W_OK) and not given.quick
    if not allowed:
        print(f"warm only: {DROP_CACHES} cannot be written, or --quick")
    return allowed


def timed(work: Work) -> Contender:
    """Turn work into a contender: what it does a second."""

    def go() -> float:
        start = time.perf_counter()
        return work() / (time.perf_counter() - start)

    return go


def interleaved(contenders: Mapping[str, Contender], count: int) -> Rates:
    """Measure all in turn, ``count`` times, so that a machine whose speed drifts is fair."""
    rates: Rates = {name: [] for name in contenders}
    for _ in range(count):
        for name, work in contenders.items():
            rates[name].append(work())
    return rates


def ratio(rates: Rates, above: str, below: str) -> float:
    """Return the median of the ratios of neighbouring repetitions."""
    pairs = zip(rates[above], rates[below], strict=True)
    return statistics.median(a / b for a, b in pairs)


def figure(value: Any) -> str:
    """Return a cell of a table: three digits of a number, text as it is, a dash for nothing."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if not math.isfinite(value) or value == 0:
        return str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}"


def show(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: the first column names things, the others are figures."""
    cells = [list(head), *([figure(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        first, *rest = zip(row, widths, strict=True)
        text = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        print("  " + "  ".join(text).rstrip(), flush=True)
    print()


def show_rates(what: str, rates: Rates) -> None:
    """Print median and range of each contender."""
    rows = [(n, statistics.median(r), min(r), max(r)) for n, r in rates.items()]
    show((f"median of {len(next(iter(rates.values())))}", what, "least", "greatest"), rows)


def show_ratios(rates: Rates, pairs: Sequence[tuple[str, str]]) -> None:
    """Print the ratios of contenders that were measured."""
    there = [(a, b) for a, b in pairs if a in rates and b in rates]
    show(("ratio", "median"), [(f"{a} / {b}", ratio(rates, a, b)) for a, b in there])


class Together:
    """Processes that do the same kind of work at the same time, whenever they are told to."""

    def __init__(self, count: int, make: Callable[..., Work], *args: Any) -> None:
        """Start ``count`` processes; each calls ``make(place, *args)`` once for its work."""
        context = get_context("spawn")
        barrier = context.Barrier(count)
        self._pipes, self._processes = [], []
        with _environ(environment.ALLOCATOR):
            for place in range(count):
                mine, theirs = context.Pipe()
                process = context.Process(
                    target=_serve, args=(theirs, barrier, make, place, *args), daemon=True
                )
                process.start()
                theirs.close()
                self._pipes.append(mine)
                self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def __call__(self, *args: Any) -> Spent:
        """Have each of them call its work with ``args`` once."""
        for pipe in self._pipes:
            pipe.send(args)
        units, starts, stops, busy = zip(*(pipe.recv() for pipe in self._pipes), strict=True)
        seconds = max(stops) - min(starts)
        return Spent(sum(units), seconds, sum(busy) / seconds)

    def close(self) -> None:
        """End the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join()


@contextmanager
def _environ(settings: Mapping[str, str]) -> Iterator[None]:
    """Set variables for processes that are started inside."""
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(pipe: Any, barrier: Any, make: Callable[..., Work], place: int, *args: Any) -> None:
    """Be one of the processes: work whenever something is sent, end when the pipe is closed."""
    environment.limit_blas(1)
    work = make(place, *args)
    pipe.send(True)
    try:
        while True:
            given = pipe.recv()
            barrier.wait()
            start, cpu = time.perf_counter(), time.process_time()
            units = work(*given)
            stop = time.perf_counter()
            pipe.send((units, start, stop, time.process_time() - cpu))
    except EOFError:
        pipe.close()
