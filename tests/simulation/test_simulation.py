"""The simulator: some schedules end in the same bits, and engines that are broken are found out."""

import re
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest

from deepstrata.ops import partials
from deepstrata.ops.partials import Partial
from deepstrata.pipelines import feeds, strategies
from deepstrata.schemas.trees import tree_map
from deepstrata.storage import checkpoints, stores
from simulation.faults import KINDS
from simulation.harness import Game, Outcome, Player
from simulation.playing import summary
from simulation.world import World

SEEDS = range(75)
WITHIN = 100  #: schedules in which a broken engine must be found out


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World().entered() as world:
        yield world


@pytest.fixture(scope="module")
def player(world: World) -> Player:
    return Player(world)


@pytest.fixture(scope="module")
def outcomes(player: Player) -> list[Outcome]:
    return [player.play(seed) for seed in SEEDS]


def first_failure(world: World) -> str:
    """Play schedules with the engine as it is now until one fails; say how."""
    player = Player(world)
    for seed in range(WITHIN):
        failure = player.play(seed).failure
        if failure is not None:
            return failure
    return ""


def test_every_schedule_ends_in_the_same_result(outcomes: list[Outcome]) -> None:
    failed = {outcome.seed: outcome.failure for outcome in outcomes if outcome.failure is not None}
    assert failed == {}


def test_every_kind_of_fault_was_met(outcomes: list[Outcome]) -> None:
    met = set().union(*(outcome.faults for outcome in outcomes))
    assert met == set(KINDS)
    assert sum(outcome.deaths for outcome in outcomes) > len(SEEDS)
    assert "differing" in summary(outcomes, 1.0)


def test_a_seed_is_played_the_same_way_again(
    player: Player, outcomes: list[Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    stormy = max(outcomes, key=lambda outcome: outcome.faults.total()).seed
    texts = []
    for _ in range(2):
        assert player.play(stormy, verbose=True).faults == outcomes[stormy].faults
        lines = capsys.readouterr().out.splitlines()
        # Sizes of documents vary with the digits of the times in them, errors with their keys.
        texts.append([line.rstrip("0123456789") for line in lines if ".json" not in line])
    assert len(texts[0]) > 100
    assert texts[0] == texts[1]


def test_a_merge_that_depends_on_the_worker_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count()

    def merge(*contributions: Partial) -> Partial:
        whole = partials.merge(*contributions)
        scale = np.float32(1 + 1e-6 * (next(calls) % 2))
        return whole._replace(total=tree_map(lambda leaf: leaf * scale, whole.total))

    monkeypatch.setattr(strategies, "update_task", _with(strategies.update_task, merge))
    assert re.search(r"weights differs|two results", first_failure(world))


def _with(update: Any, merge: Any) -> Any:
    def update_task(settings: Any, rates: Any, rounded: Any, *parts: Partial) -> Any:
        return update(settings, rates, rounded, merge(*parts))

    return update_task


def test_an_update_that_changes_its_input_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = strategies.update_task

    def update_task(settings: Any, rates: Any, rounded: Any, *parts: Partial) -> Any:
        new = update(settings, rates, rounded, *parts)

        def into(old: Any, leaf: Any) -> Any:
            old[...] = leaf
            return old

        params = tree_map(into, rounded.state.params, new.state.params)
        return new._replace(state=new.state._replace(params=params))

    monkeypatch.setattr(strategies, "update_task", update_task)
    assert re.search(r"two results|changed its input", first_failure(world))


def test_a_checkpoint_without_its_parts_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The document comes before the parts, and whoever reads it takes its word."""

    def read(url: str) -> Any:
        document = stores.join(url, checkpoints.DOCUMENT)
        if not stores.exists(document):
            return None
        return checkpoints._Sealed.from_json(stores.read_bytes(document)).checkpoint

    monkeypatch.setattr(checkpoints, "read", read)
    monkeypatch.setattr(checkpoints, "commit", _commit_early(checkpoints.commit))
    assert re.search(
        r"state\.safetensors: cannot read: there is no such file", first_failure(world)
    )


def _commit_early(commit: Any) -> Any:
    def early(url: str, checkpoint: Any) -> None:
        state = checkpoints.part_url(url, "state")
        data = stores.read_bytes(state)
        stores.remove(state)
        commit(url, checkpoint)
        stores.write_bytes(state, data)

    return early


def test_a_prune_that_removes_the_newest_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prune(directory: str, keep: int, needs: object) -> None:
        for name in checkpoints._numbered(directory)[keep - 1 :]:
            stores.remove(stores.join(directory, name, checkpoints.DOCUMENT))

    monkeypatch.setattr(checkpoints, "prune", prune)
    assert re.search(r"checkpoint .* is lost", first_failure(world))


def test_a_key_from_a_counter_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count()
    load = feeds.load

    def counted(
        feed: Any, shard: Any, part: Any, order: Any = None, *more: Any, **named: Any
    ) -> Any:
        if order is not None and named.get("small"):  # training, in the order of an epoch
            order = order._replace(seed=(order.seed + next(calls)) % 2**64)
        return load(feed, shard, part, order, *more)

    monkeypatch.setattr(feeds, "load", counted)
    assert re.search(r"two results|samples", first_failure(world))


def test_a_result_kept_by_a_process_under_too_short_a_key_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, Any] = {}

    def load(self: feeds.Saved, on: str = "numpy") -> Any:
        name = self.path.rpartition("/")[2]
        return kept.setdefault(name, feeds._load(self, on))

    monkeypatch.setattr(feeds.Saved, "load", load)
    assert re.search(r"found float32|differs", first_failure(world))


def test_a_history_that_is_written_after_the_commit_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, bytes]] = []
    write, commit = stores.write_bytes, checkpoints.commit

    def later(url: str, data: bytes) -> None:
        if "/history/" in url:
            written.append((url, data))
        else:
            write(url, data)

    def early(url: str, checkpoint: Any) -> None:
        commit(url, checkpoint)
        while written:
            write(*written.pop())

    monkeypatch.setattr(stores, "write_bytes", later)
    monkeypatch.setattr(checkpoints, "commit", early)
    assert re.search(r"differs", first_failure(world))


def test_a_run_that_never_ends_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(self: Game) -> bool:
        return False

    monkeypatch.setattr(Game, "_attempt", attempt)
    assert "not finished" in first_failure(world)
