"""Scheduler, workers and client on hosts of their own, and the network between them cut."""

from collections.abc import Iterator
from contextlib import ExitStack
from subprocess import Popen
from threading import Event as Flag
from threading import Timer

import pytest
from distributed import Client
from networks import Cut, Network, why_not
from outside import Hand, wait_until
from support import dbn_pipeline, same

from deepstrata.pipelines.cluster import ClusterWarning, connect
from deepstrata.pipelines.events import Event, Notice, Progress
from deepstrata.pipelines.run import Run, run

pytestmark = pytest.mark.network

SECONDS_CUT = 2.0
#: The shortest that Dask takes; after it a silent connection is dead (30 s by default).
TCP_SECONDS = "11s"
PORT = 8786


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Network("scheduler", "steady", "shaky", "lost") as network:
        yield network


@pytest.fixture(scope="module")
def hand(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    """A scheduler and two workers, each on its host."""
    timeouts = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": TCP_SECONDS}
    with Hand(tmp_path_factory.mktemp("hosts"), **timeouts) as hand:
        where = ("--host", network.address("scheduler"))
        hand.scheduler(PORT, *where, before=network.inside("scheduler"))
        for host in ("steady", "shaky"):
            start(hand, network, host)
        yield hand


def start(hand: Hand, network: Network, host: str) -> Popen[bytes]:
    options = ("--no-nanny", "--host", network.address(host))
    return hand.worker(host, scheduler_of(network), *options, before=network.inside(host))


def scheduler_of(network: Network) -> str:
    return f"tcp://{network.address('scheduler')}:{PORT}"


@pytest.fixture
def far(network: Network, hand: Hand) -> Iterator[Client]:
    """A client of that cluster, which is told that the connection is open to all."""
    wait_until("listening", lambda: "Scheduler at" in hand.said("scheduler"))
    with ExitStack() as stack:
        with pytest.warns(ClusterWarning, match=r"not encrypted.*use tls://"):
            client = stack.enter_context(connect(scheduler_of(network)))
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture(scope="module")
def reference(bars_path: str, client: Client, tmp_path_factory) -> Run:
    out = str(tmp_path_factory.mktemp("reference") / "run")
    return run(dbn_pipeline(bars_path), client, out=out)


@pytest.mark.parametrize("how", ["unplugged", "silent"])
def test_a_network_that_is_mended(
    how: Cut, network: Network, far: Client, reference: Run, bars_path: str, out: str
) -> None:
    """The run waits for what the worker holds, and goes on with it."""
    cut, mended = Flag(), Flag()
    after: list[Event] = []
    said: list[str] = []

    def mend() -> None:
        network.mend("shaky")
        mended.set()

    def observe(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event.text)
        if isinstance(event, Progress) and event.stage == "pretrain" and not cut.is_set():
            cut.set()
            network.cut("shaky", how)
            Timer(SECONDS_CUT, mend).start()
        if mended.is_set():
            after.append(event)

    same(reference, run(dbn_pipeline(bars_path), far, out=out, observer=observe))
    assert any(isinstance(event, Progress) for event in after)
    assert not any("is gone" in text for text in said)


def test_a_network_that_stays_cut(
    network: Network, hand: Hand, far: Client, reference: Run, bars_path: str, out: str
) -> None:
    """Dask takes the worker for dead, others do its work, and the process itself ends."""
    lost = start(hand, network, "lost")
    wait_until("joining", lambda: "lost" in str(far.scheduler_info(n_workers=-1)))
    said: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event.text)
        if isinstance(event, Progress) and event.stage == "finetune":
            network.cut("lost", "silent")

    same(reference, run(dbn_pipeline(bars_path), far, out=out, observer=observe))
    assert any(f"{network.address('lost')}:" in text and "is gone" in text for text in said)
    wait_until("ending", lambda: lost.poll() is not None)
