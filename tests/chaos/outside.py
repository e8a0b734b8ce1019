"""A scheduler and workers started by Dask's command line, killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from .processes import TAG, kill, workers_of

START_SECONDS = 120
#: ``--no-dashboard`` would leave a web server on all interfaces.
DASHBOARD = "--dashboard-address=127.0.0.1:0"


class Outside:
    """A cluster that outlives clients and whole runs; what is dead is started when needed."""

    def __init__(self, folder: Path, tag: str) -> None:
        self.folder, self.tag = folder, tag
        self.port = _free_port()
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self.logs: dict[int, Path] = {}
        self.nanny = False
        self._started = 0

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def ensure(self, workers: int, nanny: bool) -> None:
        """Have a scheduler with so many workers, all of them registered."""
        if nanny != self.nanny:
            self.kill_workers()
        self.nanny = nanny
        for process in self.workers[workers:]:
            self._kill(process)
        self.revive(workers)
        for process in self.workers:
            self._registered(process)

    def revive(self, workers: int) -> None:
        """Start what is not there, without waiting for it."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.scheduler = self._start(
                ["scheduler", "--host=127.0.0.1", f"--port={self.port}", DASHBOARD]
            )
        self.workers = [process for process in self.workers if process.poll() is None]
        while len(self.workers) < workers:
            self.join()

    def join(self) -> None:
        """Start one more worker."""
        options = ["--nthreads=1", "--host=127.0.0.1", DASHBOARD]
        options += [] if self.nanny else ["--no-nanny"]
        local = self.folder / "scratch"
        self.workers.append(
            self._start(["worker", self.address, *options, f"--local-directory={local}"])
        )

    def worker_pids(self) -> list[int]:
        """Return the processes that compute."""
        there = [process.pid for process in self.workers if process.poll() is None]
        return [pid for one in there for pid in workers_of(one)] if self.nanny else there

    def nanny_pids(self) -> list[int]:
        """Return the processes that watch over those that compute."""
        return [process.pid for process in self.workers if self.nanny and process.poll() is None]

    def kill_scheduler(self) -> None:
        """Kill the scheduler alone."""
        if self.scheduler is not None:
            self._kill(self.scheduler)

    def kill_workers(self) -> None:
        """Kill every worker and nanny."""
        for process in list(self.workers):
            self._kill(process)

    def close(self) -> None:
        """Kill all of it."""
        self.kill_workers()
        self.kill_scheduler()

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        below = workers_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for pid in below:
            kill(pid)
        if process in self.workers:
            self.workers.remove(process)

    def _start(self, words: list[str]) -> subprocess.Popen[bytes]:
        self._started += 1
        log = self.folder / f"{words[0]}-{self._started}.log"
        with open(log, "wb") as file:
            process = _popen([sys.executable, "-m", "dask", *words], file, self.tag)
        self.logs[process.pid] = log
        return process

    def _registered(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a worker has told its log that the scheduler has taken it."""
        end = time.monotonic() + START_SECONDS
        log = self.logs[process.pid]
        while b"Registered to" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"a worker did not start:\n{log.read_text()}")
            time.sleep(0.05)


def _popen(words: list[str], file: IO[bytes], tag: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=file,
        env=os.environ | {TAG: tag},
        start_new_session=True,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
