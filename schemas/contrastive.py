"""What all machines that learn by contrastive divergence have in common."""

from typing import Annotated, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from deepstrata.schemas._base import Declaration


class Contrastive(Declaration):
    """Settings of contrastive divergence (Hinton 2002)."""

    gibbs_steps: PositiveInt = 1
    """The k of CD-k."""
    sparsity_target: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Wanted mean activation of a hidden unit."""
    sparsity_cost: NonNegativeFloat = 0.0
    """Weight of the pull of the hidden biases towards ``sparsity_target``."""
    weight_scale: PositiveFloat = 0.01
    """Standard deviation of the initial weights."""

    @model_validator(mode="after")
    def _sparse_towards(self) -> Self:
        if self.sparsity_cost and self.sparsity_target is None:
            raise ValueError(
                f"sparsity_cost={self.sparsity_cost} has no effect without a sparsity_target; "
                "give one, such as 0.05, or leave the cost out"
            )
        return self
