"""Growing a net layer by layer: pretraining that uses the labels from the start."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from deepstrata.schemas.models import Net, has_weights
from deepstrata.schemas.optimisers import SGD
from deepstrata.schemas.training import Optimisers, TrainingStage


class DiscriminativePretrain(TrainingStage):
    """Train a net with one hidden layer, insert the next below its softmax, train all, and so on.

    Every step draws the new layer and the softmax anew, and trains the whole net by backpropagation
    for ``epochs``; a ``FineTune`` goes on from the last. Seide, Li, Chen, Yu (2011), "Feature
    engineering in context-dependent deep neural networks for conversational speech transcription".
    """

    kind: Literal["discriminative_pretrain"] = "discriminative_pretrain"
    model: Annotated[Net, Field(discriminator="kind")]
    """Layers without weights are inserted with the hidden layer below them."""
    optimiser: Optimisers = SGD(learning_rate=0.1, momentum=0.9)
    """One for all steps, or one each."""
    metric: Literal["loss", "error"] = "loss"
    """Of the validation samples, after every epoch: what ``early_stopping``, ``keep="best"`` and
    ``ReduceOnPlateau`` want to see fall."""
    labelled: PositiveInt | None = None
    """Training samples of each class that are used, those of every stage that says so; all by
    default."""

    @property
    def grown(self) -> tuple[Net, ...]:
        """The nets that are trained one after the other, from one hidden layer to all."""
        *hidden, top = self.model.layers
        starts = [i for i, layer in enumerate(hidden) if has_weights(layer)]
        ends = [*starts[1:], len(hidden)]
        return tuple(self.model.model_copy(update={"layers": (*hidden[:end], top)}) for end in ends)

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.model.classes is None:
            raise ValueError(
                "expected a model whose last layer is a Softmax: every step learns the classes; "
                "Pretrain(model=...) trains layers without labels"
            )
        steps = len(self.grown) if any(map(has_weights, self.model.layers[:-1])) else 0
        if steps < 2:
            raise ValueError(
                f"expected at least 2 hidden layers with weights, found {steps}: there is nothing "
                "to insert; FineTune(model=...) trains such a net at once"
            )
        if isinstance(self.optimiser, tuple) and len(self.optimiser) != steps:
            raise ValueError(
                f"expected one optimiser, or one for each of the {steps} hidden layers; "
                f"found {len(self.optimiser)}"
            )
        return self
