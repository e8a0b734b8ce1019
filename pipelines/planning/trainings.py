"""What one training will do: rounds, tasks, bytes, memory, and how well its samples are mixed."""

from typing import Any

from deepstrata.ops import models
from deepstrata.pipelines.control import describe
from deepstrata.pipelines.graph import FAN_IN
from deepstrata.pipelines.planning import memory
from deepstrata.pipelines.planning.data import Data, Reading
from deepstrata.pipelines.planning.memory import Weights
from deepstrata.pipelines.planning.plans import Choice, Shuffle, Step
from deepstrata.pipelines.planning.shuffling import Mix
from deepstrata.pipelines.rounds import LEAST_WINDOW, Round, epoch_rounds, windows
from deepstrata.pipelines.strategies import Learning, initial_state, replica_count
from deepstrata.pipelines.strategies import memory as past_states
from deepstrata.pipelines.training import KEEP
from deepstrata.schemas.keys import Key
from deepstrata.schemas.models import Trainable, is_supervised
from deepstrata.schemas.optimisers import Optimiser
from deepstrata.schemas.stages import (
    Fitting,
    decides,
)
from deepstrata.schemas.strategies import LocalSteps, Strategy
from deepstrata.schemas.trees import nbytes

LARGEST_CHOICE = 8  #: times the declared buffer that is shown beside it


def read_facts(reading: Reading, passes: int = 1) -> dict[str, Any]:
    """Return the fields of a step that say what so many passes read."""
    whole = reading.times(passes)
    return {
        "passes": passes,
        "bytes_used": whole.used,
        "bytes_read": whole.decoded,
        "bytes_disk": whole.disk,
    }


def training_step(
    name: str,
    stage: Fitting,
    model: Trainable,
    optimiser: Optimiser,
    visible: int,
    found: Data,
    stored_bytes: int,
    factors: tuple[float, ...] = (),
) -> Step:
    """Plan one training; ``stored_bytes`` is a sample's stored activations, 0 if none are read."""
    strategy = stage.strategy
    settings = Learning(model, optimiser, strategy, visible, Key(0), factors=factors)
    counts = [c[0] for c in found.counts]
    epoch = list(epoch_rounds(found.grid, counts, strategy, Key(0), 0))
    used = [i for i, n in enumerate(counts) if n]
    replicas = replica_count(settings)
    state = initial_state(settings, models.shapes(model, visible))
    weights = Weights(nbytes(state.params), nbytes(state.optimiser))
    states = past_states(strategy)
    checkpoint = states * (weights.both + replicas * weights.params)
    mix, supervised = _mix(strategy, counts), is_supervised(model)
    places = min(strategy.shards, len(used))

    def peak(buffer: int) -> memory.Peak:
        return memory.training_peak(
            found,
            weights,
            model,
            visible,
            strategy.batch,
            buffer,
            stage.monitor,
            states,
            supervised,
        )

    def whole(buffer: int) -> int:
        return peak(buffer).fixed + places * peak(buffer).place

    reading = found.reading(used, not stored_bytes, supervised)
    if stored_bytes:
        more = stored_bytes * sum(found.grid[i].rows for i in used)
        reading = Reading(reading.used + more, reading.decoded + more)
    return Step(
        stage=name,
        shards=len(used),
        rounds=stage.epochs * len(epoch),
        tasks=stage.epochs * (_graph_tasks(epoch, replicas) + 2),
        graph_tasks=_largest_window(epoch, stage, replicas) + 2 * (1 + replicas),
        bytes_written=checkpoint * KEEP * (2 if stage.keep == "best" else 1),
        peak=whole(mix.buffer),
        places=places,
        place_bytes=peak(mix.buffer).place,
        checkpoint=checkpoint,
        weights=weights.params // 4,
        note=f"{_steps(strategy)}{describe(stage)}",
        shuffle=Shuffle(
            local=isinstance(strategy, LocalSteps),
            mix=mix,
            likeness=found.likeness,
            choices=tuple(Choice(b, mix._replace(buffer=b), whole(b)) for b in _choices(mix)),
        ),
        **read_facts(reading, stage.epochs),
    )


def _steps(strategy: Strategy) -> str:
    return f"{strategy.steps} steps a round, " if isinstance(strategy, LocalSteps) else ""


def _mix(strategy: Strategy, counts: list[int]) -> Mix:
    """Return where a step's samples come from; a step of ``LocalSteps`` is of one place."""
    taking_part = sum(1 for n in counts if n) or 1
    places = 1 if isinstance(strategy, LocalSteps) else min(strategy.shards, taking_part)
    return Mix(
        batch=strategy.batch,
        places=places,
        buffer=min(strategy.buffer, max(1, taking_part // places)),
        shards=taking_part,
        rows=sum(counts) / taking_part,
    )


def _choices(mix: Mix) -> list[int]:
    """Return a few larger buffers, up to all shards."""
    most = max(1, mix.shards // mix.places)
    tried = {min(mix.buffer * factor, most) for factor in (2, 4, LARGEST_CHOICE)}
    return sorted(tried - {mix.buffer})


def _graph_tasks(rounds: list[Round], replicas: int) -> int:
    """Return the tasks of some rounds without watching and saving."""
    locals_ = sum(len(r.places) for r in rounds) * (2 if replicas else 1)
    merges = sum(_tree(len(r.places)) for r in rounds)
    loads = sum(len(r.places) for r in rounds if r.ends_group)
    return loads + locals_ + merges + 2 * len(rounds)


def _largest_window(epoch: list[Round], stage: Fitting, replicas: int) -> int:
    """Return the tasks of the largest window; the rounds of one epoch stand for all."""
    if not epoch:
        return 0
    rounds = stage.checkpoint_rounds or LEAST_WINDOW
    some = epoch * min(stage.epochs, -(-rounds // len(epoch)) + 1)
    return max(
        (
            _graph_tasks(window, replicas) + 2 * sum(1 for r in window if r.ends_epoch)
            for window in windows(some, stage.checkpoint_rounds, decides(stage))
        ),
        default=0,
    )


def _tree(count: int) -> int:
    """Return how many merges the reduction of ``count`` partials takes before the update."""
    merges = 0
    while count > FAN_IN:
        count = -(-count // FAN_IN)
        merges += count
    return merges
