"""Files: whole or absent, with errors that say what to do."""

import errno
import os
from pathlib import Path

import pytest

from deepstrata.schemas.errors import StorageError
from deepstrata.storage import stores


def test_a_file_round_trips(place: str) -> None:
    url = stores.join(place, "a", "b.json")
    assert not stores.exists(url)
    stores.write_bytes(url, b"one")
    stores.write_bytes(url, b"two")
    assert stores.exists(url)
    assert stores.read_bytes(url) == b"two"
    assert stores.children(stores.join(place, "a")) == ["b.json"]
    stores.remove(place)
    assert not stores.exists(url)
    assert stores.children(place) == []


def test_removing_what_is_not_there_does_nothing(place: str) -> None:
    stores.remove(stores.join(place, "nothing"))


def test_a_missing_file_is_named(place: str) -> None:
    with pytest.raises(StorageError, match=r"absent\.json: cannot read"):
        stores.read_bytes(stores.join(place, "absent.json"))


@pytest.mark.parametrize(
    ("code", "advice"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "the file system is read-only")],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    target = tmp_path / "state"
    stores.write_bytes(target, b"old")

    def fails(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(stores.os, "fsync", fails)
    with pytest.raises(StorageError, match=rf"state: cannot write: {advice}"):
        stores.write_bytes(target, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    assert target.read_bytes() == b"old"


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stores.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stores.write_bytes(tmp_path / "state", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="is a file, not a directory|exists"):
        stores.write_bytes(tmp_path / "file" / "below", b"x")


def test_an_unknown_protocol_is_explained() -> None:
    with pytest.raises(StorageError, match="nosuch"):
        stores.read_bytes("nosuch://bucket/file")


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert stores.absolute("x") == str(tmp_path / "x")
    assert stores.absolute("file:///a/b") == "/a/b"
    assert stores.absolute("s3://bucket/x/") == "s3://bucket/x"
    assert stores.join("s3://bucket/x/", "a", "b") == "s3://bucket/x/a/b"
    assert stores.is_local("a/b")
    assert stores.is_local("file:///a")
    assert not stores.is_local("memory://a")
