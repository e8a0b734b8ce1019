"""The schedule of faults: one seeded generator decides all that happens, and writes it down."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

#: What may happen, with the greatest probability that a schedule gives it at each opportunity.
KINDS = {
    "worker dies": 0.04,
    "worker leaves": 0.02,
    "worker joins": 0.04,
    "result lost": 0.05,
    "task twice": 0.20,
    "slow worker": 0.20,
    "through pickle": 0.20,
    "inputs checked": 0.40,
    "death between steps": 0.02,
    "death before write": 0.02,
    "death after write": 0.02,
    "torn write": 0.03,
    "write error": 0.02,
    "read error": 0.01,
    "death while removing": 0.05,
    "late task": 0.50,
    "other windows": 0.50,
}
#: What ends the process of the client, or the run: each costs a resume.
ENDING = frozenset(kind for kind in KINDS if "death" in kind or "write" in kind or "error" in kind)
MOST_ENDINGS, MOST_OTHERS = 10, 60

T = TypeVar("T")


class Death(BaseException):
    """The process that runs this ends here; nothing after it is done, no ``finally`` counts."""


class Schedule:
    """Decides by seed what happens at each opportunity, and notes it.

    A schedule has some kinds of faults and not others, each with a rate of its own, so that
    among many schedules there are quiet ones, stormy ones, and those of one kind alone.
    """

    def __init__(self, seed: int | None, verbose: bool = False) -> None:
        self.random = random.Random(seed)
        self.verbose, self.time = verbose, 0.0
        self.where = "client"
        self.happened: Counter[str] = Counter()
        self.errors = 0
        """Read and write errors given since the run was last taken up."""
        self.disk_full = 0
        self.dead = False
        """Whether the client's process has ended: whatever it still tries is not done."""
        self.rates: dict[str, float] = {}
        self.endings = self.others = 0
        if seed is not None:
            self._draw()

    def _draw(self) -> None:
        share = self.random.choice((0.2, 0.5, 1.0))
        for kind, most in KINDS.items():
            rate = most * self.random.random() ** 2
            if self.random.random() < share:
                self.rates[kind] = rate
        self.endings = self.random.randint(0, MOST_ENDINGS)
        self.others = self.random.randint(0, MOST_OTHERS)

    def strikes(self, kind: str, what: object = "") -> bool:
        """Tell whether a fault happens now; it is noted if it does."""
        rate = self.rates.get(kind)
        if rate is None or self.random.random() >= rate:
            return False
        if kind in ENDING:
            if not self.endings:
                return False
            self.endings -= 1
        else:
            if not self.others:
                return False
            self.others -= 1
        self.happened[kind] += 1
        self.note(f"FAULT {kind}", what)
        return True

    def choose(self, things: Sequence[T]) -> T:
        """Return one of some things."""
        return things[self.random.randrange(len(things))]

    def note(self, what: str, *more: Any) -> None:
        """Write a step of the schedule to standard output, if somebody looks."""
        if self.verbose:
            print(f"{self.time:9.3f}  {self.where:8}  {what}", *more, flush=True)

    def step(self, what: str) -> None:
        """Pass the border between two steps, unless the process that does so ends there."""
        if self.strikes("death between steps", what):
            self.die(what)

    def die(self, what: str) -> NoReturn:
        """End the process that is at work.

        Raises
        ------
        Death
            Always.
        """
        self.dead = self.where == "client"
        raise Death(what)
