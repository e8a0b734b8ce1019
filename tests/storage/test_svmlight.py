"""Sparse text: scikit-learn's reader as oracle, memory, several files, and bad lines."""

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from deepstrata.schemas.errors import SchemaError
from deepstrata.storage.datasets import open_dataset
from deepstrata.storage.ingest import describe_source, ingest
from deepstrata.storage.splits import flags


def ingested(source: Path, **options: Any) -> Any:
    dest = str(source.parent / "d.zarr")
    assert ingest("svmlight", str(source), dest, **options) == describe_source(
        "svmlight", str(source), **options
    )
    return open_dataset(dest).load()


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("zero_based", [True, False])
def test_it_reads_what_scikit_learn_reads(tmp_path: Path, zero_based: bool) -> None:
    rng = np.random.default_rng(0)
    values = sparse.random(400, 50, 0.2, format="csr", rng=rng)
    path = tmp_path / "a.svmlight"
    dump_svmlight_file(values, rng.choice([-1, 1], 400), str(path), zero_based=zero_based)
    wanted, labels = load_svmlight_file(str(path), n_features=50)
    found = ingested(path)
    assert found.features.dtype == np.float32
    assert found.features.dims == ("sample", "feature")
    assert np.array_equal(found.features.values, wanted.toarray().astype(np.float32))
    assert flags(found.label) == {0: "-1", 1: "1"}
    assert np.array_equal(2 * found.label.values - 1, labels)
    assert "file" not in found


LINES = """# a comment
+1 qid:3 1:0.5 3:-2e1 # another

-1 2:1
3
"""


