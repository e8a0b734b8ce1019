"""Four real runs: a worker is killed, a scheduler, a client, and all of them in one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="finds processes by /proc")
def test_kills_change_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--fixed", "--epochs", "8"]
    done = subprocess.run(
        [*command, "--work", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 runs" in done.stdout
    assert "4 same" in done.stdout
    assert "kills: 7 (3 of a worker, 0 of a nanny, 2 of a scheduler, 2 of a client" in done.stdout
