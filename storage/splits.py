"""Splits: which samples train, which validate, which test; a function of declaration and key."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from deepstrata.schemas.errors import DataError, SchemaError
from deepstrata.schemas.keys import Key, fold
from deepstrata.schemas.stages import Pretrain, Split
from deepstrata.storage.shards import Shard, permutation

PARTS = ("train", "validation", "test")
CODES = {name: code for code, name in enumerate(PARTS)}
Counts = tuple[tuple[int, int, int], ...]  #: training, validation and test samples of every shard


def learned_counts(stage: Pretrain, counts: Counts) -> Counts:
    """Return the counts with all samples that a stage learns from as those of training.

    Raises
    ------
    DataError
        There are none.
    """
    parts = [CODES[name] for name in stage.parts]
    found = tuple((sum(own[part] for part in parts), *own[1:]) for own in counts)
    if not any(learned for learned, *_ in found):
        raise DataError(f"stage {stage.name!r}: no samples in {', '.join(stage.parts)}")
    return found


def flags(variable: xr.DataArray | xr.Variable) -> dict[int, str] | None:
    """Return what a variable's numbers mean by CF ``flag_values`` and ``flag_meanings``.

    Returns
    -------
    dict or None
        None where the variable has no such attributes.

    Raises
    ------
    SchemaError
        The two attributes do not have the same number of entries.
    """
    if "flag_values" not in variable.attrs or "flag_meanings" not in variable.attrs:
        return None
    values = np.atleast_1d(variable.attrs["flag_values"]).tolist()
    meanings = str(variable.attrs["flag_meanings"]).split()
    if len(values) != len(meanings):
        raise SchemaError(
            f"expected as many flag_meanings as flag_values, found {meanings} for {values}"
        )
    return {int(value): meaning for value, meaning in zip(values, meanings, strict=True)}


def assign(
    split: Split | None,
    shard: Shard,
    values: npt.NDArray[Any] | None,
    key: Key,
    meanings: Mapping[int, str] | None = None,
) -> npt.NDArray[np.int8]:
    """Assign each sample of a shard to a part.

    Parameters
    ----------
    split
        The declaration; without one every sample trains.
    shard
        The rows; their global numbers make the fractions exact over all shards together.
    values
        (rows,) what ``split.by`` holds: names of parts, or numbers with ``meanings``.
    key
        Of the stage; the shard is folded in.
    meanings
        Names of parts by number, from ``flags``.

    Returns
    -------
    numpy.ndarray
        (rows,) int8: indices into ``PARTS``.

    Raises
    ------
    DataError
        A value names no part; it and the names expected are listed.
    SchemaError
        ``split.by`` is given but not its values, or numbers without meanings.
    """
    if split is None:
        return np.zeros(shard.rows, dtype=np.int8)
    if split.by is None:
        codes = np.zeros(shard.rows, dtype=np.int8)
    elif values is None:
        raise SchemaError(f"stage {split.name!r}: no values of {split.by!r} given")
    else:
        codes = _codes(split, shard, values, meanings)
    train = np.flatnonzero(codes == CODES["train"])
    rows = len(train)
    tests = min(_quota(shard.start, rows, split.test), rows)
    validations = min(_quota(shard.start, rows, split.validation), rows - tests)
    if split.shuffle:
        train = train[permutation(fold(key, "split", shard.index), rows)]
    codes[train[rows - tests :]] = CODES["test"]
    codes[train[rows - tests - validations : rows - tests]] = CODES["validation"]
    return codes


def _quota(start: int, rows: int, fraction: float) -> int:
    exact = Fraction(fraction).limit_denominator(1_000_000)
    return int((start + rows) * exact) - int(start * exact)


def _codes(
    split: Split, shard: Shard, values: npt.NDArray[Any], meanings: Mapping[int, str] | None
) -> npt.NDArray[np.int8]:
    if values.shape != (shard.rows,):
        raise SchemaError(
            f"stage {split.name!r}: variable {split.by!r}: expected one value for each of the "
            f"{shard.rows} rows of shard {shard.index}, found shape {values.shape}"
        )
    if values.dtype.kind in "iu" and meanings is None:
        raise SchemaError(
            f"stage {split.name!r}: variable {split.by!r} holds numbers, so it needs the CF "
            "attributes flag_values and flag_meanings that say which part each stands for"
        )
    codes = np.zeros(shard.rows, dtype=np.int8)
    for value in np.unique(values):
        named = meanings.get(int(value)) if meanings is not None else _text(value)
        if named not in CODES:
            raise DataError(
                f"stage {split.name!r}: variable {split.by!r}, rows {shard.start} to "
                f"{shard.stop}: {_text(value)!r} names no part ({named!r}); "
                f"expected one of: {', '.join(PARTS)}"
            )
        codes[values == value] = CODES[named]
    return codes


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
