"""Every benchmark runs, small, and prints figures; how fast things are decides nothing."""

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = (path for path in HERE.glob("*.py") if path != Path(__file__))
NAMES = sorted(path.stem for path in FILES if "def main(argv" in path.read_text())

pytestmark = pytest.mark.benchmark


def benchmark(*arguments: str) -> str:
    """Return what the command prints."""
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(text: str) -> Iterator[float]:
    """Yield what the tables hold: blocks of indented lines, the first line and column names."""
    for is_table, lines in groupby(text.splitlines(), lambda line: line.startswith("  ")):
        for line in [*lines][1:] if is_table else ():
            for cell in re.split(r"\s{2,}", line.strip())[1:]:
                if cell != "-":
                    yield float(cell.rstrip(" %").replace(",", ""))


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_prints_figures(name: str, tmp_path: Path) -> None:
    text = benchmark(name, "--quick", "--folder", str(tmp_path))
    found = list(figures(text))
    assert len(found) >= 6
    assert all(math.isfinite(value) and value > 0 for value in found), text
    assert "load" in text
    assert "1 thread(s)" in text
    assert not list(tmp_path.iterdir())


def test_all_of_them_are_listed() -> None:
    text = benchmark("--help")
    assert len(NAMES) >= 5
    assert all(re.search(rf"^  {name} +\S", text, re.MULTILINE) for name in NAMES)


def test_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"no benchmark 'cd2'; there are: cd1, "):
        benchmark("cd2")
