"""The cluster a run uses: threads, local processes, GPUs, or one that somebody else started."""

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import dask
from distributed import (
    Client,
    LocalCluster,
    Scheduler,
    SchedulerPlugin,
    Security,
    Worker,
    WorkerPlugin,
)
from distributed.versions import VersionMismatchWarning

from deepstrata.pipelines import environment, room, scheduler
from deepstrata.pipelines.events import Event, Notice, Observer
from deepstrata.pipelines.versions import check_versions
from deepstrata.schemas.errors import ClusterError
from deepstrata.storage import stores

CONNECT_SECONDS = 10
DASHBOARD_PORT = 8787
PROMPT_WORKERS = 16  #: up to so many, messages are sent at once
QUIET = logging.CRITICAL  #: what fails in a task is raised in the client and said there, once
#: What a run holds is bounded by its plan: to spill is slow, and to pause is to hang.
STEADY = {f"distributed.worker.memory.{what}": False for what in ("target", "spill", "pause")}
LOGGER = logging.getLogger("deepstrata")
ATTEMPTS, AGAIN_SECONDS = 5, 0.5
KINDS = ("local", "threads", "cuda")

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


class Prepare(WorkerPlugin):
    """Gives every worker, also one that joins later, one BLAS thread a task; makes it prompt.

    Parameters
    ----------
    expected
        What the workers that are checked say of themselves: one that joins later and would compute
        other bits is closed.
    """

    name = "deepstrata"

    def __init__(self, expected: dict[str, Any] | None = None) -> None:
        self.expected = expected

    def setup(self, worker: Worker) -> None:
        """Set the limit; send what is done at once."""
        self._limits = environment.limit_blas(1)
        room.set_room(worker)
        send_at_once(getattr(worker, "batched_stream", None))
        found = self.expected and _difference(self.expected, environment.describe())
        if found:
            LOGGER.error("worker %s would compute other bits and is closed: %s", worker.name, found)
            worker.loop.add_callback(worker.close, reason=found, nanny=True)

    def teardown(self, worker: Worker) -> None:
        """Put the process back as it was."""
        self._limits.restore_original_limits()


class Prompt(SchedulerPlugin):
    """Sends tasks to workers at once, rather than collecting them for five milliseconds.

    A round is a chain of three tasks, so it is three such waits shorter. With many workers the
    scheduler is the limit and collecting helps, so there nothing is changed.
    """

    name, idempotent = "deepstrata", True

    async def start(self, scheduler: Scheduler) -> None:
        """Set those that are there."""
        for address in list(scheduler.workers):
            self.add_worker(scheduler, address)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Set one that joins."""
        if len(scheduler.workers) <= PROMPT_WORKERS:
            send_at_once(getattr(scheduler, "stream_comms", {}).get(worker))


def send_at_once(stream: Any) -> None:
    """Cut the time for which a stream of messages collects them.

    It is an attribute that Dask does not document; without it messages are slower and right.
    """
    if hasattr(stream, "interval"):
        stream.interval = 0


def _dashboard() -> str:
    """Return a loopback address for the dashboard: the usual port if it is free."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", DASHBOARD_PORT))
        except OSError:
            return "127.0.0.1:0"
    return f"127.0.0.1:{DASHBOARD_PORT}"


def _local(workers: int | None) -> LocalCluster:
    return LocalCluster(
        n_workers=workers or os.cpu_count() or 1,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=_dashboard(),
        silence_logs=QUIET,
    )


def _threads(workers: int | None) -> LocalCluster:
    return LocalCluster(
        n_workers=1,
        threads_per_worker=workers or os.cpu_count() or 1,
        processes=False,
        dashboard_address=_dashboard(),
        worker_dashboard_address="127.0.0.1:0",
        silence_logs=QUIET,
    )


