"""Clusters that others start: real schedulers and workers, with and without TLS, on loopback."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import Client
from outside import Certificates, Hand, free_port, wait_until
from support import dbn_pipeline, same

from deepstrata import ClusterError
from deepstrata.pipelines.cluster import connect
from deepstrata.pipelines.doctor import remote_cluster
from deepstrata.pipelines.events import Event, Notice, Progress
from deepstrata.pipelines.run import Run, run
from deepstrata.pipelines.scheduler import security_from

HERE = ("--host", "127.0.0.1")


@pytest.fixture(scope="module")
def reference(bars_path: str, client: Client, tmp_path_factory) -> Run:
    """One run on threads of this process."""
    out = str(tmp_path_factory.mktemp("reference") / "run")
    return run(dbn_pipeline(bars_path), client, out=out)


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    with Hand(tmp_path_factory.mktemp("elsewhere")) as hand:
        yield hand


@pytest.fixture(scope="module")
def plain(hand: Hand) -> str:
    """A scheduler, a worker with a nanny and one without."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    hand.scheduler(port, *HERE)
    hand.worker("nannied", address, *HERE)
    hand.worker("alone", address, "--no-nanny", *HERE)
    wait_until("listening", lambda: "Scheduler at" in hand.said("scheduler"))
    return address


@pytest.fixture
def outside(plain: str) -> Iterator[Client]:
    """A client of that cluster when its two workers are there."""
    with connect(plain) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def encrypted(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[str]:
    """The address of a scheduler and a worker that speak TLS."""
    port = free_port()
    address = f"tls://127.0.0.1:{port}"
    with Hand(tmp_path_factory.mktemp("encrypted")) as hand:
        hand.scheduler(port, *HERE, "--protocol", "tls", *certificates.dask)
        hand.worker("encrypted", address, "--no-nanny", *HERE, *certificates.dask)
        wait_until("registering", lambda: "Registered to" in hand.said("encrypted"))
        yield address


def workers(client: Client) -> dict[str, str]:
    """Return the addresses of the workers by name."""
    info = client.scheduler_info(n_workers=-1)["workers"]
    return {worker["name"]: address for address, worker in info.items()}


def once(action: Callable[[], None], said: list[str]) -> Callable[[Event], None]:
    """Return an observer that acts in the middle of fine-tuning and keeps what is said."""
    done: list[bool] = []

    def observe(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event.text)
        if isinstance(event, Progress) and event.stage == "finetune" and not done:
            done.append(True)
            action()

    return observe


def test_workers_started_by_hand_give_the_same_bits(
    outside: Client, reference: Run, bars_path: str, out: str
) -> None:
    same(reference, run(dbn_pipeline(bars_path), outside, out=out))


def test_a_worker_that_joins_a_run(
    hand: Hand, plain: str, outside: Client, reference: Run, bars_path: str, out: str
) -> None:
    said: list[str] = []

    def join() -> None:
        hand.worker("late", plain, "--no-nanny", *HERE)
        wait_until("joining", lambda: "late" in workers(outside))

    same(reference, run(dbn_pipeline(bars_path), outside, out=out, observer=once(join, said)))
    late = workers(outside)["late"]
    assert f"worker {late} has joined" in said
    outside.retire_workers([late])


@pytest.mark.parametrize("victim", ["nannied", "victim"])
def test_a_worker_that_is_killed(
    victim: str, hand: Hand, plain: str, outside: Client, reference: Run, bars_path: str, out: str
) -> None:
    """With a nanny it comes back, without one it does not; neither changes a bit."""
    said: list[str] = []
    if victim == "victim":
        hand.worker(victim, plain, "--no-nanny", *HERE)
        wait_until("joining", lambda: victim in workers(outside))
    address = workers(outside)[victim]
    (process,) = outside.run(os.getpid, workers=[address]).values()
    kill = once(lambda: os.kill(process, signal.SIGKILL), said)
    same(reference, run(dbn_pipeline(bars_path), outside, out=out, observer=kill))
    assert f"worker {address} is gone; what it held is computed again" in said
    if victim == "nannied":
        wait_until("coming back", lambda: workers(outside).get(victim, address) != address)


def test_an_encrypted_cluster_gives_the_same_bits(
    encrypted: str, certificates: Certificates, reference: Run, bars_path: str, out: str
) -> None:
    security = security_from(certificates.ca, certificates.cert, certificates.key)
    with connect(encrypted, security=security) as client:
        same(reference, run(dbn_pipeline(bars_path), client, out=out))


def test_certificates_of_dask_s_configuration(
    encrypted: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask

    found = {"ca-file": certificates.ca, "client.cert": certificates.cert,
             "client.key": certificates.key}  # fmt: skip
    settings = {f"distributed.comm.tls.{name}": value for name, value in found.items()}
    with dask.config.set(settings), connect(encrypted) as client:
        assert client.scheduler.address == encrypted


def test_variables_of_the_environment_reach_workers(outside: Client, plain: str) -> None:
    """Also below a nanny, which has values of its own for the allocator."""
    found = {check.name: check for check in remote_cluster(plain)}
    assert {check.status for check in found.values()} == {"ok"}, found


def test_the_doctor_looks_through_tls(encrypted: str, certificates: Certificates) -> None:
    security = security_from(certificates.ca, certificates.cert, certificates.key)
    found = {check.name: check for check in remote_cluster(encrypted, security)}
    assert {check.status for check in found.values()} == {"ok"}, found


@pytest.fixture
def stranger(tmp_path: Path) -> Certificates:
    """Certificates of another authority."""
    return Certificates(tmp_path)


def refused(address: str, match: str, **files: str | None) -> None:
    with (
        pytest.raises(ClusterError, match=match),
        connect(address, security=security_from(**files)),
    ):
        pass


def test_a_scheduler_of_another_authority(
    encrypted: str, certificates: Certificates, stranger: Certificates
) -> None:
    mine = {"cert": certificates.cert, "key": certificates.key}
    refused(encrypted, f"is not accepted .*authority in {stranger.ca}", ca=stranger.ca, **mine)


def test_a_client_of_another_authority(
    encrypted: str, certificates: Certificates, stranger: Certificates
) -> None:
    theirs = {"cert": stranger.cert, "key": stranger.key}
    match = f"does not accept the certificate in {stranger.cert}"
    refused(encrypted, match, ca=certificates.ca, **theirs)


def test_encryption_on_one_side_only(
    encrypted: str, plain: str, outside: Client, certificates: Certificates
) -> None:
    refused(encrypted.replace("tls", "tcp"), f"speaks TLS: use {encrypted}")
    files = {"ca": certificates.ca, "cert": certificates.cert, "key": certificates.key}
    refused(plain.replace("tcp", "tls"), "does not speak TLS", **files)
    refused(plain, "is not encrypted.*expected tls://", **files)


def test_a_worker_is_no_scheduler(outside: Client) -> None:
    refused(workers(outside)["alone"], "no scheduler; is it a worker's address")
