"""Tables for the terminal: the results of a run, its stages, and what ``doctor`` found."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deepstrata.pipelines.doctor import Check
from deepstrata.pipelines.progress import plain
from deepstrata.pipelines.report.numbers import (
    duration,
    metric,
    published,
    rate,
    size,
    stage_rate,
)
from deepstrata.schemas.datasets import DatasetSchema
from deepstrata.schemas.runs import RunManifest
from deepstrata.storage.rechunk import Rechunked

PIPE_WIDTH = 200
STATUS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def console_for(stream: TextIO) -> Console:
    """Return a console that neither reads markup nor breaks the lines of a pipe at 80."""
    console = Console(file=stream, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def facts_table(rows: Iterable[tuple[str, str]]) -> Table:
    """Return names and values, one pair in a row."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(plain(name)), Text(plain(value)))
    return table


def results(manifest: RunManifest) -> Iterator[tuple[str, str]]:
    """Yield what came of a run, each fact with its name."""
    beside = published(manifest)
    for name, value in manifest.metrics.items():
        others = f"; published {beside[name]}" if name in beside else ""
        yield name.replace("_", " "), metric(name, value) + others
    yield "time", duration(sum(stage.seconds for stage in manifest.stages))
    if manifest.examples_per_second:
        yield "examples/s", rate(manifest.examples_per_second)
        yield "waiting for data", f"{100 * manifest.data_wait:.1f} %"
    if manifest.peak_worker_bytes:
        yield "peak worker memory", size(manifest.peak_worker_bytes)
    if manifest.weights_sha256:
        yield "weights", manifest.weights_sha256
    if manifest.fingerprint:
        yield "fingerprint", manifest.fingerprint
    yield from ((name.replace("_", " "), told) for name, told in manifest.parent.items())


def results_table(manifest: RunManifest, path: str, report: str | None) -> Table:
    """Return the table that a run ends with."""
    places = [("run", path), *([("report", report)] if report else [])]
    return facts_table([*results(manifest), *places])


def summary(manifest: RunManifest, path: str) -> dict[str, Any]:
    """Return what ``--json`` promises; a number that JSON does not know becomes null."""
    return {
        "run": path,
        "fingerprint": manifest.fingerprint,
        "metrics": {k: v if math.isfinite(v) else None for k, v in manifest.metrics.items()},
        "examples_per_second": manifest.examples_per_second,
        "data_wait": manifest.data_wait,
        "peak_worker_bytes": manifest.peak_worker_bytes,
    }


def run_table(manifest: RunManifest, path: str, report: str | None) -> Table:
    """Return what a run directory says of its run, finished or not."""
    what = [("pipeline", manifest.pipeline.name), ("status", manifest.status)]
    if manifest.error:
        what.append(("error", manifest.error))
    what += [("started", manifest.started), ("finished", manifest.finished or "-")]
    if manifest.checkpoints:
        last = manifest.checkpoints[-1]
        what.append(("last checkpoint", f"{last.stage}, round {last.round:,}"))
    places = [("run", path), *([("report", report)] if report else [])]
    return facts_table([*what, *results(manifest), *places])


def schema_table(schema: DatasetSchema, path: str) -> Table:
    """Return the variables of a dataset that was written."""
    table = Table(box=None, pad_edge=False, title=plain(path), title_justify="left")
    for name in ("variable", "type", "dimensions", "chunks"):
        table.add_column(name, header_style="dim")
    for variable in schema.variables:
        lengths = variable.shape or (None,) * len(variable.dims)
        dims = ", ".join(
            dim if length is None else f"{dim} {length:,}"
            for dim, length in zip(variable.dims, lengths, strict=True)
        )
        chunks = " x ".join(map(str, variable.chunks or ()))
        row = (variable.name, variable.dtype, dims, chunks)
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table


def copied_lines(done: Rechunked) -> Iterator[str]:
    """Yield what it took to rechunk each big variable, and how fast it was."""
    for copied in done.copied:
        passes = "in one pass" if copied.passes == 1 else "in two passes"
        yield plain(
            f"{copied.name}: {size(copied.bytes)} {passes}, each byte of the source decoded "
            f"{copied.reads:.3g} times"
        )
    total = sum(copied.bytes for copied in done.copied)
    yield f"{size(total)} in {duration(done.seconds)}, {total / done.seconds / 1e6:,.0f} MB/s"


def stages_table(manifest: RunManifest) -> Table:
    """Return the finished stages with their times."""
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "time", "examples/s", "waiting for data"):
        table.add_column(name, justify="left" if name == "stage" else "right", header_style="dim")
    for stage in manifest.stages:
        speed = stage_rate(stage.examples, stage.seconds)
        wait = f"{100 * stage.wait:.1f} %" if stage.wait else ""
        table.add_row(Text(plain(stage.name)), duration(stage.seconds), speed, wait)
    return table


def checks_table(checks: Iterable[Check]) -> Table:
    """Return what was examined, with advice below what is not well."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for style in ("", "dim", ""):
        table.add_column(style=style, overflow="fold")
    for check in checks:
        found = Text(plain(check.found))
        if check.advice:
            found.append("\n" + plain(check.advice), "bold")
        table.add_row(Text(check.status, STATUS[check.status]), Text(plain(check.name)), found)
    return table
