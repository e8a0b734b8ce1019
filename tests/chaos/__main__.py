"""``python -m tests.chaos --runs 100 --seed 0``: kill runs at random, expect the same bits.

Every run ends with the weights, history, codes and metrics of an undisturbed reference, or is
reported: it differs, hangs, ended with an error, or left processes behind. ``--seed N --runs 1``
replays a run.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from .play import Outcome, Stage, deepstrata
from .processes import forked, kill, tagged, waited
from .schedule import FIXED, KINDS, Schedule, draw
from .summary import line, summary
from .work import PIPELINE, REFERENCE, prepare


def main() -> int:
    """Run a campaign; return 1 if anything was not as promised."""
    arguments = _arguments()
    folder = Path(arguments.work or tempfile.mkdtemp(prefix="deepstrata-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    tag = f"{os.getpid()}-"
    started = time.monotonic()
    outcomes = []
    try:
        length = _reference(folder, arguments.epochs, tag)
        print(f"reference: {length:.1f} s on one thread; work in {folder}", flush=True)
        for outcome in _outcomes(arguments, folder, tag, length):
            outcomes.append(outcome)
            print(line(outcome), flush=True)
            if arguments.minutes and time.monotonic() - started > 60 * arguments.minutes:
                break
    finally:
        for process in tagged(tag):
            kill(process.pid)
    print(summary(outcomes, time.monotonic() - started), flush=True)
    bad = [outcome for outcome in outcomes if outcome.fault]
    if not bad and not arguments.work:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if bad else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--minutes", type=float, help="begin no run after so long")
    parser.add_argument("--deadline", type=float, default=300.0, help="seconds; longer is hanging")
    parser.add_argument("--epochs", type=int, default=24, help="of each training")
    parser.add_argument("--fixed", action="store_true", help="the four runs of the tests instead")
    parser.add_argument("--work", help="directory to keep; by default a temporary one")
    return parser.parse_args()


def _reference(folder: Path, epochs: int, tag: str) -> float:
    """Make data, pipeline and the run that all others are compared with; return its seconds."""
    log = folder / "reference.log"
    words = ["run", str(folder / PIPELINE), "--out", str(folder / REFERENCE)]
    words += ["--cluster", "threads", "--workers", "1"]
    # Both in processes of their own: they start threads, and from here processes are forked.
    for function in (lambda: prepare(folder, epochs), lambda: deepstrata(words)):
        started = time.monotonic()
        code = waited(forked(function, log, f"{tag}reference"), 300)
        if code:
            raise RuntimeError(f"the reference ended with status {code}:\n{log.read_text()}")
    return time.monotonic() - started


def _outcomes(
    arguments: argparse.Namespace, folder: Path, tag: str, length: float
) -> Iterator[Outcome]:
    """Play the schedules, in as many processes as there are to be jobs."""
    if arguments.fixed:
        schedules = list(FIXED)
    else:
        schedules = [draw(arguments.seed + i) for i in range(arguments.runs)]
    # The tests have no time to measure an undisturbed run of every kind.
    lengths = dict.fromkeys(KINDS, length) if arguments.fixed else {}
    jobs = max(1, arguments.jobs)
    stages = [
        Stage(folder / f"job-{i}", folder, tag, arguments.deadline, dict(lengths))
        for i in range(jobs)
    ]
    if jobs == 1:
        yield from stages[0].series(schedules)
        return
    context = get_context("fork")
    queue: SimpleQueue[Outcome] = context.SimpleQueue()
    for i, stage in enumerate(stages):
        work = (queue, stage, schedules[i::jobs])
        context.Process(target=_feed, args=work, daemon=True).start()
    for _ in schedules:
        yield queue.get()


def _feed(queue: "SimpleQueue[Outcome]", stage: Stage, schedules: list[Schedule]) -> None:
    for outcome in stage.series(schedules):
        queue.put(outcome)


if __name__ == "__main__":
    sys.exit(main())
