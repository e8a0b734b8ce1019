"""Play schedules: ``python -m tests.simulation --seeds 0:10000 --jobs 2``, or one: ``--seed N``."""

import argparse
import sys
import time

from .harness import Player
from .playing import play_on, summary, watch
from .world import World


def main() -> int:
    """Play what is asked for; return 1 if a schedule failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0:1000", help="FIRST:END, the end not included")
    parser.add_argument("--seed", type=int, help="play one schedule")
    parser.add_argument("--verbose", action="store_true", help="with --seed: list every step")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    given = parser.parse_args()
    if given.seed is not None:
        with World().entered() as world:
            outcome = Player(world).play(given.seed, given.verbose)
        print(outcome.failure or "the same as without faults")
        return int(outcome.failure is not None)
    started = time.monotonic()
    first, _, end = given.seeds.partition(":")
    seeds = range(int(first), int(end))
    outcomes = watch(play_on(seeds, given.jobs), len(seeds))
    print(summary(outcomes, time.monotonic() - started))
    return int(any(outcome.failure is not None for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
