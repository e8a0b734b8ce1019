"""Files with options as the source of a pipeline: planned, run, run again, and refused."""

from pathlib import Path

import pytest
from distributed import Client
from sklearn.datasets import dump_svmlight_file
from support import bars, dbn_pipeline

from deepstrata import FileSource, Pipeline, SchemaError
from deepstrata.pipelines.run import resume, run
from deepstrata.storage.splits import flags

OPTIONS = {"names": "(?P<place>[a-z]+)_(?P<subset>train|test)", "features": 16}


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    """The bars of two places as sparse text, of which some are for tests."""
    source = tmp_path / "bars"
    source.mkdir()
    for seed, name in enumerate(("north_train", "north_test", "south_train", "south_test")):
        found = bars(60, seed)
        values = found.image.values.reshape(60, -1)
        dump_svmlight_file(values, found.label.values, str(source / f"{name}.svmlight"))
    files = FileSource(
        format="svmlight", path=str(source), features="features", labels="label", options=OPTIONS
    )
    changes = {"split.by": "subset", "split.validation": 0, "split.test": 0}
    return dbn_pipeline("", epochs=1).replace(source=files.model_dump(), **changes)


def test_a_run_ingests_with_options(pipeline: Pipeline, client: Client, out: str) -> None:
    assert pipeline.plan().samples == 240
    done = run(pipeline, client, out=out)
    assert flags(done.codes.place) == {0: "north", 1: "south"}
    assert done.codes.place.values.tolist() == [0] * 120 + [1] * 120
    assert set(done.codes.coords) >= {"place", "subset", "file"}
    assert resume(out, client).manifest.fingerprint == done.manifest.fingerprint


def test_what_the_options_do_not_allow_is_refused_first(
    pipeline: Pipeline, client: Client, out: str
) -> None:
    narrow = pipeline.replace(**{"source.options.features": 3})
    with pytest.raises(SchemaError, match=r"line 1: .*\(3 features, the first called 0\)"):
        run(narrow, client, out=out)
    assert not Path(out).exists()
