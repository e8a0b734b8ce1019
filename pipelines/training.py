"""Training: window after window, from the newest checkpoint to the last round.

Losing a worker costs at most what it had computed since the window began; Dask computes that again,
with the same bits. Stopping costs at most the window in flight.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from deepstrata.pipelines.events import Checkpointed, Notice, Observer, Progress
from deepstrata.pipelines.executor import Executor, Workers
from deepstrata.pipelines.history import history_urls, merge_rows
from deepstrata.pipelines.rounds import Round, windows
from deepstrata.pipelines.strategies import TrainState
from deepstrata.pipelines.windows import Training, begin_graph, checkpoint_url, window_graph
from deepstrata.storage import checkpoints, sealed, stores
from deepstrata.storage.checkpoints import Checkpoint

RATES = {"errors": "error"}
KEEP = 2  #: checkpoints of one training whose files are kept


class Trained(NamedTuple):
    """What a training ends with."""

    state: TrainState
    history: dict[str, list[dict[str, float]]]
    """Rows by ``round`` and ``epoch``."""
    examples: int


def train(executor: Executor, training: Training, observer: Observer) -> Trained:
    """Train to the last round, from the newest checkpoint if there is one."""
    started = time.perf_counter()
    rounds = training.rounds()
    directory = stores.join(training.url, "checkpoints")
    newest = checkpoints.latest(directory) or _begin(executor, training)
    _forget_after(training, newest.round)
    if newest.round:
        observer(Notice(f"{training.name}: going on after round {newest.round} of {len(rounds)}"))
    observer(Checkpointed(training.name, newest.round, newest.digest()))
    examples, workers = 0, Workers(executor, observer)
    for window in windows(rounds[newest.round :], training.every):
        clock = _Clock(training, len(rounds), window[0].index, started, examples, observer)
        newest = _run_window(executor, training, window, newest, clock)
        examples += sum(this.rows for this in window)
        observer(Checkpointed(training.name, newest.round, newest.digest()))
        checkpoints.prune(directory, KEEP)
        workers.look()
    url = checkpoints.part_url(checkpoint_url(training, newest.round), "state")
    state = checkpoints.load_part(url, training.example(), newest.parts["state"])
    history = merge_rows(history_urls(training.url))
    return Trained(state, history, examples)


def _forget_after(training: Training, index: int) -> None:
    """Remove the history of windows that were not completed; the next ones may be cut otherwise."""
    for url in history_urls(training.url):
        if int(url.rpartition("/")[2].removesuffix(".json")) > index:
            stores.remove(url)


def _begin(executor: Executor, training: Training) -> Checkpoint:
    graph, saves = begin_graph(training)
    digests = executor.execute(graph, [ref for _, ref in saves])
    return _commit(training, 0, [name for name, _ in saves], digests, {"round": [], "epoch": []})


def _run_window(
    executor: Executor,
    training: Training,
    window: Sequence[Round],
    begin: Checkpoint,
    clock: "_Clock",
) -> Checkpoint:
    made = window_graph(training, window, begin)
    outputs = [
        *made.reports,
        *(ref for _, _, ref in made.monitors),
        *(ref for _, ref in made.saves),
    ]

    def on_done(place: int, value: Any) -> None:
        if place < len(window):
            clock.round_done(window[place], value)

    values = executor.execute(made.graph, outputs, on_done)
    reports = values[: len(window)]
    monitors = values[len(window) : len(window) + len(made.monitors)]
    digests = values[len(window) + len(made.monitors) :]
    history = {
        "round": [_round_row(this, *report) for this, report in zip(window, reports, strict=True)],
        "epoch": _epoch_rows([(t, name) for t, name, _ in made.monitors], monitors),
    }
    return _commit(training, window[-1].index + 1, [n for n, _ in made.saves], digests, history)


def _commit(
    training: Training, index: int, names: list[str], digests: list[str], history: dict[str, Any]
) -> Checkpoint:
    """Make the checkpoint count: its history first, then the document that completes it."""
    parts = dict(zip(names, digests, strict=True))
    checkpoint = Checkpoint(stage=training.name, round=index, parts=parts)
    content = {"checkpoint": index, "digest": checkpoint.digest(), **history}
    url = stores.join(training.url, "history", f"{index:08d}.json")
    sealed.write(url, content)
    checkpoints.commit(checkpoint_url(training, index), checkpoint)
    return checkpoint


def _means(n: int, stats: dict[str, Any]) -> dict[str, float]:
    """Turn sums over samples into means; a sum of ``errors`` becomes the rate ``error``."""
    return {
        RATES.get(name, name): float(value) / n
        for name, value in stats.items()
        if name != "n" and np.ndim(value) == 0 and n
    }


def _round_row(this: Round, n: int, stats: dict[str, Any]) -> dict[str, float]:
    return {"round": this.index, "epoch": this.progress, "n": n} | _means(n, stats)


def _epoch_rows(
    labels: Sequence[tuple[Round, str]], values: Sequence[dict[str, Any]]
) -> list[dict[str, float]]:
    rows: dict[int, dict[str, float]] = {}
    for (this, name), stats in zip(labels, values, strict=True):
        row = rows.setdefault(this.epoch, {"epoch": this.epoch + 1, "round": this.index})
        means = _means(int(stats["n"]), stats)
        row |= {f"{name}_{what}": value for what, value in means.items()}
    return list(rows.values())


class _Clock:
    """Turns rounds that are done into progress events."""

    def __init__(
        self,
        training: Training,
        rounds: int,
        first: int,
        started: float,
        examples: int,
        observer: Observer,
    ) -> None:
        self.training, self.rounds, self.done = training, rounds, first
        self.started, self.examples, self.observer = started, examples, observer

    def round_done(self, this: Round, report: tuple[int, dict[str, Any]]) -> None:
        self.done += 1
        self.examples += this.rows
        means = _means(*report)
        name = next((n for n in ("loss", "squared_error") if n in means), "")
        self.observer(
            Progress(
                stage=self.training.name.split("/")[0],
                part=self.training.part,
                done=self.done,
                rounds=self.rounds,
                examples_per_second=self.examples / (time.perf_counter() - self.started),
                loss_name=name,
                loss=means.get(name),
            )
        )
