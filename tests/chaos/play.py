"""Playing one schedule: clients follow each other until one ends by itself, or time is up."""

import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .outside import Outside
from .processes import ended, forked, kill, stacks, tagged, waited, workers_of
from .schedule import ENDS_CLIENT, Act, Home, Schedule
from .work import PIPELINE, REFERENCE, difference

TICK = 0.02
ORPHAN_SECONDS = 20.0  #: for a worker to notice that its client is dead, on a busy machine


@dataclass
class Outcome:
    """What came of one run."""

    schedule: Schedule
    seconds: float = 0.0
    paused: float = 0.0
    """Seconds for which the harness left dead what somebody must start again."""
    extra: float = 0.0
    done: list[tuple[str, float]] = field(default_factory=list)
    """What was killed, and when."""
    fault: str = ""
    """Why the promise was not kept; empty if it was."""
    kind: str = "same"
    """``same``, ``differs``, ``hangs``, ``ended`` (a client, with an error) or ``orphans``."""


class Stage:
    """Where runs are played, one after the other, with a cluster outside that outlives them."""

    def __init__(
        self, folder: Path, shared: Path, tag: str, deadline: float, lengths: dict[str, float]
    ) -> None:
        self.folder, self.shared, self.tag, self.deadline = folder, shared, tag, deadline
        self.lengths = lengths
        self.outside = Outside(folder, f"{tag}outside")

    def series(self, schedules: Sequence[Schedule]) -> Iterator[Outcome]:
        """Play schedules."""
        self.folder.mkdir(exist_ok=True)
        try:
            for schedule in schedules:
                yield self.play(schedule)
        finally:
            self.outside.close()

    def undisturbed(self, home: Home) -> float:
        """Return how long a run takes on a kind of cluster when nothing is killed."""
        if home.kind not in self.lengths:
            outcome = self.play(Schedule(f"undisturbed-{home.kind}", (home,), ()))
            if outcome.fault:
                raise RuntimeError(f"an undisturbed run on {home}: {outcome.fault}")
            self.lengths[home.kind] = outcome.seconds
        return self.lengths[home.kind]

    def play(self, schedule: Schedule) -> Outcome:
        """Play a schedule to its end and compare what came of it with the reference."""
        length = self.undisturbed(schedule.homes[0]) if schedule.acts else 0.0
        player = _Player(self, schedule, length)
        try:
            player.go()
        finally:
            player.clear()
        player.outcome.extra = player.outcome.seconds - length
        return player.outcome


