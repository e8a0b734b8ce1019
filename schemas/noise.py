"""Noise that a denoising autoencoder takes away again (Vincent et al. 2010)."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from deepstrata.schemas._base import Declaration

Share = Annotated[float, Field(gt=0, lt=1)]


class MaskingNoise(Declaration):
    """Set a share of the values to zero."""

    kind: Literal["masking"] = "masking"
    rate: Share = 0.25


class GaussianNoise(Declaration):
    """Add normal numbers to all values."""

    kind: Literal["gaussian"] = "gaussian"
    deviation: PositiveFloat = 0.1
    """Standard deviation, in units of the values."""


class SaltAndPepperNoise(Declaration):
    """Set a share of the values to the least or the greatest, by the toss of a coin."""

    kind: Literal["salt_and_pepper"] = "salt_and_pepper"
    rate: Share = 0.1
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"expected low below high, found {self.low} and {self.high}")
        return self


Noise = Annotated[MaskingNoise | GaussianNoise | SaltAndPepperNoise, Field(discriminator="kind")]
