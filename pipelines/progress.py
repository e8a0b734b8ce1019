"""Progress for people: live bars on a terminal, lines in a log, one table in a notebook.

An observer is called with events (``deepstrata.pipelines.events``), from whatever thread; used as a
context manager it leaves the terminal as it was.
"""

import logging
import sys
import time
from collections.abc import Callable
from html import escape
from importlib import import_module
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID
from rich.progress import Progress as Bars
from rich.text import Text

from deepstrata.pipelines.events import Event, Notice, Progress, StageFinished, StageStarted
from deepstrata.pipelines.report.numbers import duration, metric, rate

EVERY = 2.0  #: seconds between two lines of a log
BAR_FROM = 100  #: columns; a narrower terminal needs them for the words


class Watcher(Protocol):
    """An observer that is also a context manager."""

    def __call__(self, event: Event) -> None:
        """Show an event."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the screen in order."""


def observer_for(stream: TextIO | None = None) -> Watcher:
    """Return what suits where the output goes: a notebook, a terminal, or a file or pipe.

    Parameters
    ----------
    stream
        Standard error by default; a notebook is only looked for without it.
    """
    if stream is None and in_notebook():
        return NotebookProgress()
    stream = stream or sys.stderr
    console = Console(file=stream)
    return TerminalProgress(console) if console.is_terminal else LineProgress(stream)


def in_notebook() -> bool:
    """Tell whether a Jupyter kernel runs this process."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and getattr(shell, "kernel", None) is not None


def plain(text: str) -> str:
    """Return ``text`` with every character that a terminal would obey made visible."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class Clock:
    """Estimates the time left of a stage from the rounds it has done while it was watched."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start: tuple[float, int] | None = None

    def left(self, done: int, rounds: int) -> float | None:
        """Return the seconds left, None as long as nothing is known."""
        now = self._now()
        if self._start is None or done < self._start[1]:
            self._start = (now, done)
        then, first = self._start
        if done <= first or now <= then:
            return None
        return (rounds - done) * (now - then) / (done - first)


class Teller:
    """Puts events into words; keeps a clock for every part of a stage."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._clocks: dict[tuple[str, str], Clock] = {}

    def facts(self, event: Progress) -> list[str]:
        """Return which part is at work, examples per second, loss and time left."""
        clock = self._clocks.setdefault((event.stage, event.part), Clock(self._now))
        left = clock.left(event.done, event.rounds)
        facts = [plain(event.part)] if event.part else []
        if left is not None:
            facts.append(f"{duration(left)} left")
        if event.examples_per_second > 0:
            facts.append(f"{rate(event.examples_per_second)} examples/s")
        if event.loss is not None:
            facts.append(f"{_words(event.loss_name)} {event.loss:#.4g}".strip())
        return facts

    def outcome(self, event: StageFinished) -> str:
        """Return how long a stage took and what came of it; layers are left to the report."""
        shown = {k: v for k, v in event.metrics.items() if not k.startswith("layer_")}
        result = ", ".join(f"{_words(k)} {metric(k, v)}" for k, v in shown.items())
        how = "kept from before" if event.reused else duration(event.seconds)
        return f"{how}; {result}" if result else how


def _folded(event: Progress) -> Progress:
    """Count work for a part of a stage (``pretrain/layer-1``) as the stage's."""
    stage, _, part = event.stage.partition("/")
    return event._replace(stage=stage, part=event.part or part)


def _words(name: str) -> str:
    return plain(name).replace("_", " ")


def _count(event: Progress) -> str:
    return f"{event.done:,}/{event.rounds:,}" if event.rounds else f"{event.done:,}"