class _Player:
    def __init__(self, stage: Stage, schedule: Schedule, length: float) -> None:
        self.stage, self.schedule, self.length = stage, schedule, length
        self.outcome = Outcome(schedule)
        self.tag = f"{stage.tag}{schedule.name}-"
        self.run = stage.folder / f"run-{schedule.name}"
        self.log = stage.folder / f"run-{schedule.name}.log"
        self.homes, self.acts = list(schedule.homes), list(schedule.acts)
        self.lives = 0
        self.pid = 0
        self.home = self.homes[0]

    def go(self) -> None:
        """Start the first client and do what the schedule says until one ends by itself."""
        if self.home.kind == "outside":
            self.stage.outside.ensure(self.home.workers, self.home.nanny)
        self.began = time.monotonic()
        self.start()
        code = self.watch()
        self.outcome.seconds = time.monotonic() - self.began
        if code is None:
            self.hangs()
        elif code:
            last = self.log.read_text(errors="replace").strip().splitlines()[-8:]
            self.failed("ended", f"the client ended with status {code}: " + "\n".join(last))
        else:
            self.compare()
        self.orphans()

    def start(self) -> None:
        """Start the next client in the next home."""
        self.home = self.homes.pop(0)
        if self.home.kind == "outside":
            self.stage.outside.ensure(self.home.workers, self.home.nanny)
            where = ["--cluster", self.stage.outside.address]
        else:
            where = ["--cluster", self.home.kind, "--workers", str(self.home.workers)]
        begun = (self.run / "run.json").exists()
        pipeline = str(self.stage.shared / PIPELINE)
        what = ["resume"] if begun else ["run", pipeline, "--out"]
        words = [*what, str(self.run), *where]
        self.lives += 1
        with open(self.log, "a") as log:
            log.write(f"--- {time.monotonic() - self.began:.1f} s: deepstrata {' '.join(words)}\n")
        self.pid = forked(lambda: deepstrata(words), self.log, f"{self.tag}{self.lives}")
        self.since = time.monotonic()

    def watch(self) -> int | None:
        """Return the status with which a client ended by itself; None if none does in time."""
        end = self.began + self.stage.deadline
        while time.monotonic() < end:
            code = ended(self.pid)
            if code is not None:
                self.pid = 0
                return code
            if self.home.kind == "outside":
                self.stage.outside.revive(self.home.workers)
            if self.acts and time.monotonic() - self.since >= self.acts[0].after * self.length:
                self.act(self.acts[0])
            time.sleep(TICK)
        return None

    def act(self, act: Act) -> None:
        """Do what is due, unless who is to be killed has not started yet."""
        victims = self.victims(act)
        if not victims and act.what not in ("join", "scheduler"):
            return
        self.acts.pop(0)
        now = time.monotonic() - self.began
        self.outcome.done.append((act.what, now))
        with open(self.log, "a") as log:
            log.write(f"--- {now:.1f} s: {act.what} {victims}\n")
        for pid in victims:
            kill(pid)
        if act.what in ("scheduler", "everything"):
            self.stage.outside.kill_scheduler()
        if act.what == "everything":
            self.stage.outside.kill_workers()
        if act.what == "join":
            self.stage.outside.join()
        if act.what in ENDS_CLIENT:
            self.end()
            self.start()
        elif self.home.kind == "outside" and act.what != "join":
            self.pause(act.pause)
        self.since = time.monotonic()

    def victims(self, act: Act) -> list[int]:
        """Return the processes that an act kills."""
        outside = self.home.kind == "outside"
        if act.what in ENDS_CLIENT:
            return [self.pid]
        if act.what == "worker" and not (self.run / "run.json").exists():
            return []  # a LocalCluster that loses a worker while it starts gives up
        if act.what == "worker":
            return _one(self.stage.outside.worker_pids() if outside else workers_of(self.pid), act)
        return _one(self.stage.outside.nanny_pids(), act) if act.what == "nanny" else []

    def pause(self, seconds: float) -> None:
        """Leave dead what is dead for a while; then ``watch`` starts what does not come back."""
        time.sleep(seconds)
        self.outcome.paused += seconds

    def compare(self) -> None:
        """Compare the run with the reference, in a process that may start threads."""
        verdict = self.stage.folder / f"verdict-{self.schedule.name}.txt"

        def look() -> int:
            found = difference(str(self.stage.shared / REFERENCE), str(self.run))
            verdict.write_text(found or "")
            return 0

        code = waited(forked(look, self.log, f"{self.tag}compare"), 120)
        found = verdict.read_text() if code == 0 else f"comparing ended with status {code}"
        if found:
            self.failed("differs", found)

    def hangs(self) -> None:
        """Say where everybody is, and end the client."""
        where = self.stage.folder / f"hang-{self.schedule.name}.txt"
        os.kill(self.pid, signal.SIGUSR1)  # its own account goes to its log
        others = [process.pid for process in tagged(self.tag)]
        outside = self.stage.outside
        others += [*outside.worker_pids(), *([outside.scheduler.pid] if outside.scheduler else [])]
        where.write_text(stacks([self.pid, *others]))
        kill(self.pid)
        waited(self.pid, 60)
        self.failed(
            "hangs", f"not done after {self.stage.deadline:.0f} s; see {where} and {self.log}"
        )
        outside.close()

    def orphans(self) -> None:
        """Check that every client's workers have ended with it, however it ended."""
        end = time.monotonic() + ORPHAN_SECONDS
        while left := tagged(self.tag):
            if time.monotonic() > end:
                self.failed("orphans", f"processes left behind: {[p.pid for p in left]}")
                return
            time.sleep(0.1)

    def failed(self, kind: str, text: str) -> None:
        if not self.outcome.fault:
            self.outcome.kind, self.outcome.fault = kind, text

    def clear(self) -> None:
        """Leave nothing behind but what explains a fault."""
        self.end()
        for process in tagged(self.tag):
            kill(process.pid)
        if not self.outcome.fault:
            shutil.rmtree(self.run, ignore_errors=True)
            self.log.unlink(missing_ok=True)

    def end(self) -> None:
        """End the client, if there is one."""
        if self.pid:
            kill(self.pid)
            waited(self.pid, 60)
        self.pid = 0


def _one(pids: Sequence[int], act: Act) -> list[int]:
    return [pids[int(act.pick * len(pids))]] if pids else []


def deepstrata(words: list[str]) -> int:
    """Be the command line."""
    from deepstrata.pipelines.cli import cli

    result = cli(words, prog_name="deepstrata", standalone_mode=False)
    return result if isinstance(result, int) else 0
