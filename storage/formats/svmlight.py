"""Sparse text, as svmlight and libsvm read it: ``label index:value ...``, one sample a line.

Rows are made dense a block at a time, so memory does not follow the size of the files. Comments
(``# ...``), empty lines and ``qid:`` are left out; files may be gzipped. T. Joachims, "Making
large-scale SVM learning practical" (1999).
"""

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import lt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from deepstrata.schemas.errors import SchemaError
from deepstrata.schemas.formats import Svmlight
from deepstrata.storage.formats.base import SAMPLE, Content, Rows, opened, placeholder, required
from deepstrata.storage.formats.classes import MOST_CLASSES, flag_attrs
from deepstrata.storage.formats.files import Column, Files, find_files, read_names, with_columns

NAMES = (".svmlight", ".libsvm", ".svm")
SUFFIXES = (*NAMES, *(f"{name}.gz" for name in NAMES))
WIDEST = 2**23  #: features, where nobody declared how many: a row is then a shard of 32 MiB


class Line(NamedTuple):
    """A sample, and where it stands."""

    path: Path
    number: int
    label: bytes
    pairs: list[bytes]

    def wrong(self, text: str) -> SchemaError:
        """Return the error that names the place."""
        return SchemaError(f"{self.path}: line {self.number}: {text}")


class Index(NamedTuple):
    """An index, and where it was found."""

    value: int
    line: Line


class Survey(NamedTuple):
    """What one pass over all files found."""

    counts: list[int]
    """Samples of each file."""
    smallest: Index | None
    """None where no sample has any feature."""
    largest: Index | None
    labels: set[float]
    """Up to one more than ``MOST_CLASSES``."""
    whole: bool
    """All labels are whole numbers."""


class Labels(NamedTuple):
    """How labels are stored."""

    dtype: type[np.int64] | type[np.float32]
    numbers: dict[float, int]
    """Of the classes; empty where labels stay what they are."""
    attrs: dict[str, Any]


def open_svmlight(
    source: str | None, sample_dim: str | None, options: Svmlight | None = None
) -> Content:
    """Open a file, or all in a directory; see ``Format`` and ``schemas.formats.Svmlight``.

    Gives ``features`` (sample, feature) float32 and ``label``. Up to 1,000 different whole numbers
    are classes: they are numbered from 0 in their order, and ``flag_meanings`` says what they
    were. More stay what they are, fractions become float32. A directory gives coordinates too:
    ``file`` and what the paths tell. Files are read once to count, and once for their values.
    """
    options, dim = options or Svmlight(), sample_dim or SAMPLE
    files = find_files(source, "svmlight", SUFFIXES)
    columns = read_names(files, options, classes=False)
    if required(source, "svmlight").is_dir():
        columns["file"] = Column(np.arange(len(files.names)), flag_attrs(files.names))
    found = _survey(files)
    base = _base(found, options)
    width, labels, samples = _width(found, base, options), _labels(found), sum(found.counts)
    columns = {n: Column(np.repeat(c.values, found.counts), c.attrs) for n, c in columns.items()}
    variables = {
        "features": placeholder((dim, "feature"), (samples, width), np.float32),
        "label": placeholder((dim,), (samples,), labels.dtype, **labels.attrs),
    }

    def blocks(rows: int) -> Iterator[Rows]:
        lines = _lines(files)
        for start in range(0, samples, rows):
            stop = min(start + rows, samples)
            told = {name: column.values[start:stop] for name, column in columns.items()}
            values = np.zeros((stop - start, width), np.float32)
            rows_read = _filled(values, islice(lines, stop - start), base, labels)
            if options.binary:
                np.not_equal(values, 0, out=values)
            yield rows_read | told

    return Content(with_columns(xr.Dataset(variables), columns, dim), dim, blocks)


def _lines(files: Files) -> Iterator[Line]:
    for path in files.paths:
        yield from _lines_of(path)


def _lines_of(path: Path) -> Iterator[Line]:
    with opened(path) as file:
        for number, text in enumerate(file, 1):
            tokens = text.partition(b"#")[0].split()
            if tokens:
                skipped = 2 if tokens[1:] and tokens[1].startswith(b"qid:") else 1
                yield Line(path, number, tokens[0], tokens[skipped:])


