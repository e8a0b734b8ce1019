"""Files at local paths and fsspec URLs, behind one set of functions.

A local file is written beside its final name, flushed to the disk and then renamed, so that a
reader sees all of it or nothing. An object store is given one put, which is as atomic as it gets;
nothing is renamed there.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec

from deepstrata.schemas.errors import DeepstrataError, StorageError

LOCAL = ("file://", "local://")  #: fsspec's protocols of this machine's file systems

ADVICE = {
    errno.ENOSPC: "the disk is full: free some space there, or write to another disk",
    errno.EDQUOT: "the disk quota is used up: free some space there, or write to another disk",
    errno.EACCES: "permission denied: change its owner or mode, or choose another place",
    errno.EPERM: "permission denied: change its owner or mode, or choose another place",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a directory: choose another place",
    errno.EISDIR: "it is a directory, not a file: choose another place",
    errno.ENOENT: "there is no such file or directory: check the path",
}


def is_local(url: str | os.PathLike[str]) -> bool:
    """Tell whether ``url`` is a path on this machine's file systems."""
    text = os.fspath(url)
    return text.startswith(LOCAL) or ("://" not in text and "::" not in text)


def local(url: str | os.PathLike[str]) -> Path:
    """Return the path of a local ``url``."""
    text = os.fspath(url)
    return Path(next((text.removeprefix(p) for p in LOCAL if text.startswith(p)), text))


def absolute(url: str | os.PathLike[str]) -> str:
    """Return a URL that means the same in a process with another working directory."""
    return os.path.abspath(local(url)) if is_local(url) else os.fspath(url).rstrip("/")


def join(url: str | os.PathLike[str], *parts: str) -> str:
    """Return the URL of something below ``url``."""
    if is_local(url):
        return os.path.join(local(url), *parts)
    return "/".join([os.fspath(url).rstrip("/"), *(part.strip("/") for part in parts)])


def relative(url: str, base: str) -> str:
    """Return ``url`` as seen from the directory ``base``, if it is below it; else ``url``."""
    return url.removeprefix(base.rstrip("/") + "/")


def resolved(url: str, base: str) -> str:
    """Undo ``relative``: return where ``url`` is, seen from the directory ``base``."""
    return url if "://" in url or os.path.isabs(url) else join(base, url)


@contextmanager
def explained(url: str | os.PathLike[str], action: str) -> Iterator[None]:
    """Turn what goes wrong inside into a StorageError that names ``url`` and what to do.

    Raises
    ------
    StorageError
        In place of an ``OSError``, or of an ``ImportError`` of an fsspec protocol.
    """
    try:
        yield
    except DeepstrataError:
        raise
    except OSError as error:
        reason = ADVICE.get(error.errno or 0, str(error) or type(error).__name__)
        raise StorageError(f"{os.fspath(url)}: cannot {action}: {reason}") from error
    except ImportError as error:
        raise StorageError(f"{os.fspath(url)}: cannot {action}: {error}") from error
    except ValueError as error:
        if "Protocol not known" not in str(error):
            raise
        raise StorageError(f"{os.fspath(url)}: cannot {action}: {error}") from error


def _remote(url: str | os.PathLike[str]) -> tuple[Any, str]:
    filesystem, path = fsspec.core.url_to_fs(os.fspath(url))
    filesystem.invalidate_cache()
    return filesystem, path


def exists(url: str | os.PathLike[str]) -> bool:
    """Tell whether there is a file or a directory at ``url``."""
    with explained(url, "look"):
        if is_local(url):
            return local(url).exists()
        filesystem, path = _remote(url)
        return bool(filesystem.exists(path))


def is_file(url: str | os.PathLike[str]) -> bool:
    """Tell whether there is a file at ``url``."""
    with explained(url, "look"):
        if is_local(url):
            return local(url).is_file()
        filesystem, path = _remote(url)
        return bool(filesystem.isfile(path))


def children(url: str | os.PathLike[str]) -> list[str]:
    """Return the sorted names of what is in a directory; none if it does not exist."""
    with explained(url, "list"):
        if is_local(url):
            path = local(url)
            return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
        filesystem, where = _remote(url)
        if not filesystem.isdir(where):
            return []
        found = filesystem.ls(where, detail=False)
        return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in found)


def read_bytes(url: str | os.PathLike[str]) -> bytes:
    """Return the content of a file.

    Raises
    ------
    StorageError
        It is not there or cannot be read.
    """
    with explained(url, "read"):
        if is_local(url):
            return local(url).read_bytes()
        filesystem, path = _remote(url)
        return bytes(filesystem.cat_file(path))


def write_bytes(url: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all; directories above it are made.

    Raises
    ------
    StorageError
        The disk is full, the place is not writable, and the like; nothing is left behind.
    """
    with explained(url, "write"):
        if is_local(url):
            _replace(local(url), data)
            return
        filesystem, path = _remote(url)
        filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        filesystem.pipe_file(path, data)


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    _flush_directory(path.parent)


def _flush_directory(path: Path) -> None:
    # Where directories cannot be opened (Windows) the rename itself is all there is to do.
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(url: str | os.PathLike[str]) -> None:
    """Remove a file or a whole directory; nothing happens if it is not there."""
    with explained(url, "remove"):
        if is_local(url):
            path = local(url)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            return
        filesystem, where = _remote(url)
        if filesystem.exists(where):
            filesystem.rm(where, recursive=True)
