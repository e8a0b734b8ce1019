"""The terminal session of the README, run as it stands there: ``python -m tests.chaos.session``.

What the README shows must be printed in that order; ``...`` stands for anything, or for any lines.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
TITLE = "## The promise, in a terminal"
TIMEOUT = 900.0


def blocks(text: str) -> tuple[str, str]:
    """Return the commands and the output that the README shows."""
    section = text.partition(f"{TITLE}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```(bash|text)\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    if [kind for kind, _ in found] != ["bash", "text"]:
        raise ValueError(f"README, {TITLE!r}: expected a bash block and a text block")
    return found[0][1], found[1][1]


def missing(shown: Iterable[str], printed: Iterable[str]) -> str | None:
    """Return the first line that was shown and not printed after those before it."""
    left = iter([" ".join(line.split()) for line in printed])
    for line in shown:
        words = " ".join(line.split())
        pattern = ".*".join(re.escape(part) for part in words.split("..."))
        if words != "..." and not any(re.fullmatch(pattern, other) for other in left):
            return line
    return None


def play(commands: str, folder: Path) -> str:
    """Run the commands in a folder; return what they print. Nothing of them outlives this."""
    process = subprocess.Popen(
        ["bash", "-e", "-c", commands],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=TIMEOUT)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        logs = "\n".join(f"{log.name}:\n{log.read_text()}" for log in folder.glob("*.log"))
        raise RuntimeError(f"not done after {TIMEOUT:.0f} seconds\n{logs}") from None


def main() -> int:
    """Run the session; return 1 if it is not as the README shows it."""
    commands, shown = blocks(README.read_text())
    with tempfile.TemporaryDirectory() as folder:
        printed = play(commands, Path(folder))
    print(printed)
    line = missing(shown.splitlines(), printed.splitlines())
    if line is not None:
        print(f"README, {TITLE!r} shows what was not printed: {line}", file=sys.stderr)
        return 1
    print("the session is as the README shows it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
