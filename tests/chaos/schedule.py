"""Who is killed when: drawn from a seed, in shares of a run's length, so that it can be replayed.

Half of the schedules kill one kind of process only: from those the time lost per kill is known.
"""

from random import Random
from typing import NamedTuple

MOST = 4  #: acts in a schedule


class Home(NamedTuple):
    """The cluster of one client."""

    kind: str
    """``local`` (processes of the client), ``threads`` (the client itself) or ``outside``."""
    workers: int
    nanny: bool = False
    """Whether outside workers have a nanny, which starts them again; else the harness does."""

    def __str__(self) -> str:
        return f"{self.kind}{' with nannies' if self.nanny else ''} x{self.workers}"


class Act(NamedTuple):
    """Something done to a run."""

    what: str
    after: float
    """Shares of an undisturbed run's length since the act before, or since the client began."""
    pause: float
    """Seconds until what does not come back by itself is started again."""
    pick: float
    """Which of the workers: a share of their number."""


class Schedule(NamedTuple):
    """All that happens to one run."""

    name: str
    homes: tuple[Home, ...]
    """One for the first client and one for each that follows a killed one."""
    acts: tuple[Act, ...]

    @property
    def kind(self) -> str:
        """Return what is killed if it is one kind, else ``mixed``."""
        kinds = {act.what for act in self.acts}
        return kinds.pop() if len(kinds) == 1 else "mixed"


ENDS_CLIENT = ("client", "everything")
KINDS = {
    "threads": ("client",),
    "local": ("worker", "worker", "client"),
    "outside": ("worker", "worker", "scheduler", "client", "join", "everything"),
}


def draw(seed: int) -> Schedule:
    """Return the schedule of a seed."""
    random = Random(seed)
    single = random.random() < 0.5
    home = _home(random)
    homes, acts = [home], list[Act]()
    count = random.randint(1, MOST)
    what = _what(random, home)
    for _ in range(count):
        acts.append(Act(what, random.uniform(0, 2 / (count + 1)), random.uniform(0.2, 3), 0.0))
        acts[-1] = acts[-1]._replace(pick=random.random())
        if what in ENDS_CLIENT:
            home = _home(random)
            homes.append(home)
        if not (single and what in _kinds(home)):
            what = _what(random, home)
    return Schedule(str(seed), tuple(homes), tuple(acts))


def _home(random: Random) -> Home:
    kind = random.choices(("local", "threads", "outside"), (4, 2, 5))[0]
    nanny = kind == "outside" and random.random() < 0.5
    return Home(kind, random.randint(1, 3), nanny)


def _kinds(home: Home) -> tuple[str, ...]:
    return (*KINDS[home.kind], "nanny") if home.nanny else KINDS[home.kind]


def _what(random: Random, home: Home) -> str:
    return random.choice(_kinds(home))


def _act(what: str, after: float) -> Act:
    return Act(what, after, 0.5, 0.0)


LOCAL, OUTSIDE = Home("local", 2), Home("outside", 2)
#: The fixed part that belongs to the tests.
FIXED = (
    Schedule("worker", (LOCAL,), (_act("worker", 0.5),)),
    Schedule("scheduler", (OUTSIDE,), (_act("scheduler", 0.4),)),
    Schedule("client", (OUTSIDE, Home("threads", 2)), (_act("client", 0.5),)),
    Schedule(
        "all",
        (OUTSIDE, Home("outside", 1)),
        (_act("worker", 0.2), _act("scheduler", 0.2), _act("client", 0.3), _act("worker", 0.1)),
    ),
)
