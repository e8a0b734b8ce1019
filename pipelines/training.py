"""Training: window after window, from the newest checkpoint to the last round.

Losing a worker costs at most what it had computed since the window began; Dask computes that again,
with the same bits. Stopping costs at most the window in flight.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from deepstrata.ops.measures import means
from deepstrata.ops.optimisers import rates
from deepstrata.pipelines import control, divergence
from deepstrata.pipelines.control import Row
from deepstrata.pipelines.events import Checkpointed, Notice, Observer, Progress
from deepstrata.pipelines.executor import Executor, Workers
from deepstrata.pipelines.history import history_urls, merge_rows
from deepstrata.pipelines.rounds import Round, windows
from deepstrata.pipelines.strategies import TrainState
from deepstrata.pipelines.windows import Training, begin_graph, checkpoint_url, window_graph
from deepstrata.schemas.errors import DivergenceError, StorageError
from deepstrata.storage import checkpoints, sealed, stores
from deepstrata.storage.checkpoints import Checkpoint

KEEP = 2  #: checkpoints of one training whose files are kept


class Trained(NamedTuple):
    """What a training ends with."""

    state: TrainState
    results: dict[str, float]
    """Measures after the epoch that was kept; its number, and that of all, where that is chosen."""
    examples: int


def train(executor: Executor, training: Training, observer: Observer) -> Trained:
    """Train to the last round, or till the training stops early, from the newest checkpoint.

    Raises
    ------
    DivergenceError
        The training has come to infinity or NaN; its newest checkpoint is from before.
    """
    started = time.perf_counter()
    rounds = training.rounds()
    newest = _newest(training, rounds) or _begin(executor, training)
    _forget_after(training, newest.round)
    epochs = merge_rows(history_urls(training.url))["epoch"]
    if newest.round:
        observer(Notice(f"{training.name}: going on after round {newest.round} of {len(rounds)}"))
    observer(Checkpointed(training.name, newest.round, newest.digest()))
    needs = partial(_kept_round, training, epochs)
    examples, workers = 0, Workers(executor, observer)
    for window in windows(rounds[newest.round :], training.every, training.control.decides):
        if control.is_over(training.control, epochs):
            observer(Notice(f"{training.name}: {_stopped(training, epochs)}"))
            break
        clock = _Clock(training, len(rounds), window[0].index, started, examples, observer)
        newest, rows = _run_window(executor, training, window, newest, epochs, clock)
        epochs.extend(rows)
        examples += sum(this.rows for this in window)
        observer(Checkpointed(training.name, newest.round, newest.digest()))
        checkpoints.prune(_directory(training), KEEP, needs)
        workers.look()
    return Trained(_kept_state(training, newest, epochs), _results(training, epochs), examples)


def _directory(training: Training) -> str:
    return stores.join(training.url, "checkpoints")


def _newest(training: Training, rounds: Sequence[Round]) -> Checkpoint | None:
    """Return the newest checkpoint to go on from.

    Where the ends of epochs decide, all that they decide by must be there as well.
    """
    if not training.control.decides:
        return checkpoints.latest(_directory(training))
    epochs = merge_rows(history_urls(training.url))["epoch"]

    def serves(found: Checkpoint) -> bool:
        ended = sum(this.ends_epoch for this in rounds[: found.round])
        index = _kept_round(training, epochs, found.round)
        if len(_before(epochs, found.round)) != ended:
            return False
        if index is None or index == found.round:
            return True
        return checkpoints.read(checkpoint_url(training, index)) is not None

    return checkpoints.latest(_directory(training), serves)


def _before(epochs: Sequence[Row], index: int) -> list[Row]:
    """Return the epochs that ended within the first ``index`` rounds."""
    return [row for row in epochs if row["round"] < index]


def _kept_round(training: Training, epochs: Sequence[Row], index: int) -> int | None:
    """Return how many rounds what is kept after ``index`` rounds had; None for all of them."""
    row = control.kept(training.control, _before(epochs, index))
    return None if row is None else int(row["round"]) + 1


def _stopped(training: Training, epochs: Sequence[Row]) -> str:
    stopping, row = training.control.early_stopping, control.kept(training.control, epochs)
    assert stopping is not None
    keeps = "" if row is None else f"; the parameters of epoch {row['epoch']:.0f} are kept"
    return (
        f"stopped after epoch {len(epochs)} of {training.epochs}: no gain in "
        f"{training.control.metric.replace('_', ' ')} for {stopping.patience} epochs{keeps}"
    )


def _kept_state(training: Training, newest: Checkpoint, epochs: Sequence[Row]) -> TrainState:
    """Read the state whose parameters are kept."""
    index, found = _kept_round(training, epochs, newest.round), newest
    if index is not None and index != newest.round:
        best = checkpoints.read(checkpoint_url(training, index))
        if best is None:
            raise StorageError(
                f"{checkpoint_url(training, index)}: damaged, and its parameters are the best of "
                f"{training.name}; `deepstrata resume` trains again from where it can"
            )
        found = best
    url = checkpoints.part_url(checkpoint_url(training, found.round), "state")
    state: TrainState = checkpoints.load_part(url, training.example(), found.parts["state"])
    return state


def _results(training: Training, epochs: Sequence[Row]) -> dict[str, float]:
    if not epochs:
        return {}
    row = control.kept(training.control, epochs) or epochs[-1]
    found = {k: v for k, v in row.items() if k.startswith(("train_", "validation_"))}
    if training.control.decides:
        found |= {"epochs": len(epochs), "kept_epoch": row["epoch"]}
    return found


def _forget_after(training: Training, index: int) -> None:
    """Remove what later windows left behind; the next ones may be cut otherwise."""
    checkpoints.remove_after(_directory(training), index)
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
    epochs: Sequence[Row],
    clock: "_Clock",
) -> tuple[Checkpoint, list[dict[str, float]]]:
    """Train through a window; return the checkpoint after it and the rows of epochs that ended."""
    training = _settled(training, epochs)
    made = window_graph(training, window, begin)
    outputs = [
        *made.reports,
        *(ref for _, _, ref in made.monitors),
        *(ref for _, ref in made.saves),
    ]

    def on_done(place: int, value: Any) -> None:
        if place < len(window):
            clock.round_done(window[place], value)

    try:
        values = executor.execute(made.graph, outputs, on_done)
        reports = values[: len(window)]
        monitors = values[len(window) : len(window) + len(made.monitors)]
        digests = values[len(window) + len(made.monitors) :]
        ended = _epoch_rows([(t, name) for t, name, _ in made.monitors], monitors)
        divergence.check_epochs(ended)
    except DivergenceError as error:
        raise divergence.advised(error, training.name, begin.round) from None
    for row in ended:
        best = control.kept(training.control, [*epochs, row])
        row |= {} if best is None else {"kept_epoch": best["epoch"]}
    rows = [_round_row(training, this, *r) for this, r in zip(window, reports, strict=True)]
    names = [name for name, _ in made.saves]
    history = {"round": rows, "epoch": ended}
    return _commit(training, window[-1].index + 1, names, digests, history), ended


def _settled(training: Training, epochs: Sequence[Row]) -> Training:
    """Return a training whose rates follow what the epochs so far came to."""
    if not training.control.decides:
        return training
    settings, scores = training.settings, training.control.scores(epochs)
    return training._replace(
        settings=settings._replace(
            optimiser=control.settled(settings.optimiser, scores),
            strategy=control.settled_strategy(settings.strategy, scores),
        )
    )


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


def _round_row(
    training: Training, this: Round, n: float, stats: dict[str, Any]
) -> dict[str, float]:
    rate = rates(training.settings.optimiser, this.progress).learning_rate
    row = {"round": this.index, "epoch": this.progress, "n": n, "learning_rate": rate}
    return row | means(stats, n)


def _epoch_rows(
    labels: Sequence[tuple[Round, str]], values: Sequence[dict[str, Any]]
) -> list[dict[str, float]]:
    rows: dict[int, dict[str, float]] = {}
    for (this, name), stats in zip(labels, values, strict=True):
        row = rows.setdefault(this.epoch, {"epoch": this.epoch + 1, "round": this.index})
        found = means(stats, stats["n"])
        row |= {f"{name}_{what}": value for what, value in found.items()}
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

    def round_done(self, this: Round, report: tuple[float, dict[str, Any]]) -> None:
        self.done += 1
        self.examples += this.rows
        n, stats = report
        found = means(stats, n)
        name = next((n for n in ("loss", "squared_error") if n in found), "")
        self.observer(
            Progress(
                stage=self.training.name.split("/")[0],
                part=self.training.part,
                done=self.done,
                rounds=self.rounds,
                examples_per_second=self.examples / (time.perf_counter() - self.started),
                loss_name=name,
                loss=found.get(name),
            )
        )
