"""Reading ahead never changes what is read."""

import threading

import pytest

from deepstrata.pipelines import ahead, meter
from deepstrata.pipelines.ahead import Read


class Source:
    """Counts its reads and tells the threads they were made in."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def read(self, what: int) -> int:
        self.threads.append(threading.current_thread().name)
        if what < 0:
            raise OSError("cannot be read")
        return what * what


def reads(source: Source, *numbers: int, window: str = "w") -> list[Read]:
    return [Read(window, (i, 0), source.read, (n,)) for i, n in enumerate(numbers)]


def test_what_follows_is_read_once_and_by_another_thread() -> None:
    source = Source()
    first, second = reads(source, 3, 4)
    assert ahead.take(first, second) == 9
    assert ahead.take(second, None) == 16
    here = threading.current_thread().name
    assert source.threads[0] == here
    assert len(source.threads) == 2
    assert source.threads[1] != here


def test_a_place_that_moved_reads_by_itself() -> None:
    source = Source()
    first, second = reads(source, 5, 6)
    assert ahead.take(second, None) == 36
    assert ahead.take(first, None) == 25


def test_what_nobody_took_of_an_old_window_is_dropped() -> None:
    old, new = Source(), Source()
    ahead.take(*reads(old, 1, 2))
    ahead.take(*reads(new, 1, 2, window="later"))
    assert {window for window, _ in ahead._begun} == {"later"}


def test_an_error_is_raised_where_the_value_is_needed() -> None:
    first, bad = reads(Source(), 1, -1)
    assert ahead.take(first, bad) == 1
    with pytest.raises(OSError, match="cannot be read"):
        ahead.take(bad, None)


def test_what_is_read_ahead_counts_for_nobody() -> None:
    first, second = (Read("m", (i,), measured, (f"probe-{i}",)) for i in range(2))
    ahead.take(first, second)
    ahead.take(second, None)
    assert "probe-0" in meter.seconds()
    assert "probe-1" not in meter.seconds()


def measured(name: str) -> None:
    with meter.measure(name):
        pass
