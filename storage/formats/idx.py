"""The idx format of MNIST: a magic number, lengths, and big-endian numbers; gzipped or not.

Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits" (1998).
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import accumulate
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
    opened,
    placeholder,
    read_exactly,
    required,
    row_dims,
)

TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
SUBSETS = {"train": ("train",), "test": ("t10k", "test")}


class Idx(NamedTuple):
    """A file's header."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def header(self) -> int:
        """Size of the header in bytes."""
        return 4 + 4 * len(self.shape)

    @property
    def total(self) -> int:
        """Size of the unpacked file in bytes."""
        return self.header + math.prod(self.shape) * self.dtype.itemsize


class Pair(NamedTuple):
    """Images and the labels that go with them."""

    images: Idx
    labels: Idx | None


def read_header(path: Path) -> Idx:
    """Read what a file says of itself.

    Raises
    ------
    SchemaError
        It is not idx, is truncated, or holds nothing.
    """
    with opened(path) as file:
        magic = read_exactly(file, 4, path, 0, 4)
        if magic[:2] != b"\0\0" or magic[2] not in TYPES or not magic[3]:
            raise SchemaError(
                f"{path}: not an idx file: expected a magic number 0x0000 followed by a type "
                f"({', '.join(f'{t:#04x}' for t in TYPES)}) and a rank, found 0x{magic.hex()}"
            )
        rank = magic[3]
        lengths = read_exactly(file, 4 * rank, path, 4, 4 + 4 * rank)
    shape = tuple(int(n) for n in np.frombuffer(lengths, ">u4"))
    found = Idx(path, np.dtype(TYPES[magic[2]]), shape)
    if 0 in shape:
        raise SchemaError(f"{path}: empty: its header says {shape}")
    if path.suffix != ".gz" and path.stat().st_size != found.total:
        problem = "truncated" if path.stat().st_size < found.total else "too long"
        raise SchemaError(
            f"{path}: {problem}: expected {found.total} bytes, found {path.stat().st_size}"
        )
    return found


def open_idx(source: str | None, sample_dim: str | None) -> Content:
    """Open a directory with the four files of MNIST, or one file; see ``Format``.

    A directory gives ``image``, ``label`` and ``subset``, which says train or test; a file
    ``image``, and ``label`` if a file of labels lies beside it.
    """
    path, dim = required(source, "idx"), sample_dim or SAMPLE
    if not path.is_dir():
        return _content([_pair(path)], dim, {})
    pairs: list[Pair] = []
    found: list[str] = []
    for subset, prefixes in SUBSETS.items():
        images = _images(path, prefixes)
        if images is not None:
            found.append(subset)
            pairs.append(_pair(images))
    if "train" not in found:
        raise SchemaError(
            f"{path}: no idx files: expected train-images-idx3-ubyte, train-labels-idx1-ubyte, "
            "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each with or without .gz"
        )
    return _content(pairs, dim, dict(enumerate(found)))


def _images(directory: Path, prefixes: tuple[str, ...]) -> Path | None:
    for path in sorted(directory.iterdir()):
        name = path.name
        if "idx" in name and any(f"{prefix}-images" in name for prefix in prefixes):
            return path
    return None


def _pair(path: Path) -> Pair:
    images = read_header(path)
    if len(images.shape) < 2:
        raise SchemaError(f"{path}: expected images, found an array of shape {images.shape}")
    stem = path.name.removesuffix(".gz")
    named = stem.replace("images", "labels").replace(f"idx{len(images.shape)}", "idx1")
    beside = [path.with_name(named), path.with_name(f"{named}.gz")]
    there = next((other for other in beside if named != stem and other.exists()), None)
    if there is None:
        return Pair(images, None)
    labels = read_header(there)
    if labels.shape != images.shape[:1]:
        raise SchemaError(
            f"{there}: expected {images.shape[0]} labels, one for each image of {path.name}, "
            f"found {' x '.join(str(n) for n in labels.shape)}"
        )
    return Pair(images, labels)


def _content(pairs: list[Pair], dim: str, subsets: dict[int, str]) -> Content:
    first = pairs[0]
    for pair in pairs[1:]:
        same = pair.images.shape[1:] == first.images.shape[1:]
        if not same or pair.images.dtype != first.images.dtype:
            raise SchemaError(
                f"{pair.images.path}: expected images like those of {first.images.path.name} "
                f"({first.images.dtype}{first.images.shape[1:]}), "
                f"found {pair.images.dtype}{pair.images.shape[1:]}"
            )
        if (pair.labels is None) != (first.labels is None):
            raise SchemaError(f"{pair.images.path.parent}: labels for some of the images only")
    samples = sum(pair.images.shape[0] for pair in pairs)
    shape = (samples, *first.images.shape[1:])
    variables = {"image": placeholder(row_dims(dim, shape), shape, _native(first.images))}
    if first.labels is not None:
        variables["label"] = placeholder((dim,), (samples,), _native(first.labels))
    if subsets:
        variables["subset"] = placeholder(
            (dim,),
            (samples,),
            np.int8,
            flag_values=list(subsets),
            flag_meanings=" ".join(subsets.values()),
        )
    return Content(xr.Dataset(variables), dim, lambda rows: _blocks(pairs, set(variables), rows))


def _native(idx: Idx) -> np.dtype[Any]:
    return idx.dtype.newbyteorder("=")


def _blocks(pairs: list[Pair], names: set[str], rows: int) -> Iterator[Rows]:
    ends = list(accumulate(pair.images.shape[0] for pair in pairs))
    with ExitStack() as stack:
        files = [_opened(pair, stack) for pair in pairs]
        for start in range(0, ends[-1], rows):
            pieces = []
            # A block may end one pair and begin the next: blocks have to be whole shards.
            for index, (end, pair) in enumerate(zip(ends, pairs, strict=True)):
                first = max(start, end - pair.images.shape[0])
                count = min(start + rows, end) - first
                if count > 0:
                    position = first - (end - pair.images.shape[0])
                    piece = {n: _read(*f, position, count) for n, f in files[index].items()}
                    if "subset" in names:
                        piece["subset"] = np.full(count, index, np.int8)
                    pieces.append(piece)
            yield {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        for idx, file in (opened for pair in files for opened in pair.values()):
            if file.read(1):
                raise SchemaError(f"{idx.path}: too long: expected {idx.total} bytes, found more")


def _opened(pair: Pair, stack: ExitStack) -> dict[str, tuple[Idx, IO[bytes]]]:
    files = {}
    for name, idx in (("image", pair.images), ("label", pair.labels)):
        if idx is not None:
            file = stack.enter_context(opened(idx.path))
            read_exactly(file, idx.header, idx.path, 0, idx.total)
            files[name] = (idx, file)
    return files


def _read(idx: Idx, file: IO[bytes], start: int, count: int) -> Any:
    row = math.prod(idx.shape[1:]) * idx.dtype.itemsize
    data = read_exactly(file, count * row, idx.path, idx.header + start * row, idx.total)
    return decoded(data, idx.dtype, (count, *idx.shape[1:]))
