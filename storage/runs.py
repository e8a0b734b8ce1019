"""Run directories: one manifest, ``run.json``, and below it what each stage has made."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from deepstrata.schemas.errors import DeclarationError, StorageError
from deepstrata.schemas.runs import RunManifest
from deepstrata.storage import sealed, stores
from deepstrata.storage.sealed import DamagedError

MANIFEST = "run.json"
COPY = "run.copy.json"
PIPELINE = "pipeline.json"
LOCK = "lock"
MODEL = "model"


def free_path(name: str, root: str = "runs") -> str:
    """Return ``runs/<name>-<n>`` with the first n that is not taken."""
    taken = set(stores.children(root))
    n = 1
    while f"{name}-{n}" in taken:
        n += 1
    return stores.join(root, f"{name}-{n}")


def check_free(path: str) -> str:
    """Return the absolute URL of a run directory to be; nothing is written.

    Raises
    ------
    StorageError
        There is something in it already.
    """
    url = stores.absolute(path)
    if stores.exists(url) and (stores.is_file(url) or _used(url)):
        raise StorageError(
            f"{path}: exists already; choose another --out, remove it, or go on with it: "
            f"deepstrata resume {path}"
        )
    return url


def _used(url: str) -> bool:
    """Tell whether a directory holds more than a run that ended before ``run.json`` was there."""
    begun = {LOCK, COPY}
    return any(n not in begun and not n.endswith(".part") for n in stores.children(url))


def open_run_directory(path: str) -> str:
    """Return the absolute URL of a run directory.

    Raises
    ------
    StorageError
        It is not there, or holds no ``run.json``.
    """
    url = stores.absolute(path)
    if not stores.exists(url):
        raise StorageError(f"{path}: no such run directory")
    if not stores.exists(manifest_url(url)):
        raise StorageError(f"{path}: not a run directory: expected a {MANIFEST} in it")
    return url


def manifest_url(path: str) -> str:
    """Return the file that makes a directory a run."""
    return stores.join(path, MANIFEST)


def model_url(path: str) -> str:
    """Return the directory of the model that the last training of a run ended with."""
    return stores.join(path, MODEL)


def write_manifest(path: str, manifest: RunManifest) -> None:
    """Write ``run.json`` whole, and the pipeline beside it for reading and running again.

    Not every remote store replaces a file in one step, so there a copy is written first: whenever
    the process ends, one of the two is whole.
    """
    if not stores.is_local(path):
        sealed.write_document(stores.join(path, COPY), manifest)
    sealed.write_document(manifest_url(path), manifest)
    stores.write_bytes(stores.join(path, PIPELINE), manifest.pipeline.to_json().encode())


def read_manifest(path: str) -> RunManifest:
    """Return what ``run.json`` says, or its copy where its writing was interrupted.

    Raises
    ------
    StorageError
        The directory is not a run, or the file is damaged.
    DeclarationError
        The file is no JSON any more, or of a format version from the future.
    """
    url = manifest_url(open_run_directory(path))
    try:
        return sealed.read_document(RunManifest, url)
    except (DeclarationError, DamagedError):
        copy = stores.join(stores.absolute(path), COPY)
        if not stores.exists(copy):
            raise
        return sealed.read_document(RunManifest, copy)


def _mend(path: str) -> None:
    """Write a torn ``run.json`` again from its copy, before the copy is written again."""
    url, copy = manifest_url(path), stores.join(path, COPY)
    if not (stores.exists(url) and stores.exists(copy)):
        return
    try:
        sealed.read_document(RunManifest, url)
    except (DeclarationError, DamagedError):
        stores.write_bytes(url, stores.read_bytes(copy))


@contextmanager
def lock(path: str) -> Iterator[None]:
    """Keep a second process of this host out of a local run directory.

    The operating system lets go of the lock when its process ends, however it ends.

    Raises
    ------
    StorageError
        Another process runs in the directory.
    """
    if not stores.is_local(path):
        _mend(path)
    if not stores.is_local(path) or os.name != "posix":
        yield
        return
    import fcntl

    with stores.explained(path, "lock"):
        stores.local(path).mkdir(parents=True, exist_ok=True)
        file = open(stores.local(stores.join(path, LOCK)), "w")  # noqa: SIM115
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(f"{path}: another process is running in this directory") from None
        yield
