"""What a format gives to ``ingest``: a description, and the rows a block at a time."""

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from deepstrata.schemas.errors import SchemaError
from deepstrata.storage import stores

SAMPLE = "sample"
Rows = dict[str, npt.NDArray[Any]]


class Content(NamedTuple):
    """A source that is open, of which no samples have been read."""

    template: xr.Dataset
    """Names, types, lengths and attributes; its values are not to be looked at, but for those of
    variables without samples."""
    sample_dim: str
    blocks: Callable[[int], Iterator[Rows]] | None = None
    """Given a number of rows, gives ``{name: (rows, ...)}`` block by block, the last of them
    shorter. None where the template itself is read, lazily."""


class Format(Protocol):
    """Opens a source; memory is bounded by a block of rows, whatever the size of the source.

    A format with options takes their declaration as one argument more.
    """

    def __call__(self, source: str | None, sample_dim: str | None) -> Content:
        """Open a source.

        Parameters
        ----------
        source
            File, directory or URL; None for a format that brings its own data.
        sample_dim
            Dimension that counts samples. Formats that do not name their dimensions give it
            this name.

        Raises
        ------
        SchemaError
            What is there is not of this format, is truncated, or is empty.
        StorageError
            There is nothing there, or it cannot be read.
        """
        ...


def placeholder(dims: tuple[str, ...], shape: tuple[int, ...], dtype: Any, **attrs: Any) -> Any:
    """Return a variable for a template: it has everything but values."""
    return xr.Variable(dims, da.zeros(shape, dtype=dtype, chunks=-1), attrs)


def row_dims(sample_dim: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Name the dimensions of an array whose file names none, by their number."""
    names = {1: (), 2: ("feature",), 3: ("y", "x")}
    rest = names.get(len(shape), tuple(f"axis_{i}" for i in range(1, len(shape))))
    return (sample_dim, *rest)


def required(source: str | None, format: str) -> Path:
    """Return the path of a local source.

    Raises
    ------
    SchemaError
        None was given, or one that is not local.
    StorageError
        There is nothing.
    """
    if source is None or not stores.is_local(source):
        raise SchemaError(f"format {format!r}: expected the path of a local file, found {source!r}")
    path = stores.local(source)
    with stores.explained(path, "read"):
        os.stat(path)
    return path


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, unpacked if its name ends in ``.gz``.

    Raises
    ------
    SchemaError
        Inside, when what is read turns out not to be gzip, or to end too early.
    """
    with stores.explained(path, "read"):
        file: Any = gzip.open(path) if path.suffix == ".gz" else open(path, "rb")  # noqa: SIM115
    with file, stores.explained(path, "read"):
        try:
            yield file
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise SchemaError(f"{path}: damaged gzip file: {error}") from None


def read_exactly(file: IO[bytes], count: int, path: Path, position: int, total: int) -> bytes:
    """Read ``count`` bytes.

    Raises
    ------
    SchemaError
        The file ends before; ``position`` and ``total`` (bytes) make the message.
    """
    parts, missing = [], count
    while missing:
        try:
            part = file.read(missing)
        except EOFError:
            part = b""
        if not part:
            raise SchemaError(
                f"{path}: truncated: expected {total} bytes, found {position + count - missing}"
            )
        parts.append(part)
        missing -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def decoded(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return bytes as an array in this machine's byte order."""
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