class LineProgress:
    """Writes a line when a stage begins or ends, and now and then between."""

    def __init__(
        self, stream: TextIO, every: float = EVERY, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._every, self._now = stream, every, now
        self._written, self._tell = now(), Teller(now)

    def __call__(self, event: Event) -> None:
        """Write a line, or none if one was written a moment ago."""
        match event:
            case StageStarted():
                rounds = f", {event.rounds:,} rounds" if event.rounds else ""
                self._line(f"{plain(event.stage)} begins{rounds}")
            case Progress():
                self._progress(_folded(event))
            case StageFinished():
                self._line(f"{plain(event.stage)}: done, {self._tell.outcome(event)}")
            case Notice():
                self._line(plain(event.text))

    def _progress(self, event: Progress) -> None:
        facts = self._tell.facts(event)
        if self._now() - self._written >= self._every:
            self._line(f"{plain(event.stage)}: " + ", ".join([_count(event), *facts]))

    def _line(self, text: str) -> None:
        self._written = self._now()
        print(text, file=self._stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()


class _Fact(ProgressColumn):
    """A column with one of a task's fields, never read as markup."""

    def __init__(self, field: str, style: str = "", justify: Any = "left") -> None:
        self._field, self._style, self._justify = field, style, justify
        super().__init__()

    def render(self, task: Task) -> Text:
        text = str(task.fields[self._field])
        return Text(text, self._style, justify=self._justify, no_wrap=True, overflow="ellipsis")


class TerminalProgress:
    """Draws a live bar for the stage at work, and leaves a line for each that is done."""

    def __init__(self, console: Console) -> None:
        self.console = console
        bar = [BarColumn(bar_width=16)] if console.width >= BAR_FROM else []
        columns = [_Fact("name", "bold"), *bar, _Fact("count", justify="right"), _Fact("facts")]
        self._bars = Bars(*columns, console=console, refresh_per_second=8)
        self._tasks: dict[str, TaskID] = {}
        self._tell = Teller()
        self._handlers: list[tuple[logging.StreamHandler[Any], Any]] = []
        self._done = "✓" if console.encoding.lower().startswith("utf") else "+"

    def __enter__(self) -> Self:
        self._bars.start()
        # Log handlers hold the stream of old: their lines would run through the bars.
        for name in ("", "distributed"):
            for handler in logging.getLogger(name).handlers:
                if type(handler) is logging.StreamHandler and handler.stream is self.console.file:
                    self._handlers.append((handler, handler.setStream(sys.stderr)))
        return self

    def __exit__(self, *_: object) -> None:
        for handler, stream in self._handlers:
            handler.setStream(stream)
        self._handlers.clear()
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Move a bar, or print a notice above the bars."""
        match event:
            case StageStarted():
                self._task(event.stage, event.rounds)
            case Progress():
                self._progress(_folded(event))
            case StageFinished():
                self._finished(event)
            case Notice():
                self.console.print(Text(plain(event.text)))

    def _task(self, stage: str, rounds: int = 0) -> TaskID:
        if stage not in self._tasks:
            fields: dict[str, Any] = {"name": f"{plain(stage):10}", "count": "", "facts": ""}
            fields["total"] = rounds or None
            self._tasks[stage] = self._bars.add_task("", **fields)
        return self._tasks[stage]

    def _progress(self, event: Progress) -> None:
        self._bars.update(
            self._task(event.stage, event.rounds),
            total=event.rounds or None,
            completed=event.done,
            count=_count(event),
            facts=", ".join(self._tell.facts(event)),
        )

    def _finished(self, event: StageFinished) -> None:
        """Turn the bar into a line that stays."""
        if event.stage in self._tasks:
            self._bars.remove_task(self._tasks.pop(event.stage))
        name = f"{plain(event.stage):10} "
        outcome = self._tell.outcome(event)
        self.console.print(Text.assemble((name, "bold"), (f"{self._done} ", "green"), outcome))


class _Row(NamedTuple):
    share: float | None
    done: str
    facts: str


class _Table:
    """What a notebook shows: one row for each stage."""

    def __init__(self) -> None:
        self.rows: dict[str, _Row] = {}
        self.notes: list[str] = []

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><td style='text-align:left'>{escape(stage)}</td><td>{_bar(row.share)}</td>"
            f"<td>{escape(row.done)}</td>"
            f"<td style='text-align:left'>{escape(row.facts)}</td></tr>"
            for stage, row in self.rows.items()
        ]
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        return f"{notes}<table>{''.join(rows)}</table>"

    def __repr__(self) -> str:
        rows = [f"{stage}: {row.done} {row.facts}" for stage, row in self.rows.items()]
        return "\n".join([*self.notes, *rows])


def _bar(share: float | None) -> str:
    return "" if share is None else f"<progress value='{share:.4f}' max='1'></progress>"


class NotebookProgress:
    """Shows one table in a notebook's output and keeps it up to date."""

    def __init__(self, every: float = 0.25, now: Callable[[], float] = time.monotonic) -> None:
        self._table, self._every, self._now = _Table(), every, now
        self._shown, self._tell = float("-inf"), Teller(now)
        self._handle: Any = None

    def __call__(self, event: Event) -> None:
        """Update the table."""
        match event:
            case StageStarted():
                self._table.rows.setdefault(event.stage, _Row(None, "", ""))
            case Progress():
                self._progress(_folded(event))
                if self._now() - self._shown < self._every:
                    return
            case StageFinished():
                self._table.rows[event.stage] = _Row(1.0, "", self._tell.outcome(event))
            case Notice():
                self._table.notes.append(event.text)
        self._show()

    def _progress(self, event: Progress) -> None:
        share = event.done / event.rounds if event.rounds else None
        facts = ", ".join(self._tell.facts(event))
        self._table.rows[event.stage] = _Row(share, _count(event), facts)

    def _show(self) -> None:
        self._shown = self._now()
        if self._handle is None:
            self._handle = import_module("IPython.display").display(self._table, display_id=True)
        else:
            self._handle.update(self._table)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._show()
