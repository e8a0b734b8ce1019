"""Decisions at the ends of epochs, from learning curves alone."""

import pytest
from distributed import Client
from support import bars, dbn_pipeline

from deepstrata import (
    RBM,
    SGD,
    Adam,
    DataError,
    DatasetSource,
    DeclarationError,
    EarlyStopping,
    LocalSteps,
    Pipeline,
    Pretrain,
    ReduceOnPlateau,
    Report,
    Split,
    Synchronous,
    WarmUp,
)
from deepstrata.pipelines import control, events
from deepstrata.pipelines.control import Control
from deepstrata.pipelines.planning import plan
from deepstrata.pipelines.rounds import all_rounds, windows
from deepstrata.pipelines.run import run
from deepstrata.schemas.keys import Key
from deepstrata.storage.shards import shard_grid

CONTROL = Control("validation_loss", EarlyStopping(patience=2), "best", decides=True)


def rows(*scores: float) -> list[dict[str, float]]:
    return [
        {"epoch": i + 1, "round": 4 * i + 3, "validation_loss": score}
        for i, score in enumerate(scores)
    ]


@pytest.mark.parametrize(
    ("scores", "length", "min_delta", "found"),
    [
        ([], 1, 0.0, 0),
        ([3, 2, 1], 1, 0.0, 0),
        ([3, 3], 1, 0.0, 1),  # as good is no gain
        ([3, 2.5, 2], 1, 0.5, 1),  # a gain must be more than the delta ...
        ([3, 2.6, 2.2], 2, 0.5, 0),  # ... since the last gain
        ([1, 2, 3, 4, 5, 6], 2, 0.0, 2),  # the count begins anew
        ([1, 2, 0.5, 2, 3], 2, 0.0, 1),
    ],
)
def test_spells_without_gain(scores, length: int, min_delta: float, found: int) -> None:
    assert control.spells(scores, length, min_delta) == found


def test_what_is_not_known_decides_nothing() -> None:
    with pytest.raises(DataError, match=r"no validation_loss to decide by.*\(monitor=\.\.\.\)"):
        control.kept(CONTROL, [{"epoch": 1, "round": 3, "train_loss": 1.0}])


def test_a_training_is_over_when_patience_is() -> None:
    assert not control.is_over(CONTROL, [])
    assert not control.is_over(CONTROL, rows(2, 1, 1.5))
    assert control.is_over(CONTROL, rows(2, 1, 1.5, 1.2))
    assert not control.is_over(CONTROL._replace(early_stopping=None), rows(1, 2, 3, 4))


def test_the_first_of_the_best_is_kept() -> None:
    found = control.kept(CONTROL, rows(2, 1, 1.5, 1))
    assert found is not None
    assert found["epoch"] == 2
    assert control.kept(CONTROL, []) is None
    assert control.kept(CONTROL._replace(keep="last"), rows(2, 1, 1.5)) is None


def test_every_rate_is_settled() -> None:
    plateau = ReduceOnPlateau(start=0.8, patience=0, reductions=1)
    scores = [1.0, 2.0, 3.0]
    reduced = plateau.model_copy(update={"reductions": 3})
    optimiser = SGD(learning_rate=plateau, momentum=WarmUp(epochs=1.5, then=plateau))
    found = control.settled(optimiser, scores)
    assert found.learning_rate == reduced
    # Two epochs began in the warm-up; the one after is the first to be compared with.
    assert found.momentum.then == plateau
    assert control.settled(Adam(learning_rate=0.1), scores) == Adam(learning_rate=0.1)
    strategy = LocalSteps(outer=SGD(learning_rate=plateau))
    assert control.settled_strategy(strategy, scores).outer.learning_rate == reduced
    assert control.settled_strategy(Synchronous(), scores) == Synchronous()


@pytest.mark.parametrize("every", [1, 5, None])
def test_windows_end_where_epochs_do(every: int | None) -> None:
    rounds = all_rounds(shard_grid(240, 30), [30] * 8, Synchronous(batch=15, shards=2), Key(1), 5)
    cut = list(windows(rounds, every, at_epochs=True))
    assert [r for window in cut for r in window] == rounds
    assert not any(r.ends_epoch for window in cut for r in window[:-1])


def stage(**more: object) -> Pretrain:
    stopping = EarlyStopping(patience=5)
    return Pretrain(model=RBM(hidden=3), epochs=30, early_stopping=stopping, keep="best", **more)


def in_memory(by: str | None = None, **more: object) -> Pipeline:
    split = Split(by=by, **({} if by else {"validation": 0.2}))
    source = DatasetSource(features="image", rows_per_shard=30)
    return Pipeline(name="p", source=source, stages=(split, stage(**more)))


def test_the_plan_says_what_may_happen() -> None:
    found = plan(in_memory(), data=bars().chunk(sample=30))
    text = "at most 30 epochs, stops early after 5 without gain, keeps the best"
    assert text in " ".join(str(found).split())
    step = found.steps[-1]
    assert text in step.note
    plain = in_memory().replace(**{"pretrain.keep": "last", "pretrain.early_stopping": None})
    last = plan(plain, data=bars().chunk(sample=30)).steps[-1]
    assert step.bytes_written == 2 * last.bytes_written
    assert step.graph_tasks < last.graph_tasks


def test_a_split_that_leaves_no_validation_samples_is_refused(client: Client, out: str) -> None:
    data = bars().chunk(sample=30)
    data["part"] = ("sample", ["train"] * data.sizes["sample"])
    with pytest.raises(DeclarationError, match=r"'pretrain' decides by .*none of 240"):
        run(in_memory(by="part"), client, out=out, data=data)


def test_it_is_told_and_reported_what_was_kept(bars_path: str, client: Client, out: str) -> None:
    declared = dbn_pipeline(bars_path, epochs=4).replace(
        **{
            "finetune.early_stopping": {"patience": 1, "min_delta": 9.0},
            "finetune.keep": "best",
            "finetune.metric": "error",
        }
    )
    declared = declared.model_copy(update={"stages": (*declared.stages, Report())})
    heard: list[str] = []

    def listen(event: object) -> None:
        if isinstance(event, events.Notice):
            heard.append(event.text)

    done = run(declared, client, out=out, observer=listen)
    errors = done.history["finetune"]["validation_error"].values.tolist()
    best = errors.index(min(errors)) + 1
    assert len(errors) == 2
    assert (
        "finetune: stopped after epoch 2 of 4: no gain in validation error for 1 epochs; "
        f"the parameters of epoch {best} are kept"
    ) in heard
    with open(done.report, encoding="utf-8") as file:
        assert f"The parameters of epoch {best} of 2 were kept." in file.read()
