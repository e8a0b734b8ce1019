"""Clusters started by hand, as somebody else would: real ``dask`` processes, real certificates."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import trustme

from deepstrata.pipelines import environment

SECONDS = 60  #: until a process is given up that should have done something
#: ``--no-dashboard`` would leave a web server on all interfaces.
DASHBOARD = ("--dashboard-address", "127.0.0.1:0")
WORKER = ("--nthreads", "1", "--local-directory", "scratch", *DASHBOARD)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until(what: str, seen: Callable[[], bool]) -> None:
    """Wait for something that happens, or fail with its name."""
    deadline = time.monotonic() + SECONDS
    while not seen():
        assert time.monotonic() < deadline, f"{what} did not happen in {SECONDS} seconds"
        time.sleep(0.02)


class Certificates:
    """An authority of its own, and one certificate that serves every node."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.cert, self.key = (str(folder / f"{n}.pem") for n in ("ca", "cert", "key"))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        node = authority.issue_cert("node.example")
        node.private_key_pem.write_to_path(self.key)
        node.cert_chain_pems[0].write_to_path(self.cert)

    @property
    def dask(self) -> list[str]:
        """Options of ``dask scheduler`` and ``dask worker``."""
        return ["--tls-ca-file", self.ca, "--tls-cert", self.cert, "--tls-key", self.key]


class Hand:
    """Starts processes in a directory of its own, and ends whatever is left of them."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        found = {"PYTHONPATH": _absolute(os.environ.get("PYTHONPATH", ""))}
        self.environment = os.environ | found | environment.ALLOCATOR | variables
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill whole sessions: a nanny's worker would outlive it."""
        for process in self._processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self._processes:
            process.wait()

    def start(
        self, name: str, command: Sequence[str], before: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a Python module; what it says goes to ``NAME.log``."""
        with open(self.log(name), "wb") as log:
            process = subprocess.Popen(
                [*before, sys.executable, "-m", *command],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def said(self, name: str) -> str:
        return self.log(name).read_text(errors="replace")

    def scheduler(self, port: int, *options: str, before: Sequence[str] = ()) -> None:
        command = ["distributed.cli.dask_scheduler", "--port", str(port), *DASHBOARD]
        self.start("scheduler", [*command, *options], before)

    def worker(
        self, name: str, address: str, *options: str, before: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        command = ["distributed.cli.dask_worker", address, "--name", name, *WORKER]
        return self.start(name, [*command, *options], before)


def _absolute(path: str) -> str:
    """Return a search path that holds in another directory too."""
    return os.pathsep.join(os.path.abspath(part) for part in path.split(os.pathsep) if part)
