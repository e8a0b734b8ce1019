"""Progress: lines that a log can bear, bars that leave the terminal in order, names as text."""

import io
import logging
import sys
import time

import pytest
from rich.console import Console

from deepstrata.pipelines.events import Event, Notice, Progress, StageFinished, StageStarted
from deepstrata.pipelines.progress import (
    Clock,
    LineProgress,
    NotebookProgress,
    TerminalProgress,
    in_notebook,
    observer_for,
    plain,
)


class Watch:
    """A clock that is wound by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def progress(done: int, part: str = "layer 1 of 2", stage: str = "pretrain") -> Progress:
    return Progress(stage, part, done, 100, 18432.0, "squared_error", 8.3)


EVENTS: list[Event] = [
    Notice("dashboard: http://127.0.0.1:8787/status"),
    StageStarted("pretrain", "pretrain", 0),
    progress(10),
    progress(20),
    StageFinished(
        "pretrain", "pretrain", 12.0, {"validation_error": 0.02, "layer_0_x": 1.0}, False
    ),
    StageFinished("encode", "encode", 0.0, {}, True),
]


def test_a_pipe_gets_lines() -> None:
    stream = io.StringIO()
    with observer_for(stream) as observer:
        assert isinstance(observer, LineProgress)
        for event in EVENTS:
            observer(event)
    assert stream.getvalue().splitlines() == [
        "dashboard: http://127.0.0.1:8787/status",
        "pretrain begins",
        "pretrain: done, 12 s; validation error 2.00 %",
        "encode: done, kept from before",
    ]


def test_lines_come_now_and_then_with_what_is_left() -> None:
    watch, stream = Watch(), io.StringIO()
    observer = LineProgress(stream, every=2.0, now=watch)
    for done in range(1, 41):
        watch.now += 0.5
        observer(progress(done))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[-1] == (
        "pretrain: 40/100, layer 1 of 2, 30 s left, 18,400 examples/s, squared error 8.300"
    )


def test_the_time_left_of_a_resumed_stage_counts_only_what_was_watched() -> None:
    watch = Watch()
    clock = Clock(watch)
    assert clock.left(50, 100) is None
    watch.now += 10
    assert clock.left(60, 100) == pytest.approx(40)


def test_each_part_has_a_clock_of_its_own() -> None:
    watch, stream = Watch(), io.StringIO()
    observer = LineProgress(stream, every=0.0, now=watch)
    for part in ("layer 1 of 2", "layer 2 of 2"):
        for done in (1, 51):
            watch.now += 50.0
            observer(progress(done, part))
    assert stream.getvalue().count("49 s left") == 2


def test_work_for_a_part_counts_as_the_stage() -> None:
    stream = io.StringIO()
    LineProgress(stream, every=0.0)(progress(3, part="", stage="pretrain/layer-1"))
    assert stream.getvalue().startswith("pretrain: 3/100, layer-1, ")


def test_a_terminal_gets_bars_and_what_is_done_stays() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, height=40)
    with TerminalProgress(console) as observer:
        for event in EVENTS:
            observer(event)
            time.sleep(0.2)  # longer than the bars take to be drawn anew
    shown = stream.getvalue()
    assert "20/100" in shown
    assert "validation error 2.00 %" in shown
    assert "\x1b[?25h" in shown  # the cursor is back


@pytest.mark.parametrize("width", [40, 80, 200])
def test_markup_and_escapes_in_names_stay_text(width: int) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, height=40, color_system=None)
    with TerminalProgress(console) as observer:
        observer(StageStarted("[bold]x[/bold]", "encode", 0))
        observer(progress(3, "[red]part", "[bold]x[/bold]"))
        observer(StageFinished("[bold]x[/bold]", "encode", 1.0, {"[red]m": 1.0}, False))
        observer(Notice("[/] \x1b]0;title\x07 \x1b[31mred"))
    shown = stream.getvalue()
    assert "[bold]x[/bold]" in shown
    assert "[/] \\x1b]0;title\\x07 \\x1b[31mred" in shown.replace("\n", "")


def test_lines_of_a_log_go_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("distributed")
    monkeypatch.setattr(logger, "handlers", [handler])
    with TerminalProgress(Console(file=stream, force_terminal=True)):
        assert handler.stream is not stream
        logger.warning("a worker went away")
    assert handler.stream is stream
    assert "a worker went away" in stream.getvalue()


def test_bars_end_when_the_work_fails() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True)

    def work() -> None:
        with TerminalProgress(console) as observer:
            observer(progress(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert stream.getvalue().endswith("\x1b[?25h")


def test_a_notebook_gets_one_table_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, table: NotebookProgress) -> None:
            shown.append(table._repr_html_())  # type: ignore[attr-defined]

    display = pytest.importorskip("IPython.display", reason="a notebook has IPython")

    def show(table: NotebookProgress, display_id: bool) -> Handle:
        assert display_id
        assert not shown
        shown.append(table._repr_html_())  # type: ignore[attr-defined]
        return Handle()

    monkeypatch.setattr(display, "display", show)
    watch = Watch()
    with NotebookProgress(now=watch) as observer:
        for event in [*EVENTS, Notice("<script>")]:
            watch.now += 1.0
            observer(event)
    assert len(shown) == len(EVENTS) + 2
    assert "20/100" in shown[3]
    assert "validation error 2.00 %" in shown[-1]
    assert "&lt;script&gt;" in shown[-1]


def test_no_notebook_here() -> None:
    assert not in_notebook()


def test_control_characters_become_visible() -> None:
    assert plain("é\x1b[31m\x00\x9b\n") == "é\\x1b[31m\\x00\\x9b\n"
