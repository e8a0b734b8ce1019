"""A store in memory, ``sim://``, whose writes tear, fail or end the process that makes them.

It keeps one disk for the whole process, as a network store would for all processes. ``renames``
chooses between the two kinds of store there are: one that writes beside the final name and renames,
so that a torn write leaves a stray file, and one that writes in place, so that it leaves a prefix.
"""

import errno
import os
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem

from .faults import Death, Schedule

Node = dict[str, Any]


class Disk:
    """A tree of directories; each write and removal is an opportunity for the schedule."""

    def __init__(self, schedule: Schedule, renames: bool = True) -> None:
        self.schedule, self.renames = schedule, renames
        self.root: Node = {}
        self.strays = 0
        self.faults = True

    def find(self, path: str) -> Node | bytes | None:
        """Return a directory or the content of a file, or None."""
        node: Any = self.root
        for name in path.strip("/").split("/") if path.strip("/") else ():
            if not isinstance(node, dict) or name not in node:
                return None
            node = node[name]
        found: Node | bytes = node
        return found

    def files(self, path: str) -> list[str]:
        """Return the paths of all files at or below ``path``."""
        node = self.find(path)
        if not isinstance(node, dict):
            return [] if node is None else [path]
        return [file for name in sorted(node) for file in self.files(f"{path}/{name}")]

    def put(self, path: str, data: bytes) -> None:
        """Set the content of a file."""
        *above, name = path.strip("/").split("/")
        node = self.root
        for part in above:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        node[name] = bytes(data)

    def unlink(self, path: str) -> None:
        """Remove a file, and the directories above it that are empty then."""
        *above, name = path.strip("/").split("/")
        nodes = [self.root]
        for part in above:
            nodes.append(nodes[-1][part])
        del nodes[-1][name]
        for parent, part in zip(reversed(nodes[:-1]), reversed(above), strict=True):
            if parent[part]:
                break
            del parent[part]

    def read(self, path: str) -> bytes:
        """Return the content of a file, if the schedule lets it."""
        self._alive()
        data = self.find(path)
        if not isinstance(data, bytes):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if self.faults and self.schedule.strikes("read error", path):
            self.schedule.errors += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return data

    def write(self, path: str, data: bytes) -> None:
        """Write a file, if the schedule lets it."""
        self._alive()
        if self.faults:
            self._before(path, data)
        self.put(path, data)
        if self.faults:
            self.schedule.note("wrote", path, len(data))
            if self.schedule.strikes("death after write", path):
                self.schedule.die(path)

    def _alive(self) -> None:
        if self.schedule.dead:
            raise Death("it is dead already")

    def _before(self, path: str, data: bytes) -> None:
        schedule = self.schedule
        if schedule.disk_full or schedule.strikes("write error", path):
            schedule.disk_full = (schedule.disk_full or schedule.random.randint(1, 4)) - 1
            schedule.errors += 1
            code = errno.ENOSPC
            raise OSError(code, os.strerror(code), path)
        if schedule.strikes("death before write", path):
            schedule.die(path)
        if schedule.strikes("torn write", path):
            # Never all but the last byte: a document without its last newline is whole.
            self.put(self._torn(path), data[: len(data) * schedule.random.randrange(8) // 8])
            schedule.die(path)

    def _torn(self, path: str) -> str:
        if not self.renames:
            return path
        self.strays += 1
        folder, _, name = path.rpartition("/")
        if ".zarr/" in path:
            return f"{folder}/{name}.{self.strays:032x}.partial"
        return f"{folder}/.{name}.{self.strays:032x}.part"

    def remove(self, path: str) -> None:
        """Remove a file or a directory, file by file, if the schedule lets it."""
        self._alive()
        files = self.files(path)
        if not files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.schedule.random.shuffle(files)  # no order is promised
        for file in files:
            if self.faults and self.schedule.strikes("death while removing", file):
                self.schedule.die(file)
            self.unlink(file)
        if self.faults:
            self.schedule.note("removed", path)


class SimulatedFileSystem(AsyncFileSystem):  # type: ignore[misc]
    """The disk as fsspec and zarr-python see it; nothing waits, so the order is always one."""

    protocol = "sim"
    disk: Disk

    def exists(self, path: str, **kwargs: Any) -> bool:
        return self.disk.find(self._strip_protocol(path)) is not None

    def isdir(self, path: str) -> bool:
        return isinstance(self.disk.find(self._strip_protocol(path)), dict)

    def isfile(self, path: str) -> bool:
        return isinstance(self.disk.find(self._strip_protocol(path)), bytes)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        path = self._strip_protocol(path)
        node = self.disk.find(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        names = [f"{path}/{name}" for name in node] if isinstance(node, dict) else [path]
        return [self.info(name) for name in names] if detail else names

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        node = self.disk.find(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if isinstance(node, dict):
            return {"name": path, "size": 0, "type": "directory"}
        return {"name": path, "size": len(node), "type": "file"}

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        return self.disk.read(self._strip_protocol(path))[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self.disk.write(self._strip_protocol(path), value)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: like an object store, this one has no empty directories."""

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        self.disk.remove(self._strip_protocol(path))

    def find(self, path: str, **kwargs: Any) -> list[str]:
        return self.disk.files(self._strip_protocol(path))

    async def _exists(self, path: str, **kwargs: Any) -> bool:
        return self.exists(path)

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        return self.ls(path, detail)

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return self.info(path)

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        return self.cat_file(path, start, end)

    async def _pipe_file(
        self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        self.pipe_file(path, value)

    async def _rm(self, path: str, recursive: bool = False, **kwargs: Any) -> None:
        self.rm(path)

    async def _find(self, path: str, **kwargs: Any) -> list[str]:
        return self.find(path)


def register() -> None:
    """Make ``sim://`` known to fsspec."""
    fsspec.register_implementation("sim", SimulatedFileSystem, clobber=True)