def _cuda(workers: int | None) -> Any:
    try:
        import cupy  # noqa: F401
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise ClusterError(
            f"--cluster cuda needs CuPy and dask-cuda ({error}); "
            "install them with: pip install 'deepstrata[gpu]'"
        ) from None
    return LocalCUDACluster(n_workers=workers, host="127.0.0.1", dashboard_address=_dashboard())


STARTERS = {"local": _local, "threads": _threads, "cuda": _cuda}


class ClusterWarning(UserWarning):
    """Something about a cluster that a person should know, where no observer is told of it."""


def warn(event: Event) -> None:
    """Observe notices as Python's warnings do."""
    if isinstance(event, Notice):
        warnings.warn(event.text, ClusterWarning, stacklevel=3)


@contextmanager
def connect(
    cluster: str = "local",
    workers: int | None = None,
    *,
    security: Security | None = None,
    observer: Observer = warn,
) -> Iterator[Client]:
    """Start a local cluster, or connect to the scheduler at an address, and yield a client.

    Parameters
    ----------
    cluster
        ``local`` (processes), ``threads`` (this process), ``cuda`` (one worker per GPU), or the
        address of a scheduler such as ``tcp://10.0.0.1:8786`` or ``tls://10.0.0.1:8786``.
    workers
        Processes or threads to start; one per core by default. Not for an address.
    security
        Certificates for a ``tls://`` address; by default those of Dask's configuration.
    observer
        Told when the connection is not encrypted; by default a warning is given.

    Raises
    ------
    ClusterError
        The address or a certificate is wrong, no scheduler answers within ten seconds, a local
        cluster does not start, or GPU packages are missing.
    """
    if cluster not in STARTERS:
        with _existing(cluster, workers, security, observer) as client:
            yield client
        return
    if security is not None:
        raise ClusterError(
            f"--cluster {cluster} listens on this machine only and takes no certificates; "
            "they are for a tls:// address"
        )
    settings = {
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ", {}),
            **environment.ALLOCATOR,
        },
        **STEADY,
    }
    with (
        dask.config.set(settings),
        _started(cluster, workers) as started,
        Client(started) as client,
    ):
        yield client


def _started(cluster: str, workers: int | None) -> Any:
    try:
        return STARTERS[cluster](workers)
    except ClusterError:
        raise
    except (OSError, RuntimeError) as error:  # a worker died, or there is no memory or port left
        raise ClusterError(
            f"--cluster {cluster} did not start ({type(error).__name__}: {error}); look for what "
            "killed its processes, such as too little memory, or take fewer --workers"
        ) from error


def _existing(
    cluster: str, workers: int | None, security: Security | None, observer: Observer
) -> Client:
    """Return a client of a scheduler that somebody else started."""
    if ":" not in cluster:
        raise ClusterError(
            f"--cluster {cluster!r}: expected {', '.join(KINDS)}, or the address of a scheduler "
            "such as tcp://127.0.0.1:8786"
        )
    address = scheduler.parse(cluster)
    if workers is not None:
        raise ClusterError("--workers starts local workers; a running cluster has its own")
    if address is not None:
        security = scheduler.prepare(address, security, CONNECT_SECONDS)
        if not scheduler.is_private(address):
            observer(
                Notice(
                    f"the connection to {address} is not encrypted: whoever reaches this scheduler "
                    "runs code on its workers; use tls:// (see SECURITY.md)"
                )
            )
    try:
        with warnings.catch_warnings():
            # ``check`` says it, with the addresses.
            warnings.simplefilter("ignore", VersionMismatchWarning)
            return Client(cluster, timeout=CONNECT_SECONDS, security=security)
    except TypeError as error:  # a worker does not know what a scheduler is asked
        raise ClusterError(
            f"what listens at {cluster} is no scheduler; is it a worker's address? ({error})"
        ) from None
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        raise scheduler.unanswered(cluster, CONNECT_SECONDS, error) from None


