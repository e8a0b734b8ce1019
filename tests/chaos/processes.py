"""Starting, finding and ending real processes; all of a campaign's carry its tag.

A client is forked from this process, which has imported everything: that saves seconds a run, and
what is killed is a process of its own all the same. So nothing here may start a thread.
"""

import faulthandler
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

TAG = "DEEPSTRATA_CHAOS"
GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess)


def forked(function: Callable[[], int | None], log: Path, tag: str) -> int:
    """Run a function in a process of its own, with its output in a file; return its id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        os.environ[TAG] = tag
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        code = function() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int | None:
    """Return the exit status of a child that has ended (negative: the signal), else None."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def waited(pid: int, seconds: float) -> int:
    """Wait for a child; kill it when it takes longer."""
    end = time.monotonic() + seconds
    while (code := ended(pid)) is None:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return code


def kill(pid: int) -> None:
    """Send SIGKILL, and be content if there is nothing left to kill."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def tagged(tag: str) -> list[psutil.Process]:
    """Return the processes started below a tag, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        with suppress(*GONE):
            if process.environ().get(TAG, "").startswith(tag):
                found.append(process)
    return found


def workers_of(pid: int) -> list[int]:
    """Return the worker processes below a client or a nanny, oldest first."""
    found = []
    with suppress(*GONE):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(*GONE):
                if any("spawn_main" in word for word in process.cmdline()):
                    found.append((process.create_time(), process.pid))
    return [pid for _, pid in sorted(found)]


def stacks(pids: list[int]) -> str:
    """Return where every process is, by py-spy if it is there."""
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH')}")
    if spy is None:
        return "no py-spy (pip install py-spy) to look into workers"
    texts = []
    for pid in pids:
        done = subprocess.run([spy, "dump", "--pid", str(pid)], capture_output=True, text=True)
        texts.append(done.stdout or f"process {pid}: {done.stderr}")
    return "\n".join(texts)
