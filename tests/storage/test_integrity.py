"""Whatever is damaged is noticed; whatever is written is whole or absent when the writer dies."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
from zarr.storage import FsspecStore, LocalStore

from deepstrata.schemas.errors import BadShardError, DeclarationError, DeepstrataError, StorageError
from deepstrata.schemas.machines import RBM
from deepstrata.storage import checkpoints, sealed, stores, writing
from deepstrata.storage.checkpoints import Checkpoint
from deepstrata.storage.datasets import open_dataset
from deepstrata.storage.digests import checksum
from deepstrata.storage.layout import Layout
from deepstrata.storage.models import ModelInfo, load_model, save_model
from deepstrata.storage.readers import ZarrReader

ROWS, FLIPS = 40, 60


def example() -> xr.Dataset:
    rng = np.random.default_rng(3)
    return xr.Dataset(
        {
            "x": (("sample", "f"), rng.random((ROWS, 30_000), np.float32)),
            "label": ("sample", rng.integers(0, 9, ROWS)),
        },
        coords={"name": ("sample", np.array([f"sample {i}" for i in range(ROWS)], dtype=object))},
    )


@contextmanager
def flipped(url: str, position: int) -> Iterator[None]:
    """Flip one bit of a file."""
    data = stores.read_bytes(url)
    bad = bytearray(data)
    bad[position] ^= 1 << position % 8
    stores.write_bytes(url, bytes(bad))
    yield
    stores.write_bytes(url, data)


def positions(url: str) -> Iterator[int]:
    """Yield the first and last bytes of a file, and some in between."""
    size = len(stores.read_bytes(url))
    edge = min(FLIPS // 3, size)
    middle = np.linspace(edge, size - 1, FLIPS // 3).astype(int).tolist() if size > edge else []
    yield from sorted({*range(edge), *middle, *range(size - edge, size)})


@pytest.mark.parametrize(("name", "key"), [("x", "c/1/0"), ("label", "c/1"), ("name", "c/1")])
def test_a_flipped_bit_anywhere_is_noticed(place: str, name: str, key: str) -> None:
    """``x`` is a sharded array with an index, the others are not; read by zarrs and by zarr."""
    writing.write_dataset(example(), place, layout=Layout(20, 5))
    sharded = open_dataset(place)[name].encoding["shards"]
    assert (sharded is not None) == (name == "x")
    url = stores.join(place, name, key)
    read = ZarrReader(stores.absolute(place), None, "sample").read
    whole = read(20, ROWS, (name,))[name]
    tried = 0
    for position in positions(url):
        with flipped(url, position), pytest.raises(BadShardError, match=f"chunk {key} .*mend"):
            read(20, ROWS, (name,))
        tried += 1
    assert tried > FLIPS // 2
    assert np.array_equal(read(20, ROWS, (name,))[name], whole)


def test_every_array_has_a_checksum(place: str) -> None:
    writing.write_dataset(example(), place, layout=Layout(20, 5))
    dataset = open_dataset(place)
    for name in dataset.variables:
        codecs = [c.to_dict()["name"] for c in dataset[name].encoding["compressors"]]
        assert codecs == ["blosc", "crc32c"]


def test_the_checksum_of_an_array() -> None:
    x = np.arange(12, dtype=np.float32)
    assert checksum(x) == checksum(x.astype(">f4"))
    assert checksum(x) != checksum(x.reshape(3, 4))
    assert checksum(np.array(["ab", "c"])) == checksum(np.array(["ab", "c"], dtype=object))
    assert checksum(np.array(["ab", "c"])) != checksum(np.array(["a", "bc"]))
    assert checksum(x[:0]) == checksum(x[:0].copy())


def info() -> ModelInfo:
    fields: dict[str, Any] = {"feature_dims": ("f",), "feature_shape": (4,)}
    return ModelInfo(model=RBM(hidden=3), visible=4, features="x", **fields)


def test_a_flipped_bit_in_a_model_is_never_another_model(place: str) -> None:
    tree = {"weights": np.arange(12, dtype=np.float32)}
    save_model(place, info(), tree)
    whole = load_model(place)[0]
    refused = 0
    for name in ("model.json", "weights.safetensors"):
        url = stores.join(place, name)
        for position in range(len(stores.read_bytes(url))):
            with flipped(url, position):
                try:
                    found, flat = load_model(place)
                except DeepstrataError as error:
                    assert stores.absolute(place) in str(error) or place in str(error)  # noqa: PT017
                    refused += 1
                    continue
                # White space, or the case of a digit, may be flipped and nothing else.
                assert found == whole
                assert np.array_equal(flat["weights"], tree["weights"])
    assert refused > 400


@pytest.mark.parametrize("length", [0, 1, 100])
def test_truncated_documents_are_named(place: str, length: int) -> None:
    save_model(place, info(), {"weights": np.zeros(3, np.float32)})
    for name in ("model.json", "weights.safetensors"):
        url = stores.join(place, name)
        data = stores.read_bytes(url)
        stores.write_bytes(url, data[: min(length, len(data) - 1)])
        with pytest.raises((StorageError, DeclarationError), match=name):
            load_model(place)
        stores.write_bytes(url, data)


def test_sealed_json(place: str) -> None:
    url = stores.join(place, "a.json")
    sealed.write(url, {"a": [1, 2.5, float("nan")], "b": "c"})
    assert sealed.read(url)["a"][:2] == [1, 2.5]
    text = stores.read_bytes(url)
    for bad in (text.replace(b"2.5", b"2.4"), text[:20], b"", b"[]", b"\xff\xfe"):
        stores.write_bytes(url, bad)
        with pytest.raises(sealed.DamagedError, match=r"a\.json: damaged"):
            sealed.read(url)
    content = json.loads(text)
    del content["seal"]
    stores.write_bytes(url, json.dumps(content | {"b": "by hand"}).encode())
    assert sealed.read(url)["b"] == "by hand"


class Death(BaseException):
    """Nothing is done after it."""


class Fuse:
    """Counts what changes files, and lets the process 'die' at one of these moments for good."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, after: bool) -> None:
        self.count, self.at, self.after = 0, at, after
        for name in ("write_bytes", "remove"):
            monkeypatch.setattr(stores, name, self.plain(getattr(stores, name)))
        for kind in (LocalStore, FsspecStore):
            monkeypatch.setattr(kind, "set", self.asynchronous(kind.set))
            monkeypatch.setattr(kind, "delete_dir", self.asynchronous(kind.delete_dir))

    def burn(self) -> bool:
        """Return whether this is the last thing that is done; raise where it is over already."""
        self.count += 1
        if self.count > self.at or (self.count == self.at and not self.after):
            raise Death
        return self.count == self.at

    def plain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            last = self.burn()
            found = function(*arguments, **options)
            if last:
                raise Death
            return found

        return wrapped

    def asynchronous(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapped(*arguments: Any, **options: Any) -> Any:
            last = self.burn()
            found = await function(*arguments, **options)
            if last:
                raise Death
            return found

        return wrapped


def deaths(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[], None], check: Callable[[], None]
) -> int:
    """Let ``work`` die before and after each of its writes, and check what is left every time."""
    moments = 0
    for at in range(1, 1000):
        for after in (False, True):
            with monkeypatch.context() as patched:
                fuse = Fuse(patched, at, after)
                try:
                    work()
                    whole = True
                except Death:
                    whole = False
            if whole and fuse.count < at:
                return moments
            moments += 1
            check()
    raise AssertionError("no end of writes")