def test_whether_a_word_occurs_may_be_all_that_is_kept(tmp_path: Path) -> None:
    content = "1 0:3 2:0\n0 1:-0.5\n"
    path = text(tmp_path / "binary" / "a.svm", content)
    assert ingested(text(tmp_path / "a.svm", content)).features.values.tolist() == [
        [3, 0, 0],
        [0, -0.5, 0],
    ]
    assert ingested(path, binary=True).features.values.tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_comments_queries_and_empty_lines_are_left_out(tmp_path: Path, suffix: str) -> None:
    found = ingested(text(tmp_path / f"a.txt{suffix}", LINES), features=4)
    assert found.features.values.tolist() == [[0.5, 0, -20, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert found.label.values.tolist() == [1, 0, 2]
    assert flags(found.label) == {0: "-1", 1: "1", 2: "3"}


@pytest.mark.parametrize(("zero_based", "place"), [("auto", 0), (False, 0), (True, 1)])
def test_indices_begin_where_they_are_said_to(tmp_path: Path, zero_based: Any, place: int) -> None:
    found = ingested(text(tmp_path / "a", "1 1:5\n2 2:6\n"), zero_based=zero_based)
    assert found.features.values[:, place].tolist() == [5, 0]
    assert found.sizes["feature"] == 2 + place


def test_labels_that_are_no_classes_stay(tmp_path: Path) -> None:
    found = ingested(text(tmp_path / "a", "0.5 1:1\n2 1:1\n"))
    assert (found.label.dtype, found.label.values.tolist()) == (np.float32, [0.5, 2])
    many = "".join(f"{7 * i} 1:1\n" for i in range(1001))
    ingest("svmlight", str(text(tmp_path / "b", many)), str(tmp_path / "b.zarr"))
    label = open_dataset(str(tmp_path / "b.zarr")).label
    assert (label.dtype, int(label[-1]), flags(label)) == (np.int64, 7000, None)


@pytest.fixture
def domains(tmp_path: Path) -> Path:
    """Files of two domains, of which one alone tells that indices begin with 0."""
    source = tmp_path / "reviews"
    for i, domain in enumerate(("books", "kitchen")):
        text(source / f"{domain}_train.svmlight", "".join(f"-1 {1 - i}:{n}\n" for n in range(500)))
        text(source / f"{domain}_test.svmlight", "1 2:7\n" * 300)
    text(source / "LICENSE", "not data")
    return source


def test_files_are_told_by_their_names(domains: Path) -> None:
    found = ingested(domains, names="(?P<domain>[a-z]+)_(?P<subset>train|test)")
    assert found.sizes == {"sample": 1600, "feature": 3}
    assert set(found.coords) == {"domain", "subset", "file"}
    assert flags(found.domain) == {0: "books", 1: "kitchen"}
    assert flags(found.subset) == {0: "train", 1: "test"}
    assert list((flags(found.file) or {}).values())[:2] == [
        "books_test.svmlight",
        "books_train.svmlight",
    ]
    assert found.domain.values.tolist() == [0] * 800 + [1] * 800
    assert found.subset.values.tolist() == ([1] * 300 + [0] * 500) * 2
    assert np.array_equal(found.label.values, found.subset.values)
    assert found.features.values[300:800, 1].tolist() == list(range(500))
    assert found.features.values[1100:, 0].tolist() == list(range(500))


def test_any_files_can_be_the_test_set(domains: Path) -> None:
    found = ingested(domains, test="^(?!books_train)")
    assert np.bincount(found.subset.values).tolist() == [500, 1100]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "a: empty"),
        ("# nothing\n\n", {}, "a: empty"),
        ("1 1:1\n1 1:1 9:1\n", {"features": 4}, r"line 2: expected indices up to 4 .*, found 9"),
        ("1 0:1\n1 4:1\n", {"features": 4}, r"line 2: expected indices up to 3 .*, found 4"),
        ("1 1:1 3:1 2:1 4:1\n", {}, "line 1: expected indices that increase, found 2 after 3"),
        ("1 1:1\n\n1 1:1 1:2 4:1\n", {}, "line 3: expected indices that .*, found 1 after 1"),
        ("1 1:1 2:x 3:1\n", {}, "line 1: expected index:value, found b'2:x'"),
        ("1 1:1 2 3:1\n", {}, "line 1: expected index:value, found b'2'"),
        ("1 1:1 2:3:4 5:1\n", {}, "line 1: expected index:value, found b'2:3:4'"),
        ("1 1:1\n2:1 3:1\n", {}, "line 2: expected a label.*, found b'2:1'"),
        ("yes 1:1\n", {}, "line 1: expected a label.*, found b'yes'"),
        ("1 0:1\n", {"zero_based": False}, r"line 1: expected indices from 1 on .*, found 0"),
        ("1 -1:1\n", {}, r"line 1: expected indices from 0 on .*, found -1"),
        ("1 99999999999:1\n", {}, "line 1: index 99999999999 asks for"),
        ("1\n2\n", {}, "no sample has any feature"),
        ("\x89PNG\r\n\x1a\n", {}, "line 1: expected a label"),
    ],
)
def test_bad_lines(tmp_path: Path, content: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        ingested(text(tmp_path / "a", content), **options)
    assert not (tmp_path / "d.zarr").exists()


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    path = text(tmp_path / "a.svm.gz", "1 1:1 2:7\n" * 500)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SchemaError, match=r"a\.svm\.gz: damaged gzip file"):
        ingested(path)


def test_a_group_that_the_format_has_is_refused(domains: Path) -> None:
    with pytest.raises(SchemaError, match="expected other groups than .*found 'label'"):
        ingested(domains, names="(?P<label>[a-z]+)")


def test_memory_is_bounded_by_a_block(tmp_path: Path) -> None:
    path = text(tmp_path / "a", "1 1:1 20000:1\n" * 500)
    tracemalloc.start()
    ingest("svmlight", str(path), str(tmp_path / "d"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6  # of 40e6
    assert float(open_dataset(str(tmp_path / "d")).features[:, -1].sum()) == 500


def test_real_reviews(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "amazon_reviews" / "kitchen_train.svmlight"
    ingest("svmlight", str(path), str(tmp_path / "d"), features=5000)
    found = open_dataset(str(tmp_path / "d"))
    wanted, _ = load_svmlight_file(str(path), n_features=5000, zero_based=True)
    assert np.array_equal(found.features.values, wanted.toarray())
    assert np.bincount(found.label.values).tolist() == [1000, 1000]
