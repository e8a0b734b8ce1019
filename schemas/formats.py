"""Options of formats that can be ingested: a declaration for each format that has any.

They are given by name: ``ingest("wav", source, dest, hop=80)``, ``FileSource(options={"hop": 80})``
or ``deepstrata ingest wav SOURCE DEST --option hop=80``.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from deepstrata.schemas._base import Declaration, explain
from deepstrata.schemas.errors import DeclarationError

Scalar = bool | int | float | str
Option = Scalar | tuple[Scalar, ...] | None


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression: {error}") from None
    return text


def _grouped(text: str) -> str:
    if not re.compile(text).groupindex:
        raise ValueError("expected a named group in it, such as (?P<label>[a-z]+)")
    return text


Expression = Annotated[str, AfterValidator(_expression)]
Length = Annotated[int | FiniteFloat, Field(gt=0)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class Named(Declaration):
    """Options of formats of many files, whose names tell something."""

    names: Annotated[Expression, AfterValidator(_grouped)] | None = None
    """Regular expression, searched in the path of each file below the source. Each named group
    becomes a variable, such as ``(?P<label>[0-9])_(?P<speaker>[a-z]+)``; one called ``subset``
    has to find train, validation or test."""
    test: Expression | None = None
    """Regular expression; files in whose path it is found are ``subset`` test, others train."""

    @model_validator(mode="after")
    def _one_subset(self) -> Self:
        if self.test is not None and self.names and "subset" in re.compile(self.names).groupindex:
            raise ValueError("expected test, or a group called subset in names; found both")
        return self


class Shuffled(Named):
    """Options of formats with one file a sample."""

    shuffle: bool = True
    """Take files in an order drawn once, the same each time, so that all classes are in every
    shard; False keeps them sorted by path."""


class Wav(Shuffled):
    """Options of ``wav``. A whole number counts samples of sound, a fraction is in seconds."""

    frame: Length = 0.032
    """Length of a frame, which a Hann window covers."""
    hop: Length = 0.016
    """From the middle of a frame to the middle of the next."""
    frames: PositiveInt | None = None
    """Frames that each recording is cut or padded to; by default those of the longest."""
    rate: PositiveInt | None = None
    """Sampling rate of all recordings in Hz; by default that of the first."""
    floor: FiniteFloat = -100.0
    """Level in dB below full scale that quieter sounds, and silence, are raised to."""


class Svmlight(Named):
    """Options of ``svmlight``."""

    features: PositiveInt | None = None
    """Number of features; by default as many as the largest index needs."""
    zero_based: bool | Literal["auto"] = "auto"
    """Whether indices begin with 0; "auto" says so where an index 0 is found in any file."""
    binary: bool = False
    """Store 1 for every value but 0: whether a word occurs, in place of how often."""


class Images(Shuffled):
    """Options of ``images``."""

    size: tuple[PositiveInt, PositiveInt] | None = None
    """Height and width that every image is resized to, bilinearly."""
    mode: Literal["grey", "colour"] | None = None
    """Convert every image to this; by default all have to be of one mode."""


class HDF5(Declaration):
    """Options of ``hdf5``."""

    groups: Names | None = None
    """Paths of the groups whose arrays are put one after another; by default all with arrays."""
    variables: Names | None = None
    """Names of the arrays in each of them; by default all."""


class Patches(Declaration):
    """Options of ``patches``."""

    size: tuple[PositiveInt, PositiveInt] = (12, 12)
    """Height and width of a patch."""
    patches: PositiveInt = 20_000
    """Patches in all, as many of one picture as of another."""


OPTIONS: dict[str, type[Declaration]] = {
    "hdf5": HDF5,
    "images": Images,
    "patches": Patches,
    "svmlight": Svmlight,
    "wav": Wav,
}
"""Add a declaration here for a format that has options."""


def declared(format: str, options: dict[str, Option]) -> Declaration | None:
    """Return the options of a format, checked; None for a format that has none.

    Raises
    ------
    DeclarationError
        There is no such option, or a value does not fit.
    """
    where = f"options of format {format!r}"
    if format in OPTIONS:
        try:
            return OPTIONS[format](**options)
        except ValidationError as error:
            raise DeclarationError(explain(error, where)) from None
    if options:
        raise DeclarationError(f"{where}: expected none, found {', '.join(options)}")
    return None
