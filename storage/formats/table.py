"""Tables: comma-separated values with a header, gzipped or not, read line by line.

A column called ``label``, ``class`` or ``target`` gives the labels; all others are features.
"""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from deepstrata.schemas.errors import SchemaError
from deepstrata.storage.formats.base import (
    SAMPLE,
    Content,
    Rows,
    opened,
    placeholder,
    required,
)
from deepstrata.storage.formats.classes import MOST_CLASSES, flag_attrs, is_whole

LABELS = ("label", "class", "target")


class Table(NamedTuple):
    """What one pass over a file found."""

    path: Path
    columns: tuple[str, ...]
    label: int | None
    """Column with the labels."""
    classes: tuple[str, ...] | None
    """Sorted names of the classes; None where the labels are numbers."""
    samples: int

    @property
    def features(self) -> list[int]:
        """Columns with features."""
        return [i for i in range(len(self.columns)) if i != self.label]


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[list[str]]]:
    with opened(path) as file:
        try:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            yield (row for row in csv.reader(text, strict=True) if row)
            text.detach()
        except (UnicodeDecodeError, csv.Error) as error:
            raise SchemaError(f"{path}: not comma-separated text: {error}") from None


def open_csv(source: str | None, sample_dim: str | None) -> Content:
    """Open a table: ``features`` float32, with the names of the columns; see ``Format``.

    Empty cells become NaN. Labels that are whole numbers stay what they are; other ones are
    numbered in sorted order, and ``flag_meanings`` says what the numbers stand for. The file is
    read once to count its rows, and once for its values.
    """
    table, dim = _survey(required(source, "csv")), sample_dim or SAMPLE
    shape = (table.samples, len(table.features))
    variables: dict[str, Any] = {"features": placeholder((dim, "feature"), shape, np.float32)}
    if table.label is not None:
        attrs: dict[str, Any] = {"long_name": table.columns[table.label]}
        if table.classes is not None:
            attrs |= flag_attrs(table.classes)
        variables["label"] = placeholder((dim,), shape[:1], np.int64, **attrs)
    names = np.array([table.columns[i] for i in table.features], dtype=np.dtypes.StringDType())
    template = xr.Dataset(variables).assign_coords(feature=("feature", names.astype(object)))
    return Content(template, dim, lambda rows: _blocks(table, rows))


def _survey(path: Path) -> Table:
    with _lines(path) as lines:
        columns = tuple(name.strip() for name in next(lines, []))
        label = _check_header(path, columns)
        samples, found = 0, set[str]()
        for row in lines:
            samples += 1
            if len(row) != len(columns):
                raise SchemaError(
                    f"{path}: row {samples}: expected {len(columns)} cells, found {len(row)}"
                )
            if label is not None and len(found) <= MOST_CLASSES:
                found.add(row[label].strip())
    if not samples:
        raise SchemaError(f"{path}: empty: a header and no rows")
    return Table(path, columns, label, _classes(path, columns, label, found), samples)


def _check_header(path: Path, columns: tuple[str, ...]) -> int | None:
    if not columns:
        raise SchemaError(f"{path}: empty: expected a header and rows of numbers")
    if all(_is_number(name) for name in columns):
        raise SchemaError(f"{path}: expected names of columns in the first line, found numbers")
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise SchemaError(f"{path}: two columns are called {twice[0]!r}")
    label = next((i for i, name in enumerate(columns) if name.lower() in LABELS), None)
    if len(columns) == (label is not None):
        raise SchemaError(f"{path}: no column with features, only {columns[0]!r}")
    return label


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _classes(
    path: Path, columns: tuple[str, ...], label: int | None, found: set[str]
) -> tuple[str, ...] | None:
    if label is None or all(is_whole(text) for text in found):
        return None
    if "" in found or len(found) > MOST_CLASSES:
        what = "empty cells" if "" in found else f"more than {MOST_CLASSES} different values"
        raise SchemaError(f"{path}: column {columns[label]!r}: expected labels, found {what}")
    return tuple(sorted(found))


def _blocks(table: Table, rows: int) -> Iterator[Rows]:
    numbers = {name: i for i, name in enumerate(table.classes or ())}
    with _lines(table.path) as lines:
        next(lines)
        start = 0
        while block := list(islice(lines, rows)):
            cells = [[row[i].strip() or "nan" for i in table.features] for row in block]
            values: Rows = {"features": _floats(table, cells, start)}
            if table.label is not None:
                labels = [row[table.label].strip() for row in block]
                values["label"] = np.array(
                    [numbers.get(n) if numbers else int(n) for n in labels], dtype=np.int64
                )
            yield values
            start += len(block)


def _floats(table: Table, cells: list[list[str]], start: int) -> npt.NDArray[np.float32]:
    try:
        return np.array(cells).astype(np.float32)
    except ValueError:
        raise _not_a_number(table, cells, start) from None


def _not_a_number(table: Table, cells: list[list[str]], start: int) -> SchemaError:
    """Return the error that names the first cell that is not a number."""
    row, column = next(
        (i, j) for i, row in enumerate(cells) for j, cell in enumerate(row) if not _is_number(cell)
    )
    name = table.columns[table.features[column]]
    return SchemaError(
        f"{table.path}: row {start + row + 1}, column {name!r}: expected a number, "
        f"found {cells[row][column]!r}"
    )
