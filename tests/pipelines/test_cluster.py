"""Local clusters: on loopback only, one BLAS thread, an allocator that keeps its pages."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from distributed import Client, LocalCluster, Status
from distributed.comm.core import CommClosedError

from deepstrata.pipelines import cluster, environment
from deepstrata.pipelines.cluster import (
    address_of,
    check,
    connect,
    dashboard,
    send_at_once,
)
from deepstrata.schemas.errors import ClusterError


def listening(pid: int) -> set[str]:
    """Return the addresses on which a process of this machine listens, by /proc."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{table}") as lines:
            for line in list(lines)[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                    found.add(fields[1].split(":")[0])
    return found


LOOPBACK = {"0100007F", "00000000000000000000000001000000"}


@pytest.fixture(scope="module")
def processes():
    with connect("local", workers=1) as client:
        check(client)
        yield client


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="reads Linux's /proc")
def test_nothing_listens_beyond_loopback(processes: Client, client: Client) -> None:
    assert client.scheduler_info()["workers"]  # the threads of this process
    workers = processes.run(os.getpid)
    assert listening(os.getpid())
    for pid in (os.getpid(), *workers.values()):
        assert listening(pid) <= LOOPBACK


def test_workers_are_told_to_keep_their_pages(processes: Client) -> None:
    (found,) = processes.run(environment.describe).values()
    assert found["allocator"] == environment.ALLOCATOR


def test_a_task_has_one_blas_thread(processes: Client) -> None:
    (found,) = processes.run(environment.blas_bits).values()
    assert found
    assert all(text.endswith("1 thread(s)") for text in found.values())


def test_messages_are_sent_at_once(processes: Client) -> None:
    """Fails when Dask renames what ``send_at_once`` sets: then look again, and at the speed."""

    def worker(dask_worker) -> float:
        return dask_worker.batched_stream.interval

    def scheduler(dask_scheduler) -> list[float]:
        return [stream.interval for stream in dask_scheduler.stream_comms.values()]

    assert list(processes.run(worker).values()) == [0]
    assert processes.run_on_scheduler(scheduler) == [0]


def test_streams_of_another_dask_are_left_alone() -> None:
    send_at_once(None)
    other = SimpleNamespace(period=5)
    send_at_once(other)
    assert vars(other) == {"period": 5}


def test_the_dashboard_of_threads_is_where_it_listens(client: Client) -> None:
    assert str(dashboard(client)).startswith("http://127.0.0.1:")


def answer(
    monkeypatch: pytest.MonkeyPatch, client: Client, descriptions: dict[str, dict[str, object]]
) -> None:
    """Let workers describe themselves in these words."""

    def run(function: object) -> dict[str, object]:
        known = function is environment.describe
        return dict(descriptions) if known else dict.fromkeys(descriptions, True)

    monkeypatch.setattr(client, "run", run)


def test_another_version_is_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = environment.describe()
    theirs = mine | {"notes": mine["notes"] | {"deepstrata": "0.0.1"}}
    answer(monkeypatch, client, {"tcp://a:1": theirs})
    with pytest.raises(ClusterError, match=r"tcp://a:1 runs deepstrata 0\.0\.1 .*install the same"):
        check(client)


def test_a_worker_without_deepstrata_is_named(tmp_path: Path) -> None:
    """A worker started by somebody else, with Dask and without deepstrata."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['deepstrata'] = None\n")
    options = ["--no-nanny", "--nthreads=1", "--no-dashboard", "--host=127.0.0.1"]
    with connect("local", workers=1) as client:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address_of(client)]
        worker = subprocess.Popen(
            [*command, *options],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            stderr=subprocess.DEVNULL,
        )
        try:
            client.wait_for_workers(2, timeout=30)
            with pytest.raises(ClusterError, match=r"worker tcp://127.* has no deepstrata"):
                check(client)
        finally:
            worker.terminate()
            worker.wait()


def test_workers_with_other_bits_are_refused(client: Client, monkeypatch) -> None:
    mine = environment.describe()
    other = mine | {"bits": mine["bits"] | {"numpy": "1.0"}}
    answer(monkeypatch, client, {"tcp://a:1": mine, "tcp://b:1": other})
    with pytest.raises(ClusterError, match=r"tcp://a:1 and tcp://b:1: numpy is .* and '1\.0'"):
        check(client)


def test_a_run_directory_that_workers_do_not_see_is_refused(client: Client, monkeypatch) -> None:
    monkeypatch.setattr(client, "run", lambda *_: {"tcp://a:1": True, "tcp://b:1": False})
    with pytest.raises(ClusterError, match="tcp://b:1 does not see"):
        cluster.check_shared(client, "/somewhere/run.json")


@pytest.mark.parametrize("deaths", [1, cluster.ATTEMPTS])
def test_a_worker_that_dies_while_it_is_checked(
    deaths: int, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, register = [deaths], client.register_plugin

    def dying(plugin: object) -> object:
        left[0] -= 1
        if left[0] >= 0:
            raise CommClosedError("in <TCP (closed) register_worker_plugin>: Stream is closed")
        return register(plugin)

    monkeypatch.setattr(cluster, "AGAIN_SECONDS", 0)
    monkeypatch.setattr(client, "register_plugin", dying)
    if deaths < cluster.ATTEMPTS:
        assert check(client)["bits"] == environment.describe()["bits"]
    else:
        with pytest.raises(ClusterError, match="died 5 times while .* Stream is closed"):
            check(client)


def test_cuda_without_its_packages_says_what_to_install() -> None:
    try:
        import cupy  # noqa: F401
    except ImportError:
        with pytest.raises(ClusterError, match="deepstrata\\[gpu\\]"), connect("cuda"):
            pass
    else:
        pytest.skip("CuPy is installed: the message is for machines without it")


def test_a_local_cluster_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(workers: int | None) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setitem(cluster.STARTERS, "local", dies)
    with (
        pytest.raises(ClusterError, match=r"local did not start \(RuntimeError: Nanny failed"),
        connect("local"),
    ):
        pass


def test_a_cluster_without_workers_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as empty,
        Client(empty) as client,
        pytest.raises(ClusterError, match="has no workers; start some with: dask worker tcp://"),
    ):
        check(client)


def test_a_worker_that_joins_and_would_compute_other_bits_is_closed(monkeypatch) -> None:
    with connect("threads", workers=1) as client:
        check(client)
        mine = environment.describe()
        other = mine | {"bits": mine["bits"] | {"numpy": "1.0"}}
        monkeypatch.setattr(environment, "describe", lambda: other)
        client.cluster.scale(2)
        for _ in range(200):
            joined = [w for w in client.cluster.workers.values() if w.status == Status.closed]
            if joined:
                break
            time.sleep(0.05)
        assert len(joined) == 1
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 1
        assert client.submit(sum, [1, 2]).result() == 3
