"""A plan in words: a table of at most 100 columns, how well it shuffles, what to beware of."""

import re
from collections.abc import Iterable, Iterator
from textwrap import wrap

from deepstrata.pipelines.planning.memory import BASE_BYTES
from deepstrata.pipelines.planning.plans import Plan, Shuffle, Step
from deepstrata.pipelines.planning.shuffling import worth

WIDTH = 100
UNIT = re.compile(r"(\d) ([KMGT]?i?B\b|%)")  #: a number stays with its unit


def size(count: float) -> str:
    """Return a number of bytes for people: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def written(plan: Plan, cautions: Iterable[tuple[str, object]]) -> str:
    """Return the text of a plan, and what to beware of: ``warning`` or ``refused``, and what."""
    blocks = [
        "\n".join(_wrapped(_head(plan))),
        "\n".join(_table(plan)),
        "\n".join(_shuffling(plan)),
        "\n".join(_wrapped(_foot(plan))),
        "\n".join(_cautions(cautions)),
    ]
    return "\n\n".join(block for block in blocks if block)


def _wrapped(text: str, indent: str = "", first: str | None = None) -> list[str]:
    lines = wrap(
        UNIT.sub("\\1\N{NO-BREAK SPACE}\\2", text),
        WIDTH,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _head(plan: Plan) -> str:
    about = "" if plan.exact else ", as if all were for training (the split reads them first)"
    disk = "" if plan.disk_bytes is None else f", {size(plan.disk_bytes)} on disk"
    return (
        f"plan of {plan.pipeline}: {plan.samples:,} samples of {plan.visible:,} features in "
        f"{plan.shards:,} shards of up to {size(plan.shard_bytes)}{disk}{about}"
    )


def _foot(plan: Plan) -> str:
    times = f", {plan.amplification:.2f} bytes for each one used" if plan.bytes_read else ""
    return (
        f"at most {size(plan.peak)} in a worker, {plan.tasks:,} tasks in all, "
        f"{size(plan.bytes_read)} decoded{times}"
    )


def _table(plan: Plan) -> Iterator[str]:
    names = ("stage", "shards", "rounds", "tasks", "a pass", "read", "ampl.", "written", "memory")
    rows = [_row(step) for step in plan.steps]
    widths = [max(len(row[i]) for row in (names, *rows)) for i in range(len(names))]
    notes = ["", *(step.note for step in plan.steps)]
    for row, note in zip((names, *rows), notes, strict=True):
        cells = [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        # What is done with other work has no numbers: its note stands where they would.
        yield ("  ".join(cells) if any(row[1:]) else f"{cells[0]}  {note}").rstrip()


def _row(step: Step) -> tuple[str, ...]:
    return (
        step.stage,
        f"{step.shards:,}" if step.shards else "",
        f"{step.rounds:,}" if step.rounds else "",
        f"{step.tasks:,}" if step.tasks else "",
        size(step.epoch_bytes) if step.passes > 1 else "",
        size(step.bytes_read) if step.bytes_read else "",
        f"{step.amplification:.2f}" if step.bytes_used else "",
        size(step.bytes_written) if step.bytes_written else "",
        size(step.peak + BASE_BYTES) if step.peak else "",
    )


def _shuffling(plan: Plan) -> Iterator[str]:
    before: Shuffle | None = None
    for step in plan.steps:
        if step.shuffle is None:
            continue
        note = f", {step.note}" if step.note else ""
        weights = f"{step.weights:,} weights, checkpoint {size(step.checkpoint)}{note}"
        yield from _wrapped(f"{step.stage}: {weights}")
        # Layers with one strategy are shuffled alike.
        alike = before is not None and before._replace(choices=()) == step.shuffle._replace(
            choices=()
        )
        if not alike:
            yield from _wrapped(_mixed(step.shuffle), indent="    ", first="  ")
            if step.shuffle.choices:
                yield from _wrapped(_choices(step.shuffle), indent="    ", first="  ")
        before = step.shuffle


def _mixed(shuffle: Shuffle) -> str:
    mix, likeness = shuffle.mix, shuffle.likeness
    kind = "a local step" if shuffle.local else "a step"
    text = (
        f"{kind} of {mix.samples:,} samples draws from {mix.drawn:,} of {mix.shards:,} shards "
        f"({100 * mix.share:.3g} % of the data)"
    )
    if mix.share >= 1:
        return f"{text}: as from all"
    if likeness is not None:
        text += (
            f"; labels within a shard are correlated {max(likeness, 0.0):.2g}: "
            f"worth {worth(mix, max(likeness, 0.0)):,} samples"
        )
    return f"{text}; worth {worth(mix, 1.0):,} if the data were sorted"


def _choices(shuffle: Shuffle) -> str:
    return "; ".join(
        f"buffer={choice.buffer}: "
        + (
            ""
            if shuffle.likeness is None
            else f"worth {worth(choice.mix, max(shuffle.likeness, 0.0)):,}, "
        )
        + f"worth {worth(choice.mix, 1.0):,} if sorted, {size(choice.peak + BASE_BYTES)}"
        for choice in shuffle.choices
    )


def _cautions(cautions: Iterable[tuple[str, object]]) -> Iterator[str]:
    for name, finding in cautions:
        yield from _wrapped(f"{name}: {finding}", indent="  ", first="")
