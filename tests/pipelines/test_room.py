"""A worker that has no room for a shard says so, and is not killed for it."""

import pickle

import dask
import pytest
from distributed import Client, LocalCluster
from support import dbn_pipeline

from deepstrata.pipelines import planning, room
from deepstrata.pipelines.cluster import STEADY
from deepstrata.pipelines.run import run
from deepstrata.schemas.errors import ClusterError
from deepstrata.storage.shards import Shard

SHARD = Shard(3, 300, 400)


def test_without_a_limit_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_room", room.Room())
    room.check(SHARD, 1 << 60)


def test_shard_need_use_and_limit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_room", room.Room("tcp://10.0.0.1:4000", 3 << 30))
    monkeypatch.setattr(room, "used_bytes", lambda: 1 << 30)
    room.check(SHARD, 2 << 30)
    with pytest.raises(ClusterError) as caught:
        room.check(SHARD, (2 << 30) + 1)
    text = str(pickle.loads(pickle.dumps(caught.value)))
    assert "worker tcp://10.0.0.1:4000: shard 3 (samples 300 to 399) needs 2,048 MiB" in text
    assert "1,024 of the worker's 3,072 MiB are in use" in text


def test_the_process_knows_its_size() -> None:
    assert room.used_bytes() > 1 << 20


def test_a_run_ends_with_that_error_and_its_workers_live(
    bars_path: str, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "check_plan", lambda *_: None)
    with (
        dask.config.set(STEADY),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            memory_limit="1MiB",  # less than Python itself takes: the plan would refuse it
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
        pytest.raises(ClusterError, match=r"shard \d+ .* needs .* of the worker's 1 MiB"),
    ):
        run(dbn_pipeline(bars_path), client, out=out)
