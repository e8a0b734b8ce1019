"""Playing many schedules, in one process or several, and saying what came of them."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from .harness import Outcome, Player
from .world import World

REPORT_SECONDS = 15.0
CHUNK = 20  #: schedules that a process is given at a time


def replay(seed: int) -> str:
    """Return the command that plays a schedule again."""
    return f"python -m tests.simulation --seed {seed} --verbose"


def play(seeds: Iterable[int]) -> Iterator[Outcome]:
    """Play schedules in this process."""
    with World().entered() as world:
        player = Player(world)
        for seed in seeds:
            yield player.play(seed)


_player: list[Player] = []  # of a process that plays chunk after chunk


def _enter() -> None:
    _player.append(Player(World().enter()))


def _chunk(seeds: range) -> list[Outcome]:
    return [_player[0].play(seed) for seed in seeds]


def play_on(seeds: range, jobs: int) -> Iterator[Outcome]:
    """Play schedules in several processes; they arrive in any order."""
    if jobs == 1:
        yield from play(seeds)
        return
    chunks = [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]
    with multiprocessing.get_context("spawn").Pool(jobs, _enter) as pool:
        for outcomes in pool.imap_unordered(_chunk, chunks):
            yield from outcomes


def watch(outcomes: Iterable[Outcome], count: int) -> list[Outcome]:
    """Collect outcomes; print those that failed, and from time to time how many there are."""
    started = told = time.monotonic()
    found: list[Outcome] = []
    for outcome in outcomes:
        found.append(outcome)
        if outcome.failure is not None:
            print(f"seed {outcome.seed} FAILED: {outcome.failure}\n  {replay(outcome.seed)}")
        now = time.monotonic()
        if now - told > REPORT_SECONDS:
            told = now
            print(f"{len(found)} of {count} schedules, {now - started:.0f} s", flush=True)
    return found


def summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return what came of many schedules, as a table."""
    faults = sum((outcome.faults for outcome in outcomes), Counter[str]())
    deaths, errors = sum(o.deaths for o in outcomes), sum(o.errors for o in outcomes)
    rows = [
        ("schedules", len(outcomes)),
        *((f"  {kind}", count) for kind, count in sorted(faults.items())),
        ("deaths of the client", deaths),
        ("runs ended by an error", errors),
        ("resumes", deaths + errors),
        ("differing", sum(outcome.failure is not None for outcome in outcomes)),
        ("seconds", round(seconds)),
    ]
    return "\n".join(f"{name:26}{value:9,}" for name, value in rows)
