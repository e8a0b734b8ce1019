"""The pipeline as users meet it: the declaration, with its verbs."""

from typing import TYPE_CHECKING, Any

from deepstrata.pipelines.events import Observer
from deepstrata.schemas import pipelines

if TYPE_CHECKING:
    from distributed import Client

    from deepstrata.pipelines.planning import Plan
    from deepstrata.pipelines.run import Run
    from deepstrata.pipelines.visualize import Drawing


class Pipeline(pipelines.Pipeline):
    """What is read, what is done with it, and the seed that every random number follows from.

    Examples
    --------
    >>> from deepstrata import DBN, FileSource, FineTune, Pretrain, RBM, Scale, Softmax, Split
    >>> pipeline = Pipeline(
    ...     name="digits",
    ...     source=FileSource(format="digits", features="image", labels="label"),
    ...     stages=(
    ...         Split(test=0.2),
    ...         Scale(minimum=0, maximum=16),
    ...         Pretrain(model=DBN(layers=(RBM(hidden=100), Softmax(classes=10)))),
    ...         FineTune(),
    ...     ),
    ... )
    >>> pipeline.replace(**{"pretrain.epochs": 3}).stages[2].epochs
    3
    """

    def plan(self, *, data: Any = None) -> "Plan":
        """Say what will be done: shards, rounds, tasks, bytes, memory. Reads metadata alone."""
        from deepstrata.pipelines.planning import plan

        return plan(self, data=data)

    def visualize(self, *, round_of: str | None = None) -> "Drawing":
        """Draw the stages, or one round's graph of the training stage ``round_of``."""
        from deepstrata.pipelines.visualize import draw_pipeline, draw_round

        return draw_pipeline(self) if round_of is None else draw_round(self, round_of)

    def run(
        self,
        client: "Client | None" = None,
        *,
        out: str | None = None,
        data: Any = None,
        observer: Observer | None = None,
    ) -> "Run":
        """Run on a client's cluster, or on a local one: see ``deepstrata.run``."""
        from deepstrata.pipelines.run import run

        return run(self, client, out=out, data=data, observer=observer)
