"""Checkpoints of a partitioned state: complete or absent, whatever the moment of death.

Each part is a safetensors file, written by whoever holds it. Then one small JSON document names the
parts with their digests and its own; a checkpoint without that document, or with one that does not
match, does not count.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Self

import numpy as np
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialise

from deepstrata.schemas._base import Document
from deepstrata.schemas.errors import DeclarationError, StorageError
from deepstrata.schemas.trees import Tree, flatten, unflatten
from deepstrata.storage import stores
from deepstrata.storage.digests import canonical, digest
from deepstrata.storage.sealed import DamagedError

DOCUMENT = "checkpoint.json"
DIGITS = 8


class Checkpoint(Document):
    """What completes a checkpoint."""

    stage: str
    """Name of the training."""
    round: int
    """Rounds that are done."""
    parts: dict[str, str]
    """SHA-256 of the state in every part."""

    def digest(self) -> str:
        """Return one SHA-256 over all parts."""
        return sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()


class _Sealed(Document):
    """The document on disk: the checkpoint, and the hash by which a torn file is known."""

    checkpoint: Checkpoint
    seal: str

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        return cls(checkpoint=checkpoint, seal=_seal(checkpoint))


def _seal(checkpoint: Checkpoint) -> str:
    return sha256(checkpoint.to_json().encode()).hexdigest()


def tree_digest(tree: Tree) -> str:
    """Return the SHA-256 of a tree's content, whatever file format it is kept in."""
    return digest(flatten(tree))


def save_part(url: str, tree: Tree) -> str:
    """Write a tree of NumPy arrays to one safetensors file, whole or not at all.

    Returns
    -------
    str
        The SHA-256 of its content. Writing the same tree twice leaves the same bytes.

    Raises
    ------
    StorageError
        A leaf is not a NumPy array of numbers, or the file cannot be written.
    """
    flat = {name: _host(url, name, leaf) for name, leaf in flatten(tree).items()}
    stores.write_bytes(url, serialise(flat))
    return digest(flat)


def _host(url: str, name: str, leaf: Any) -> np.ndarray[Any, Any]:
    if not isinstance(leaf, np.ndarray | np.generic) or leaf.dtype.kind not in "biuf":
        kind = f"{type(leaf).__module__}.{type(leaf).__qualname__}"
        raise StorageError(
            f"{url}: array {name!r}: expected a NumPy array of numbers, found a {kind} "
            f"({getattr(leaf, 'dtype', 'no dtype')}); bring it to the host first"
        )
    return canonical(np.asarray(leaf))


def load_arrays(url: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of a safetensors file by name; each can be written to.

    Raises
    ------
    StorageError
        The file is not there, or damaged.
    """
    data = stores.read_bytes(url)
    try:
        return {name: np.array(array) for name, array in parse(data).items()}
    except Exception as error:
        raise DamagedError(f"{url}: damaged, not a safetensors file ({error})") from None


def load_part(url: str, like: Tree, expected_digest: str | None = None) -> Tree:
    """Read a tree back, by example.

    Parameters
    ----------
    like
        A tree of arrays or ``ArraySpec`` with the structure, shapes and dtypes wanted.
    expected_digest
        What ``save_part`` returned.

    Raises
    ------
    StorageError
        The file is missing, damaged, or does not hold what is wanted; the leaf is named.
    """
    flat = load_arrays(url)
    if expected_digest is not None and digest(flat) != expected_digest:
        raise DamagedError(
            f"{url}: damaged: expected content {expected_digest[:12]}, found {digest(flat)[:12]}"
        )
    return unflatten(like, flat, url)


def checkpoint_url(directory: str, index: int) -> str:
    """Return where the checkpoint after ``index`` rounds is kept."""
    return stores.join(directory, f"{index:0{DIGITS}d}")


def part_url(url: str, name: str) -> str:
    """Return the file of one part of a checkpoint."""
    return stores.join(url, f"{name}.safetensors")


def commit(url: str, checkpoint: Checkpoint) -> None:
    """Make a checkpoint complete; its parts must be there."""
    stores.write_bytes(stores.join(url, DOCUMENT), _Sealed.of(checkpoint).to_json().encode())


def read(url: str) -> Checkpoint | None:
    """Return the checkpoint at ``url`` if it is complete, else None.

    Complete means: the document is whole, and every part holds what the document says.

    Raises
    ------
    StorageError
        What is there cannot be read; a checkpoint is never passed over for that.
    """
    if not stores.exists(stores.join(url, DOCUMENT)):
        return None
    text = stores.read_bytes(stores.join(url, DOCUMENT))
    try:
        sealed = _Sealed.from_json(text)
        if sealed.seal != _seal(sealed.checkpoint):
            return None
        for name, expected in sealed.checkpoint.parts.items():
            part = part_url(url, name)
            if not stores.exists(part) or digest(load_arrays(part)) != expected:
                return None
    except (DeclarationError, DamagedError):
        return None
    return sealed.checkpoint


def _numbered(directory: str) -> list[str]:
    names = [n for n in stores.children(directory) if n.isdigit() and len(n) >= DIGITS]
    return sorted(names, key=int)


def latest(
    directory: str, serves: Callable[[Checkpoint], bool] = lambda found: True
) -> Checkpoint | None:
    """Return the newest complete checkpoint below a directory that ``serves``; None without one."""
    for name in reversed(_numbered(directory)):
        found = read(stores.join(directory, name))
        if found is not None and serves(found):
            return found
    return None


def prune(
    directory: str, keep: int, needs: Callable[[int], int | None] = lambda index: None
) -> None:
    """Remove all that is older than the ``keep`` newest complete checkpoints; at least one stays.

    What is newer than the newest complete one stays as well: it may still be being written.

    Parameters
    ----------
    needs
        Given the rounds of a checkpoint that is kept, those of one to be kept with it.
    """
    names = _numbered(directory)
    kept, needed = 0, set[int | None]()
    while names and kept < max(keep, 1):
        name = names.pop()
        if read(stores.join(directory, name)) is not None:
            kept += 1
            needed.add(needs(int(name)))
    for name in names if kept else ():
        if int(name) not in needed:
            _remove(stores.join(directory, name))


def remove_after(directory: str, index: int) -> None:
    """Remove every checkpoint, complete or not, after more than ``index`` rounds."""
    for name in _numbered(directory):
        if int(name) > index:
            _remove(stores.join(directory, name))


def _remove(url: str) -> None:
    """Remove a checkpoint: first what completes it, so that nothing whole is left half-way."""
    stores.remove(stores.join(url, DOCUMENT))
    stores.remove(url)
