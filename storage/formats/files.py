"""Sources of many files: those in a directory tree, and what their paths tell of them.

Folders directly below the source name the classes, as in torchvision's ImageFolder; folders above
them that are called train, validation or test name the subset. A regular expression tells more.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from deepstrata.schemas.errors import SchemaError
from deepstrata.schemas.formats import Named, Shuffled
from deepstrata.schemas.keys import Key, fold
from deepstrata.storage import stores
from deepstrata.storage.formats.base import required
from deepstrata.storage.formats.classes import flag_attrs, is_whole, numbers_of, sorted_names
from deepstrata.storage.shards import permutation

PARTS = {"train": "train training", "validation": "validation valid val dev", "test": "test"}
SUBSETS = {word: part for part, words in PARTS.items() for word in words.split()}
ORDER = fold(Key(0), "ingest")


class Files(NamedTuple):
    """Files below a directory."""

    root: Path
    names: tuple[str, ...]
    """Paths below ``root``, with slashes."""

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [self.root / name for name in self.names]


class Column(NamedTuple):
    """What the paths tell, a number for each file."""

    values: npt.NDArray[np.int64]
    attrs: dict[str, Any]


def find_files(source: str | None, format: str, suffixes: Sequence[str]) -> Files:
    """Find the files of a source, sorted by path; hidden ones are left out.

    Parameters
    ----------
    source
        A directory, which is searched with all below it, or one file, whatever its name.
    suffixes
        Ends of names, in lower case.

    Raises
    ------
    SchemaError
        There are none.
    StorageError
        There is nothing, or it cannot be read.
    """
    root = required(source, format)
    if not root.is_dir():
        return Files(root.parent, (root.name,))
    found = []
    with stores.explained(root, "read"):
        for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = Path(folder).relative_to(root)
            found += [
                (below / name).as_posix()
                for name in names
                if name.lower().endswith(tuple(suffixes)) and not name.startswith(".")
            ]
    if not found:
        raise SchemaError(f"{root}: no files of format {format!r}: expected {', '.join(suffixes)}")
    return Files(root, tuple(sorted(found)))


def _refuse(error: OSError) -> None:
    raise error


def in_order(files: Files, options: Shuffled) -> Files:
    """Return the files in the order in which they become samples."""
    if not options.shuffle:
        return files
    order = permutation(ORDER, len(files.names))
    return files._replace(names=tuple(files.names[i] for i in order))


def read_names(files: Files, options: Named, classes: bool = True) -> dict[str, Column]:
    """Return what the paths of files tell: ``label``, ``subset``, and groups of ``names``.

    ``label`` counts classes from 0; groups of whole numbers stay what they are, and other ones
    are numbered in sorted order. Folders are no classes where ``classes`` is false.

    Raises
    ------
    SchemaError
        A file is not in a folder where others are, has a path in which ``names`` is not found,
        or one that names no subset; or ``test`` is found in none or in all.
    """
    found = _folders(files, required=classes and options.names is None)
    if not classes:
        found.pop("label", None)
    if options.names is not None:
        found |= _groups(files, options.names)
    if options.test is not None:
        found["subset"] = _tests(files, options.test)
    return {name: _column(files, name, texts) for name, texts in found.items()}


def _folders(files: Files, required: bool) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    parts = [PurePosixPath(name).parts[:-1] for name in files.names]
    while len({part[:1] for part in parts}) == 1 and parts[0]:
        parts = [part[1:] for part in parts]  # one folder around all of it tells nothing
    if all(part and part[0].lower() in SUBSETS for part in parts):
        found["subset"] = [part[0] for part in parts]
        parts = [part[1:] for part in parts]
    if all(parts):
        found["label"] = [part[0] for part in parts]
    elif any(parts) and required:
        lost = next(n for n, part in zip(files.names, parts, strict=True) if not part)
        raise SchemaError(
            f"{files.root / lost}: lies beside the folders of the classes; expected every file in "
            "one of them, or all in one folder"
        )
    return found


def _groups(files: Files, expression: str) -> dict[str, list[str]]:
    pattern = re.compile(expression)
    found: dict[str, list[str]] = {name: [] for name in pattern.groupindex}
    for name in files.names:
        match = pattern.search(name)
        for group, texts in found.items():
            text = match[group] if match else None
            if not text:
                raise SchemaError(
                    f"{files.root / name}: expected its path below the source to match names="
                    f"{expression!r}, found {name!r}, in which {group!r} is not to be found"
                )
            texts.append(text)
    return found


def _tests(files: Files, expression: str) -> list[str]:
    pattern = re.compile(expression)
    found = ["test" if pattern.search(name) else "train" for name in files.names]
    if len(set(found)) == 1:
        raise SchemaError(
            f"{files.root}: expected some files in whose path test={expression!r} is found, and "
            f"some without, found {'all' if found[0] == 'test' else 'none'} of {len(found)}, "
            f"such as {files.names[0]!r}"
        )
    return found


def _column(files: Files, name: str, texts: list[str]) -> Column:
    if name == "subset":
        for file, text in zip(files.names, texts, strict=True):
            if text.lower() not in SUBSETS:
                raise SchemaError(
                    f"{files.root / file}: subset: expected one of {', '.join(SUBSETS)}, "
                    f"found {text!r}"
                )
        texts = [SUBSETS[text.lower()] for text in texts]
        names = tuple(part for part in PARTS if part in set(texts))
        return Column(numbers_of(texts, names), flag_attrs(names))
    if name != "label" and all(map(is_whole, texts)):
        return Column(np.array(texts).astype(np.int64), {})
    names = sorted_names(texts)
    return Column(numbers_of(texts, names), flag_attrs(names))


def with_columns(template: xr.Dataset, columns: dict[str, Column], dim: str) -> xr.Dataset:
    """Add what paths tell to a template: ``label`` as data, all else as coordinates.

    Raises
    ------
    SchemaError
        One is called like a variable or dimension that the format has itself.
    """
    taken = {str(name) for name in [*template.variables, *template.dims]}
    for name in columns:
        if name in taken:
            raise SchemaError(
                f"names: expected other groups than {', '.join(sorted(taken))}, which the format "
                f"has itself; found {name!r}"
            )
    variables = {name: xr.Variable((dim,), *column) for name, column in columns.items()}
    coords = [name for name in columns if name != "label"]
    return template.assign(variables).set_coords(coords)