def _survey(files: Files) -> Survey:
    counts: list[int] = []
    found = Survey(counts, None, None, set(), True)
    for path in files.paths:
        counts.append(0)
        for line in _lines_of(path):
            counts[-1] += 1
            found = _with(found, line)
        if not counts[-1]:
            raise SchemaError(f"{path}: empty: no samples in it")
    return found


def _with(found: Survey, line: Line) -> Survey:
    """Return what was found up to ``line``: its first and last index tell, since they increase."""
    label = _label(line)
    if len(found.labels) <= MOST_CLASSES:
        found.labels.add(label)
    if found.whole and not label.is_integer():
        found = found._replace(whole=False)
    if not line.pairs:
        return found
    (first,), _ = _cells(line, line.pairs[:1])
    (last,), _ = _cells(line, line.pairs[-1:])
    if found.smallest is None or first < found.smallest.value:
        found = found._replace(smallest=Index(first, line))
    if found.largest is None or last > found.largest.value:
        found = found._replace(largest=Index(last, line))
    return found


def _label(line: Line) -> float:
    try:
        label = float(line.label)
    except ValueError:
        label = math.nan
    if not math.isfinite(label):
        raise line.wrong(f"expected a label, a number, at its beginning, found {line.label[:40]!r}")
    return label


def _cells(line: Line, pairs: list[bytes]) -> tuple[list[int], list[float]]:
    """Return indices, which increase, and values."""
    try:
        cells = [pair.split(b":") for pair in pairs]
        indices = [int(index) for index, _ in cells]
        values = [float(value) for _, value in cells]
    except ValueError:
        raise line.wrong(f"expected index:value, found {_malformed(pairs)[:40]!r}") from None
    if not all(map(lt, indices, indices[1:])):
        at = next(i for i, index in enumerate(indices[1:]) if index <= indices[i])
        raise line.wrong(
            f"expected indices that increase, found {indices[at + 1]} after {indices[at]}"
        )
    return indices, values


def _malformed(pairs: list[bytes]) -> bytes:
    for pair in pairs:
        index, _, value = pair.partition(b":")
        try:
            int(index), float(value)
        except ValueError:
            return pair
    return b" ".join(pairs)


def _base(found: Survey, options: Svmlight) -> int:
    if found.smallest is None:
        return 0
    smallest, line = found.smallest
    base = int(smallest > 0) if options.zero_based == "auto" else int(not options.zero_based)
    if smallest < base:
        raise line.wrong(
            f"expected indices from {base} on (zero_based={options.zero_based}), found {smallest}"
        )
    return base


def _width(found: Survey, base: int, options: Svmlight) -> int:
    if found.largest is None:
        if options.features is None:
            raise SchemaError("no sample has any feature; declare their number with features=")
        return options.features
    largest, line = found.largest
    width = options.features or largest + 1 - base
    if largest - base >= width:
        raise line.wrong(
            f"expected indices up to {width - 1 + base} ({width} features, the first called "
            f"{base}), found {largest}"
        )
    if options.features is None and width > WIDEST:
        raise line.wrong(
            f"index {largest} asks for {width} features; if that is meant, declare features={width}"
        )
    return width


def _labels(found: Survey) -> Labels:
    if not found.whole:
        return Labels(np.float32, {}, {})
    if len(found.labels) > MOST_CLASSES:
        return Labels(np.int64, {}, {})
    ordered = sorted(found.labels)
    meanings = flag_attrs([str(int(label)) for label in ordered])
    return Labels(np.int64, {label: i for i, label in enumerate(ordered)}, meanings)


def _filled(
    values: npt.NDArray[np.float32], lines: Iterable[Line], base: int, labels: Labels
) -> Rows:
    """Write lines into rows of zeros, one after another, so that no text is kept."""
    found: npt.NDArray[Any] = np.empty(len(values), labels.dtype)
    for row, line in enumerate(lines):
        indices, cells = _cells(line, line.pairs)
        values[row, np.array(indices, np.int64) - base] = cells
        label = _label(line)
        found[row] = labels.numbers.get(label, label)
    return {"features": values, "label": found}
