"""What a plan warns of, and what it refuses: what would thrash, corrupt, or never end.

``run`` asks before it writes anything, with the limits of its cluster.
"""

from typing import Any, NamedTuple

from distributed import Client

from deepstrata.pipelines.planning.memory import BASE_BYTES
from deepstrata.pipelines.planning.plans import Plan, Step
from deepstrata.pipelines.planning.shuffling import worth
from deepstrata.pipelines.planning.text import size
from deepstrata.schemas.errors import DeclarationError, SchemaError

MUCH_READ = 1 << 30  #: bytes decoded in vain over a run, below which nobody waits for them
SOFT_AMPLIFICATION = 1.5
LARGEST_UNIT = 32 << 20
ALIKE = 0.5  #: a step worth less than this part of its samples is warned of
RECHUNK = "prepare the data once with `deepstrata rechunk SRC DEST`"


class Limits(NamedTuple):
    """What a run must keep to."""

    worker_bytes: int | None = None
    """Memory of the smallest worker; None where that is not known."""
    workers: int = 1
    tasks: int = 1_000_000
    graph_tasks: int = 100_000
    amplification: float = 4.0
    """Most bytes decoded for each byte used, in a training that reads a lot."""


NO_LIMITS = Limits()


class Finding(NamedTuple):
    """Something that is wrong with a plan, and what to do about it."""

    error: type[DeclarationError] | type[SchemaError]
    where: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.advice}"