def content(place: str) -> dict[str, bytes]:
    """Return all files below a place, but for temporary ones."""
    filesystem, root = fsspec.core.url_to_fs(place)
    found = filesystem.find(root)
    return {
        name.removeprefix(root): filesystem.cat_file(name)
        for name in found
        if not name.endswith((".part", ".partial"))
    }


def train(place: str, rounds: int = 4) -> None:
    """Go on from the newest checkpoint, as a training does."""
    newest = checkpoints.latest(place)
    for index in range(0 if newest is None else newest.round + 1, rounds):
        url, parts = checkpoints.checkpoint_url(place, index), {}
        for name in ("state", "replica-0"):
            tree = {"w": np.full(5, index, np.float32)}
            parts[name] = checkpoints.save_part(checkpoints.part_url(url, name), tree)
        checkpoints.commit(url, Checkpoint(stage="s", round=index, parts=parts))
        checkpoints.prune(place, 2)


def test_checkpoints_are_whole_or_absent(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train(place)
    wanted = content(place)
    stores.remove(place)
    highest = -1

    def check() -> None:
        nonlocal highest
        newest = checkpoints.latest(place)
        highest = max(highest, -1 if newest is None else newest.round)
        if newest is not None:
            url = checkpoints.part_url(checkpoints.checkpoint_url(place, newest.round), "state")
            assert checkpoints.load_arrays(url)["w"].tolist() == [newest.round] * 5
        train(place)
        checkpoints.prune(place, 2)
        assert {k: v for k, v in content(place).items() if k in wanted} == wanted
        stores.remove(place)

    assert deaths(monkeypatch, lambda: train(place), check) > 24
    assert highest == 3


def test_the_last_good_checkpoint_stays_when_newer_ones_are_torn(place: str) -> None:
    train(place, 3)
    for torn in (3, 4):
        stores.write_bytes(
            stores.join(checkpoints.checkpoint_url(place, torn), "checkpoint.json"), b"{"
        )
    for keep in (2, 1, 0):
        checkpoints.prune(place, keep)
        newest = checkpoints.latest(place)
        assert newest is not None
        assert newest.round == 2


def test_stores_are_whole_or_refused(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = example().isel(f=slice(0, 3))
    writing.write_dataset(data, place, layout=Layout(20, 20))
    wanted = content(place)
    writing.discard(place)

    def check() -> None:
        if writing.is_complete(place):
            xr.testing.assert_identical(open_dataset(place).load(), data)
            writing.discard(place)
        elif stores.exists(place):
            with pytest.raises(DeepstrataError):
                open_dataset(place)
        writing.write_dataset(data, place, layout=Layout(20, 20))
        assert content(place) == wanted
        writing.discard(place)

    def work() -> None:
        writing.write_dataset(data, place, layout=Layout(20, 20))

    assert deaths(monkeypatch, work, check) > 16


def test_a_model_is_whole_or_refused(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a new model is written over an old one."""
    trees = [{"weights": np.full(12, i, np.float32)} for i in (1, 2)]

    def check() -> None:
        try:
            _, flat = load_model(place)
            assert flat["weights"].tolist() in ([1] * 12, [2] * 12)
        except StorageError as error:
            assert "damaged" in str(error)  # noqa: PT017
        save_model(place, info(), trees[1])
        assert load_model(place)[1]["weights"].tolist() == [2] * 12
        save_model(place, info(), trees[0])

    def work() -> None:
        save_model(place, info(), trees[1])

    save_model(place, info(), trees[0])
    assert deaths(monkeypatch, work, check) == 4


def test_urls_of_local_files(tmp_path: Path) -> None:
    for protocol in ("file://", "local://"):
        url = f"{protocol}{tmp_path}/d"
        assert stores.is_local(url)
        assert stores.absolute(url) == str(tmp_path / "d")
        stores.write_bytes(stores.join(url, "a", "b"), b"c")
        assert (tmp_path / "d" / "a" / "b").read_bytes() == b"c"
        assert stores.children(stores.join(url, "a")) == ["b"]
        stores.remove(url)
        assert not (tmp_path / "d").exists()