def dashboard(client: Client) -> str | None:
    """Return the address of the dashboard; of an in-process cluster, where it really listens."""
    if not address_of(client).startswith("inproc"):
        link: str | None = client.dashboard_link
        return link
    scheduler = getattr(client.cluster, "scheduler", None)
    server = getattr(scheduler, "http_server", None)
    return f"http://{server.address}:{server.port}/status" if server is not None else None


def _again(function: Callable[Asked, Answer]) -> Callable[Asked, Answer]:
    """Ask all workers again when one dies while it is asked."""

    @wraps(function)
    def ask(*args: Asked.args, **settings: Asked.kwargs) -> Answer:
        for _ in range(ATTEMPTS):
            try:
                return function(*args, **settings)
            except OSError as error:  # what Dask raises for a connection that ends
                last = error
                time.sleep(AGAIN_SECONDS)
        raise ClusterError(
            f"workers (or the scheduler) died {ATTEMPTS} times while they were asked what they are "
            f"({last}); see their logs"
        ) from last

    return ask


@_again
def check(client: Client, observer: Observer = warn) -> dict[str, Any]:
    """Prepare the workers and check that they run the same code; return one's description.

    Parameters
    ----------
    observer
        Told of other versions that may do harm; by default a warning is given.

    Raises
    ------
    ClusterError
        There are no workers, one has no deepstrata or another version of it, of Dask or of Python,
        or two of them would compute different bits.
    """
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError):
        raise ClusterError(
            f"the cluster at {address_of(client)} has no workers; start some with: "
            f"dask worker {address_of(client)}"
        ) from None
    check_versions(client, observer)
    for address, there in sorted(client.run(_finder()).items()):
        if not there:
            raise ClusterError(
                f"worker {address} has no deepstrata: install deepstrata "
                f"{environment.package_version('deepstrata')} in its environment"
            )
    client.register_plugin(Prepare())
    found = client.run(environment.describe)
    # A scheduler without deepstrata cannot take the plugin, and does without it.
    with suppress(ImportError):
        client.register_plugin(Prompt())
    mine = environment.describe()
    first_address, first = next(iter(sorted(found.items())))
    for address, other in sorted(found.items()):
        theirs, ours = other["notes"]["deepstrata"], mine["notes"]["deepstrata"]
        if theirs != ours or other["code"] != mine["code"]:
            raise ClusterError(
                f"worker {address} runs deepstrata {theirs} (code {other['code'][:12]}), this is "
                f"{ours} (code {mine['code'][:12]}): install the same on both"
            )
        difference = _difference(first, other)
        if difference:
            raise ClusterError(
                f"workers would compute different bits: {first_address} and {address}: {difference}"
            )
    client.register_plugin(Prepare(first))
    description: dict[str, Any] = first
    return description


def _difference(first: dict[str, Any], other: dict[str, Any]) -> str | None:
    """Say what lets a worker compute other bits than another, if anything."""
    for what, value in first["bits"].items():
        if other["bits"].get(what) != value:
            return f"{what} is {value!r} and {other['bits'].get(what)!r}"
    if first["code"] != other["code"]:
        return f"deepstrata's code is {first['code'][:12]} and {other['code'][:12]}"
    return None


def _finder() -> Callable[[], bool]:
    """Return a function that travels by value: it runs where deepstrata is not installed."""

    def find() -> bool:
        from importlib.util import find_spec

        return find_spec("deepstrata") is not None

    return find


@_again
def check_shared(client: Client, url: str) -> None:
    """Check that every worker sees a file that the client has written.

    Raises
    ------
    ClusterError
        A worker does not.
    """
    for address, seen in client.run(stores.exists, url).items():
        if not seen:
            raise ClusterError(
                f"worker {address} does not see {url}: the run directory must be on storage that "
                "the client and all workers reach under the same path or URL (--out)"
            )


def address_of(client: Client) -> str:
    """Return the address of a client's scheduler."""
    return str(client.scheduler_info(n_workers=0)["address"])