def limits_of(client: Client) -> Limits:
    """Return the limits of a cluster: how many workers, and the memory of the smallest."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    known = [int(w["memory_limit"]) for w in workers if w.get("memory_limit")]
    return Limits(min(known, default=0) or None, max(1, len(workers)))


def check_plan(plan: Plan, limits: Limits = NO_LIMITS) -> None:
    """Refuse what would thrash, corrupt data or take for ever.

    Raises
    ------
    DeclarationError
        Too many tasks, or a stage would write into what is read: the declaration has to change.
    SchemaError
        Chunks that need more memory than a worker has, or that are read over and over: the data
        has to be rechunked.
    """
    found = refusals(plan, limits)
    if found:
        raise found[0].error("\n".join(str(finding) for finding in found))


def refusals(plan: Plan, limits: Limits = NO_LIMITS) -> list[Finding]:
    """Return what ``check_plan`` refuses, worst first."""
    return [*_corrupting(plan), *_memory(plan, limits), *_endless(plan, limits)]


def _corrupting(plan: Plan) -> list[Finding]:
    """Find writes in or around what is read (the same path is refused where it is declared)."""
    return [
        Finding(
            DeclarationError,
            f"stage {step.stage!r}",
            f"would write to {step.writes}, the data is read from {plan.source}",
            f"write elsewhere: {step.stage}.path=..., outside of what is read",
        )
        for step in plan.steps
        if step.writes is not None
        and plan.source is not None
        and _overlap(step.writes, plan.source)
    ]


def _overlap(path: str, other: str) -> bool:
    """Tell whether two places are the same, or one is in the other."""
    a, b = path.rstrip("/") + "/", other.rstrip("/") + "/"
    return a.startswith(b) or b.startswith(a)


def _memory(plan: Plan, limits: Limits) -> list[Finding]:
    limit = limits.worker_bytes
    if limit is None:
        return []
    if plan.single + BASE_BYTES > limit:
        what = (
            f"reading one shard of {plan.shard_rows:,} samples ({size(plan.shard_bytes)}) takes "
            f"{size(plan.single + BASE_BYTES)}, a worker may take {size(limit)}"
        )
        advice = f"{_smaller_shards(plan)} or give workers more memory"
        return [Finding(SchemaError, "data", what, advice)]
    found = []
    for step in plan.steps:
        least = step.spread(limits.workers) + BASE_BYTES
        if least > limit:
            what = f"takes {size(least)} in a worker at least, which may take {size(limit)}"
            advice = _less_memory(step)
            found.append(Finding(DeclarationError, f"stage {step.stage!r}", what, advice))
    return found


def _smaller_shards(plan: Plan) -> str:
    if plan.columns and plan.shard_rows > plan.columns[0].chunk_rows:
        return f"declare a smaller source.rows_per_shard, {RECHUNK}"
    return f"its chunks are too long: {RECHUNK}"


def _less_memory(step: Step) -> str:
    if step.shuffle is None:
        return f"cut smaller shards: source.rows_per_shard=..., or {RECHUNK}"
    name = step.stage.split("/")[0]
    buffer = f"{name}.strategy.buffer=1, " if step.shuffle.mix.buffer > 1 else ""
    fewer = f"fewer places ({name}.strategy.shards=...), " if step.places > 1 else ""
    return f"declare {buffer}{fewer}smaller shards (source.rows_per_shard=...), or {RECHUNK}"


def _endless(plan: Plan, limits: Limits) -> list[Finding]:
    found = []
    for step in plan.steps:
        wasted = step.bytes_read - step.bytes_used
        if step.rounds and step.amplification > limits.amplification and wasted > MUCH_READ:
            what = (
                f"decodes {step.amplification:.1f} bytes for each one used, "
                f"{size(step.bytes_read)} over {step.passes} epochs, because of {_culprit(plan)}"
            )
            found.append(Finding(SchemaError, f"stage {step.stage!r}", what, RECHUNK))
        if step.graph_tasks > limits.graph_tasks:
            what = f"{step.graph_tasks:,} tasks in one graph, at most {limits.graph_tasks:,}"
            where = f"stage {step.stage!r}"
            found.append(Finding(DeclarationError, where, what, _fewer_tasks(step)))
    if plan.tasks > limits.tasks:
        most = max(plan.steps, key=lambda step: step.tasks)
        what = (
            f"{plan.tasks:,} tasks in all, at most {limits.tasks:,}; "
            f"{most.tasks:,} of them in stage {most.stage!r}"
        )
        found.append(Finding(DeclarationError, "plan", what, _fewer_tasks(most)))
    return found


def _culprit(plan: Plan) -> str:
    worst = max(plan.columns, key=lambda c: c.share * (1 - 1 / max(c.amplification, 1.0)))
    return (
        f"variable {worst.name!r} (chunks of {worst.chunk_rows:,} samples do not line up with "
        f"shards of {plan.shard_rows:,})"
    )


def _fewer_tasks(step: Step) -> str:
    name = step.stage.split("/")[0]
    training = f"more steps a round ({name}.strategy.steps=...), " if step.rounds else ""
    window = f"fewer rounds a graph ({name}.checkpoint_rounds=...), " if step.rounds else ""
    return f"declare longer shards (source.rows_per_shard=...), {training}{window}or {RECHUNK}"


def warnings(plan: Plan, limits: Limits = NO_LIMITS) -> list[Finding]:
    """Return what is allowed and better changed."""
    return [*_about_data(plan), *_about_steps(plan, limits)]


def _about_data(plan: Plan) -> list[Finding]:
    found = []
    read = max((s for s in plan.steps if s.bytes_used), key=lambda s: s.amplification, default=None)
    if read is not None and read.amplification > SOFT_AMPLIFICATION:
        what = f"stage {read.stage!r} decodes {read.amplification:.1f} bytes for each one used: "
        found.append(Finding(SchemaError, "data", what + _culprit(plan), RECHUNK))
    for column in plan.columns:
        if column.unit_bytes > LARGEST_UNIT:
            what = (
                f"chunks of {size(column.unit_bytes)} are decoded whole, which is slow over "
                f"{size(LARGEST_UNIT)}"
            )
            found.append(Finding(SchemaError, f"variable {column.name!r}", what, RECHUNK))
    if plan.shards == 1:
        what = "one shard, so no more than one worker has work, and nothing is shuffled but its"
        whole = plan.columns and plan.columns[0].chunk_rows >= plan.samples
        cut = RECHUNK if whole else "declare a smaller source.rows_per_shard"
        found.append(Finding(SchemaError, "data", what + " rows", cut))
    return found


def _about_steps(plan: Plan, limits: Limits) -> list[Finding]:
    found, seen = [], set[Any]()
    for step in plan.steps:
        where = f"stage {step.stage!r}"
        limit = limits.worker_bytes
        if limit is not None and step.spread(limits.workers) < limit - BASE_BYTES < step.peak:
            what = f"takes up to {size(step.peak + BASE_BYTES)} if one worker gets all of a round"
            what += f", which may take {size(limit)}"
            found.append(Finding(DeclarationError, where, what, _less_memory(step)))
        shuffle = step.shuffle
        name = step.stage.split("/")[0]  # the layers of a stage are shuffled alike
        if shuffle is None or shuffle.likeness is None or (name, shuffle.mix) in seen:
            continue
        seen.add((name, shuffle.mix))
        samples, real = shuffle.mix.samples, worth(shuffle.mix, max(shuffle.likeness, 0.0))
        if real < ALIKE * samples and shuffle.mix.share < 1:
            what = (
                f"a step of {samples} samples is worth {real}: it draws from {shuffle.mix.drawn} "
                f"of {shuffle.mix.shards} shards, in which labels are alike "
                f"(correlation {shuffle.likeness:.2f})"
            )
            advice = f"declare {name}.strategy.buffer=..., or write the samples in random order"
            found.append(Finding(DeclarationError, where, what, advice))
    return found
