"""NumPy's own files: one array (``.npy``) or several with one number of rows (``.npz``)."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import xarray as xr

from deepstrata.schemas.errors import SchemaError
from deepstrata.storage.formats.base import (
    SAMPLE,
    Content,
    Rows,
    decoded,
    placeholder,
    read_exactly,
    required,
    row_dims,
)


class Header(NamedTuple):
    """What an array's file says of itself."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def _header(file: IO[bytes], where: str) -> Header:
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    except ValueError as error:
        raise SchemaError(f"{where}: not a NumPy array file: {error}") from None
    if dtype.hasobject:
        raise SchemaError(f"{where}: holds Python objects, which are not read; expected numbers")
    if fortran and len(shape) > 1:
        raise SchemaError(
            f"{where}: saved in Fortran order, so it has no rows to read one after another; "
            "save numpy.ascontiguousarray(array)"
        )
    if not shape or 0 in shape:
        raise SchemaError(f"{where}: expected an array with samples, found shape {shape}")
    return Header(dtype, shape)


def _template(headers: dict[str, Header], dim: str, where: Path) -> xr.Dataset:
    counts = {name: header.shape[0] for name, header in headers.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise SchemaError(f"{where}: expected as many rows in each array, found {found}")
    return xr.Dataset(
        {
            name: placeholder(own_dims(dim, name, shape), shape, dtype.newbyteorder("="))
            for name, (dtype, shape) in headers.items()
        }
    )


def own_dims(dim: str, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Name the dimensions of one array of several in a file.

    They may differ in what is not the rows, so the names of these dimensions begin with theirs.
    """
    first, *rest = row_dims(dim, shape)
    return (first, *(f"{name}_{other}" for other in rest))


def open_npy(source: str | None, sample_dim: str | None) -> Content:
    """Open one array; it is called ``features``, and its first dimension counts samples."""
    path, dim = required(source, "npy"), sample_dim or SAMPLE
    with path.open("rb") as file:
        header, start = _header(file, str(path)), file.tell()
    total = start + math.prod(header.shape) * header.dtype.itemsize
    if path.stat().st_size < total:
        raise SchemaError(f"{path}: truncated: expected {total} bytes, found {path.stat().st_size}")
    dtype, shape = header.dtype.newbyteorder("="), header.shape
    template = xr.Dataset({"features": placeholder(row_dims(dim, shape), shape, dtype)})

    def blocks(rows: int) -> Iterator[Rows]:
        with path.open("rb") as file:
            file.seek(start)
            yield from _blocks({"features": file}, {"features": header}, rows, path)

    return Content(template, dim, blocks)


def open_npz(source: str | None, sample_dim: str | None) -> Content:
    """Open several arrays, each under its own name; their first dimensions count samples."""
    path, dim = required(source, "npz"), sample_dim or SAMPLE
    with _zip(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        headers = {}
        for name, member in members.items():
            with archive.open(member) as file:
                headers[name] = _header(file, f"{path}: {name!r}")
    if not headers:
        raise SchemaError(f"{path}: empty: no arrays in it")
    template = _template(headers, dim, path)

    def blocks(rows: int) -> Iterator[Rows]:
        with _zip(path) as archive, ExitStack() as stack:
            files = {n: stack.enter_context(archive.open(m)) for n, m in members.items()}
            for name, file in files.items():
                _header(file, f"{path}: {name!r}")
            yield from _blocks(files, headers, rows, path)

    return Content(template, dim, blocks)


def _zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise SchemaError(f"{path}: not an npz file: {error}") from None


def _blocks(
    files: dict[str, IO[bytes]], headers: dict[str, Header], rows: int, path: Path
) -> Iterator[Rows]:
    samples = next(iter(headers.values())).shape[0]
    for start in range(0, samples, rows):
        count = min(rows, samples - start)
        block = {}
        for name, (dtype, shape) in headers.items():
            row = math.prod(shape[1:]) * dtype.itemsize
            try:
                data = read_exactly(files[name], count * row, path, start * row, samples * row)
            except zipfile.BadZipFile as error:
                raise SchemaError(f"{path}: {name!r}: damaged: {error}") from None
            block[name] = decoded(data, dtype, (count, *shape[1:]))
        yield block
