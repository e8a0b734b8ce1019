"""Checkpoints: the same state has one digest, and what is torn is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepstrata.schemas.errors import StorageError
from deepstrata.schemas.trees import ArraySpec
from deepstrata.storage import checkpoints, stores
from deepstrata.storage.checkpoints import (
    Checkpoint,
    checkpoint_url,
    commit,
    latest,
    load_part,
    part_url,
    prune,
    remove_after,
    save_part,
    tree_digest,
)


class Params(NamedTuple):
    weights: Any
    bias: Any


def tree(scale: float = 1.0) -> dict[str, Any]:
    weights = np.arange(6, dtype=np.float32).reshape(2, 3) * np.float32(scale)
    return {
        "params": (Params(weights, np.zeros(3, np.float32)),),
        "step": np.array(7, np.int64),
        "flags": np.array([True, False]),
    }


def complete(directory: str, index: int, **parts: Any) -> Checkpoint:
    url = checkpoint_url(directory, index)
    digests = {name: save_part(part_url(url, name), part) for name, part in parts.items()}
    checkpoint = Checkpoint(stage="pretrain", round=index, parts=digests)
    commit(url, checkpoint)
    return checkpoint


def test_a_tree_round_trips_by_example(place: str) -> None:
    url, saved = stores.join(place, "x.safetensors"), tree()
    digest = save_part(url, saved)
    assert digest == tree_digest(saved)
    spec = {
        "params": (Params(ArraySpec((2, 3)), ArraySpec((3,))),),
        "step": ArraySpec((), "int64"),
        "flags": ArraySpec((2,), "bool"),
    }
    loaded = load_part(url, spec, digest)
    assert isinstance(loaded["params"][0], Params)
    assert np.array_equal(loaded["params"][0].weights, saved["params"][0].weights)
    assert loaded["step"].shape == ()
    assert loaded["step"] == 7
    loaded["params"][0].weights[0, 0] = 5


def test_saving_again_leaves_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_part(str(tmp_path / name), tree())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@given(
    array=hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_, np.float16]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_the_digest_is_of_content_not_of_memory(array: np.ndarray[Any, Any]) -> None:
    fortran = np.asfortranarray(array).reshape(array.shape)
    swapped = array.astype(array.dtype.newbyteorder(">"))
    assert tree_digest({"a": array}) == tree_digest({"a": fortran}) == tree_digest({"a": swapped})
    assert tree_digest({"a": array}) != tree_digest({"b": array})


def test_other_content_has_another_digest() -> None:
    zeros = np.zeros(4, np.float32)
    others = [zeros.reshape(2, 2), zeros.astype(np.int32), np.array([0, 0, 0, -0.0], np.float32)]
    assert len({tree_digest({"a": a}) for a in (zeros, *others)}) == 4
    one, two = np.zeros(1, np.float32), np.ones(1, np.float32)
    assert tree_digest({"a": one, "b": two}) == tree_digest({"b": two, "a": one})


def test_byte_order_and_layout_are_restored(tmp_path: Path) -> None:
    url = str(tmp_path / "x")
    values = np.arange(6, dtype=">f4").reshape(2, 3).T
    digest = save_part(url, {"a": values})
    assert np.array_equal(load_part(url, {"a": ArraySpec((3, 2))}, digest)["a"], values)


@pytest.mark.parametrize(
    "leaf", [np.array(["x"]), np.array([None]), [1.0], 3.0, np.zeros(2, "M8[s]")]
)
def test_only_arrays_of_numbers_are_saved(tmp_path: Path, leaf: Any) -> None:
    with pytest.raises(StorageError, match=r"array 'params/w'"):
        save_part(str(tmp_path / "x"), {"params": {"w": leaf}})
    assert list(tmp_path.iterdir()) == []


def test_errors_name_the_leaf(tmp_path: Path) -> None:
    url = str(tmp_path / "x")
    save_part(url, {"w": np.zeros((2, 3), np.float32)})
    with pytest.raises(StorageError, match=r"'w': expected float32\(3, 2\), found float32\(2, 3\)"):
        load_part(url, {"w": ArraySpec((3, 2))})
    with pytest.raises(StorageError, match="'w': expected float64"):
        load_part(url, {"w": ArraySpec((2, 3), "float64")})
    with pytest.raises(StorageError, match="no array 'bias'"):
        load_part(url, {"w": ArraySpec((2, 3)), "bias": ArraySpec((3,))})


def test_a_damaged_part_is_noticed(place: str) -> None:
    url = stores.join(place, "x")
    digest = save_part(url, tree())
    whole = stores.read_bytes(url)
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for data in (whole[: len(whole) // 2], b"", flipped, b"\xff" * 64):
        stores.write_bytes(url, data)
        with pytest.raises(StorageError, match="damaged"):
            load_part(url, tree(), digest)


def test_the_newest_complete_checkpoint_is_found(place: str) -> None:
    assert latest(place) is None
    complete(place, 9, state=tree())
    newest = complete(place, 10, state=tree(2), place=tree(3))
    assert latest(place) == newest
    assert newest.digest() != complete(place, 11, state=tree(2)).digest()


def test_parts_without_a_document_do_not_count(place: str) -> None:
    first = complete(place, 1, state=tree())
    save_part(part_url(checkpoint_url(place, 2), "state"), tree(2))
    assert latest(place) == first


@pytest.mark.parametrize("damage", ["document", "digest", "field", "part", "torn part"])
def test_what_is_torn_is_not_there(place: str, damage: str) -> None:
    first = complete(place, 1, state=tree())
    complete(place, 2, state=tree(2))
    url = checkpoint_url(place, 2)
    document, part = stores.join(url, checkpoints.DOCUMENT), part_url(url, "state")
    text = stores.read_bytes(document)
    if damage == "document":
        stores.write_bytes(document, text[: len(text) // 2])
    elif damage == "digest":
        stores.write_bytes(document, text.replace(b'"round": 2', b'"round": 3'))
    elif damage == "field":
        stores.write_bytes(document, json.dumps({"format_version": 99}).encode())
    elif damage == "part":
        stores.remove(part)
    else:
        stores.write_bytes(part, stores.read_bytes(part)[:-3])
    assert latest(place) == first


def test_pruning_keeps_the_newest_complete_ones(place: str) -> None:
    for index in (1, 2, 3, 4):
        complete(place, index, state=tree(index))
    save_part(part_url(checkpoint_url(place, 5), "state"), tree())
    prune(place, 2)
    assert [int(n) for n in stores.children(place)] == [3, 4, 5]
    prune(place, 0)
    assert [int(n) for n in stores.children(place)] == [4, 5]


def test_pruning_spares_what_is_needed_with_what_is_kept(place: str) -> None:
    for index in range(1, 7):
        complete(place, index, state=tree(index))
    prune(place, 2, lambda index: {5: 1, 6: 3}[index])
    assert [int(n) for n in stores.children(place)] == [1, 3, 5, 6]
    prune(place, 1, lambda index: None)
    assert [int(n) for n in stores.children(place)] == [6]


def test_the_newest_that_serves_is_found(place: str) -> None:
    first = complete(place, 1, state=tree())
    complete(place, 2, state=tree(2))
    assert latest(place, lambda found: found.round < 2) == first
    assert latest(place, lambda found: False) is None


def test_later_checkpoints_are_removed_whether_complete_or_not(place: str) -> None:
    for index in (1, 2, 3):
        complete(place, index, state=tree(index))
    save_part(part_url(checkpoint_url(place, 4), "state"), tree())
    remove_after(place, 1)
    assert [int(n) for n in stores.children(place)] == [1]


def test_pruning_never_removes_the_newest_complete_one(place: str) -> None:
    first = complete(place, 1, state=tree())
    complete(place, 2, state=tree(2))
    stores.remove(part_url(checkpoint_url(place, 2), "state"))
    prune(place, 1)
    assert latest(place) == first


def test_what_cannot_be_read_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(str(tmp_path), 1, state=tree())

    def denied(url: str) -> bytes:
        raise StorageError(f"{url}: cannot read: permission denied")

    monkeypatch.setattr(checkpoints.stores, "read_bytes", denied)
    with pytest.raises(StorageError, match="permission denied"):
        latest(str(tmp_path))


KILLED = """
import os, sys
import numpy as np
from deepstrata.storage import checkpoints, stores
from deepstrata.storage.checkpoints import Checkpoint, checkpoint_url, commit, part_url, save_part

directory, when = sys.argv[1:]
replace = os.replace
def die(source, target):
    if when in str(target):
        os._exit(9)
    replace(source, target)
stores.os.replace = die
url = checkpoint_url(directory, 2)
digest = save_part(part_url(url, "state"), {"a": np.ones(1000, np.float32)})
commit(url, Checkpoint(stage="s", round=2, parts={"state": digest}))
"""


@pytest.mark.parametrize("when", ["state.safetensors", checkpoints.DOCUMENT])
def test_a_process_killed_while_writing_leaves_the_checkpoint_before(
    tmp_path: Path, when: str
) -> None:
    first = complete(str(tmp_path), 1, state=tree())
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path), when]
    assert subprocess.run(command, env=environment, check=False).returncode == 9
    assert latest(str(tmp_path)) == first
