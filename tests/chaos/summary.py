"""One line a run, and what a campaign came to."""

import os
from collections import Counter
from collections.abc import Sequence
from statistics import median

from .play import Outcome

KILLS = ("worker", "nanny", "scheduler", "client", "everything")


def line(outcome: Outcome) -> str:
    """Return what happened to a run: seed, what was killed when, seconds, outcome."""
    homes = " > ".join(map(str, outcome.schedule.homes))
    done = ", ".join(f"{what} {when:.1f}" for what, when in outcome.done) or "nothing"
    text = (
        f"{outcome.schedule.name:>10}  {outcome.kind:8} {outcome.seconds:6.1f} s "
        f"({outcome.extra:+.1f})  {homes}: {done}"
    )
    return text + (f"\n            {outcome.fault}" if outcome.fault else "")


def summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return the figures of a campaign."""
    kinds = Counter(outcome.kind for outcome in outcomes)
    killed = Counter(what for outcome in outcomes for what, _ in outcome.done)
    counts = ", ".join(f"{killed[what]} of a {what}" for what in KILLS)
    lines = [
        f"{len(outcomes)} runs in {seconds / 60:.0f} minutes; "
        + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()),
        f"kills: {sum(killed[what] for what in KILLS)} ({counts}); {killed['join']} workers joined",
        "seconds lost per kill, in runs with kills of one kind, without pauses of the harness:",
    ]
    for what in (*KILLS, "mixed"):
        lost = [_lost(outcome) for outcome in outcomes if _kind(outcome) == what]
        if lost:
            figures = f"median {median(lost):5.1f}, worst {max(lost):5.1f}"
            lines.append(f"  {what:10} {figures}  ({len(lost)} runs)")
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    lines.append(f"machine load (1, 5, 15 minutes) {load} on {os.cpu_count()} cores")
    return "\n".join(lines)


def _kind(outcome: Outcome) -> str:
    """Return what was really killed: a run may end before its schedule does."""
    kinds = {what for what, _ in outcome.done if what in KILLS}
    return "" if not kinds or outcome.fault else kinds.pop() if len(kinds) == 1 else "mixed"


def _lost(outcome: Outcome) -> float:
    kills = sum(what in KILLS for what, _ in outcome.done)
    return (outcome.extra - outcome.paused) / kills
